"""The bodies of replies of OpenAI's API, for the published description."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from services.api.http.schemas import Citation


class PromptDetails(BaseModel):
    """The number of the prompt's tokens that were computed already."""

    cached_tokens: int


class CompletionDetails(BaseModel):
    """The number of the completion's tokens that were thoughts."""

    reasoning_tokens: int


class OpenAIUsage(BaseModel):
    """Counts of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class CalledFunction(BaseModel):
    """A function's name and its arguments, which are JSON."""

    name: str
    arguments: str


class CalledTool(BaseModel):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class MessageOfAssistant(BaseModel):
    """The answer. `reasoning_content` and `reasoning` are the model's thoughts; both say the same.

    `function_call` replaces `tool_calls` where the request has `functions`. Where it names files, `citations` are the
    passages that the answer cites, and `annotations` the marks such as [1] in it.
    """

    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[CalledTool] | None = None
    function_call: CalledFunction | None = None
    annotations: list[dict[str, Any]] | None = None
    citations: list[Citation] | None = None


class TokenLogprob(BaseModel):
    """A token, its bytes, and the natural logarithm of its probability."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[dict[str, Any]] = []


class ChoiceLogprobs(BaseModel):
    """An answer's tokens."""

    content: list[TokenLogprob]
    refusal: None = None


class ChatChoice(BaseModel):
    """One of the answers."""

    index: int
    message: MessageOfAssistant
    logprobs: ChoiceLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "function_call"]


class ChatCompletion(BaseModel):
    """A whole reply; with `stream` it comes as `chat.completion.chunk` events."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: OpenAIUsage
    prompt_logprobs: list[dict[str, Any] | None] | None = None
    messages_in_prompt: int | None = None
    messages_left_out: int | None = None


class CompletionChoice(BaseModel):
    """One of the texts."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    prompt_logprobs: list[dict[str, Any] | None] | None = None
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    """A whole reply; with `stream` it comes as events of the same kind."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: OpenAIUsage


class Embedding(BaseModel):
    """One text's vector: numbers, or base64 of little-endian floats of 32 bits."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(BaseModel):
    """Counts of tokens."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """The vectors, in the order of the texts."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingsUsage


class ModelMeta(BaseModel):
    """The facts of a model's file, and its context, in tokens, weights and bytes."""

    n_vocab: int | None
    n_ctx_train: int | None
    n_ctx: int
    n_params: int
    size: int


class OpenAIModel(BaseModel):
    """A profile, or a file of the models folder. Its context counts tokens.

    `capabilities` are `completion` with `tools` and `thinking`, or else `embeddings`, or `rerank`.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: int
    max_model_len: int
    capabilities: list[str]
    meta: ModelMeta


class OpenAIModels(BaseModel):
    """All profiles and files that the key may use."""

    object: Literal["list"]
    data: list[OpenAIModel]


class TokenPiece(BaseModel):
    """A token, and its text, or its bytes where these are no text by themselves."""

    id: int
    piece: str | list[int]


class Tokens(BaseModel):
    """Token ids, and how many they are."""

    tokens: list[int] | list[TokenPiece]
    count: int


class Text(BaseModel):
    """The text of tokens."""

    content: str
