"""
What the contract's methods do inside Redis: one Lua script each, and each of them one step.

The keys of a pool begin with its prefix in braces, so that a cluster keeps them in one place:

| Key | Type | Content |
|---|---|---|
| document | hash | lineage, revision, operation (that wrote it), content (JSON) |
| history | sorted set | rotations (JSON) by revision |
| placements | hash | room -> "revision server" |
| touched | sorted set | rooms by when a process last had to do with them |
| moved | sorted set | moved rooms by the number of their last move |
| moves | hash | last: number of the last move; born: which life of the data this is |
| holders | hash | room -> MessagePack of {process: {renewed, settling_until}} |
| processes | hash | process -> row (JSON) |
| beats | sorted set | processes by their last heartbeat |
| ledger | hash | [writer, key] as JSON -> sum |
| notices | channel | a hint that something changed: who hears it runs `LOOK` |

What can be refused is refused before anything is written; for want of memory Redis refuses the
first command of a script that adds something, and none after it. Every script's first value is the
store's time for tests, or empty for that of Redis.
"""

from __future__ import annotations

from .redis_parts import (
    DOCUMENT,
    HISTORY_KEPT,
    HOLD,
    HOLDERS,
    LET_GO,
    LIVES,
    NOW,
    PUT,
    TELL,
    Script,
)

__all__ = [
    "ALL",
    "BEAT",
    "CONFIRM",
    "COUNT",
    "CREATE",
    "FOLD",
    "HISTORY",
    "LAPSE",
    "LAPSING",
    "LEAVE",
    "LEDGER",
    "LOAD",
    "LOOK",
    "MOVE",
    "PLACE",
    "PLACEMENT",
    "PLACEMENTS",
    "RELEASE",
    "RENEW",
    "RESTORE",
    "ROOMS",
    "ROWS",
    "SETTLED",
    "SWAP",
    "TOLD_AT_ONCE",
]

TOLD_AT_ONCE = 1000
"""Moves that one `LOOK` tells; where there are more, all placements are read anew."""

# Seconds after which a process that does not beat is forgotten, with what it held.
_FORGOTTEN = 3600


# -- the document --

LOAD = Script(
    "document",
    """
local there = redis.call('HMGET', document, 'lineage', 'revision', 'operation', 'content')
there[5] = exact(now)
return there
""",
    NOW,
)

_WHOLE = "document history notices"

# lineage, revision, operation, content
CREATE = Script(
    _WHOLE,
    """
if redis.call('EXISTS', document) == 1 then return there end
write(ARGV[2], ARGV[3], ARGV[4], ARGV[5])
return 1
""",
    TELL,
    DOCUMENT,
)

# what is expected: lineage, revision; what is new: lineage, revision, operation, content, and a
# rotation if there was one (it reads the content only for who has lost: speed is promised for it)
SWAP = Script(
    _WHOLE,
    f"""
local there = redis.call('HMGET', document, 'lineage', 'revision')
if (there[1] or '') ~= ARGV[2] or (there[2] or '') ~= ARGV[3] then
  return redis.call('HMGET', document, 'lineage', 'revision', 'operation', 'content')
end
if ARGV[8] then
  local lost = redis.call('ZRANGEBYSCORE', history, ARGV[5], ARGV[5])
  redis.call('ZADD', history, ARGV[5], ARGV[8])
  -- One of a lost document may be there still.
  for _, rotation in ipairs(lost) do
    if rotation ~= ARGV[8] then redis.call('ZREM', history, rotation) end
  end
  redis.call('ZREMRANGEBYRANK', history, 0, -{HISTORY_KEPT + 1})
end
redis.call('HSET', document, 'lineage', ARGV[4], 'revision', ARGV[5],
  'operation', ARGV[6], 'content', ARGV[7])
redis.pcall('PUBLISH', notices, '')
return 1
""",
)

# what was found: lineage, revision, both empty for none; then as SWAP; then revision, rotation ...
RESTORE = Script(
    _WHOLE,
    """
if (there[1] or '') ~= ARGV[2] or (there[2] or '') ~= ARGV[3] then return there end
if ARGV[3] == '' and there[4] then return there end
for at = 8, #ARGV, 2 do
  if redis.call('ZCOUNT', history, ARGV[at], ARGV[at]) == 0 then
    redis.call('ZADD', history, ARGV[at], ARGV[at + 1])
  end
end
if #ARGV > 7 then trim() end
write(ARGV[4], ARGV[5], ARGV[6], ARGV[7])
return 1
""",
    TELL,
    DOCUMENT,
)

# the highest score, how many
HISTORY = Script(
    "history",
    "return redis.call('ZREVRANGEBYSCORE', history, ARGV[2], '-inf', 'LIMIT', 0, ARGV[3])",
)

# number of the last move that is known
LOOK = Script(
    "document moves moved placements",
    f"""
local seen = redis.call('HMGET', document, 'lineage', 'revision', 'operation', 'content')
-- Who edits it by hand changes nothing else.
seen[4] = seen[4] and redis.sha1hex(seen[4])
local at = redis.call('HMGET', moves, 'born', 'last')
seen[5], seen[6] = at[1], at[2]
if at[2] and tonumber(at[2]) > tonumber(ARGV[2]) then
  local rooms = redis.call('ZRANGEBYSCORE', moved, '(' .. ARGV[2], '+inf',
    'LIMIT', 0, {TOLD_AT_ONCE + 1})
  for _, room in ipairs(rooms) do
    seen[#seen + 1] = room
    seen[#seen + 1] = redis.call('HGET', placements, room)
  end
end
return seen
""",
)

# -- placements --

# room
PLACEMENT = Script("placements", "return redis.call('HGET', placements, ARGV[2])")

PLACEMENTS = Script("placements", "return redis.call('HGETALL', placements)")

# room, the document's revision, the placement to make
PLACE = Script(
    "placements document touched",
    """
local there = redis.call('HGET', placements, ARGV[2])
if there then return there end
local revision = redis.call('HGET', document, 'revision')
if not revision then
  revision = redis.call('EXISTS', document) == 1 and '' or '0'
end
if revision ~= ARGV[3] then return {revision} end
redis.call('ZADD', touched, exact(now), ARGV[2])
redis.call('HSET', placements, ARGV[2], ARGV[4])
return ARGV[4]
""",
    NOW,
)

# room, placement, process, settling_until
CONFIRM = Script(
    "placements holders touched",
    """
local there = redis.call('HGET', placements, ARGV[2])
if there == ARGV[3] then hold(ARGV[2], ARGV[4], tonumber(ARGV[5])) end
return there
""",
    NOW,
    HOLDERS,
    HOLD,
)

# room, process
SETTLED = Script(
    "holders",
    """
local all = held(ARGV[2])
if all[ARGV[3]] then
  all[ARGV[3]][2] = 0
  keep(ARGV[2], all)
end
""",
    HOLDERS,
)

# room, process
RELEASE = Script(
    "holders touched",
    """
local all = held(ARGV[2])
if all[ARGV[3]] then
  all[ARGV[3]] = nil
  keep(ARGV[2], all)
  redis.call('ZADD', touched, 'XX', exact(now), ARGV[2])
end
""",
    NOW,
    HOLDERS,
)

# room, the placement to make, process, forced or empty
MOVE = Script(
    "placements holders touched moved moves beats notices",
    """
local there = redis.call('HGET', placements, ARGV[2])
if there then
  if revision_of(there) >= revision_of(ARGV[3]) then return there end
  if ARGV[5] == '' then
    local latest
    for other, its in pairs(held(ARGV[2])) do
      if other ~= ARGV[4] and its[2] > now and living(other, its[1]) then
        latest = math.max(latest or 0, its[2])
      end
    end
    if latest then return {there, exact(latest)} end
  end
end
put(ARGV[2], ARGV[3])
tell()
return ARGV[3]
""",
    NOW,
    HOLDERS,
    LIVES,
    PUT,
    TELL,
)

# process, then room, placement ...
RENEW = Script(
    "placements holders touched moved moves notices",
    """
local others, lost = {}, false
for at = 3, #ARGV, 2 do
  local room, given = ARGV[at], ARGV[at + 1]
  local there = redis.call('HGET', placements, room)
  if not there or revision_of(there) < revision_of(given) then
    put(room, given)
    lost = true
  elseif there ~= given then
    others[#others + 1] = room
    others[#others + 1] = there
  end
  hold(room, ARGV[2], 0)
end
if lost then tell() end
return others
""",
    NOW,
    HOLDERS,
    HOLD,
    PUT,
    TELL,
)

ROOMS = Script(
    "placements holders beats",
    """
local lives, counts = {}, {}
local packed = redis.call('HGETALL', holders)
for at = 1, #packed, 2 do
  for process, its in pairs(cmsgpack.unpack(packed[at + 1])) do
    local alive = lives[process]
    if alive == nil and redis.call('ZSCORE', beats, process) then
      alive = living(process)
      lives[process] = alive
    end
    if alive == nil then alive = living(process, its[1]) end
    if alive then
      local there = redis.call('HGET', placements, packed[at])
      if there then
        local server = string.match(there, '^%d+ (.*)$')
        counts[server] = (counts[server] or 0) + 1
      end
      break
    end
  end
end
local flat = {}
for server, count in pairs(counts) do
  flat[#flat + 1] = server
  flat[#flat + 1] = count
end
return flat
""",
    NOW,
    LIVES,
)

# idle seconds
LAPSING = Script(
    "placements touched",
    """
local flat = {}
local idle = redis.call('ZRANGEBYSCORE', touched, '-inf', exact(now - ARGV[2]))
for _, room in ipairs(idle) do
  flat[#flat + 1] = room
  flat[#flat + 1] = redis.call('HGET', placements, room)
end
return flat
""",
    NOW,
)

# room, placement, idle seconds
LAPSE = Script(
    "placements touched moved holders",
    """
local at = redis.call('ZSCORE', touched, ARGV[2])
if redis.call('HGET', placements, ARGV[2]) ~= ARGV[3] then return 0 end
if at and now - at < tonumber(ARGV[4]) then return 0 end
redis.call('ZREM', moved, ARGV[2])
redis.call('HDEL', holders, ARGV[2])
redis.call('ZREM', touched, ARGV[2])
redis.call('HDEL', placements, ARGV[2])
return 1
""",
    NOW,
)

# -- the ledger --

# [writer, key], sum ...
COUNT = Script(
    "ledger",
    """
for at = 2, #ARGV, 2 do
  local sum = redis.call('HGET', ledger, ARGV[at])
  if not sum or tonumber(sum) < tonumber(ARGV[at + 1]) then
    redis.call('HSET', ledger, ARGV[at], ARGV[at + 1])
  end
end
""",
)

LEDGER = Script("ledger", "return redis.call('HGETALL', ledger)")

# [writer, key], the sum expected, how many sums; then [writer, key], sum ...; then what to drop
FOLD = Script(
    "ledger",
    """
if (redis.call('HGET', ledger, ARGV[2]) or '0') ~= ARGV[3] then return 0 end
local at = 5
for _ = 1, tonumber(ARGV[4]) do
  redis.call('HSET', ledger, ARGV[at], ARGV[at + 1])
  at = at + 2
end
for dropped = at, #ARGV do
  redis.call('HDEL', ledger, ARGV[dropped])
end
return 1
""",
)

# -- processes --

# process, row
BEAT = Script(
    "processes beats holders touched",
    f"""
redis.call('ZADD', beats, exact(now), ARGV[2])
local new = redis.call('HSET', processes, ARGV[2], ARGV[3])
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', beats, '-inf', exact(now - {_FORGOTTEN}))) do
  redis.call('ZREM', beats, dead)
  redis.call('HDEL', processes, dead)
  let_go(dead, false)
end
return new
""",
    NOW,
    HOLDERS,
    LET_GO,
)

# process
LEAVE = Script(
    "processes beats holders touched",
    """
redis.call('ZREM', beats, ARGV[2])
redis.call('HDEL', processes, ARGV[2])
let_go(ARGV[2], true)
""",
    NOW,
    HOLDERS,
    LET_GO,
)

# the greatest age
ROWS = Script(
    "processes beats",
    """
local found = redis.call('ZRANGEBYSCORE', beats, exact(now - ARGV[2]), exact(now + ARGV[2]),
  'WITHSCORES')
for at = 1, #found, 2 do
  found[at] = redis.call('HGET', processes, found[at])
end
return found
""",
    NOW,
)

ALL = tuple(value for value in list(globals().values()) if isinstance(value, Script))
"""All of them."""
