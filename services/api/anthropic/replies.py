"""The bodies of replies of Anthropic's API, for the published description."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class OutputTokensDetails(BaseModel):
    """The number of the answer's tokens that were thoughts."""

    thinking_tokens: int


class MessageUsage(BaseModel):
    """Counts of tokens. `input_tokens` are those of the prompt that were read, `cache_read_input_tokens` the others."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputTokensDetails


class ContentBlock(BaseModel):
    """A part of the answer: text, a thought, or a call of a tool, each with fields of its own."""

    type: Literal["text", "thinking", "tool_use"]
    text: str | None = None
    citations: list[dict[str, Any]] | None = None
    thinking: str | None = None
    signature: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None


class AnthropicMessage(BaseModel):
    """A whole reply; with `stream` it comes as events, from `message_start` to `message_stop`."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[ContentBlock]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: MessageUsage


class CountedTokens(BaseModel):
    """The number of tokens that a request's prompt has."""

    input_tokens: int


class AnthropicErrorDetails(BaseModel):
    """The type and the message of an error."""

    type: str
    message: str


class AnthropicError(BaseModel):
    """An error in Anthropic's shape."""

    type: Literal["error"]
    error: AnthropicErrorDetails
    request_id: str


class AnthropicModel(BaseModel):
    """A profile, or a file of the models folder, as Anthropic's clients read it."""

    type: Literal["model"]
    id: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"]


class AnthropicModels(BaseModel):
    """A page of the profiles and files that the key may use."""

    data: list[AnthropicModel]
    has_more: bool
    first_id: str | None
    last_id: str | None
