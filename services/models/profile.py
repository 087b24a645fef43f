"""A profile: its model, its prompt's form, and its settings for loading and sampling."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from services.backend.types import Adapter, CacheType, ChatFormat, LoadSettings, Sampling
from services.errors import BadModelFile, HearthError, InvalidRequest
from services.models.files import AvailableModels
from services.models.sources import parse_source
from services.validation import (
    AnswerPenalty,
    AnyNCtx,
    MaxTokens,
    MemoryK,
    RepeatPenalty,
    Seed,
    Share,
    StopStrings,
    Strict,
    Temperature,
    TemplateKwargs,
    ThinkingBudget,
    TopK,
)

# The defaults of a profile with a template: exchanges in {chat_history}, and the context in tokens.
TEMPLATE_MEMORY_K, TEMPLATE_N_CTX = 5, 2048
# The prefix of a chat template that is in a file of the models folder.
_FILE = "file:"
_LONGEST_TEMPLATE = 2**20
Threads = Annotated[int, Field(ge=1, le=512)]
BatchSize = Annotated[int, Field(ge=1, le=2**16)]
ThinkingLevel = Literal["low", "medium", "high"]


def _is_level(thinking: object) -> object:
    if not isinstance(thinking, bool) and thinking not in ("low", "medium", "high", None):
        raise ValueError('should be true, false, "low", "medium" or "high", or null for what the model does by itself')
    return thinking


class Lora(Strict):
    """A LoRA adapter: a file of the models folder, and its strength (1: as trained)."""

    file: Annotated[str, Field(min_length=1)]
    scale: Annotated[float, Field(ge=-100, le=100)] = 1.0


class EmbeddingPrefix(Strict):
    """Texts that come before what is embedded, as the model was trained: before queries, and before documents."""

    query: Annotated[str, Field(max_length=1024)] = ""
    document: Annotated[str, Field(max_length=1024)] = ""


class Profile(Strict):
    """One profile of the config file.

    With a `template`, prompts are that text, filled in. Without one they are chats, rendered by `chat_template` (Jinja, or
    file:NAME.jinja of the models folder), else by the chat template in the model's own file; `system_prompt` comes first.
    `n_ctx`, `max_tokens`, `thinking_budget` and the batch sizes count tokens; `memory_k` counts exchanges, None: all that
    fit. `thinking`: whether or how much the model thinks before it answers a chat, None: as it does by itself.
    """

    model: Annotated[str, Field(min_length=1)]
    template: str | None = None
    system_prompt: str | None = None
    chat_template: Annotated[str, Field(min_length=1, max_length=_LONGEST_TEMPLATE)] | None = None
    n_ctx: AnyNCtx | None = None
    temperature: Temperature = 0.8
    max_tokens: MaxTokens = 512
    top_p: Share = 0.95
    top_k: TopK = 40
    repeat_penalty: RepeatPenalty = 1.0
    verbose: bool = False
    memory_k: MemoryK | None = None
    n_parallel: Annotated[int, Field(ge=1, le=64)] = 8
    stop: StopStrings = []
    seed: Seed | None = None
    min_p: Share = 0.0
    presence_penalty: AnswerPenalty = 0.0
    frequency_penalty: AnswerPenalty = 0.0
    thinking: Annotated[bool | ThinkingLevel | None, BeforeValidator(_is_level)] = None
    thinking_budget: ThinkingBudget | None = None
    chat_template_kwargs: TemplateKwargs = {}
    n_threads: Threads | None = None
    n_threads_batch: Threads | None = None
    n_batch: BatchSize | None = None
    n_ubatch: BatchSize | None = None
    flash_attn: bool = True
    swa_full: bool | None = None
    cache_type_k: CacheType = "f16"
    cache_type_v: CacheType = "f16"
    speculation: bool = True
    n_gpu_layers: Annotated[int, Field(ge=-1, le=10_000)] = 0
    use_mmap: bool = True
    use_mlock: bool = False
    embedding_prefix: EmbeddingPrefix | None = None
    embedder: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    reranker: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    lora: Annotated[list[Lora], Field(max_length=16)] = []
    source: str | None = None

    @field_validator("source")
    @classmethod
    def _is_source(cls, source: str | None) -> str | None:
        if source is not None:
            try:
                parse_source(source)
            except InvalidRequest as error:
                raise ValueError(error.message.removeprefix("source: ")) from None
        return source

    @field_validator("template")
    @classmethod
    def _holds_input(cls, template: str | None) -> str | None:
        if template is not None and "{input}" not in template:
            raise ValueError("the template must contain {input}, which becomes the prompt")
        return template

    @field_validator("chat_template")
    @classmethod
    def _is_template(cls, text: str | None) -> str | None:
        if text is None or text.startswith(_FILE):
            return text if text is None else _FILE + _template_name(text)
        # It needs Jinja, which a command about profiles without a template of their own does not.
        from services.prompts.chat_template import chat_template

        try:
            chat_template(ChatFormat(text, "", "", ()))
        except HearthError as error:
            raise ValueError(error.message) from None
        return text

    @model_validator(mode="after")
    def _has_one_form(self) -> Profile:
        if self.template is not None and self.system_prompt:
            raise ValueError("system_prompt has no place beside a template: write it into the template, or leave that out")
        return self

    @property
    def context(self) -> int:
        """The context in tokens; 0 leaves it to the model and the memory ("auto")."""
        if self.n_ctx is None:
            return 0 if self.template is None else TEMPLATE_N_CTX
        return 0 if self.n_ctx == "auto" else self.n_ctx

    @property
    def memory(self) -> int | None:
        """The number of last exchanges in a prompt; None: all that fit."""
        return TEMPLATE_MEMORY_K if self.memory_k is None and self.template is not None else self.memory_k

    def chat_template_text(self, folder: Path) -> str:
        """Return the profile's chat template, which it must have. Raises BadModelFile if its file cannot be read."""
        assert self.chat_template is not None
        if not self.chat_template.startswith(_FILE):
            return self.chat_template
        name = _template_name(self.chat_template)
        try:
            text = (folder / name).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise BadModelFile(f"chat_template: {name} cannot be read: {reason}", param="chat_template") from None
        if len(text) > _LONGEST_TEMPLATE:
            raise BadModelFile(f"chat_template: {name} is too long", param="chat_template")
        return text

    def load_settings(self, files: AvailableModels) -> LoadSettings:
        """Return the settings for loading this profile's model.

        Raises InvalidRequest, NotFound or BadModelFile if one of its files cannot be used.
        """
        model = files.check(self.model)
        adapters = [(files.check_adapter(lora.file), lora.scale) for lora in self.lora]
        return LoadSettings(
            file=model.path,
            stamp=model.stamp,
            lora=tuple(Adapter(adapter.path, adapter.stamp, scale) for adapter, scale in adapters),
            n_ctx=self.context,
            n_parallel=self.n_parallel,
            n_threads=self.n_threads,
            n_threads_batch=self.n_threads_batch,
            n_batch=self.n_batch,
            n_ubatch=self.n_ubatch,
            flash_attn=self.flash_attn,
            swa_full=self.swa_full,
            cache_type_k=self.cache_type_k,
            cache_type_v=self.cache_type_v,
            speculation=self.speculation,
            n_gpu_layers=self.n_gpu_layers,
            use_mmap=self.use_mmap,
            use_mlock=self.use_mlock,
            verbose=self.verbose,
        )

    def sampling(self) -> Sampling:
        """Return the profile's sampling parameters, which a request may override."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repeat_penalty=self.repeat_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Chosen:
    """The profile of a request. For a file without a profile, `name` is the file's and the profile the default."""

    name: str
    profile: Profile


def _template_name(text: str) -> str:
    """The name in `file:NAME.jinja`. Raises ValueError if that cannot be a file directly in the models folder."""
    name = text.removeprefix(_FILE)
    if Path(name).name != name or name.startswith(".") or not name.endswith(".jinja") or not name.isprintable():
        raise ValueError(f"{text!r} should be file:NAME.jinja, a file in the models folder")
    return name
