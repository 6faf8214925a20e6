-- Adds a revocation to the set, and to the stream of events.
--
-- KEYS: the ends by id (sorted set), the revocations by id (hash), the times of removals by id (hash), the stream.
-- ARGV: the id; the line of the change; the time at which it was made and the end of the revocation (both in milliseconds
-- since the Unix epoch); "1" if it is made now, else it was made while the server was away or before it lost its data;
-- the most ids, and the longest time to live of the set in milliseconds; "1" if the stream gets the change, the id of the
-- process, the length of the stream, and its time to live; then the issue time before which tokens are revoked.
--
-- Two nodes may revoke tokens of one target at a time. So a value has all lines of a target that no other line covers,
-- each as "before end made line". An earlier change has no effect if the revocation was removed after it.
-- Returns 1, or 0 if the set is full.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, 100)) do
  redis.call('HDEL', KEYS[2], id)
  redis.call('HDEL', KEYS[3], id)
  redis.call('ZREM', KEYS[1], id)
end
local id, line, made, ends, before = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[12])
local removed = redis.call('HGET', KEYS[3], id)
if removed and ARGV[5] ~= '1' and made < tonumber(removed) then
  return 1
end
local value = redis.call('HGET', KEYS[2], id)
if not value and not removed and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[6]) then
  return 0
end
local kept, covered, latest = {}, false, ends
for entry in string.gmatch(value or '', '[^\n]+') do
  local other_before, other_end = string.match(entry, '^(%d+) (%d+) ')
  other_before, other_end = tonumber(other_before or 0), tonumber(other_end or 0)
  if other_before > before or other_end > ends then
    kept[#kept + 1] = entry
    latest = math.max(latest, other_end)
    covered = covered or (other_before >= before and other_end >= ends)
  end
end
if not covered then
  kept[#kept + 1] = table.concat({ ARGV[12], ARGV[4], ARGV[3], line }, ' ')
end
redis.call('HSET', KEYS[2], id, table.concat(kept, '\n'))
redis.call('HDEL', KEYS[3], id)
redis.call('ZADD', KEYS[1], string.format('%.0f', latest), id)
local live = math.min(math.max(latest - now, 1), tonumber(ARGV[7]))
for at = 1, 2 do
  if redis.call('PTTL', KEYS[at]) < live then
    redis.call('PEXPIRE', KEYS[at], string.format('%.0f', live))
  end
end
if ARGV[8] == '1' then
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[10], '*', 'n', ARGV[9], 'k', 'revocation', 'd', line)
  redis.call('PEXPIRE', KEYS[4], ARGV[11])
end
return 1
