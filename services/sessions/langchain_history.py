"""A session as LangChain's message history. Serving needs no LangChain: only the programs that ask for it import this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from typing_extensions import override

from services.errors import InvalidRequest
from services.sessions.history import SessionHistory
from services.sessions.table import Message

# Where LangChain's integrations keep the thoughts of a message, among its additional_kwargs.
_REASONING = "reasoning_content"
# Where an answer that is not whole says so.
_CUT = "cut"
# The parts of a content that are thoughts, and the fields that hold them: LangChain's own, and Anthropic's.
_THOUGHTS = {"reasoning": "reasoning", "thinking": "thinking"}
_KINDS: dict[str, type[BaseMessage]] = {"human": HumanMessage, "ai": AIMessage, "system": SystemMessage}


class LangChainHistory(BaseChatMessageHistory):
    """The messages of a session, as LangChain's chains read and write them."""

    def __init__(self, history: SessionHistory) -> None:
        self._history = history

    @property
    @override
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]
        """The whole conversation; [] if there is no such session yet."""
        return [langchain_message(message) for message in self._history.messages]

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
        self._history.add([table_message(message) for message in messages])

    @override
    def clear(self) -> None:
        """Forget the session. Raises NotFound where there is none."""
        self._history.clear()


def langchain_message(message: Message) -> BaseMessage:
    """Return a message of the table as LangChain's, with its thoughts where LangChain's integrations have them."""
    reasoning = message.get("reasoning")
    kwargs = {**({_REASONING: reasoning} if reasoning else {}), **({_CUT: True} if message.get(_CUT) else {})}
    more = {"additional_kwargs": kwargs} if kwargs else {}
    return _KINDS[message["type"]](content=message["content"], **more)


def table_message(message: BaseMessage) -> Message:
    """Return LangChain's message as one of the table."""
    reasoning = str(message.additional_kwargs.get(_REASONING) or "") or _parts_of(message, _THOUGHTS)
    text = _parts_of(message, {"text": "text"})
    is_cut = {_CUT: True} if message.additional_kwargs.get(_CUT) is True else {}
    return {"type": message.type, "content": text, **({"reasoning": reasoning} if reasoning else {}), **is_cut}


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
