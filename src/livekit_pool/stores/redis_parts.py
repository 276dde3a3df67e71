"""A script for Redis, and the parts that several of them have in common."""

from __future__ import annotations

import hashlib

from .base import LIVING
from .redis_line import pack

__all__ = [
    "DOCUMENT",
    "HISTORY_KEPT",
    "HOLD",
    "HOLDERS",
    "LET_GO",
    "LIVES",
    "NOW",
    "PUT",
    "TELL",
    "Script",
]

HISTORY_KEPT = 10_000
"""Rotations kept: the oldest go."""


class Script:
    """
    One script.

    Attributes:
        text: the whole of it.
        called, whole: the beginning of the command that runs it, if Redis knows it or not.
        keys: the keys it uses, without prefix, in the order in which it takes them.
    """

    def __init__(self, keys: str, body: str, *parts: str) -> None:
        """``parts`` stand before ``body`` and may use its keys, which are local variables."""
        self.keys = tuple(keys.split())
        named = ", ".join(f"KEYS[{number}]" for number in range(1, len(self.keys) + 1))
        head = f"local {', '.join(self.keys)} = {named}\n"
        self.text = head + "".join(part.strip("\n") + "\n" for part in (*parts, body))
        sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        self.called = pack(["EVALSHA", sha])
        self.whole = pack(["EVAL", self.text])


# -- parts of several --

NOW = """
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] + time[2] / 1000000
end
local function exact(number)
  return string.format('%.17g', number)
end
"""

# A denied channel must not undo what was written: the periodic look finds that as well.
TELL = """
local function tell()
  redis.pcall('PUBLISH', notices, '')
end
"""

DOCUMENT = f"""
local there = redis.call('HMGET', document, 'lineage', 'revision', 'operation', 'content')
local function write(lineage, revision, operation, content)
  redis.call('HSET', document, 'lineage', lineage, 'revision', revision,
    'operation', operation, 'content', content)
  tell()
end
local function trim()
  redis.call('ZREMRANGEBYRANK', history, 0, -{HISTORY_KEPT + 1})
end
"""

HOLDERS = """
local function held(room)
  local packed = redis.call('HGET', holders, room)
  return packed and cmsgpack.unpack(packed) or {}
end
local function keep(room, all)
  if next(all) == nil then
    redis.call('HDEL', holders, room)
  else
    redis.call('HSET', holders, room, cmsgpack.pack(all))
  end
end
"""

HOLD = """
local function hold(room, process, settling)
  local all = held(room)
  local own = all[process]
  all[process] = {now, math.max(settling, own and own[2] or 0)}
  keep(room, all)
  redis.call('ZADD', touched, exact(now), room)
end
"""

# A process that has not beaten yet is given the time of a heartbeat to do so.
LIVES = f"""
local function living(process, renewed)
  local beat = redis.call('ZSCORE', beats, process) or renewed
  return math.abs(now - beat) <= {LIVING}
end
"""

PUT = """
local function revision_of(placement)
  return tonumber(string.match(placement, '^%d+'))
end
local function put(room, placement)
  if redis.call('EXISTS', moves) == 0 then
    redis.call('HSET', moves, 'born', table.concat(redis.call('TIME'), '.'))
  end
  redis.call('ZADD', moved, redis.call('HINCRBY', moves, 'last', 1), room)
  redis.call('ZADD', touched, exact(now), room)
  redis.call('HSET', placements, room, placement)
end
"""

# Who filters by the packed text first need not unpack every room of the pool.
LET_GO = """
local function let_go(process, touch)
  local packed = redis.call('HGETALL', holders)
  for at = 1, #packed, 2 do
    if string.find(packed[at + 1], process, 1, true) then
      local all = cmsgpack.unpack(packed[at + 1])
      if all[process] then
        all[process] = nil
        keep(packed[at], all)
        if touch then
          redis.call('ZADD', touched, 'XX', exact(now), packed[at])
        end
      end
    end
  end
end
"""
