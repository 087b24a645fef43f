"""Stored responses of OpenAI's Responses API: a tree, in which each one may go on from any other of its key.

They are kept in data/hearth.sqlite for 30 days after their last use; a cluster keeps them in Redis.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from typing_extensions import override

from services.errors import InvalidRequest
from services.sessions.owned_rows import OwnedRows
from services.sessions.table import Kept

# Seconds for which a response is kept after its last use.
KEPT_FOR = 30 * 24 * 3600.0
# The most responses that one may go on from, one after the other.
LONGEST_CHAIN = 2000
UNFINISHED = ("queued", "in_progress")

_DAY = 24 * 3600.0
# Begins the name of a conversation's computed state, and is no session's number.
_STATE = "response "
# Expired rows that are removed at once.
_ROWS = 200
_SIZE = "length(items) + length(body)"
_COLUMNS = "owner, id, previous, session, status, used, items, body, left_out"


@dataclass(frozen=True)
class StoredResponse:
    """One response, and the items that it answers.

    `previous` is the id of the response from which it goes on, `session` the number of its session; "": none.
    `left_out` is the number of the conversation's first turns that its prompt left out. `used` is in seconds since 1970.
    """

    owner: str
    id: str
    previous: str = ""
    session: str = ""
    status: str = "completed"
    items: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    left_out: int = 0
    used: float = 0.0

    @property
    def output(self) -> list[dict[str, Any]]:
        """The items that the model wrote."""
        return list(self.body.get("output") or [])

    @property
    def state(self) -> str:
        """The name of the computed state of the conversation that it began."""
        return f"{_STATE}{self.id}"

    @property
    def ends_in_calls(self) -> bool:
        """True if the client's tools were called, whose outputs come next."""
        return any(str(item["type"]).endswith("_call") for item in self.body.get("output") or ())

    @property
    def n_bytes(self) -> int:
        """The bytes of its items and its body, as they are stored."""
        return len(encoded(list(self.items))) + len(encoded(self.body))


class ResponseTable(Protocol):
    """All stored responses. Any thread may call it. All raise StorageFailed, or Unavailable in a cluster."""

    def get(self, owner: str, id_: str) -> StoredResponse | None:
        """Return a response; None if it is not stored, or has expired."""
        ...

    def add(self, response: StoredResponse) -> None:
        """Store a response durably, unless one of this id is stored and finished, as one that was cancelled meanwhile."""
        ...

    def touch(self, owner: str, ids: Sequence[str]) -> None:
        """Note that responses are used, so that they are kept longer."""
        ...

    def last_of(self, owner: str, session: str) -> StoredResponse | None:
        """Return the response of a session that came to its end last, completed or not; None if there is none."""
        ...

    def remove(self, owner: str, id_: str) -> bool:
        """Forget a response, and leave no trace of it; return False if there is none."""
        ...

    def remove_session(self, owner: str, session: str) -> bool:
        """Forget all responses of a session, and leave no trace of them; return False if there are none."""
        ...

    def kept(self, owner: str) -> Kept:
        """Return the number and the bytes of an owner's responses; cheap."""
        ...

    def everything(self) -> list[StoredResponse]:
        """Return all responses."""
        ...

    def states(self) -> set[tuple[str, str]]:
        """Return the owners and the names of the computed states that responses may have."""
        return {(each.owner, each.state) for each in self.everything() if not (each.previous or each.session)}

    def tidy(self) -> None:
        """Forget what has expired."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


def chain_of(table: ResponseTable, owner: str, id_: str) -> list[StoredResponse]:
    """Return a response and those from which it goes on, the first one first; "" is none.

    Raises InvalidRequest, naming `previous_response_id`, where one is not stored or did not come to its end.
    """
    chain: list[StoredResponse] = []
    while id_:
        found = table.get(owner, id_)
        if found is None:
            what = f'previous response with id "{id_}" not found: it was deleted, not stored, or is another key\'s'
            raise InvalidRequest(what, param="previous_response_id", code="previous_response_not_found")
        if found.status not in ("completed", "incomplete"):
            what = f'previous_response_id: "{id_}" has no answer to go on from: it is {found.status}'
            raise InvalidRequest(what, param="previous_response_id")
        chain.append(found)
        if len(chain) > LONGEST_CHAIN:
            what = f"previous_response_id: a conversation may have at most {LONGEST_CHAIN:,} responses"
            raise InvalidRequest(what, param="previous_response_id")
        id_ = found.previous
    keep(table, chain)
    return chain[::-1]


def pending_of(table: ResponseTable, owner: str, session: str) -> list[StoredResponse]:
    """Return the responses of a session since its last answer in words, which end in calls, the first one first.

    A session keeps exchanges of words alone. Where one was deleted, those behind it are left.
    """
    chain: list[StoredResponse] = []
    found = table.last_of(owner, session)
    while found and found.ends_in_calls and len(chain) < LONGEST_CHAIN:
        chain.append(found)
        found = table.get(owner, found.previous) if found.previous else None
    keep(table, chain)
    return chain[::-1]


def state_of(table: ResponseTable, response: StoredResponse) -> str:
    """Return the name of the computed state that a response belongs to."""
    for _ in range(LONGEST_CHAIN):
        before = table.get(response.owner, response.previous) if response.previous else None
        if before is None:
            break
        response = before
    return response.state


def keep(table: ResponseTable, used: Sequence[StoredResponse]) -> None:
    """Keep responses for longer that are used."""
    # Once a day is enough.
    old = [each for each in used if each.used < time.time() - _DAY]
    if old:
        table.touch(old[0].owner, [each.id for each in old])


class ResponseStore(OwnedRows, ResponseTable):
    """The responses of one server. Any thread may call it."""

    def __init__(self, path: Path) -> None:
        """`path` is the database. Raises DamagedFile where it is none, StorageFailed where it cannot be used."""
        super().__init__(path, "responses", _SIZE)

    @override
    def get(self, owner: str, id_: str) -> StoredResponse | None:
        return next(iter(self._select("owner = ? AND id = ?", owner, id_)), None)

    @override
    def add(self, response: StoredResponse) -> None:
        row = (
            *(response.owner, response.id, response.previous, response.session, response.status, time.time()),
            *(encoded(list(response.items)), encoded(response.body), response.left_out),
        )
        with self.lock, self.file.explained():
            with self.file.transaction():
                query = f"SELECT status, {_SIZE} FROM responses WHERE owner = ? AND id = ?"  # noqa: S608
                had = self.db.execute(query, row[:2]).fetchone()
                if had and had[0] not in UNFINISHED:
                    return
                places = ", ".join("?" * len(row))
                self.db.execute(f"INSERT OR REPLACE INTO responses ({_COLUMNS}) VALUES ({places})", row)  # noqa: S608
            self.count(response.owner, 0 if had else 1, len(row[6]) + len(row[7]) - (had[1] if had else 0))

    @override
    def touch(self, owner: str, ids: Sequence[str]) -> None:
        with self.lock, self.file.explained(), self.file.transaction():
            query = "UPDATE responses SET used = ? WHERE owner = ? AND id = ?"
            self.db.executemany(query, [(time.time(), owner, id_) for id_ in ids])

    @override
    def last_of(self, owner: str, session: str) -> StoredResponse | None:
        where = "owner = ? AND session = ? AND status IN ('completed', 'incomplete') ORDER BY rowid DESC LIMIT 1"
        return next(iter(self._select(where, owner, session)), None)

    @override
    def remove(self, owner: str, id_: str) -> bool:
        with self.lock, self.file.explained():
            n_deleted = self.delete("owner = ? AND id = ?", owner, id_)
            self.empty_wal()
        return n_deleted > 0

    @override
    def remove_session(self, owner: str, session: str) -> bool:
        with self.lock, self.file.explained():
            n_deleted = self.delete("owner = ? AND session = ?", owner, session)
            if n_deleted:
                self.empty_wal()
        return n_deleted > 0

    @override
    def everything(self) -> list[StoredResponse]:
        return self._select("1 ORDER BY rowid")

    @override
    def states(self) -> set[tuple[str, str]]:
        with self.lock, self.file.explained():
            rows = self.db.execute("SELECT owner, id FROM responses WHERE previous = '' AND session = ''").fetchall()
        return {(owner, f"{_STATE}{id_}") for owner, id_ in rows}

    @override
    def tidy(self) -> None:
        expired = f"rowid IN (SELECT rowid FROM responses WHERE used < ? LIMIT {_ROWS})"  # noqa: S608
        n_deleted = _ROWS
        while n_deleted == _ROWS:
            # In pieces: each holds the database's write lock, for which the other stores wait.
            with self.lock, self.file.explained():
                n_deleted = self.delete(expired, time.time() - KEPT_FOR)
        with self.lock, self.file.explained():
            if self.has_traces:
                self.empty_wal()

    def _select(self, where: str, *values: str) -> list[StoredResponse]:
        with self.lock, self.file.explained():
            query = f"SELECT {_COLUMNS} FROM responses WHERE {where}"  # noqa: S608
            rows = self.db.execute(query, values).fetchall()
        found = [
            StoredResponse(owner, id_, previous, session, status, json.loads(items), json.loads(body), left_out, used)
            for owner, id_, previous, session, status, used, items, body, left_out in rows
        ]
        return [each for each in found if each.used > time.time() - KEPT_FOR]


def encoded(value: Any) -> bytes:
    """Return a JSON value as it is stored."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def finished(response: StoredResponse, status: str, body: Mapping[str, Any]) -> StoredResponse:
    """Return a response that has come to its end."""
    return replace(response, status=status, body={**body, "status": status})
