"""What is being generated, in Redis: for each request its state, and a stream of what has come of it so far.

A worker writes events, and whoever reads may come late, leave, and come again. Each time a worker begins is an attempt:
once a later one has begun, an earlier one writes nothing more, and the later goes on where the stream ends. An event is
JSON: `text` with the `tokens` that are new in it and how these were chosen (`choices`), and at the end `finish` or `error`,
with what it has cost (`spent`); `worker` is who has begun.

The scripts run whole in Redis, so that nothing comes between a look and a change. Sending one again does no harm.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.backend.codec import Message
from services.cluster.redis_client import RedisClient

# Seconds after which what nobody has looked after is forgotten.
KEPT = 3600
# KEYS: state, events. All but the first of ARGV is the script's own.
_BEGIN = """
local order = redis.call('HGET', KEYS[1], 'order')
if not order then return {'gone', 0, {}, 0} end
if order == 'cancel' then return {order, 0, {}, 0} end
local attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
redis.call('HSET', KEYS[1], 'worker', ARGV[2])
local said = redis.call('XRANGE', KEYS[2], '-', '+')
local n = redis.call('HINCRBY', KEYS[1], 'written', 1)
redis.call('XADD', KEYS[2], '*', 'n', n, 'd', cjson.encode({worker = ARGV[2], attempt = attempt}))
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[1])
return {order, attempt, said, n}
"""
_WRITE = """
local now = redis.call('HMGET', KEYS[1], 'attempt', 'written', 'order')
if not now[1] then return 'gone' end
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[1])
local first = tonumber(ARGV[3])
if tonumber(now[1]) < tonumber(ARGV[2]) or (now[1] == ARGV[2] and first > tonumber(now[2])) then
  -- Redis has forgotten some of it: to go on would leave words out.
  redis.call('UNLINK', KEYS[1], KEYS[2])
  return 'gone'
end
if now[1] ~= ARGV[2] then return 'stale' end
for i = 4, #ARGV do
  local n = first + i - 3
  if n > tonumber(now[2]) then
    redis.call('XADD', KEYS[2], '*', 'n', n, 'd', ARGV[i])
    redis.call('HSET', KEYS[1], 'written', n)
  end
end
return now[3]
"""
_ORDER = """
local now = redis.call('HMGET', KEYS[1], 'attempt', 'order')
if not now[1] then return 0 end
if now[2] == 'cancel' then return tonumber(now[1]) end
local order = ARGV[2]
if now[1] == '0' then order = 'cancel' end
redis.call('HSET', KEYS[1], 'order', order)
return tonumber(now[1])
"""


@dataclass(frozen=True)
class Begun:
    """An attempt: its number, what is wanted ("": all of it, "stop", "cancel", "gone"), and the events before it."""

    order: str
    attempt: int
    written: int
    events: tuple[Message, ...]


@dataclass(frozen=True)
class Look:
    """A request's state: the API node that waits, what is wanted (as in Begun), and how often it was begun."""

    node: str
    order: str
    attempts: int


class Streams:
    """All requests. Any thread may call it. Its methods raise what Redis's client raises."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._redis = client.redis
        self._begin = self._redis.register_script(_BEGIN)
        self._write = self._redis.register_script(_WRITE)
        self._order = self._redis.register_script(_ORDER)

    def open(self, id_: str, node: str) -> None:
        """Make place for a request of an API node's."""
        pipe = self._redis.pipeline()
        pipe.hset(self._state(id_), mapping={"order": "", "attempt": 0, "written": 0, "node": node})
        pipe.expire(self._state(id_), KEPT)
        pipe.execute()

    def begin(self, id_: str, worker: str) -> Begun:
        """A worker begins to compute it, first or after another."""
        order, attempt, said, written = self._begin(self._keys(id_), [KEPT, worker])
        events = tuple(json.loads(fields[fields.index("d") + 1]) for _, fields in said)
        return Begun(order, attempt, written, events)

    def write(self, id_: str, attempt: int, written: int, events: Sequence[Message]) -> str:
        """Add events behind the `written` ones; return what is wanted: as in Begun, or "stale", where another has begun."""
        texts = [json.dumps(event, separators=(",", ":")) for event in events]
        return str(self._write(self._keys(id_), [KEPT, attempt, written, *texts]))

    def order(self, id_: str, order: str) -> int:
        """Want it to "stop", or to "cancel"; return how many attempts there were. What nobody has begun never begins."""
        return int(self._order(self._keys(id_), [KEPT, order]))

    def read(self, id_: str, after: str, milliseconds: int) -> list[tuple[str, int, Message]]:
        """The events after the entry `after`, waiting for the first: their entries' ids, their numbers, themselves."""
        found: Any = self._redis.xread({self._events(id_): after}, block=milliseconds)
        entries = [each for _, entries in found or () for each in entries]
        return [(entry, int(fields["n"]), json.loads(fields["d"])) for entry, fields in entries]

    def look(self, id_: str) -> Look | None:
        """Who waits for it, what is wanted, and how often it was begun; None where it is forgotten."""
        node, order, attempts = self._redis.hmget(self._state(id_), "node", "order", "attempt")
        return None if node is None else Look(node, order, int(attempts))

    def drop(self, id_: str) -> None:
        """Forget it: a worker that writes more is told so."""
        self._redis.unlink(*self._keys(id_))

    def _keys(self, id_: str) -> list[str]:
        return [self._state(id_), self._events(id_)]

    def _state(self, id_: str) -> str:
        # The braces keep both on one node of a Redis Cluster.
        return self._client.key("request", f"{{{id_}}}", "state")

    def _events(self, id_: str) -> str:
        return self._client.key("request", f"{{{id_}}}", "events")
