"""The bodies of requests of Ollama's API: fields are honoured, or refused by name (`fields.py` lists them)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import override

from services.api.http.open_body import Lenient, Whole
from services.api.http.request_fields import Listed
from services.api.ollama.fields import CHAT, EMBED, EMBEDDINGS, GENERATE, known_fields
from services.api.openai.messages import MOST_MESSAGES, ChatMessage, Name
from services.api.openai.sampling_fields import UNLIMITED, SamplingFields
from services.api.openai.schemas import MOST_INPUTS
from services.api.openai.tool_fields import WithTools, check_names
from services.validation import Effort, MemoryK, NCtx, SessionId, at_most

_LATEST = ":latest"


def _untagged(name: object) -> object:
    """Return a model's name without the tag that Ollama's clients add to every name."""
    return name.removesuffix(_LATEST) if isinstance(name, str) else name


def _format(given: object) -> object:
    return None if given == "" else given


ModelName = Annotated[Name, BeforeValidator(_untagged)]
Format = Annotated[Literal["json"] | dict[str, Any] | None, BeforeValidator(_format)]


class NamedModel(Lenient):
    """A body that names a model; `name` is an older form of `model`."""

    model: ModelName | None = None
    name: ModelName | None = None

    @model_validator(mode="after")
    def _names_a_model(self) -> NamedModel:
        if not self.wanted:
            raise ValueError("model is missing")
        return self

    @property
    def wanted(self) -> str:
        """The model's name."""
        return self.model or self.name or ""


class Options(SamplingFields):
    """The sampling of tokens, and their number."""

    num_predict: Annotated[int, Field(ge=-2, le=UNLIMITED), Whole] | None = None
    num_ctx: Annotated[NCtx, Whole] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Options:
        if self.n_answers != 1:
            raise ValueError("n: a request has one answer")
        return self

    def most_tokens(self) -> int:
        """Return the most tokens of the answer: what is left of the context unless it says less."""
        if self.num_predict is None:
            return self.longest(UNLIMITED)
        return UNLIMITED if self.num_predict < 0 else self.num_predict

    @property
    @override
    def _lengths(self) -> tuple[str, ...]:
        return ("max_tokens",)


class OllamaMessage(ChatMessage):
    """One message of a chat. A tool's result may name the tool."""

    tool_name: str | None = None

    @override
    def plain(self) -> dict[str, Any]:
        message = super().plain()
        return {**message, "name": self.tool_name} if self.tool_name and "name" not in message else message


class _Generating(Listed):
    """The fields that chats and prompts share."""

    model: ModelName
    stream: bool | None = None
    options: Options | None = None
    format: Format = None
    think: bool | Effort | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), Whole] | None = None
    keep_alive: float | str | None = None
    session_id: Annotated[SessionId, Whole] | None = None
    memory_k: Annotated[MemoryK, Whole] | None = None

    @property
    def streams(self) -> bool:
        """True if the reply comes as lines."""
        return self.stream is not False

    @property
    def sampling_fields(self) -> Options:
        """The options, which may be left out."""
        return self.options or Options()

    @property
    def n_top(self) -> int | None:
        """The number of likeliest tokens that are told at each position; None: no logprobs at all."""
        return (self.top_logprobs or 0) if self.logprobs or self.top_logprobs else None

    @property
    def unloads(self) -> bool:
        """True if a model is to be freed from memory, where there is no prompt."""
        return self.keep_alive is not None and str(self.keep_alive).rstrip("smh") in ("0", "0.0")


class OllamaChat(_Generating, WithTools):
    """The body of POST /api/chat."""

    listed = known_fields(CHAT)

    messages: Annotated[list[OllamaMessage] | None, Field(max_length=MOST_MESSAGES), at_most(MOST_MESSAGES)] = None

    @model_validator(mode="after")
    def _has_its_tools(self) -> OllamaChat:
        check_names("tools", [function.name for function in self.own_functions])
        return self


class OllamaGenerate(_Generating):
    """The body of POST /api/generate with a `model`."""

    listed = known_fields(GENERATE)

    prompt: str | None = None
    system: str | None = None
    suffix: str | None = None
    raw: bool | None = None

    @model_validator(mode="after")
    def _stands_as_it_is(self) -> OllamaGenerate:
        if self.raw and self.system:
            raise ValueError("system: a raw prompt stands as it is: write it there")
        if self.suffix and (self.session_id is not None or self.system or self.think):
            raise ValueError("suffix: a gap in a text belongs to no chat: leave session_id, system and think out")
        if self.raw and self.session_id is not None:
            raise ValueError("session_id: a raw prompt belongs to no session")
        if self.raw and self.think:
            raise ValueError("think: a raw prompt stands as it is")
        return self


def _texts(given: object) -> object:
    return [given] if isinstance(given, str) else given


class OllamaEmbed(Listed):
    """The body of POST /api/embed."""

    listed = known_fields(EMBED)

    model: ModelName
    input: Annotated[
        list[str],
        Field(min_length=1, max_length=MOST_INPUTS),
        BeforeValidator(_texts, json_schema_input_type=str | list[str]),
    ]
    dimensions: Annotated[int, Field(ge=1), Whole] | None = None


class OllamaEmbedding(Listed):
    """The body of POST /api/embeddings."""

    listed = known_fields(EMBEDDINGS)

    model: ModelName
    prompt: str
