"""A cluster's sessions in Redis: the messages as LangChain keeps them, and a hash of each session's other fields."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from langchain_core.messages import BaseMessage
from typing_extensions import override

from services.cluster.redis_client import RedisClient, reached
from services.cluster.stores.history import CommonHistory, written
from services.errors import Unavailable
from services.sessions.history import MASTER
from services.sessions.langchain_history import langchain_message, table_message
from services.sessions.table import COUNT, GOOD_FOR, REQUESTS, WINDOW, Answered, Kept, Message, Table, size_of

# Sessions whose messages are kept in memory.
_KEPT = 1000
# Seconds for which storing an exchange waits while Redis is away.
_STORING = 60.0
# KEYS of all three scripts: the messages (the newest first), the session's hash, the owner's sessions, the owners, the
# requests that the session answers ("AT JSON", by their names), the bytes of each owner's messages.
# ARGV: a token of this call, created, updated, name (JSON), how many messages stay (-1: all), the session, its owner, the
# request's name ("": none), what is kept of it, the time from which on a request's name is good, the bytes of the new
# messages, these. Neither the same call nor the same request adds twice.
_ADD = """
local had = redis.call('LLEN', KEYS[1])
local last = redis.call('HGET', KEYS[2], 'last')
if last == ARGV[1] then return had end
local known = ARGV[8] ~= '' and redis.call('HGET', KEYS[5], ARGV[8])
if known and cjson.decode(known:match(' (.*)')).time >= ARGV[10] then return had end
local keep = tonumber(ARGV[5])
local size = tonumber(redis.call('HGET', KEYS[2], 'bytes') or '0')
local grown = tonumber(ARGV[11])
if keep >= 0 and keep < had then
  local gone = 0
  for _, each in ipairs(redis.call('LRANGE', KEYS[1], 0, had - keep - 1)) do
    local data = cjson.decode(each).data
    gone = gone + #data.content + #((data.additional_kwargs or {}).reasoning_content or '')
  end
  grown = grown - math.min(gone, size)
  local requests = redis.call('HGETALL', KEYS[5])
  for i = 1, #requests, 2 do
    if tonumber(requests[i + 1]:match('^%d+')) >= keep then redis.call('HDEL', KEYS[5], requests[i]) end
  end
  if keep == 0 then redis.call('DEL', KEYS[1]) else redis.call('LTRIM', KEYS[1], -keep, -1) end
  had = keep
end
local window = tonumber(redis.call('HGET', KEYS[2], 'window') or '0')
if 2 * window > had then redis.call('HDEL', KEYS[2], 'window') end
for i = 12, #ARGV do redis.call('LPUSH', KEYS[1], ARGV[i]) end
redis.call('HINCRBY', KEYS[2], 'bytes', grown)
redis.call('HINCRBY', KEYS[6], ARGV[7], grown)
if ARGV[8] ~= '' then
  redis.call('HSET', KEYS[5], ARGV[8], (had + #ARGV - 12) .. ' ' .. ARGV[9])
  redis.call('EXPIRE', KEYS[5], 86400)
end
local name = redis.call('HGET', KEYS[2], 'name')
if had == 0 or not name or name == '""' then redis.call('HSET', KEYS[2], 'name', ARGV[4]) end
redis.call('HSETNX', KEYS[2], 'created', ARGV[2])
redis.call('HSET', KEYS[2], 'updated', ARGV[3], 'last', ARGV[1])
redis.call('SADD', KEYS[3], ARGV[6])
redis.call('SADD', KEYS[4], ARGV[7])
return had + #ARGV - 11
"""
_SET_WINDOW = "if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'window', ARGV[1]) end"
_RENAME = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'name', ARGV[1])
return 1
"""
_REMOVE = """
local was = redis.call('SREM', KEYS[3], ARGV[1])
redis.call('HINCRBY', KEYS[6], ARGV[2], -tonumber(redis.call('HGET', KEYS[2], 'bytes') or '0'))
if redis.call('SCARD', KEYS[3]) == 0 then redis.call('SREM', KEYS[4], ARGV[2]) end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[5])
return was
"""


class RedisSessionTable(Table):
    """The sessions in Redis. All raise Unavailable where that is away.

    Any thread may call it; `_lock` protects the copies.
    """

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._redis = client.redis
        self._add = self._redis.register_script(_ADD)
        self._rename = self._redis.register_script(_RENAME)
        self._set_window = self._redis.register_script(_SET_WINDOW)
        self._remove = self._redis.register_script(_REMOVE)
        self._lock = threading.Lock()
        self._copies: OrderedDict[str, tuple[dict[str, str], list[Message]]] = OrderedDict()

    @override
    def get(self, entry: str) -> Any:
        with reached():
            pipe = self._redis.pipeline(transaction=False)
            pipe.hgetall(self._about(entry))
            pipe.hgetall(self._requests(entry))
            about, requests = pipe.execute()
            session = self._session(entry, about)
        if session and requests:
            parted = {id_: each.partition(" ") for id_, each in requests.items()}
            session[REQUESTS] = {id_: {**json.loads(text), "at": int(at)} for id_, (at, _, text) in parted.items()}
        return session

    @override
    def entries(self, owner: str | None = None) -> Mapping[str, Any]:
        """List the sessions; the messages of one are read on access."""
        with reached():
            owners = self._redis.smembers(self._client.key("owners")) if owner is None else [owner]
            entries = [entry for each in sorted(owners) for entry in sorted(self._redis.smembers(self._sessions_of(each)))]
            pipe = self._redis.pipeline(transaction=False)
            for entry in entries:
                pipe.hgetall(self._about(entry))
                pipe.llen(self._messages(entry))
            found = pipe.execute() if entries else []
        return {
            entry: _Listed(self, entry, about, count)
            for entry, about, count in zip(entries, found[::2], found[1::2], strict=True)
            if about
        }

    @override
    def kept(self, owner: str) -> Kept:
        """Return the sums; sessions stored by versions that did not count have no bytes in them."""
        with reached():
            pipe = self._redis.pipeline(transaction=False)
            pipe.scard(self._sessions_of(owner or MASTER))
            pipe.hget(self._sizes, owner or MASTER)
            count, n_bytes = pipe.execute()
        return Kept(count, int(n_bytes or 0))

    @override
    def add(
        self,
        entry: str,
        messages: list[Message],
        name: str,
        keep: int | None = None,
        request: Answered | None = None,
    ) -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.restore(entry, messages, json.dumps(name), now, now, keep, request)

    @override
    def settle(self, entry: str, request: str) -> None:
        with reached():
            self._redis.hdel(self._requests(entry), request)

    def restore(
        self,
        entry: str,
        messages: list[Message],
        name: str,
        created: str,
        updated: str,
        keep: int | None = None,
        request: Answered | None = None,
    ) -> None:
        """Append as `add` does, to a session that has its times already (ISO 8601); `name` is JSON."""
        owner = _owner_of(entry)
        said = [written(langchain_message(message)) for message in messages]
        kept = -1 if keep is None else keep
        named = (request.name.id, json.dumps(request.entry(0, updated))) if request else ("", "")
        oldest = (datetime.now(timezone.utc) - GOOD_FOR).isoformat(timespec="seconds")
        about = [uuid.uuid4().hex, created, updated, name, kept, entry, owner, *named, oldest, size_of(messages)]
        keys, arguments = self._keys(entry, owner), [*about, *said]
        deadline = time.monotonic() + _STORING
        while True:
            # An exchange is not lost because Redis is away for a moment.
            try:
                with reached():
                    self._add(keys, arguments)
                return
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.25)

    @override
    def rename(self, entry: str, name: str) -> bool:
        with reached():
            return bool(self._rename([self._about(entry)], [json.dumps(name)]))

    @override
    def set_window(self, entry: str, start: int) -> None:
        with reached():
            self._set_window([self._about(entry)], [start])

    @override
    def remove(self, entry: str) -> bool:
        with reached():
            owner = _owner_of(entry)
            return bool(self._remove(self._keys(entry, owner), [entry, owner]))

    @override
    def close(self) -> None:
        # The client is its node's.
        pass

    def _session(self, entry: str, about: dict[str, str]) -> dict[str, Any] | None:
        """Return a session, given its hash; None where that is empty. Its messages are read again after a change."""
        if not about:
            with self._lock:
                self._copies.pop(entry, None)
            return None
        with self._lock:
            known = self._copies.get(entry)
        if not known or known[0]["last"] != about["last"]:
            said: list[BaseMessage] = CommonHistory(self._client, entry).messages
            known = about, [table_message(message) for message in said]
            with self._lock:
                self._copies[entry] = known
                self._copies.move_to_end(entry)
                while len(self._copies) > _KEPT:
                    self._copies.popitem(last=False)
        return {**_fields(about), "messages": known[1]}

    def _messages(self, entry: str) -> str:
        return self._client.key("session", entry)

    def _about(self, entry: str) -> str:
        return self._client.key("about", entry)

    def _requests(self, entry: str) -> str:
        return self._client.key("requests", entry)

    @property
    def _sizes(self) -> str:
        return self._client.key("session_bytes")

    def _keys(self, entry: str, owner: str) -> list[str]:
        """Return the names in Redis that the scripts take."""
        of_session, owners = [self._messages(entry), self._about(entry)], self._client.key("owners")
        return [*of_session, self._sessions_of(owner), owners, self._requests(entry), self._sizes]

    def _sessions_of(self, owner: str) -> str:
        return self._client.key("sessions", owner)


class _Listed(Mapping[str, Any]):
    """A session of a list, whose messages are read on access."""

    def __init__(self, table: RedisSessionTable, entry: str, about: dict[str, str], count: int) -> None:
        self._table = table
        self._entry = entry
        self._known = {**_fields(about), COUNT: count}

    def __getitem__(self, name: str) -> Any:
        if name == "messages":
            return (self._table.get(self._entry) or {"messages": []})["messages"]
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._known, "messages"))

    def __len__(self) -> int:
        return len(self._known) + 1


def _fields(about: Mapping[str, str]) -> dict[str, Any]:
    fields = {"name": json.loads(about["name"]), "created": about.get("created"), "updated": about.get("updated")}
    return {**fields, **({WINDOW: int(about[WINDOW])} if WINDOW in about else {})}


def _owner_of(entry: str) -> str:
    return entry.rpartition("/")[0] or MASTER
