"""The items of a response's input and output: messages, thoughts, calls of tools and their results."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from services.api.http.open_body import Open
from services.api.openai.custom_tools import arguments_of
from services.validation import FileId, at_most

# Items of one request (a template may look at all earlier messages at each), and parts of one of them.
MOST_ITEMS, MOST_PARTS = 4000, 2000

_TEXTS = ("input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text")
_MEDIA = {"input_image": "images", "input_audio": "audio", "computer_screenshot": "images"}
# What each kind of item has to have.
_NEEDED = {
    "message": ("role", "content"),
    "reasoning": (),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "custom_tool_call": ("call_id", "name", "input"),
    "custom_tool_call_output": ("call_id", "output"),
    "file_search_call": (),
    "item_reference": ("id",),
}
# The roles that chat templates know by another name.
_ROLES = {"developer": "system"}


class ItemPart(Open):
    """A part of an item's content: text, or an uploaded file."""

    type: str
    text: str | None = None
    refusal: str | None = None
    file_id: FileId | None = None

    @model_validator(mode="after")
    def _is_text(self) -> ItemPart:
        if self.type == "input_file":
            if self.file_id is None:
                raise ValueError("file_id is missing: upload the file first (POST /v1/files), and name it by its id")
            return self
        if medium := _MEDIA.get(self.type):
            raise ValueError(f"type: {medium} cannot be read by this server: items are text")
        if self.type not in _TEXTS:
            raise ValueError(f"type: this server has no parts of the type {self.type[:64]!r}")
        if self.text is None and self.refusal is None:
            raise ValueError("text is missing")
        return self

    def words(self) -> str:
        """Return its text."""
        return self.text or self.refusal or ""


Parts = Annotated[str | list[ItemPart], at_most(MOST_PARTS)]


class Item(Open):
    """One item. What it may have depends on its `type`; without one it is a message, or else a reference."""

    type: Annotated[str, Field(max_length=64)] = ""
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: Parts | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: Parts | None = None
    summary: Annotated[list[ItemPart] | None, at_most(MOST_PARTS)] = None
    encrypted_content: str | None = None
    queries: list[str] | None = None
    """The questions of a search, which the model does not read again."""

    @model_validator(mode="after")
    def _is_whole(self) -> Item:
        if self.kind not in _NEEDED:
            raise ValueError(f"type: this server has no items of the type {self.kind[:64]!r}")
        for name in _NEEDED[self.kind]:
            if getattr(self, name) is None:
                raise ValueError(f"{name} is missing")
        return self

    @property
    def kind(self) -> str:
        """The item's type."""
        if self.type:
            return self.type
        return "item_reference" if self.role is None and self.id is not None else "message"

    @property
    def call(self) -> dict[str, Any]:
        """The call of a tool as chat templates take it."""
        arguments = self.arguments if self.kind == "function_call" else arguments_of(self.input or "")
        return {"id": self.call_id, "type": "function", "function": {"name": self.name, "arguments": arguments}}

    @property
    def thoughts(self) -> str:
        """The thoughts of a reasoning item: in full where it has them."""
        written = joined_text(self.content) or opened(self.encrypted_content)
        return written or joined_text(self.summary)

    @property
    def files(self) -> list[str]:
        """The ids of the files that it names."""
        lists = [parts for parts in (self.content, self.output, self.summary) if isinstance(parts, list)]
        return [part.file_id for parts in lists for part in parts if part.file_id]

    def stored(self) -> dict[str, Any]:
        """Return the item as it is stored."""
        return {**self.model_dump(exclude_none=True), "type": self.kind}


Items = Annotated[list[Item], Field(max_length=MOST_ITEMS), at_most(MOST_ITEMS)]
_items = TypeAdapter(list[Item])


def read_items(stored: Iterable[Mapping[str, Any]]) -> list[Item]:
    """Return stored items, as they were checked when they came."""
    return _items.validate_python(list(stored))


def joined_text(content: str | list[ItemPart] | None) -> str:
    """Return a content as one text."""
    if isinstance(content, list):
        return "\n".join(words for part in content if (words := part.words()))
    return content or ""


def sealed(thoughts: str) -> str:
    """Return thoughts as clients carry them from reply to request without reading them; they are no secret."""
    return base64.b64encode(thoughts.encode()).decode("ascii")


def opened(text: str | None) -> str:
    """Return the thoughts that `sealed` has made to a text; "" if it was made elsewhere."""
    try:
        return base64.b64decode(text or "", validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


def messages_of(items: Iterable[Item]) -> list[dict[str, Any]]:
    """Return items as the messages that chat templates take.

    What the assistant has thought, said and called without a break is one message.
    """
    return [message for message in _joined(items) if message]


def _joined(items: Iterable[Item]) -> Iterator[dict[str, Any]]:
    own: dict[str, Any] = {}
    for item in items:
        if item.kind == "file_search_call":
            # What was found stands in the prompt of its time alone.
            continue
        if item.kind in ("function_call", "custom_tool_call"):
            own = own or {"role": "assistant", "content": ""}
            own.setdefault("tool_calls", []).append(item.call)
            continue
        if item.kind == "reasoning":
            # Thoughts begin a step of their own.
            if own:
                yield own
            own = {"role": "assistant", "content": "", "reasoning_content": item.thoughts} if item.thoughts else {}
            continue
        if item.kind == "message" and item.role == "assistant" and own and not own["content"]:
            own["content"] = joined_text(item.content)
            continue
        yield own
        own = {}
        if item.kind != "message":
            yield {"role": "tool", "content": joined_text(item.output), "tool_call_id": item.call_id}
        elif item.role == "assistant":
            own = {"role": "assistant", "content": joined_text(item.content)}
        else:
            yield {"role": _ROLES.get(str(item.role), item.role), "content": joined_text(item.content)}
    yield own
