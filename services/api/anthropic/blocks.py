"""The content blocks of Anthropic's messages: text, thoughts, documents of text, calls of tools and their results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from services.api.http.open_body import Open
from services.validation import FileId, at_most

# Blocks of one message, and messages of one request (a template may look at all earlier ones at each).
MOST_BLOCKS, MOST_MESSAGES = 2000, 2000
Name = Annotated[str, Field(min_length=1, max_length=1024)]

_MEDIA = {"image": "images", "container_upload": "files"}


class Source(Open):
    """The source of a document or an image: `text`, `content`, and a `file` that was uploaded, can be read."""

    type: str
    data: str | None = None
    content: str | list[Block] | None = None
    file_id: FileId | None = None

    def words(self) -> str | None:
        """Return its text; None if it is none."""
        if self.type == "text":
            return self.data
        if self.type == "content":
            return words_of(self.content)
        # What it says stands elsewhere in the prompt.
        return "" if self.type == "file" and self.file_id else None


class Block(Open):
    """A part of a message, as its `type` says. Each kind has fields of its own."""

    type: Name
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: Annotated[str | list[Block] | None, at_most(MOST_BLOCKS)] = None
    is_error: bool | None = None
    source: Source | str | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Block:
        needed = {"text": "text", "thinking": "thinking", "tool_use": "input", "tool_result": "tool_use_id"}
        if self.type == "tool_use" and not self.name:
            raise ValueError("name is missing")
        if (field := needed.get(self.type)) and getattr(self, field) is None:
            raise ValueError(f"{field} is missing")
        return self

    @model_validator(mode="after")
    def _can_be_read(self) -> Block:
        if self.type in ("text", "thinking", "redacted_thinking", "tool_use", "tool_result", "search_result"):
            return self
        if self.type == "tool_reference":
            raise ValueError("type: tools are not searched by this server: all are in the prompt")
        if self.type == "document" and isinstance(self.source, Source) and self.source.words() is not None:
            return self
        if self.type == "document":
            what = 'upload it (POST /files), and name it: {"type": "file", "file_id": ID}'
            raise ValueError(f"type: documents other than plain text cannot be read within a message: {what}")
        if medium := _MEDIA.get(self.type):
            raise ValueError(f"type: {medium} cannot be read by this server: messages are text")
        raise ValueError(f"type: this server has no blocks of the type {self.type[:64]!r}")

    def words(self) -> str:
        """Return the text of a block that has one; "" for others."""
        if self.type == "document" and isinstance(self.source, Source):
            return self.source.words() or ""
        if self.type == "search_result":
            source = self.source if isinstance(self.source, str) else ""
            return "\n".join(part for part in (source, words_of(self.content)) if part)
        return (self.text or "") if self.type == "text" else ""

    def result(self) -> str:
        """Return the text of a tool's result; one that tells an error says so."""
        text = words_of(self.content)
        return f"Error: {text}" if self.is_error and not text.lower().startswith("error") else text

    def call(self) -> dict[str, Any]:
        """Return a call of a tool as chat templates take it."""
        arguments = json.dumps(self.input, ensure_ascii=False)
        named = {"id": self.id} if self.id else {}
        return {**named, "type": "function", "function": {"name": self.name, "arguments": arguments}}


def words_of(content: str | list[Block] | None) -> str:
    """Return a content as one text."""
    if isinstance(content, list):
        return "\n".join(words for block in content if (words := block.words()))
    return content or ""


class MessageOfChat(Open):
    """One message. A `system` one may stand among the others."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[str | list[Block], at_most(MOST_BLOCKS)]

    @model_validator(mode="after")
    def _fits_its_role(self) -> MessageOfChat:
        kinds = {
            "user": ("thinking", "redacted_thinking", "tool_use"),
            "assistant": ("tool_result",),
            "system": ("thinking", "redacted_thinking", "tool_use", "tool_result"),
        }
        for block in self.blocks:
            if block.type in kinds[self.role]:
                raise ValueError(f"content: a message of the role {self.role} has no blocks of the type {block.type}")
        return self

    @property
    def files(self) -> list[str]:
        """The ids of the files that it names."""
        return list(_files_of(self.blocks))

    @property
    def blocks(self) -> list[Block]:
        """The content's blocks."""
        return self.content if isinstance(self.content, list) else [Block(type="text", text=self.content)]


def _files_of(content: str | list[Block] | None) -> Iterator[str]:
    """Yield the ids of the files that blocks name, those within results of tools too."""
    for block in content if isinstance(content, list) else ():
        yield from _files_of(block.content)
        if isinstance(block.source, Source):
            yield from _files_of(block.source.content)
            if block.source.type == "file" and block.source.file_id:
                yield block.source.file_id
