"""The requests in flight, in Redis: for each one its state, and a stream of events.

A worker writes events, and a reader may come late, leave, and come again. Each time a worker begins is an attempt: once a
later one has begun, an earlier one writes nothing more, and the later goes on where the stream ends. An event is JSON:
`text` with its new `tokens` and how these were chosen (`choices`, of which the attempt's first `n_choices` belong to the
text so far; those of the prompt are `prompt_choices`), where `mark` says that it is a special token's, and at the end
`finish`, with the tokens behind the last text, or `error`, with the cost (`spent`); `worker` names the worker that has
begun, `n_read` counts the tokens of the prompt that are read.

The scripts run atomically in Redis. Sending one again does no harm.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.backend.codec import Message
from services.cluster.orders import Order
from services.cluster.redis_client import RedisClient

# Seconds after which a request that is neither written nor begun is forgotten.
KEPT = 3600
# KEYS of all scripts: state, events. ARGV: for how long these are kept, then the script's own. Here: the worker.
_BEGIN = """
local order = redis.call('HGET', KEYS[1], 'order')
if not order then return {'gone', 0, {}, 0} end
if order == 'cancel' then return {order, 0, {}, 0} end
local attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
redis.call('HSET', KEYS[1], 'worker', ARGV[2])
local events = redis.call('XRANGE', KEYS[2], '-', '+')
local n = redis.call('HINCRBY', KEYS[1], 'written', 1)
redis.call('XADD', KEYS[2], '*', 'n', n, 'd', cjson.encode({worker = ARGV[2], attempt = attempt}))
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[1])
return {order, attempt, events, n}
"""
# The attempt, how many events stand before these, the events.
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
# The order.
_ORDER = """
local now = redis.call('HMGET', KEYS[1], 'attempt', 'order')
if not now[1] then return 0 end
if now[2] == 'cancel' then return tonumber(now[1]) end
local order = ARGV[2]
if order == 'stop_thinking' then
  -- An order to stop is more.
  if now[2] ~= '' then return tonumber(now[1]) end
elseif now[1] == '0' then order = 'cancel' end
redis.call('HSET', KEYS[1], 'order', order)
return tonumber(now[1])
"""


@dataclass(frozen=True)
class Begun:
    """An attempt: its number, the request's order, and the events before it.

    The order is one of `Order` about a request, "" if there is none, or "gone": the request is forgotten.
    """

    order: str
    attempt: int
    written: int
    events: tuple[Message, ...]


@dataclass(frozen=True)
class Look:
    """A request's state: the API node that waits, the order (as in Begun), and how often it was begun."""

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
        """Make the state of a request that an API node sends."""
        pipe = self._redis.pipeline()
        pipe.hset(self._state(id_), mapping={"order": "", "attempt": 0, "written": 0, "node": node})
        pipe.expire(self._state(id_), KEPT)
        pipe.execute()

    def begin(self, id_: str, worker: str) -> Begun:
        """Begin an attempt of a worker, the first or after another."""
        order, attempt, entries, written = self._begin(self._keys(id_), [KEPT, worker])
        events = tuple(json.loads(fields[fields.index("d") + 1]) for _, fields in entries)
        return Begun(order, attempt, written, events)

    def write(self, id_: str, attempt: int, written: int, events: Sequence[Message]) -> str:
        """Add events after the `written` ones; return the order as in Begun, or "stale" where another attempt has begun."""
        texts = [json.dumps(event, separators=(",", ":")) for event in events]
        return str(self._write(self._keys(id_), [KEPT, attempt, written, *texts]))

    def order(self, id_: str, order: Order) -> int:
        """Set the order; return how many attempts there were.

        With none, an order to stop or cancel lets none begin, and one to end the thoughts waits for the first.
        """
        return int(self._order(self._keys(id_), [KEPT, order.value]))

    def read(self, id_: str, after: str, milliseconds: int) -> list[tuple[str, int, Message]]:
        """Return the events after the entry `after`, waiting for the first: each with its entry's id and its number."""
        found: Any = self._redis.xread({self._events(id_): after}, block=milliseconds)
        entries = [each for _, entries in found or () for each in entries]
        return [(entry, int(fields["n"]), json.loads(fields["d"])) for entry, fields in entries]

    def look(self, id_: str) -> Look | None:
        """Return the state of a request; None where it is forgotten."""
        node, order, attempts = self._redis.hmget(self._state(id_), "node", "order", "attempt")
        return None if node is None else Look(node, order, int(attempts))

    def drop(self, id_: str) -> None:
        """Forget it; `write` then returns "gone"."""
        self._redis.unlink(*self._keys(id_))

    def _keys(self, id_: str) -> list[str]:
        return [self._state(id_), self._events(id_)]

    def _state(self, id_: str) -> str:
        # The braces keep both on one node of a Redis Cluster.
        return self._client.key("request", f"{{{id_}}}", "state")

    def _events(self, id_: str) -> str:
        return self._client.key("request", f"{{{id_}}}", "events")
