"""One conversation: the messages of a session in the table of sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from services.errors import NotFound
from services.prompts.form import Exchange
from services.sessions.branches import Branch, Tree, counts, enter, leave, without
from services.sessions.table import (
    BRANCHES,
    COUNT,
    FOLDER,
    PINNED,
    SETTINGS,
    WINDOW,
    Answered,
    Message,
    RequestName,
    Table,
    answer_to,
)

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

    def add(
        self, messages: list[Message], keep: int | None = None, request: Answered | None = None, *, branches: bool = True
    ) -> None:
        """Append messages, all of them or none; the arguments are as for `add_exchange`. Raises StorageFailed."""
        if not messages:
            return
        tree = None
        if keep is not None and keep < len(had := self.messages):
            if branches and len(messages) > 1 and had[keep] == messages[0] and keep + 1 < len(had):
                # The same words are answered anew: the answer alone is another.
                keep, messages = keep + 1, messages[1:]
            tree = leave(had, self._branches, keep)[1] if branches else []
        self._table.add(self._key.entry, messages, self._given_name() or _name_by(messages), keep, request, tree)

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
        *,
        is_cut: bool = False,
        goes_on: bool = False,
        branches: bool = True,
    ) -> None:
        """Append a prompt and its answer, both or neither, behind a system prompt where one is given.

        `keep` is how many messages stay before them; None: all. Those that do not stay are kept as another branch, or if
        `branches` is False forgotten with all branches. `is_cut`: the answer is not whole. `goes_on`: it takes the place of
        the one that it continues, behind these messages and its prompt. `request` is the one that they answer: where the
        session answers it already nothing is added. Raises StorageFailed.
        """
        more: Message = {"reasoning": exchange.reasoning} if exchange.reasoning else {}
        more |= {"cut": True} if is_cut else {}
        said: list[Message] = [
            {"type": "human", "content": exchange.human},
            {"type": "ai", "content": exchange.ai, **more},
        ]
        if goes_on and keep is not None:
            self._table.add(self._key.entry, said[1:], "", keep + 1, request)
            return
        self.add(
            said if system is None else [{"type": "system", "content": system}, *said], keep, request, branches=branches
        )

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

    def set(self, fields: Mapping[str, Any]) -> None:
        """Replace fields of the session: "name", `PINNED`, `FOLDER`, `SETTINGS`. Raises NotFound, StorageFailed."""
        if not self._table.update(self._key.entry, fields):
            raise self._missing()

    def restore(self, session: Mapping[str, Any]) -> None:
        """Store a session of an export, which is none yet, with its times and all that its owner has set.

        Raises StorageFailed.
        """
        self._table.add(self._key.entry, session["messages"], session.get("name") or _name_by(session["messages"]))
        fields = ("created", "updated", BRANCHES, PINNED, FOLDER, SETTINGS)
        self._table.update(self._key.entry, {name: session[name] for name in fields if session.get(name)})

    def enter(self, at: int, number: int) -> None:
        """Open another of the branches that begin at message `at`; the caller holds the session's lock.

        Raises NotFound where there is no such branch, StorageFailed.
        """
        tree = enter(self._present(), self._branches, at, number)
        if tree is None:
            what = f"number: no branch {number} begins at message {at}"
            raise NotFound(what, param="number", code="branch_not_found")
        self._replace(tree)

    def edit(self, at: int, content: str) -> None:
        """Put other words in place of message `at`, in a branch of their own; the caller holds the session's lock.

        Raises NotFound where there is no such message, StorageFailed.
        """
        message = self.message(at)
        kept, branches = leave(self.messages, self._branches, at)
        self._replace(([*kept, {"type": message["type"], "content": content}], branches))

    def delete(self, at: int) -> None:
        """Delete message `at` of the open branch; the caller holds the session's lock. What follows it stays.

        Raises NotFound where there is no such message, StorageFailed.
        """
        self.message(at)
        self._replace(without(self.messages, self._branches, at))

    def message(self, at: int) -> Message:
        """Return message `at` of the open branch. Raises NotFound."""
        messages = self._present()
        if at >= len(messages):
            raise NotFound(f"the session has {len(messages)} messages, counted from 0", code="message_not_found")
        return messages[at]

    def _present(self) -> list[Message]:
        """Return the messages. Raises NotFound if there is no such session."""
        if not self.exists:
            raise self._missing()
        return self.messages

    def _replace(self, tree: Tree) -> None:
        messages, branches = tree
        self._table.update(self._key.entry, {BRANCHES: branches}, messages)

    @property
    def _branches(self) -> list[Branch]:
        return list((self._stored() or {}).get(BRANCHES) or ())

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
        self._table.update(self._key.entry, {WINDOW: start})

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
        told = counts(stored.get(BRANCHES) or ())
        return {
            "session_id": self._key.number,
            **described(stored),
            "settings": stored.get(SETTINGS) or {},
            "window": int(stored.get(WINDOW) or 0),
            "messages": [
                {**_shown(message), **({"branch": told[n][0], "branches": told[n][1]} if n in told else {})}
                for n, message in enumerate(stored_messages(stored))
            ],
        }

    def _stored(self) -> Any:
        """The session as it stands in the table; None if there is none."""
        return self._table.get(self._key.entry)

    def _missing(self) -> NotFound:
        return NotFound(f"there is no session {self._key.number}", param="session_id", code="session_not_found")


def described(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored session's name, times, and what its owner has set, as lists of sessions show them."""
    return {
        "name": stored.get("name") or "",
        "created": stored.get("created"),
        "updated": stored.get("updated"),
        "pinned": bool(stored.get(PINNED)),
        "folder": stored.get(FOLDER) or "",
    }


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
    return {
        name: message[name]
        for name in ("type", "content", "reasoning", "cut")
        if message.get(name) or name in ("type", "content")
    }


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
