-- Returns the ids of the first and the last entry of each stream; an id is empty if there is no entry.
--
-- KEYS: the streams.
local ids = {}
for _, key in ipairs(KEYS) do
  local first = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)
  local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)
  ids[#ids + 1] = first[1] and first[1][1] or ''
  ids[#ids + 1] = last[1] and last[1][1] or ''
end
return ids
