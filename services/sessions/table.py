"""The table of all sessions, and the values that it keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Protocol

from services.errors import Unprocessable

Message = dict[str, Any]
"""A message: its "type" (human, ai or system) and its "content"; of an answer also its "reasoning", if the model thought,
and "cut": true, if it is not whole."""
# The field of a session that counts the first exchanges that its prompts leave out.
WINDOW = "window"
# The fields that hold its other branches, and what its owner has set: all are left out where they are empty.
BRANCHES, PINNED, FOLDER, SETTINGS = "branches", "pinned", "folder", "settings"
# The field with the requests whose answers a session holds, and whose replies are not stored yet; a name is good for a day.
REQUESTS = "requests"
MOST_REQUESTS, GOOD_FOR = 100, timedelta(days=1)
# The field that counts the messages, where a table lists a session without them.
COUNT = "~count"


@dataclass(frozen=True)
class RequestName:
    """The caller's name of a request that is computed once, and a digest, equal for equal requests."""

    id: str
    digest: str


@dataclass(frozen=True)
class Answered:
    """The request that an exchange answers, and the fields of its reply beside the text."""

    name: RequestName
    summary: Mapping[str, Any]

    def entry(self, at: int, time: str) -> dict[str, Any]:
        """Return the entry of a session's `REQUESTS`; `at` is the index of the answer among its messages."""
        return {"digest": self.name.digest, "at": at, "time": time, "told": dict(self.summary)}


@dataclass(frozen=True)
class Kept:
    """The number of the sessions or jobs that are kept of one key, and their bytes."""

    count: int = 0
    n_bytes: int = 0

    def __add__(self, other: Kept) -> Kept:
        return Kept(self.count + other.count, self.n_bytes + other.n_bytes)


class Table(Protocol):
    """All sessions, by their names in the file. Any thread may call it. All raise HearthError."""

    def get(self, entry: str) -> Any:
        """Return a session as it is now; None if there is none. Not to be changed."""
        ...

    def entries(self, owner: str | None = None) -> Mapping[str, Any]:
        """Return all sessions as they are now, or at least those of an owner. Not to be changed."""
        ...

    def kept(self, owner: str) -> Kept:
        """Return the number and the bytes of an owner's sessions; "" are those without an owner in their name. Cheap."""
        ...

    def add(
        self,
        entry: str,
        messages: list[Message],
        name: str,
        keep: int | None = None,
        request: Answered | None = None,
        branches: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Append to a session, durably, all or nothing; make it, and call it `name`, where there is none.

        `keep` is how many of its messages stay; None: all. `request` is the one that the last message answers: where the
        session answers it already nothing is added. `branches` replaces its other branches; None: they stay.
        """
        ...

    def settle(self, entry: str, request: str) -> None:
        """Forget the name of a request, whose reply is stored elsewhere now."""
        ...

    def update(self, entry: str, fields: Mapping[str, Any], messages: list[Message] | None = None) -> bool:
        """Replace fields of a session, and all its messages if they are given, durably; return False if there is none.

        The fields are "name", `WINDOW`, `BRANCHES`, `PINNED`, `FOLDER` and `SETTINGS`; an empty value removes one. Whoever
        gives messages or branches holds the session's lock.
        """
        ...

    def remove(self, entry: str) -> bool:
        """Remove a session, durably; return False if there is none."""
        ...

    def close(self) -> None:
        """Store all changes, and close it."""
        ...


def size_of(messages: Iterable[Message]) -> int:
    """Return the bytes of the messages' texts (UTF-8), thoughts included."""
    texts = (text for message in messages for text in (message["content"], message.get("reasoning", "")))
    return sum(len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")) for text in texts)


def n_same(before: Sequence[Message], now: Sequence[Message]) -> int:
    """Return how many messages two conversations begin with alike."""
    pairs = enumerate(zip(before, now, strict=False))
    return next((n for n, (one, other) in pairs if one != other), min(len(before), len(now)))


def answer_to(session: Any, name: RequestName) -> Mapping[str, Any] | None:
    """Return a session's entry of a request ("digest", "at", "told"); None where it holds no answer to it.

    Raises Unprocessable where another request has that name.
    """
    known: Mapping[str, Any] | None = ((session or {}).get(REQUESTS) or {}).get(name.id)
    if known is None or known["time"] < (datetime.now(timezone.utc) - GOOD_FOR).isoformat(timespec="seconds"):
        return None
    if known["digest"] != name.digest:
        raise name_taken(name.id)
    return known


def name_taken(id_: str) -> Unprocessable:
    """Return the error where another request has the name, "key:NAME" or "job:NAME"."""
    kind, _, shown = id_.partition(":")
    what = f"{shown} was sent before, with another request: a new request needs a name of its own"
    return Unprocessable(what, param="job_id" if kind == "job" else "Idempotency-Key", code="name_taken")
