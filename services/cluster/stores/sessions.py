"""A cluster's sessions in Redis: the messages as LangChain keeps them, and a hash of each session's other fields."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from langchain_core.messages import BaseMessage
from typing_extensions import override

from services.cluster.redis_client import RedisClient, reached
from services.cluster.stores.history import CommonHistory, written
from services.errors import Unavailable
from services.sessions.branches import size_of_branches
from services.sessions.history import MASTER
from services.sessions.langchain_history import langchain_message, table_message
from services.sessions.table import (
    BRANCHES,
    COUNT,
    FOLDER,
    GOOD_FOR,
    PINNED,
    REQUESTS,
    SETTINGS,
    WINDOW,
    Answered,
    Kept,
    Message,
    Table,
    n_same,
    size_of,
)

# Sessions whose messages are kept in memory.
_KEPT = 1000
# Seconds for which storing an exchange waits while Redis is away.
_STORING = 60.0
# KEYS of all three scripts: the messages (the newest first), the session's hash, the owner's sessions, the owners, the
# requests that the session answers ("AT JSON", by their names), the bytes of each owner's messages, the session's other
# branches (JSON).
# ARGV: a token of this call, created, updated, name (JSON), how many messages stay (-1: all), the session, its owner, the
# request's name ("": none), what is kept of it, the time from which on a request's name is good, the bytes of the new
# messages and branches, the branches ("": they stay), the new messages. Neither the same call nor the same request adds
# twice.
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
if ARGV[12] == '[]' then redis.call('DEL', KEYS[7]) elseif ARGV[12] ~= '' then redis.call('SET', KEYS[7], ARGV[12]) end
for i = 13, #ARGV do redis.call('LPUSH', KEYS[1], ARGV[i]) end
redis.call('HINCRBY', KEYS[2], 'bytes', grown)
redis.call('HINCRBY', KEYS[6], ARGV[7], grown)
if ARGV[8] ~= '' then
  redis.call('HSET', KEYS[5], ARGV[8], (had + #ARGV - 13) .. ' ' .. ARGV[9])
  redis.call('EXPIRE', KEYS[5], 86400)
end
local name = redis.call('HGET', KEYS[2], 'name')
if had == 0 or not name or name == '""' then redis.call('HSET', KEYS[2], 'name', ARGV[4]) end
redis.call('HSETNX', KEYS[2], 'created', ARGV[2])
redis.call('HSET', KEYS[2], 'updated', ARGV[3], 'last', ARGV[1])
redis.call('SADD', KEYS[3], ARGV[6])
redis.call('SADD', KEYS[4], ARGV[7])
return had + #ARGV - 12
"""
# ARGV: the owner, by how many bytes the session grows, its other branches ("": they stay), from which message on requests
# are forgotten (-1: none), a token of this call ("": the messages stay), how many fields follow, each with its JSON ("": it
# is removed), then the messages.
_UPDATE = """
if redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
if ARGV[2] ~= '0' then
  redis.call('HINCRBY', KEYS[2], 'bytes', ARGV[2])
  redis.call('HINCRBY', KEYS[6], ARGV[1], ARGV[2])
end
if ARGV[3] == '[]' then redis.call('DEL', KEYS[7]) elseif ARGV[3] ~= '' then redis.call('SET', KEYS[7], ARGV[3]) end
local same = tonumber(ARGV[4])
local requests = same >= 0 and redis.call('HGETALL', KEYS[5]) or {}
for i = 1, #requests, 2 do
  if tonumber(requests[i + 1]:match('^%d+')) >= same then redis.call('HDEL', KEYS[5], requests[i]) end
end
local first = 7 + 2 * tonumber(ARGV[6])
for i = 7, first - 1, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', KEYS[2], ARGV[i]) else redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
end
if ARGV[5] ~= '' then
  redis.call('DEL', KEYS[1])
  for i = first, #ARGV do redis.call('LPUSH', KEYS[1], ARGV[i]) end
  local window = tonumber(redis.call('HGET', KEYS[2], 'window') or '0')
  if 2 * window > same then redis.call('HDEL', KEYS[2], 'window') end
  redis.call('HSET', KEYS[2], 'last', ARGV[5])
end
return 1
"""
_REMOVE = """
local was = redis.call('SREM', KEYS[3], ARGV[1])
redis.call('HINCRBY', KEYS[6], ARGV[2], string.format('%d', 0 - tonumber(redis.call('HGET', KEYS[2], 'bytes') or '0')))
if redis.call('SCARD', KEYS[3]) == 0 then redis.call('SREM', KEYS[4], ARGV[2]) end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[5], KEYS[7])
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
        self._update = self._redis.register_script(_UPDATE)
        self._remove = self._redis.register_script(_REMOVE)
        self._lock = threading.Lock()
        self._copies: OrderedDict[str, tuple[dict[str, str], list[Message]]] = OrderedDict()

    @override
    def get(self, entry: str) -> Any:
        with reached():
            pipe = self._redis.pipeline(transaction=False)
            pipe.hgetall(self._about(entry))
            pipe.hgetall(self._requests(entry))
            pipe.get(self._branches(entry))
            about, requests, branches = pipe.execute()
            session = self._session(entry, about)
        if session and branches:
            session[BRANCHES] = json.loads(branches)
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
        branches: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.restore(entry, messages, json.dumps(name), now, now, keep, request, branches)

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
        branches: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Append as `add` does, to a session that has its times already (ISO 8601); `name` is JSON."""
        owner = _owner_of(entry)
        said = [written(langchain_message(message)) for message in messages]
        kept = -1 if keep is None else keep
        named = (request.name.id, json.dumps(request.entry(0, updated))) if request else ("", "")
        oldest = (datetime.now(timezone.utc) - GOOD_FOR).isoformat(timespec="seconds")
        tree = "" if branches is None else json.dumps(branches, separators=(",", ":"))
        about = [uuid.uuid4().hex, created, updated, name, kept, entry, owner, *named, oldest]
        deadline = time.monotonic() + _STORING
        while True:
            # An exchange is not lost because Redis is away for a moment.
            try:
                grown = size_of(messages)
                if branches is not None:
                    grown += size_of_branches(branches) - size_of_branches((self.get(entry) or {}).get(BRANCHES) or ())
                with reached():
                    self._add(self._keys(entry, owner), [*about, grown, tree, *said])
                return
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.25)

    @override
    def update(self, entry: str, fields: Mapping[str, Any], messages: list[Message] | None = None) -> bool:
        owner, had = _owner_of(entry), None
        if messages is not None or BRANCHES in fields:
            had = self.get(entry)
            if had is None:
                return False
        grown, same, token, said = 0, -1, "", []
        if had and messages is not None:
            same = n_same(had["messages"], messages)
            token, said = uuid.uuid4().hex, [written(langchain_message(message)) for message in messages]
            grown += size_of(messages) - size_of(had["messages"])
        tree = ""
        if had and BRANCHES in fields:
            tree = json.dumps(fields[BRANCHES], separators=(",", ":"))
            grown += size_of_branches(fields[BRANCHES]) - size_of_branches(had.get(BRANCHES) or ())
        changed = {name: value for name, value in fields.items() if name != BRANCHES}
        named = [part for name, value in changed.items() for part in (name, _hash_value(name, value))]
        with reached():
            keys = self._keys(entry, owner)
            return bool(self._update(keys, [owner, grown, tree, same, token, len(changed), *named, *said]))

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

    def _branches(self, entry: str) -> str:
        return self._client.key("branches", entry)

    @property
    def _sizes(self) -> str:
        return self._client.key("session_bytes")

    def _keys(self, entry: str, owner: str) -> list[str]:
        """Return the names in Redis that the scripts take."""
        of_session, owners = [self._messages(entry), self._about(entry)], self._client.key("owners")
        others = [self._requests(entry), self._sizes, self._branches(entry)]
        return [*of_session, self._sessions_of(owner), owners, *others]

    def _sessions_of(self, owner: str) -> str:
        return self._client.key("sessions", owner)


class _Listed(Mapping[str, Any]):
    """A session of a list, whose messages are read on access."""

    def __init__(self, table: RedisSessionTable, entry: str, about: dict[str, str], count: int) -> None:
        self._table = table
        self._entry = entry
        self._known = {**_fields(about), COUNT: count}

    def __getitem__(self, name: str) -> Any:
        if name in ("messages", BRANCHES):
            return (self._table.get(self._entry) or {"messages": []})[name]
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._known, "messages"))

    def __len__(self) -> int:
        return len(self._known) + 1


def _fields(about: Mapping[str, str]) -> dict[str, Any]:
    fields = {"name": json.loads(about["name"]), "created": about.get("created"), "updated": about.get("updated")}
    return {**fields, **{name: json.loads(about[name]) for name in (WINDOW, PINNED, FOLDER, SETTINGS) if name in about}}


def _hash_value(name: str, value: Any) -> str:
    """Return the value of a session's hash for a field: JSON, but times as they are; "" removes one."""
    if name in ("created", "updated"):
        return str(value)
    return json.dumps(value) if value or name == "name" else ""


def _owner_of(entry: str) -> str:
    return entry.rpartition("/")[0] or MASTER
