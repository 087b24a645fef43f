"""One conversation: the messages of a session in the table of sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from services.errors import NotFound
from services.prompts.form import Exchange
from services.sessions.table import COUNT, WINDOW, Answered, Message, RequestName, Table, answer_to

MASTER = "0"
NAME_LENGTH = 60


@dataclass(frozen=True, order=True)
class SessionKey:
    """A session's owner (a key's id) and number."""

    owner: str
    number: int

    @property
    def entry(self) -> str:
        """The session's name in the file."""
        return str(self.number) if self.owner == MASTER else f"{self.owner}/{self.number}"


class SessionHistory:
    """One session's messages, read from and written to the table."""

    def __init__(self, table: Table, key: SessionKey) -> None:
        self._table = table
        self._key = key

    @property
    def messages(self) -> list[Message]:
        """The whole conversation; [] if there is no such session yet."""
        return stored_messages(self._stored() or {})

    def add(self, messages: list[Message], keep: int | None = None, request: Answered | None = None) -> None:
        """Append messages, all of them or none; `keep` and `request` are as for `add_exchange`. Raises StorageFailed."""
        if messages:
            self._table.add(self._key.entry, messages, self._given_name() or _name_by(messages), keep, request)

    def _given_name(self) -> str:
        """Return the name that a person has given it, which stays if it begins anew; "" where it is its first words."""
        stored = self._stored() or {}
        name = str(stored.get("name") or "")
        return "" if name == _name_by(stored_messages(stored)) else name

    def add_exchange(
        self,
        exchange: Exchange,
        system: str | None = None,
        keep: int | None = None,
        request: Answered | None = None,
    ) -> None:
        """Append a prompt and its answer, both or neither, behind a system prompt where one is given.

        `keep` is how many messages stay before them; None: all. `request` is the one that they answer: where the session
        answers it already nothing is added. Raises StorageFailed.
        """
        thoughts = {"reasoning": exchange.reasoning} if exchange.reasoning else {}
        said = [{"type": "human", "content": exchange.human}, {"type": "ai", "content": exchange.ai, **thoughts}]
        self.add(said if system is None else [{"type": "system", "content": system}, *said], keep, request)

    def answered(self, name: RequestName) -> tuple[str, Mapping[str, Any]] | None:
        """Return the answer to the request of this name, and its reply's other fields; None where the session has none.

        Raises Unprocessable where another request has that name.
        """
        stored = self._stored()
        known = answer_to(stored, name)
        message = known and next(iter(stored_messages(stored)[known["at"] :]), None)
        # A person may have edited the file.
        if not (known and message and message["type"] == "ai"):
            return None
        thoughts = {"reasoning": message["reasoning"]} if message.get("reasoning") else {}
        return message["content"], {**thoughts, **known["told"]}

    def rename(self, name: str) -> None:
        """Give the session another name. Raises NotFound where there is none, StorageFailed."""
        if not self._table.rename(self._key.entry, name):
            raise self._missing()

    @property
    def exists(self) -> bool:
        """Whether there is such a session."""
        return self._stored() is not None

    def count(self) -> int:
        """Return the number of its messages; 0 if there is no such session yet."""
        return len(self.messages)

    def count_said(self, upto: int | None = None) -> int:
        """Return the number of its first `upto` messages, system prompts not counted."""
        return sum(message["type"] != "system" for message in self.messages[:upto])

    def system(self, upto: int | None = None) -> str | None:
        """Return the last system prompt among its first `upto` messages; None if there is none."""
        stored = self.messages[:upto]
        return next((message["content"] for message in reversed(stored) if message["type"] == "system"), None)

    def clear(self) -> None:
        """Forget the session. Raises NotFound where there is none."""
        if not self._table.remove(self._key.entry):
            raise self._missing()

    def exchanges(self, upto: int | None = None) -> list[Exchange]:
        """Return all exchanges, oldest first, of its first `upto` messages; None: of all."""
        return _pair(self.messages[:upto])

    @property
    def window_start(self) -> int:
        """The number of its first exchanges that prompts leave out."""
        return int((self._stored() or {}).get(WINDOW) or 0)

    def keep_window(self, start: int) -> None:
        """Store how many exchanges prompts leave out from now on. Raises StorageFailed."""
        self._table.set_window(self._key.entry, start)

    def window(self, k: int, upto: int | None = None) -> list[Exchange]:
        """Return the last `k` exchanges, oldest first, of its first `upto` messages; None: of all."""
        if not k:
            return []
        # However long the conversation, no more of it is looked at; more by a system prompt, and by half an exchange.
        return _pair(self.messages[:upto][-2 * k - 2 :])[-k:]

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
            "messages": [_shown(message) for message in stored_messages(stored)],
        }

    def _stored(self) -> Any:
        """The session as it stands in the table; None if there is none."""
        return self._table.get(self._key.entry)

    def _missing(self) -> NotFound:
        return NotFound(f"there is no session {self._key.number}", param="session_id", code="session_not_found")


def _pair(messages: Sequence[Message]) -> list[Exchange]:
    """Each human message with the answer right behind it; what a person edited to stand alone is left out."""
    said = [message for message in messages if message["type"] != "system"]
    return [
        Exchange(first["content"], second["content"], second.get("reasoning", ""))
        for first, second in pairwise(said)
        if (first["type"], second["type"]) == ("human", "ai")
    ]


def _name_by(messages: Sequence[Message]) -> str:
    """Return a conversation's name: its first words."""
    first = next((message for message in messages if message["type"] == "human"), messages[0] if messages else None)
    return _shorten(first["content"]) if first else ""


def _shorten(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= NAME_LENGTH else words[: NAME_LENGTH - 1].rstrip() + "…"


def _shown(message: Message) -> Message:
    """Return the fields of a message that its owner is shown."""
    return {name: message[name] for name in ("type", "content", "reasoning") if message.get(name) or name != "reasoning"}


def stored_messages(stored: Any) -> list[Message]:
    """Return a stored session's messages, in whichever form it is stored."""
    return [*map(_from_line, stored.get("history", ())), *stored.get("messages", ())]


def count_of(stored: Any) -> int:
    """Return the number of a stored session's messages."""
    counted: int | None = stored.get(COUNT)
    return len(stored_messages(stored)) if counted is None else counted


def _from_line(line: str) -> Message:
    speaker, _, said = line.partition(":")
    return {"type": "human" if speaker == "Human" else "ai", "content": said.removeprefix(" ")}
