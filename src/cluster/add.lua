-- Adds a revocation to the set, and to the stream of events.
--
-- KEYS: the ends by id (sorted set), the revocations by id (hash), the removed ones (sorted set), the stream.
-- ARGV: the id, the line of the revocation, the issue time before which tokens are revoked and its end (both in
-- milliseconds since the Unix epoch), the most revocations, the longest time to live in milliseconds; then "1" if the
-- stream gets the change, the id of the process, the length of the stream, and the time to live of the stream.
--
-- Two nodes may revoke tokens of one target at a time. So a value has all lines of a target that no other line covers,
-- each as "before end line". Returns 1, or 0 if the set is full.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ended = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, 100)
for _, id in ipairs(ended) do
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[1], id)
end
local id, line, before, ends = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local value = redis.call('HGET', KEYS[2], id)
if not value and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[5]) then
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
  kept[#kept + 1] = ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. line
end
redis.call('HSET', KEYS[2], id, table.concat(kept, '\n'))
redis.call('ZADD', KEYS[1], string.format('%.0f', latest), id)
local live = math.min(math.max(latest - now, 1), tonumber(ARGV[6]))
for at = 1, 2 do
  if redis.call('PTTL', KEYS[at]) < live then
    redis.call('PEXPIRE', KEYS[at], string.format('%.0f', live))
  end
end
if ARGV[7] == '1' then
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[9], '*', 'n', ARGV[8], 'k', 'revocation', 'd', line)
  redis.call('PEXPIRE', KEYS[4], ARGV[10])
end
return 1
