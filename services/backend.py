"""The interface between answers and whatever computes them: an engine on this machine, or workers on others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from services.status import Amounts, Status

FinishReason = Literal["stop", "length", "cancelled"]
Health = Literal["ready", "loading", "down"]
# The owner whose computed states everybody may go on from: the beginnings of templates.
EVERYBODY = "~everybody"
# Names of conversations that begin so are no stored sessions: what is computed for them stays in memory.
PASSING = "~"

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter's file, what changes whenever it does, and how strongly it is applied (1: as it was trained)."""

    file: Path
    stamp: tuple[int, int, int]
    scale: float


@dataclass(frozen=True)
class LoadSettings:
    """All that decides how a model is loaded: two requests with equal settings share one loaded model.

    None leaves the choice to the engine. `n_ctx` and the batch sizes count tokens; every one of `n_parallel` sequences
    has all of `n_ctx`, of which 0 is as much as the model was trained on and memory holds. `swa_full`: the layers of a
    sliding window keep every token, and not the window alone, so that a state can be cut anywhere. `stamp` changes
    whenever the file does.
    """

    file: Path
    n_ctx: int
    n_parallel: int = 8
    stamp: tuple[int, int, int] = (0, 0, 0)
    lora: tuple[Adapter, ...] = ()
    n_threads: int | None = None
    n_threads_batch: int | None = None
    n_batch: int | None = None
    n_ubatch: int | None = None
    flash_attn: bool = True
    cache_type_k: CacheType = "f16"
    cache_type_v: CacheType = "f16"
    swa_full: bool = True
    n_gpu_layers: int = 0
    use_mmap: bool = True
    use_mlock: bool = False
    verbose: bool = False


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Temperature 0 takes the likeliest; `seed` None draws a new one each time."""

    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    """What is added to the logits of these token ids."""
    json_schema: str = ""
    """The JSON schema, itself as JSON, that the answer keeps to; "" for none."""
    n_top: int | None = None
    """How many of the likeliest tokens' logarithms of probability to tell beside each chosen one; None tells none."""


@dataclass(frozen=True)
class Prompt:
    """The text a model reads.

    `typed` are the spans (start, end; in characters, ascending) that people or models wrote: what looks like a special
    token there is plain text, while in the template around them it is the token.
    """

    text: str = field(repr=False)
    typed: tuple[tuple[int, int], ...] = ()
    ids: tuple[int, ...] = field(default=(), repr=False)
    """The prompt as token ids already, in the place of the text."""
    bos: bool = True
    """Whether the model's own beginning comes first, where it has one."""


@dataclass(frozen=True)
class ChatFormat:
    """How a model's file says that it reads a conversation.

    `template` is Jinja, "" where there is none; `tool_template` is the one that the file names for conversations with
    tools. `specials` are the texts of its special tokens, the longest first.
    """

    template: str
    bos: str
    eos: str
    specials: tuple[str, ...]
    tool_template: str = ""
    longest_token: int = 0
    """How many bytes of UTF-8, white space not counted, one token stands for at most; 0: that is not known."""


@dataclass(frozen=True)
class GenerationRequest:
    """One thing to generate.

    `owner` is the key's id: computed state is shared within one owner only, but for the first `n_head` tokens, which are
    the template's own. `session` names the conversation among the owner's; "" is none, and the state of a name that begins
    with PASSING is never kept on disk.
    """

    tokens: tuple[int, ...] = field(repr=False)
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    owner: str = ""
    session: str = ""
    n_head: int = 0
    patient: bool = False
    """Whether nobody waits for it, so that others go first."""
    given: tuple[int, ...] = field(default=(), repr=False)
    told: int = 0
    """Of an answer that another engine has begun: its tokens so far, and how many characters the caller has already."""
    account: str = ""
    """Whose share of the engine it takes: a key with those that were minted by it is one; "" is the owner's own."""


@dataclass(frozen=True)
class TokenChoice:
    """A token of an answer: its bytes, the natural logarithm of its probability, and the likeliest tokens in its place."""

    piece: bytes = field(repr=False)
    logprob: float
    top: tuple[tuple[bytes, float], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Thought:
    """The beginning of a prompt that is likely to come: its tokens, and whose it is, as in GenerationRequest.

    That of `owner` EVERYBODY is the beginning of a template.
    """

    tokens: tuple[int, ...] = field(repr=False)
    owner: str
    session: str


@dataclass(frozen=True)
class Finish:
    """How a generation ended: why, the counts of tokens, and the times in milliseconds."""

    reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    timings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Spent(Amounts):
    """What a request has cost: tokens read (and those of them that were computed already), written, and seconds of CPU."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cpu_seconds: float = 0.0


class Generation(Protocol):
    """One request under way. Owned by the thread that submitted it."""

    finish: Finish | None
    tokens: list[int]
    """The tokens chosen so far: none comes later than its text."""
    choices: list[TokenChoice]
    """How they were chosen, where `Sampling.n_top` asks for it."""
    place: int | None
    """Which in line it is while it waits for a slot; 0 once it has one, None before that is known."""

    @property
    def spent(self) -> Spent:
        """What it has cost so far; all that it has, once it has ended or been cancelled."""

    def chunks(self, poll: Callable[[], None]) -> Iterator[str]:
        """The text as it is decoded, and "" each quarter of a second in which none came; then `finish` says how it ended.

        `poll` is called at least every quarter of a second, from the caller's thread; what it raises ends the iteration.
        Raises EngineFailure where the engine broke.
        """

    def stop(self) -> None:
        """End it within one step with the text so far; its reader gets that, and the finish "cancelled".

        Any thread may call it; again, or after the end, that does nothing.
        """

    def cancel(self) -> None:
        """Break it off within one step: nothing more comes. Calling it again, or after the end, does nothing."""


class Model(Protocol):
    """A loaded model. Any thread may call it, for as long as its lease lasts."""

    n_ctx: int
    chat_format: ChatFormat

    def tokenize(self, prompt: Prompt) -> list[int]:
        """The prompt as token ids, the model's own beginning included. Raises InvalidRequest for ids that it has not."""

    def tokenize_all(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The same for several prompts."""

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """The bytes of each token, special ones included. Raises InvalidRequest for ids that it has not."""

    def submit_all(self, requests: Sequence[GenerationRequest]) -> Sequence[Generation]:
        """Queue requests, which are begun together; returns at once.

        Raises InvalidRequest where one has no tokens, or asks for what the model has not; Unavailable where the engine has
        stopped, or where too many wait. Then none is queued.
        """

    def think(self, thought: Thought) -> None:
        """Compute the state of a prompt's beginning when nothing else is to be done; returns at once.

        A later thought of the same conversation takes the place of an earlier one.
        """


class Embedder(Protocol):
    """A loaded model that makes embeddings. Any thread may call it, for as long as its lease lasts."""

    n_ctx: int
    chat_format: ChatFormat

    def tokenize(self, prompt: Prompt) -> list[int]:
        """See `Model.tokenize`."""

    def embed(self, tokens: Sequence[int], poll: Callable[[], None] = lambda: None) -> tuple[list[float], Spent]:
        """The text's vector, of length 1, and what it cost.

        `poll` is called meanwhile; what it raises breaks it off, within one step. Raises InvalidRequest where there are no
        tokens, or too many.
        """


class Backend(Protocol):
    """Whatever holds models. Any thread may call it."""

    def lease(self, settings: LoadSettings, poll: Callable[[], None] = lambda: None) -> AbstractContextManager[Model]:
        """The model of these settings, loaded first where it is not, and kept loaded until the lease ends.

        `poll` is called while it loads, then and whenever the lease waits for that again; what it raises gives up, and the
        model is loaded all the same. Raises BadModelFile where it cannot be loaded; whatever was loaded before still is.
        """

    def lease_embedder(
        self, settings: LoadSettings, poll: Callable[[], None] = lambda: None
    ) -> AbstractContextManager[Embedder]:
        """The model of these settings as one that makes embeddings; otherwise as `lease`."""

    def loaded(self) -> list[Path]:
        """The files of the models that are loaded."""

    def unload(self, file: Path) -> bool:
        """Free the models of a file from memory; False where none is loaded. A later request loads them again.

        Raises Unavailable, with the code `model_in_use`, while one of them answers.
        """

    def status(self) -> Status:
        """How busy it is."""

    def forget(self, owner: str, session: str) -> None:
        """Remove what is computed of a conversation, of whichever models, from memory and disk."""

    def stop(self, owner: str, session: str) -> bool:
        """End the answer that a conversation is given by another server's request; False where there is none such."""

    def retain(self, sessions: Iterable[tuple[str, str]]) -> None:
        """Keep the states of these sessions (owner and number) only: there are no others."""

    def health(self) -> Health:
        """Ready: a model is loaded, or was until nobody used it. Loading: the first is on its way.

        Down: there is none, or its engine broke.
        """

    def close(self) -> None:
        """Fail what is under way with a clear error, and free the models."""
