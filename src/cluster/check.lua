-- Runs the commands that the other scripts run, on keys that end soon.
--
-- KEYS: a string, a sorted set, a hash, and a stream. ARGV: their time to live in milliseconds. Returns 1.
local text, sorted, hash, stream = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local live = ARGV[1]
redis.call('TIME')
redis.call('SET', text, '1', 'NX')
redis.call('PEXPIRE', text, live)
redis.call('GET', text)
redis.call('PTTL', text)
redis.call('DEL', text)
redis.call('ZADD', sorted, 1, 'a')
redis.call('PEXPIRE', sorted, live)
redis.call('ZCARD', sorted)
redis.call('ZSCORE', sorted, 'a')
redis.call('ZRANGE', sorted, 0, -1)
redis.call('ZRANGEBYSCORE', sorted, '-inf', '0')
redis.call('ZREMRANGEBYSCORE', sorted, '-inf', '0')
redis.call('ZREM', sorted, 'a')
redis.call('HSET', hash, 'a', '1')
redis.call('PEXPIRE', hash, live)
redis.call('HGET', hash, 'a')
redis.call('HGETALL', hash)
redis.call('HDEL', hash, 'a')
redis.call('XADD', stream, 'MAXLEN', '~', '1', '*', 'a', '1')
redis.call('PEXPIRE', stream, live)
redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)
redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
redis.call('XTRIM', stream, 'MAXLEN', '1')
return 1
