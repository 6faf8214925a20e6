-- Adds an entry to the stream of events that concern only the present, and removes old ones.
--
-- KEYS: the stream. ARGV: about its greatest length; how long it is kept after its last entry, and each entry at most (in
-- milliseconds); the id of the process; the kind, the text and the payload of the event.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'n', ARGV[3], 'k', ARGV[4], 'd', ARGV[5], 'p', ARGV[6])
-- Redis before 6.2 does not know MINID. There the entries stay until the stream ends.
redis.pcall('XTRIM', KEYS[1], 'MINID', string.format('%.0f', now - ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
