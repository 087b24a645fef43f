"""The values that answers and whatever computes them exchange: settings, requests, how they end and what they cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from services.backend.status import Amounts

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
    background: bool = False
    """Whether nobody waits for it, so that others go first."""
    resume_tokens: tuple[int, ...] = field(default=(), repr=False)
    delivered: int = 0
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
class PrefetchRequest:
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
