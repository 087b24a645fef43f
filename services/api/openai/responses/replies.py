"""The bodies of replies of the Responses API, for the published description."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class InputTokensDetails(BaseModel):
    """The number of the prompt's tokens that were computed already."""

    cached_tokens: int
    cache_write_tokens: int


class ResponseOutputTokensDetails(BaseModel):
    """The number of the answer's tokens that were thoughts."""

    reasoning_tokens: int


class ResponseUsage(BaseModel):
    """Counts of tokens."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: ResponseOutputTokensDetails
    total_tokens: int


class ResponseFault(BaseModel):
    """The reason why a response failed."""

    code: str
    message: str


class IncompleteDetails(BaseModel):
    """The reason why an answer is not whole."""

    reason: Literal["max_output_tokens"]


class ConversationOfResponse(BaseModel):
    """The conversation to which a response belongs."""

    id: str


class ResponseItem(BaseModel):
    """An item: a message, thoughts, or a call of a tool, each with fields of its own."""

    id: str
    type: str
    status: str | None = None
    role: str | None = None
    content: Any = None
    summary: list[dict[str, str]] | None = None
    encrypted_content: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: Any = None


class ResponseBody(BaseModel):
    """A response; with `stream` it comes as events, from `response.created` to `response.completed`."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Status
    background: bool
    error: ResponseFault | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[ResponseItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    conversation: ConversationOfResponse | None = None
    reasoning: dict[str, str | None]
    service_tier: str
    store: bool
    temperature: float | None
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float | None
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    metadata: dict[str, str]


class ResponseDeleted(BaseModel):
    """The deletion is done."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class CountedInput(BaseModel):
    """The number of tokens that a request's prompt has."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class InputItems(BaseModel):
    """A part of the items that a response answers."""

    object: Literal["list"]
    data: list[ResponseItem]
    first_id: str | None
    last_id: str | None
    has_more: bool
