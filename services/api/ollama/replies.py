"""The bodies of replies of Ollama's API, for the published description. Durations are nanoseconds."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class _Ending(BaseModel):
    """The end of an answer: in its last line, or in a whole reply."""

    model: str
    created_at: str
    done: bool
    done_reason: Literal["stop", "length", "load"] | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None
    logprobs: list[dict[str, Any]] | None = None


class OllamaReplyMessage(BaseModel):
    """A message, or a piece of one. Calls of tools are whole."""

    role: Literal["assistant"]
    content: str
    thinking: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class OllamaChatReply(_Ending):
    """An answer to a chat, or one of its lines."""

    message: OllamaReplyMessage


class OllamaGenerateReply(_Ending):
    """An answer to a prompt, or one of its lines."""

    response: str
    thinking: str | None = None


class OllamaError(BaseModel):
    """An error."""

    error: str


class OllamaDetails(BaseModel):
    """The facts of a model."""

    parent_model: str
    format: Literal["gguf"]
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaModel(BaseModel):
    """A profile, or a file of the models folder. `digest` changes with the file."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails


class OllamaTags(BaseModel):
    """The profiles and files that the key may use."""

    models: list[OllamaModel]


class LoadedModel(BaseModel):
    """A model in memory."""

    name: str
    model: str
    size: int
    digest: str
    details: OllamaDetails
    expires_at: str
    size_vram: int


class OllamaLoaded(BaseModel):
    """The models in memory."""

    models: list[LoadedModel]


class OllamaShown(BaseModel):
    """All about a model."""

    license: str
    modelfile: str
    parameters: str
    template: str
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[Literal["completion", "tools", "thinking", "embedding", "rerank"]]
    modified_at: str


class OllamaVersion(BaseModel):
    """The version of the API."""

    version: str


class OllamaVectors(BaseModel):
    """A vector for each text."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OllamaVector(BaseModel):
    """A text's vector."""

    embedding: list[float]


class OllamaPull(BaseModel):
    """The progress of a download; the last line has the status "success". `total` and `completed` are bytes."""

    status: str
    digest: str | None = None
    total: int | None = None
    completed: int | None = None
