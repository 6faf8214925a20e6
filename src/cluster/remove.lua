-- Removes a revocation from the set, and adds this to the stream of events.
--
-- KEYS: as in add.lua.
-- ARGV: the id, the line of the change, the time of the removal and the end of the revocation (both in milliseconds since
-- the Unix epoch), the most removals, the longest time to live in milliseconds; then as in add.lua.
--
-- A removal is kept until the end of its revocation, so that a node that was away does not add it again.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', now))
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
if redis.call('ZCARD', KEYS[3]) < tonumber(ARGV[5]) then
  redis.call('ZADD', KEYS[3], ARGV[4], ARGV[1] .. ' ' .. ARGV[3])
  local live = math.min(math.max(tonumber(ARGV[4]) - now, 1), tonumber(ARGV[6]))
  if redis.call('PTTL', KEYS[3]) < live then
    redis.call('PEXPIRE', KEYS[3], string.format('%.0f', live))
  end
end
if ARGV[7] == '1' then
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[9], '*', 'n', ARGV[8], 'k', 'revocation', 'd', ARGV[2])
  redis.call('PEXPIRE', KEYS[4], ARGV[10])
end
return 1
