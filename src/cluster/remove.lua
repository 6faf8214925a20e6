-- Removes a revocation from the set, and adds this to the stream of events.
--
-- KEYS and ARGV: as in add.lua, without the last argument.
--
-- The time of a removal is kept until the end of its revocation, so that a node that was away does not add it again. An
-- earlier removal has no effect if the revocation was added after it. Returns 1.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local id, line, made, ends = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if ARGV[5] ~= '1' then
  for entry in string.gmatch(redis.call('HGET', KEYS[2], id) or '', '[^\n]+') do
    if tonumber(string.match(entry, '^%d+ %d+ (%d+) ') or 0) >= made then
      return 1
    end
  end
end
redis.call('HDEL', KEYS[2], id)
redis.call('HSET', KEYS[3], id, ARGV[3])
redis.call('ZADD', KEYS[1], ARGV[4], id)
local live = math.min(math.max(ends - now, 1), tonumber(ARGV[7]))
for _, key in ipairs({ KEYS[1], KEYS[3] }) do
  if redis.call('PTTL', key) < live then
    redis.call('PEXPIRE', key, string.format('%.0f', live))
  end
end
if ARGV[8] == '1' then
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[10], '*', 'n', ARGV[9], 'k', 'revocation', 'd', line)
  redis.call('PEXPIRE', KEYS[4], ARGV[11])
end
return 1
