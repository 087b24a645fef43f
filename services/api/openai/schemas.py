"""The bodies of requests of OpenAI's API, as its reference describes them: fields are honoured, or refused by name.

Unknown fields are ignored, since its clients send many that change nothing of an answer.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from services.backend.types import Prompt
from services.storage.json_text import read_json_text
from services.validation import (
    AnswerPenalty,
    MaxTokens,
    MemoryK,
    Private,
    RepeatPenalty,
    SessionId,
    Share,
    StopStrings,
    Temperature,
    TopK,
    at_most,
)

# Answers that one request may ask for: as many as the queue holds by default.
MOST_ANSWERS = 32
# Messages of one request (a template may look at all earlier ones at each), parts of one of them, and tools.
MOST_MESSAGES, MOST_PARTS, MOST_TOOLS = 2000, 256, 128
Name = Annotated[str, Field(min_length=1, max_length=1024)]
# Any whole number that a client may draw, made into one that llama.cpp takes.
AnySeed = Annotated[
    int, BeforeValidator(lambda seed: seed % (2**32 - 1) if isinstance(seed, int) and not isinstance(seed, bool) else seed)
]
Bias = Annotated[float, Field(ge=-100, le=100)]


class Lenient(Private):
    """A model that converts nothing silently, and ignores unknown fields."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class TextPart(Lenient):
    """A part of a message: text, the only kind that is honoured."""

    type: Literal["text", "input_text", "output_text", "refusal"]
    text: str = ""
    refusal: str = ""

    @model_validator(mode="after")
    def _says_something(self) -> TextPart:
        if not self.model_fields_set & {"text", "refusal"}:
            raise ValueError("text is missing")
        return self


class FunctionCall(Lenient):
    """A function's name and its arguments, which are JSON."""

    name: Name
    arguments: str = "{}"


class CallOfAssistant(Lenient):
    """A call that the assistant made earlier."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Lenient):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[str | list[TextPart] | None, at_most(MOST_PARTS)] = None
    name: str | None = None
    tool_calls: Annotated[list[CallOfAssistant] | None, at_most(MOST_PARTS)] = None
    tool_call_id: str | None = None

    def plain(self) -> dict[str, Any]:
        """Return the message as chat templates take it: one text, and the arguments of calls as objects."""
        content = self.content or ""
        message: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": content if isinstance(content, str) else "\n".join(part.text or part.refusal for part in content),
        }
        if self.tool_calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": _object(call)}}
                for call in self.tool_calls
            ]
        named = {"name": self.name, "tool_call_id": self.tool_call_id}
        return {**message, **{name: value for name, value in named.items() if value is not None}}


ChatMessages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES), at_most(MOST_MESSAGES)]


class FunctionOfTool(Lenient):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Lenient):
    """A tool: a function, the only kind that is honoured."""

    type: Literal["function"]
    function: FunctionOfTool


Tools = Annotated[list[Tool], Field(max_length=MOST_TOOLS), at_most(MOST_TOOLS)]


class NamedFunction(Lenient):
    """The name of a function."""

    name: Name


class NamedTool(Lenient):
    """The tool that the model has to call."""

    type: Literal["function"]
    function: NamedFunction


class SchemaOfFormat(Lenient):
    """A JSON schema, and its name."""

    name: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Lenient):
    """The form that the answer has to have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaOfFormat | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("json_schema is missing: it holds the schema")
        return self

    def schema_text(self) -> str:
        """Return the schema as JSON; "" for any text."""
        if self.type == "json_schema" and self.json_schema:
            return json.dumps(self.json_schema.schema_)
        return json.dumps({"type": "object"}) if self.type == "json_object" else ""


class StreamOptions(Lenient):
    """The options of a stream."""

    include_usage: bool | None = None


class Generating(Lenient):
    """The fields that chats and completions share. `session_id`, `top_k` and the like go beyond OpenAI's."""

    model: Name | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    n: Annotated[int, Field(ge=1, le=8)] | None = None
    stop: StopStrings | None = None
    seed: AnySeed | None = None
    presence_penalty: AnswerPenalty | None = None
    frequency_penalty: AnswerPenalty | None = None
    logit_bias: Annotated[dict[str, Bias], Field(max_length=1024)] | None = None
    top_k: TopK | None = None
    min_p: Share | None = None
    repeat_penalty: RepeatPenalty | None = None

    @model_validator(mode="after")
    def _biases_tokens(self) -> Generating:
        for token in self.logit_bias or ():
            if not token.isdecimal() or len(token) > 9:
                raise ValueError(f"logit_bias: {token!r} is no token id")
        return self


class ChatRequest(Generating):
    """The body of POST /v1/chat/completions."""

    messages: ChatMessages
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Tools | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    session_id: SessionId | None = None
    memory_k: MemoryK | None = None

    @model_validator(mode="after")
    def _choice_fits(self) -> ChatRequest:
        names = [tool.function.name for tool in self.tools or ()]
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice: there are no tools to require")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice: there is no tool {self.tool_choice.function.name}")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self


Texts = Annotated[list[str], Field(min_length=1, max_length=8)]
# OpenAI's own limit.
MOST_INPUTS = 2048
ManyTexts = Annotated[list[str], Field(min_length=1, max_length=MOST_INPUTS)]
TokenIds = Annotated[list[int], Field(min_length=1)]


class CompletionRequest(Generating):
    """The body of POST /v1/completions."""

    prompt: str | TokenIds | Texts | Annotated[list[TokenIds], Field(min_length=1, max_length=8)]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    parse_special: bool | None = None
    best_of: int | None = None

    @model_validator(mode="after")
    def _asks_for_what_there_is(self) -> CompletionRequest:
        if self.suffix:
            raise ValueError("suffix cannot be honoured: this server does not fill in the middle")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of cannot be other than n")
        n_prompts = len(self.prompt) if isinstance(self.prompt, list) and not isinstance(self.prompt[0], int) else 1
        if n_prompts * (self.n or 1) > MOST_ANSWERS:
            raise ValueError(f"n: {n_prompts} prompts with {self.n} answers each are more than {MOST_ANSWERS} at once")
        if self.echo and self.logprobs is not None:
            raise ValueError("echo and logprobs cannot be had together")
        if self.echo and any(isinstance(prompt, list | int) for prompt in self.prompt):
            raise ValueError("echo needs a prompt that is text")
        return self


class EmbeddingsRequest(Lenient):
    """The body of POST /v1/embeddings."""

    input: str | TokenIds | ManyTexts | Annotated[list[TokenIds], Field(min_length=1, max_length=MOST_INPUTS)]
    model: Name | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None

    @model_validator(mode="after")
    def _keeps_all_dimensions(self) -> EmbeddingsRequest:
        if self.dimensions is not None:
            raise ValueError("dimensions cannot be chosen: the model's own are given")
        return self


def prompts_of(given: Any, parse_special: bool = True) -> list[Prompt]:
    """Return a text, token ids, or a list of either, as prompts; `parse_special`: special tokens may stand in a text."""
    if isinstance(given, str):
        return [Prompt(given, () if parse_special else ((0, len(given)),))]
    if given and isinstance(given[0], int):
        return [Prompt("", ids=tuple(given))]
    return [prompt for each in given for prompt in prompts_of(each, parse_special)]


def _object(call: CallOfAssistant) -> Any:
    """Return the arguments as an object where they are one, as templates expect them."""
    arguments = read_json_text(call.function.arguments)
    return arguments if isinstance(arguments, dict) else call.function.arguments
