-- Takes a slot, if one is free, or if the oldest sessions make way.
--
-- KEYS: the members of the slots in use by the times at which their sessions were opened (sorted set). A member is the id
-- of its node, a slash, and the id of its session. A session has two members while one process continues it for another
-- one. It has one slot.
-- ARGV: the member, or "" to remove members of dead nodes only; the maximum number of sessions; "1" if the oldest sessions
-- make way, otherwise the new one is refused; the time to live of the key in milliseconds; the time of the server at the
-- last heartbeat of the node, or "" to look for no members of dead nodes; the number of nodes that are not dead; their ids;
-- members of sessions that make way in any case, and are not counted.
--
-- Returns "1" and the members of the sessions that make way for this one, or "0" if no slot is free. Those members stay
-- until the node that asks has the answer and removes them: none makes way for a session whose answer is late.
--
-- A node is dead if it is not in the list and was registered before that heartbeat: an id begins with the time of its
-- registration, and is never used again. One that was registered long after now is from before the clock of the server was
-- set back: by more than the longest node_timeout, so that the node has registered itself again if it is not dead.
local SET_BACK = 600000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local key, member, max = KEYS[1], ARGV[1], tonumber(ARGV[2])
local nodes = tonumber(ARGV[6])
local function session_of(name)
  return string.match(name, '[^/]*$')
end
local leaving = {}
for i = 7 + nodes, #ARGV do
  leaving[session_of(ARGV[i])] = true
end
local excess, sessions, members = redis.call('ZCARD', key) + 1 - max, {}, {}
if redis.call('ZSCORE', key, member) then
  excess = 0
end
if excess > 0 then
  local heartbeat, live = tonumber(ARGV[5]), {}
  for i = 7, 6 + nodes do
    live[ARGV[i]] = true
  end
  for _, other in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    local node, registered = string.match(other, '^((%d+)%-[^/]*)/')
    local is_old = node and (tonumber(registered) < (heartbeat or 0) or tonumber(registered) > now + SET_BACK)
    if heartbeat and is_old and not live[node] then
      redis.call('ZREM', key, other)
    else
      local session = session_of(other)
      if not members[session] and not leaving[session] then
        sessions[#sessions + 1], members[session] = session, {}
      end
      if members[session] then
        table.insert(members[session], other)
      end
    end
  end
  excess = members[session_of(member)] and 0 or #sessions + 1 - max
end
if member == '' then
  return { '0' }
end
local answer = { '1' }
if excess > 0 then
  if ARGV[3] ~= '1' then
    return { '0' }
  end
  for i = 1, excess do
    for _, oldest in ipairs(members[sessions[i]]) do
      answer[#answer + 1] = oldest
    end
  end
end
redis.call('ZADD', key, string.format('%.0f', now), member)
redis.call('PEXPIRE', key, ARGV[4])
return answer
