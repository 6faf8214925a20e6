-- Runs the commands that the other scripts run, on keys that end soon.
--
-- KEYS: a string, a sorted set, a hash, and a stream. ARGV: their time to live in milliseconds. Returns 1, or the
-- first error.
local text, sorted, hash, stream = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local live = ARGV[1]
local failed
-- The errors of some versions do not name the command.
local function run(name, ...)
  local answer = redis.pcall(name, ...)
  if type(answer) == 'table' and answer.err and not failed then
    failed = redis.error_reply('SCRIPT a script cannot run ' .. name .. ': ' .. answer.err)
  end
end
run('TIME')
run('SET', text, '1', 'NX')
run('PEXPIRE', text, live)
run('GET', text)
run('PTTL', text)
run('DEL', text)
run('ZADD', sorted, 1, 'a')
run('PEXPIRE', sorted, live)
run('ZCARD', sorted)
run('ZSCORE', sorted, 'a')
run('ZRANGE', sorted, 0, -1)
run('ZRANGEBYSCORE', sorted, '-inf', '0')
run('ZREMRANGEBYSCORE', sorted, '-inf', '0')
run('ZREM', sorted, 'a')
run('HSET', hash, 'a', '1')
run('PEXPIRE', hash, live)
run('HGET', hash, 'a')
run('HGETALL', hash)
run('HDEL', hash, 'a')
run('XADD', stream, 'MAXLEN', '~', '1', '*', 'a', '1')
run('PEXPIRE', stream, live)
run('XRANGE', stream, '-', '+', 'COUNT', 1)
run('XREVRANGE', stream, '+', '-', 'COUNT', 1)
run('XTRIM', stream, 'MAXLEN', '1')
return failed or 1
