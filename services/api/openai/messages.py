"""The messages of a chat, as OpenAI's clients send them, and as chat templates take them."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from services.api.http.open_body import Open
from services.api.openai.custom_tools import arguments_of
from services.validation import FileId, at_most

# Messages of one request (a template may look at all earlier ones at each), and parts of one of them.
MOST_MESSAGES, MOST_PARTS = 2000, 256
Name = Annotated[str, Field(min_length=1, max_length=1024)]

_TEXTS = ("text", "input_text", "output_text", "refusal")
_THOUGHTS = ("thinking", "reasoning")
# What a part may be elsewhere, by words in its type.
_MEDIA = {"image": "images", "audio": "audio", "video": "videos", "file": "files", "document": "files"}


def _arguments(given: object) -> object:
    """Return arguments as JSON text: Ollama's clients send the object itself, and some null where there are none."""
    if given is None:
        return "{}"
    return json.dumps(given, ensure_ascii=False) if isinstance(given, dict) else given


class FileOfPart(Open):
    """A file that was uploaded before."""

    file_id: Annotated[FileId | None, Field(validate_default=True)] = None

    @field_validator("file_id")
    @classmethod
    def _is_uploaded(cls, id_: str | None) -> str | None:
        if id_ is None:
            raise ValueError("is missing: upload the file first (POST /v1/files), and name it by its id")
        return id_


class Part(Open):
    """A part of a message: text, an uploaded file, or in the assistant's messages a thought. Other media are refused."""

    type: str
    text: str | None = None
    refusal: str | None = None
    thinking: Annotated[str | list[Part], at_most(MOST_PARTS)] | None = None
    file: FileOfPart | None = None

    @field_validator("type")
    @classmethod
    def _is_text(cls, kind: str) -> str:
        if kind in (*_TEXTS, *_THOUGHTS, "file"):
            return kind
        if medium := next((medium for word, medium in _MEDIA.items() if word in kind), None):
            raise ValueError(f"{medium} cannot be read by this server: messages are text")
        raise ValueError("there is no such part: it should be text, refusal or thinking")

    @model_validator(mode="after")
    def _says_something(self) -> Part:
        if self.type == "file" and self.file is None:
            raise ValueError("file is missing")
        if self.type != "file" and self.text is None and self.refusal is None and self.thinking is None:
            raise ValueError("text is missing")
        return self

    @property
    def is_thought(self) -> bool:
        """True if it is a thought of the assistant's."""
        return self.type in _THOUGHTS

    def words(self) -> str:
        """Return its text."""
        if isinstance(self.thinking, list):
            return "".join(part.words() for part in self.thinking)
        return self.text or self.refusal or self.thinking or ""


class FunctionCall(Open):
    """A function's name and its arguments, which are JSON."""

    name: Name
    arguments: Annotated[str, BeforeValidator(_arguments, json_schema_input_type=str | dict[str, Any] | None)] = "{}"


class CustomCall(Open):
    """A custom tool's name and its text."""

    name: Name
    input: str


class CallOfAssistant(Open):
    """A call that the assistant made earlier."""

    id: str | None = None
    type: Literal["function", "custom"] = "function"
    function: FunctionCall | None = None
    custom: CustomCall | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> CallOfAssistant:
        if getattr(self, self.type) is None:
            raise ValueError(f"{self.type} is missing")
        return self

    @property
    def called(self) -> FunctionCall:
        """The function that is called: of a custom tool, the one that stands for it."""
        if self.type == "custom" and self.custom:
            return FunctionCall(name=self.custom.name, arguments=arguments_of(self.custom.input))
        assert self.function
        return self.function


class ChatMessage(Open):
    """One message of a chat.

    The assistant's may have its thoughts beside the text, as `reasoning_content` (also `reasoning`, or `thinking`).
    """

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[str | list[Part] | None, at_most(MOST_PARTS)] = None
    name: str | None = None
    tool_calls: Annotated[list[CallOfAssistant] | None, at_most(MOST_PARTS)] = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None
    refusal: str | None = None
    function_call: FunctionCall | None = None

    @model_validator(mode="after")
    def _fits_its_role(self) -> ChatMessage:
        if self.role != "assistant":
            if self.has_calls:
                raise ValueError("only the assistant calls tools")
            in_parts = isinstance(self.content, list) and any(part.is_thought for part in self.content)
            if in_parts or self.reasoning_content or self.reasoning or self.thinking:
                raise ValueError("only the assistant's messages hold thoughts")
        return self

    @property
    def files(self) -> list[str]:
        """The ids of the files that it names."""
        parts = self.content if isinstance(self.content, list) else []
        return [str(part.file.file_id) for part in parts if part.file]

    @property
    def has_calls(self) -> bool:
        """True if it calls tools."""
        return bool(self.tool_calls or self.function_call)

    @property
    def is_thought(self) -> bool:
        """True if it has thoughts alone, and no text."""
        return bool(self._thoughts()) and not self._text()

    def plain(self) -> dict[str, Any]:
        """Return the message as chat templates take it: one text, beside it the calls and thoughts of the assistant."""
        message: dict[str, Any] = {"role": _ROLES.get(self.role, self.role), "content": self._text()}
        if thoughts := self._thoughts():
            message["reasoning_content"] = thoughts
        if calls := self._calls():
            message["tool_calls"] = calls
        named = {"name": self.name, "tool_call_id": self.tool_call_id}
        return {**message, **{name: value for name, value in named.items() if value is not None}}

    def _text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.words() for part in self.content if not part.is_thought)
        return self.content or self.refusal or ""

    def _thoughts(self) -> str:
        if self.role != "assistant":
            return ""
        parts = self.content if isinstance(self.content, list) else []
        thoughts = "\n".join(part.words() for part in parts if part.is_thought)
        return self.reasoning_content or self.reasoning or self.thinking or thoughts

    def _calls(self) -> list[dict[str, Any]]:
        calls = [(call.id, call.called) for call in self.tool_calls or ()]
        if self.function_call:
            calls.append((None, self.function_call))
        return [
            {
                **({"id": number} if number is not None else {}),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in calls
        ]


# The roles that chat templates know by another name.
_ROLES = {"developer": "system", "function": "tool"}

ChatMessages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES), at_most(MOST_MESSAGES)]
