-- Registers a node, and returns all nodes.
--
-- KEYS: the times of the last heartbeats by node (sorted set), and what nodes say about themselves (hash).
-- ARGV: the id of the node, or the random text of its process; "1" if it is an id; what the node says about itself; the time
-- in milliseconds after which a silent node is dead; the time to live of the keys in milliseconds; the most nodes.
--
-- Returns the time of the server in milliseconds, the id of the node, and for each node that is not dead its id, the
-- milliseconds since its last heartbeat, and what it said. The id of a node that is dead is never used again: a node that
-- returns gets a new id. An id begins with the time of its registration, and ends with the random text of its process. A
-- process that does not get the answer to its registration repeats it, and the server may do all of them, some late: so a
-- process that is registered and not dead keeps the id that it has.
--
-- A heartbeat in the future, from before the clock of the server was set back, says nothing: beyond the time after which
-- a silent node is dead its node is dead, too.
--
-- The first command that writes is one that a server without free memory denies: Redis lets a script that has written go on.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local id, silence = ARGV[1], tonumber(ARGV[4])
local oldest, newest = string.format('%.0f', now - silence), string.format('%.0f', now + silence)
local seen = ARGV[2] == '1' and tonumber(redis.call('ZSCORE', KEYS[1], id) or '-inf')
if not seen or seen < now - silence or seen > now + silence then
  local process, registered = string.match(id, '[^-]*$'), nil
  local live = redis.call('ZRANGEBYSCORE', KEYS[1], oldest, newest)
  for _, node in ipairs(live) do
    if string.match(node, '[^-]*$') == process then registered = node end
  end
  if not registered and #live >= tonumber(ARGV[6]) then
    return redis.error_reply('FULL the cluster has the most nodes that it can have')
  end
  id = registered or string.format('%.0f', now) .. '-' .. process
end
redis.call('ZADD', KEYS[1], now, id)
redis.call('HSET', KEYS[2], id, ARGV[3])
for _, range in ipairs({ { '-inf', '(' .. oldest }, { '(' .. newest, '+inf' } }) do
  for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], range[1], range[2])) do
    redis.call('HDEL', KEYS[2], node)
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[1], range[1], range[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
local answer = { string.format('%.0f', now), id }
local nodes = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #nodes, 2 do
  answer[#answer + 1] = nodes[i]
  answer[#answer + 1] = string.format('%.0f', math.max(now - nodes[i + 1], 0))
  answer[#answer + 1] = redis.call('HGET', KEYS[2], nodes[i]) or ''
end
return answer
