"""Conversations: LangChain's message history over the table of sessions, and the callers' unsaved ones in memory.

An entry of the file is `"1": {"name", "created", "updated", "messages": [{"type", "content"}]}`, where a type is human, ai
or system. Its name is the session's number, and for a session of another key than the master `KEY ID/NUMBER`. The older
form, `"1": {"name", "history": ["Human: …", "AI: …"]}` beside an `"Active"`, is read too, and written anew when its
session goes on.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, trim_messages
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from services.errors import NotFound
from services.json_file import JsonObject, Misfit
from services.prompts import Exchange
from services.session_table import Message, SessionTable
from services.validation import explain

MASTER = "0"
NAME_LENGTH = 60
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
_LOOSE = ConfigDict(strict=True, extra="ignore", frozen=True)


class StoredMessage(BaseModel):
    """One message as it stands in the file."""

    model_config = _LOOSE
    type: Literal["human", "ai", "system"]
    content: str


class StoredSession(BaseModel):
    """One session as it stands in the file, in either form."""

    model_config = _LOOSE
    name: str = ""
    created: str | None = None
    updated: str | None = None
    messages: list[StoredMessage] = []
    history: Annotated[list[str], Field(exclude=True)] = []

    @field_validator("history")
    @classmethod
    def _has_speakers(cls, lines: list[str]) -> list[str]:
        for number, line in enumerate(lines):
            if not line.startswith(("Human:", "AI:")):
                raise ValueError(f'entry {number} should begin with "Human:" or "AI:"')
        return lines


@dataclass(frozen=True, order=True)
class SessionKey:
    """Whose session it is (a key's id), and its number."""

    owner: str
    number: int

    @property
    def entry(self) -> str:
        """The session's name in the file."""
        return str(self.number) if self.owner == MASTER else f"{self.owner}/{self.number}"


@dataclass(frozen=True)
class Unsaved:
    """A conversation that is kept in memory only."""

    exchanges: tuple[Exchange, ...] = ()
    system: str | None = None
    """Its system prompt; None where it never had one."""


class Sessions:
    """All conversations.

    Any thread may call it. `_turn` protects the unsaved conversations and the list of sessions at work; the table
    protects itself.
    """

    def __init__(self, path: Path) -> None:
        """Raises DamagedFile where the file is there and is not what it should be."""
        self._table = SessionTable(path, _check, _stored_messages)
        self._turn = threading.Lock()
        self._unsaved: dict[tuple[str, str], Unsaved] = {}
        self._at_work: dict[SessionKey, tuple[threading.Lock, int]] = {}

    def close(self) -> None:
        """Bring everything into the file, for whoever opens it while no server runs."""
        self._table.close()

    def history(self, key: SessionKey) -> SessionHistory:
        """The conversation `key`; it comes into being with its first message."""
        return SessionHistory(self._table, key)

    def names(self, owner: str) -> dict[str, str]:
        """The owner's sessions: entry → name. The master sees everybody's."""
        data = self._table.entries()
        keys = sorted((key, entry) for entry in data if (key := _key_of(entry)))
        return {
            entry if owner == MASTER else str(key.number): str(data[entry].get("name") or "")
            for key, entry in keys
            if owner in (MASTER, key.owner)
        }

    def names_of_all(self) -> set[tuple[str, str]]:
        """Whose sessions there are: owner and number."""
        return {(key.owner, str(key.number)) for entry in self._table.entries() if (key := _key_of(entry))}

    @contextmanager
    def turn(self, key: SessionKey, poll: Callable[[], None]) -> Iterator[None]:
        """Hold the session while one prompt is answered, so that prompts to it are answered one after the other.

        `poll` is called every quarter of a second of waiting; what it raises ends the waiting.
        """
        with self._turn:
            lock, waiting = self._at_work.get(key, (threading.Lock(), 0))
            self._at_work[key] = (lock, waiting + 1)
        try:
            while not lock.acquire(timeout=0.25):
                poll()
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._turn:
                _, waiting = self._at_work[key]
                if waiting == 1:
                    del self._at_work[key]
                else:
                    self._at_work[key] = (lock, waiting - 1)

    def unsaved(self, owner: str, name: str) -> Unsaved:
        """The owner's conversation of this name, which is no session."""
        with self._turn:
            return self._unsaved.get((owner, name), Unsaved())

    def keep_unsaved(self, owner: str, name: str, talk: Unsaved) -> None:
        """Remember it, in the place of what it was."""
        with self._turn:
            self._unsaved[owner, name] = talk


class SessionHistory(BaseChatMessageHistory):
    """One session's messages, read from and written to the table."""

    def __init__(self, table: SessionTable, key: SessionKey) -> None:
        self._table = table
        self._key = key

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]
        """The whole conversation; [] for a session that is not yet."""
        return _messages_of(self._stored())

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append, durably, all of them or none. Raises StorageFailed."""
        new = [{"type": message.type, "content": str(message.content)} for message in messages]
        if new:
            first = next((message for message in new if message["type"] == "human"), new[0])
            self._table.add(self._key.entry, new, _shorten(first["content"]))

    def add_exchange(self, exchange: Exchange, system: str | None = None) -> None:
        """Append a prompt and its answer, both or neither, behind a system prompt where one is given."""
        said: list[BaseMessage] = [HumanMessage(content=exchange.human), AIMessage(content=exchange.ai)]
        self.add_messages(said if system is None else [SystemMessage(content=system), *said])

    def system(self) -> str | None:
        """The system prompt that it goes by: the last one; None where it never had one."""
        stored = _stored_messages(self._stored() or {})
        return next((message["content"] for message in reversed(stored) if message["type"] == "system"), None)

    def clear(self) -> None:
        """Forget the session. Raises NotFound where there is none."""
        if not self._table.remove(self._key.entry):
            raise self._missing()

    def window(self, k: int) -> list[Exchange]:
        """The last `k` exchanges, oldest first."""
        if not k:
            return []
        # However long the conversation, no more of it is looked at; more by a system prompt, and by half an exchange.
        last = trim_messages(
            [said for said in _messages_of(self._stored(), last=2 * k + 2) if not isinstance(said, SystemMessage)],
            max_tokens=2 * k,
            token_counter=len,
            strategy="last",
            start_on="human",
        )
        return _pair(last)

    def describe(self) -> dict[str, Any]:
        """The session in full: its id, name, times and messages. Raises NotFound where there is none."""
        stored = self._stored()
        if stored is None:
            raise self._missing()
        return {
            "session_id": self._key.number,
            "name": stored.get("name") or "",
            "created": stored.get("created"),
            "updated": stored.get("updated"),
            "messages": [{"type": m["type"], "content": m["content"]} for m in _stored_messages(stored)],
        }

    def _stored(self) -> Any:
        """The session as it stands in the table; None where there is none."""
        return self._table.get(self._key.entry)

    def _missing(self) -> NotFound:
        return NotFound(f"there is no session {self._key.number}", param="session_id", code="session_not_found")


def _pair(messages: Sequence[BaseMessage]) -> list[Exchange]:
    """Each human message with the answer right behind it; what a person edited to stand alone is left out."""
    return [
        Exchange(str(first.content), str(second.content))
        for first, second in pairwise(messages)
        if isinstance(first, HumanMessage) and isinstance(second, AIMessage)
    ]


def parse_number(digits: str) -> int | None:
    """The session number that `digits` write; None where they write none."""
    return int(digits) if _NUMBER.fullmatch(digits) and int(digits) < 2**63 else None


def _shorten(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= NAME_LENGTH else words[: NAME_LENGTH - 1].rstrip() + "…"


def _messages_of(stored: Any, last: int = 0) -> list[BaseMessage]:
    kinds = {"human": HumanMessage, "ai": AIMessage, "system": SystemMessage}
    return [kinds[m["type"]](content=m["content"]) for m in _stored_messages(stored)[-last:]] if stored else []


def _stored_messages(stored: Any) -> list[Message]:
    """The conversation as it stands in the table, whichever form it is stored in."""
    return [*map(_from_line, stored.get("history", ())), *stored.get("messages", ())]


def _from_line(line: str) -> Message:
    speaker, _, said = line.partition(":")
    return {"type": "human" if speaker == "Human" else "ai", "content": said.removeprefix(" ")}


def _key_of(entry: str) -> SessionKey | None:
    """Whose session an entry of the file is; None for the older form's "Active"."""
    owner, slash, digits = entry.rpartition("/")
    number = parse_number(digits)
    return None if number is None or bool(owner) != bool(slash) else SessionKey(owner or MASTER, number)


def _check(data: JsonObject) -> None:
    """Raise Misfit, naming the entry, where `data` does not hold sessions."""
    for entry, session in data.items():
        if _key_of(entry) is None:
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
