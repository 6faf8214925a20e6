-- Answers a node that asks for a share of a quota. policy::lease::store documents the algorithm and is its reference.
-- KEYS[1]: the quota, a hash. Field "t": the theoretical arrival time; field "n:" .. node: "kept:expires:want:sequence".
-- ARGV: node, sequence, held, want, used, burst. Shares are millionths, times microseconds.
-- Returns share, whether it is final (1 or 0), how long it is valid, backlog, other nodes.
local WHOLE, LEASE, CONTENDED_LEASE = 1000000, 2000000, 500000
local KEPT_MAX, ASKED_MAX, OVERUSE_MAX = 86400000000, 2251799813685248, 1000000
local node, sequence = 'n:' .. ARGV[1], tonumber(ARGV[2])
local held, want = math.min(tonumber(ARGV[3]), WHOLE), math.min(tonumber(ARGV[4]), WHOLE)
local used, burst = math.min(tonumber(ARGV[5]), ASKED_MAX), math.min(tonumber(ARGV[6]), ASKED_MAX)
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

-- The most that any node is due by max-min fairness.
local function fair_level(wants, whole)
  table.sort(wants)
  local left, nodes = whole, #wants
  for _, w in ipairs(wants) do
    local part = math.floor(left / nodes)
    if w > part then return part end
    left, nodes = left - w, nodes - 1
  end
  return whole
end

local arrival, kept, wanted, others, latest, last = 0, 0, want, 0, now, 0
local wants, dead = { want }, {}
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  if fields[i] == 't' then
    arrival = tonumber(fields[i + 1])
  else
    local k, e, w, s = string.match(fields[i + 1], '(%d+):(%d+):(%d+):(%d+)')
    k, e, w, s = tonumber(k), tonumber(e), tonumber(w), tonumber(s)
    if e > now + LEASE then
      -- It is from before the clock was set back.
      e = now + LEASE
      redis.call('HSET', KEYS[1], fields[i], string.format('%.0f:%.0f:%.0f:%.0f', k, e, w, s))
    end
    if e <= now then
      dead[#dead + 1] = fields[i]
    elseif fields[i] == node then
      if s >= sequence then return { 0, 0, 0, 0, 0 } end
      last = e
    else
      kept, wanted, others = kept + k, wanted + w, others + 1
      wants[#wants + 1] = w
      latest = math.max(latest, e)
    end
  end
end
-- A key has few nodes. The limit of the arguments of a call is far higher than their number.
if #dead > 0 then redis.call('HDEL', KEYS[1], unpack(dead)) end
arrival = math.min(math.max(arrival, now) + used, now + burst + OVERUSE_MAX)

local share, final, valid = 0, 1, 0
if want == 0 then
  redis.call('HDEL', KEYS[1], node)
else
  local due
  local need, needs, margins, needed = want - math.floor(want / 5), {}, {}, 0
  for i, w in ipairs(wants) do
    margins[i] = math.floor(w / 5)
    needs[i] = w - margins[i]
    needed = needed + needs[i]
  end
  if needed >= WHOLE then
    due = math.min(need, fair_level(needs, WHOLE))
  else
    due = need + math.min(want - need, fair_level(margins, WHOLE - needed))
  end
  share = math.min(due, math.max(WHOLE - kept, 0))
  if share ~= due then final = 0 end
  valid = wanted > WHOLE and CONTENDED_LEASE or LEASE
  local expires = math.max(last, now + valid)
  local lease = string.format('%.0f:%.0f:%.0f:%.0f', math.max(share, held), expires, want, sequence)
  redis.call('HSET', KEYS[1], node, lease)
  latest = math.max(latest, expires)
end
latest = math.max(latest, arrival)
if latest > now then
  redis.call('HSET', KEYS[1], 't', string.format('%.0f', arrival))
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil(math.min(latest - now, KEPT_MAX) / 1000)))
else
  redis.call('DEL', KEYS[1])
end
return { share, final, valid, arrival - now, others }
