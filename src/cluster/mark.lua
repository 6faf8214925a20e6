-- Returns the mark of the server's data, and gives them one if they have none: they are new, or were lost.
--
-- KEYS: the mark. ARGV: a new mark, the time to live in milliseconds.
redis.call('SET', KEYS[1], ARGV[1], 'NX')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('GET', KEYS[1])
