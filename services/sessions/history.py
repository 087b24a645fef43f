"""One conversation: LangChain's message history over the table of sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, trim_messages
from typing_extensions import override

from services.errors import InvalidRequest, NotFound
from services.prompts.form import Exchange
from services.sessions.table import COUNT, WINDOW, Answered, Message, RequestName, Table, answer_to

MASTER = "0"
NAME_LENGTH = 60
# Where LangChain's integrations keep the thoughts of a message, among its additional_kwargs.
_REASONING = "reasoning_content"
# The parts of a content that are thoughts, and the fields that hold them: LangChain's own, and Anthropic's.
_THOUGHTS = {"reasoning": "reasoning", "thinking": "thinking"}
_KINDS: dict[str, type[BaseMessage]] = {"human": HumanMessage, "ai": AIMessage, "system": SystemMessage}


@dataclass(frozen=True, order=True)
class SessionKey:
    """A session's owner (a key's id) and number."""

    owner: str
    number: int

    @property
    def entry(self) -> str:
        """The session's name in the file."""
        return str(self.number) if self.owner == MASTER else f"{self.owner}/{self.number}"


class SessionHistory(BaseChatMessageHistory):
    """One session's messages, read from and written to the table."""

    def __init__(self, table: Table, key: SessionKey) -> None:
        self._table = table
        self._key = key

    @property
    @override
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]
        """The whole conversation; [] if there is no such session yet."""
        return _messages_of(self._stored())

    @override
    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append, durably, all of them or none.

        Raises StorageFailed, and InvalidRequest if one is no text of a person, a model or the system: a session keeps what
        was said, and no tool calls and results.
        """
        for message in messages:
            if message.type not in _KINDS or getattr(message, "tool_calls", None) or not _is_text(message):
                what = f"a session keeps texts; a message of the type {message.type} has or is something else"
                raise InvalidRequest(what, param="messages")
        self._append(messages)

    def _append(self, messages: Sequence[BaseMessage], keep: int | None = None, request: Answered | None = None) -> None:
        new = [table_message(message) for message in messages]
        if new:
            self._table.add(self._key.entry, new, self._given_name() or _name_by(new), keep, request)

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
        answer = {"type": "ai", "content": exchange.ai, "reasoning": exchange.reasoning}
        said = [HumanMessage(content=exchange.human), langchain_message(answer)]
        self._append(said if system is None else [SystemMessage(content=system), *said], keep, request)

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
        return len(stored_messages(self._stored() or {}))

    def count_said(self, upto: int | None = None) -> int:
        """Return the number of its first `upto` messages, system prompts not counted."""
        return sum(message["type"] != "system" for message in stored_messages(self._stored() or {})[:upto])

    def system(self, upto: int | None = None) -> str | None:
        """Return the last system prompt among its first `upto` messages; None if there is none."""
        stored = stored_messages(self._stored() or {})[:upto]
        return next((message["content"] for message in reversed(stored) if message["type"] == "system"), None)

    @override
    def clear(self) -> None:
        """Forget the session. Raises NotFound where there is none."""
        if not self._table.remove(self._key.entry):
            raise self._missing()

    def exchanges(self, upto: int | None = None) -> list[Exchange]:
        """Return all exchanges, oldest first, of its first `upto` messages; None: of all."""
        said = [message for message in stored_messages(self._stored() or {})[:upto] if message["type"] != "system"]
        return [
            Exchange(first["content"], second["content"], second.get("reasoning", ""))
            for first, second in pairwise(said)
            if (first["type"], second["type"]) == ("human", "ai")
        ]

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
        last = trim_messages(
            [
                said
                for said in _messages_of(self._stored(), last=2 * k + 2, upto=upto)
                if not isinstance(said, SystemMessage)
            ],
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
            "messages": [_shown(message) for message in stored_messages(stored)],
        }

    def _stored(self) -> Any:
        """The session as it stands in the table; None if there is none."""
        return self._table.get(self._key.entry)

    def _missing(self) -> NotFound:
        return NotFound(f"there is no session {self._key.number}", param="session_id", code="session_not_found")


def _pair(messages: Sequence[BaseMessage]) -> list[Exchange]:
    """Each human message with the answer right behind it; what a person edited to stand alone is left out."""
    return [
        Exchange(_text_of(first), _text_of(second), _reasoning_of(second))
        for first, second in pairwise(messages)
        if isinstance(first, HumanMessage) and isinstance(second, AIMessage)
    ]


def _name_by(messages: Sequence[Message]) -> str:
    """Return a conversation's name: its first words."""
    first = next((message for message in messages if message["type"] == "human"), messages[0] if messages else None)
    return _shorten(first["content"]) if first else ""


def _shorten(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= NAME_LENGTH else words[: NAME_LENGTH - 1].rstrip() + "…"


def _messages_of(stored: Any, last: int = 0, upto: int | None = None) -> list[BaseMessage]:
    return [langchain_message(message) for message in stored_messages(stored)[:upto][-last:]] if stored else []


def langchain_message(message: Message) -> BaseMessage:
    """Return a message of the table as LangChain's, with its thoughts where LangChain's integrations have them."""
    reasoning = message.get("reasoning")
    more = {"additional_kwargs": {_REASONING: reasoning}} if reasoning else {}
    return _KINDS[message["type"]](content=message["content"], **more)


def table_message(message: BaseMessage) -> Message:
    """Return LangChain's message as one of the table."""
    reasoning = _reasoning_of(message)
    return {"type": message.type, "content": _text_of(message), **({"reasoning": reasoning} if reasoning else {})}


def _reasoning_of(message: BaseMessage) -> str:
    return str(message.additional_kwargs.get(_REASONING) or "") or _parts_of(message, _THOUGHTS)


def _text_of(message: BaseMessage) -> str:
    return _parts_of(message, {"text": "text"})


def _is_text(message: BaseMessage) -> bool:
    """Return whether a content is a text, or parts that are texts or thoughts."""
    content = message.content
    known = {"text", *_THOUGHTS}
    return isinstance(content, str) or all(isinstance(part, str) or part.get("type") in known for part in content)


def _parts_of(message: BaseMessage, fields: Mapping[str, str]) -> str:
    """The parts of a content with one of these types, joined; each type's text is in the field named for it."""
    content = message.content
    if isinstance(content, str):
        content = [content]
    parts: list[dict[str, Any]] = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    return "".join(str(part.get(fields[part["type"]]) or "") for part in parts if part.get("type") in fields)


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
