"""All conversations: the sessions in their table, and the callers' unsaved ones in memory.

An entry of the file is `"1": {"name", "created", "updated", "messages": [{"type", "content"}]}`, where a type is human, ai
or system; once it is long, `"window"` is how many of its first exchanges prompts leave out. Its name is the session's
number, and for a session of another key than the master `KEY ID/NUMBER`. `"requests"` are those, by their names, whose
answers were stored when the server last ended and whose replies were not: `{"key:NAME": {"digest", "at", "time", "told"}}`,
where `at` is the answer's message. It is left out where there are none, as nearly always.

The older form, `"1": {"name", "history": ["Human: …", "AI: …"]}` beside an `"Active"`, is read too, and written anew when
its session goes on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from services.json_file import JsonObject, Misfit
from services.prompts.form import Exchange
from services.session_desk import Desk, LocalDesk, Unsaved
from services.session_history import MASTER, SessionHistory, SessionKey, Table, count_of, stored_messages
from services.session_table import Kept, SessionTable
from services.validation import explain

_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
_LOOSE = ConfigDict(strict=True, extra="ignore", frozen=True)


class StoredMessage(BaseModel):
    """One message as it stands in the file."""

    model_config = _LOOSE
    type: Literal["human", "ai", "system"]
    content: Annotated[str, Field(repr=False)]


class StoredRequest(BaseModel):
    """A request whose answer a session holds."""

    model_config = _LOOSE
    digest: str
    at: Annotated[int, Field(ge=0)]
    time: str
    told: dict[str, Any]


class StoredSession(BaseModel):
    """One session as it stands in the file, in either form."""

    model_config = _LOOSE
    name: Annotated[str, Field(repr=False)] = ""
    created: str | None = None
    updated: str | None = None
    window: Annotated[int, Field(ge=0)] = 0
    requests: dict[str, StoredRequest] = {}
    messages: list[StoredMessage] = []
    history: Annotated[list[str], Field(exclude=True, repr=False)] = []

    @field_validator("history")
    @classmethod
    def _has_speakers(cls, lines: list[str]) -> list[str]:
        for number, line in enumerate(lines):
            if not line.startswith(("Human:", "AI:")):
                raise ValueError(f'entry {number} should begin with "Human:" or "AI:"')
        return lines


class Sessions:
    """All conversations.

    Any thread may call it; the table and the desk protect themselves.
    """

    def __init__(self, path: Path, table: Table | None = None, desk: Desk | None = None) -> None:
        """`table` and `desk` are a cluster's; those of a server by itself are the file `path`, and in memory.

        Raises DamagedFile where the file is there and is not what it should be.
        """
        self._table = table or SessionTable(path, check_sessions, stored_messages)
        self._desk = desk or LocalDesk()

    def close(self) -> None:
        """Bring everything into the file, for whoever opens it while no server runs."""
        self._table.close()

    def history(self, key: SessionKey) -> SessionHistory:
        """The conversation `key`; it comes into being with its first message."""
        return SessionHistory(self._table, key)

    def names(self, owner: str) -> dict[str, str]:
        """The owner's sessions: entry → name. The master sees everybody's."""
        data = self._table.entries(None if owner == MASTER else owner)
        keys = sorted((key, entry) for entry in data if (key := key_of(entry)))
        return {
            entry if owner == MASTER else str(key.number): str(data[entry].get("name") or "")
            for key, entry in keys
            if owner in (MASTER, key.owner)
        }

    def listed(self, owner: str, words: str = "", pause: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
        """The owner's own sessions, the one that went on last first: number, name, times, and how many messages.

        `words`: only those that have them in their name or in a message, in whichever case. `pause` is called before each
        is searched, and raises to give up.
        """
        data = self._table.entries(owner)
        mine = [(key, data[entry]) for entry in data if (key := key_of(entry)) and key.owner == owner]
        wanted = words.strip().casefold()
        if wanted:
            mine = [each for each in mine if _says(each[1], wanted, pause)]
        mine.sort(key=lambda each: (str(each[1].get("updated") or ""), each[0].number), reverse=True)
        return [
            {
                "session_id": key.number,
                "name": session.get("name") or "",
                "created": session.get("created"),
                "updated": session.get("updated"),
                "messages": count_of(session),
            }
            for key, session in mine
        ]

    def names_of_all(self) -> set[tuple[str, str]]:
        """Whose sessions there are: owner and number."""
        return {(key.owner, str(key.number)) for entry in self._table.entries() if (key := key_of(entry))}

    def kept(self, owner: str) -> Kept:
        """How many sessions an owner has, and how many bytes of text. Raises Unavailable in a cluster without its Redis."""
        return self._table.kept("" if owner == MASTER else owner)

    def settle(self, owner: str, session: str, request: str) -> None:
        """The reply to a request of this name, which went on with a session, is kept elsewhere now. Raises Unavailable."""
        if (number := parse_number(session)) is not None:
            self._table.settle(SessionKey(owner, number).entry, request)

    def turn(self, key: SessionKey, poll: Callable[[], None]) -> AbstractContextManager[None]:
        """Hold the session while one prompt is answered, so that prompts to it are answered one after the other.

        `poll` is called every quarter of a second of waiting; what it raises ends the waiting.
        """
        return self._desk.turn(key.entry, poll)

    def unsaved(self, owner: str, name: str) -> Unsaved:
        """The owner's conversation of this name, which is no session."""
        return self._desk.unsaved(owner, name)

    def add_unsaved(self, owner: str, name: str, exchange: Exchange, system: str | None, last: int, start: int) -> None:
        """Add to it, of which the `last` exchanges are kept; see `Unsaved.and_`."""
        self._desk.add_unsaved(owner, name, exchange, system, last, start)


def _says(session: Any, words: str, pause: Callable[[], None]) -> bool:
    """Whether a session's name or one of its messages has these words, which are casefolded."""
    pause()
    texts = (session.get("name") or "", *(message["content"] for message in stored_messages(session)))
    return any(words in text.casefold() for text in texts)


def parse_number(digits: str) -> int | None:
    """The session number that `digits` write; None where they write none."""
    return int(digits) if _NUMBER.fullmatch(digits) and int(digits) < 2**63 else None


def key_of(entry: str) -> SessionKey | None:
    """Whose session an entry of the file is; None for the older form's "Active"."""
    owner, slash, digits = entry.rpartition("/")
    number = parse_number(digits)
    return None if number is None or bool(owner) != bool(slash) else SessionKey(owner or MASTER, number)


def check_sessions(data: JsonObject) -> None:
    """Raise Misfit, naming the entry, where `data` does not hold sessions."""
    for entry, session in data.items():
        if key_of(entry) is None:
            if entry != "Active":
                raise Misfit((entry,), f'"{entry}" is no session: a session\'s name is a number, or KEY ID/NUMBER')
            continue
        if not isinstance(session, dict):
            raise Misfit((entry,), f'session "{entry}" should be an object: {{ … }}')
        try:
            StoredSession.model_validate(session)
        except ValidationError as error:
            fault = explain(error)
            raise Misfit((entry, *fault.path), f'session "{entry}": {fault.message}') from None
