"""The values of the backend's interface: settings, requests, how they end and what they cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from services.backend.status import Amounts

FinishReason = Literal["stop", "length", "cancelled"]
Health = Literal["ready", "loading", "down"]
# The owner whose computed states every owner may continue: the beginnings of templates.
EVERYBODY = "~everybody"
# The first character of conversations that are no stored sessions: their computed states stay in memory.
TEMPORARY = "~"


def draft_of(session: str) -> str:
    """Return the name of the temporary conversation that holds the state of what a person is writing in a session."""
    return f"{TEMPORARY}draft {session}"


# The names of `Sampling.samplers`, in their usual order: llama.cpp's (tools/server/README.md).
SAMPLERS = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter's file, a stamp that changes whenever the file does, and its strength (1: as it was trained)."""

    file: Path
    stamp: tuple[int, int, int]
    scale: float


@dataclass(frozen=True)
class LoadSettings:
    """The settings of a loaded model, which requests with equal settings share.

    None leaves the choice to the engine. `n_ctx` and the batch sizes count tokens; every one of `n_parallel` sequences
    has all of `n_ctx`, of which 0 is as much as the model was trained on and memory holds. `swa_full`: the layers of a
    sliding window keep every token, and not the window alone, so that a state can be cut anywhere without a checkpoint.
    `speculation`: tokens that are likely to come may be computed ahead.
    `stamp` changes whenever the file does.
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
    swa_full: bool | None = None
    speculation: bool = True
    n_gpu_layers: int = 0
    use_mmap: bool = True
    use_mlock: bool = False
    verbose: bool = False


class Mark(str):
    """The text of a special token that a model wrote: it separates parts of a reply, and is no part of the text."""

    __slots__ = ()


@dataclass(frozen=True)
class Constraint:
    """The form that an answer's text keeps to, outside of the model's thoughts.

    `source` is a JSON schema as JSON text, a regular expression, or a grammar: GBNF (llama.cpp's grammars/README.md) or
    Lark in llguidance's dialect (its docs/syntax.md). Without `triggers` it holds from the first token; else from behind
    each occurrence of one of these texts until it is complete, and the text between is free.
    """

    kind: Literal["json_schema", "regex", "gbnf", "lark"]
    source: str = field(repr=False)
    triggers: tuple[str, ...] = ()
    once: bool = False
    """True if the answer ends behind the first triggered text; that of the first constraint counts for `also` as well."""
    also: tuple[Constraint, ...] = ()
    """Further constraints with triggers of their own: the one whose trigger comes holds."""


@dataclass(frozen=True)
class Thoughts:
    """How a model thinks before it answers. Thoughts are no part of the answer's text: no stop string ends them."""

    begins: str
    ends: str
    """The texts around a thought, each one or several tokens."""
    is_open: bool = False
    """True if the prompt ends within a thought."""
    budget: int | None = None
    """The most tokens of thoughts; None: as many as the answer may have."""
    closing: str = field(default="", repr=False)
    """The text that ends a thought early: a sentence and `ends`; "" is `ends` alone."""
    breaks: tuple[str, ...] = ()
    """Texts in front of which a thought ends without `ends`: a call begins with them, and they belong to the answer."""


@dataclass(frozen=True)
class Sampling:
    """The choice of the next token. Temperature 0 takes the likeliest; `seed` None draws a new seed each time.

    A sampler is off at its default here. The names and meanings are llama.cpp's (tools/server/README.md).
    """

    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    """The last tokens that the repeat penalty counts, the prompt's included; -1: all, 0: none. As in DRY."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0
    """1 or 2: this version of mirostat chooses, instead of top_n_sigma, top_k, typical_p, top_p, min_p and XTC."""
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    min_tokens: int = 0
    """The answer has at least so many tokens."""
    ignore_eos: bool = False
    """True if the model may not end the answer by itself."""
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    """A range over 0: the temperature follows the entropy, from `temperature` less the range to as much above."""
    samplers: tuple[str, ...] = ()
    """The names of the samplers that apply, in their order; () is the usual one. See `SAMPLERS`."""
    min_keep: int = 0
    """typical_p, top_p, min_p and XTC keep at least so many tokens."""
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids, and what is added to their logits."""
    text_bias: tuple[tuple[str, float], ...] = ()
    """Texts, and what is added to the logits of each of their tokens."""
    banned: tuple[str, ...] = ()
    """Texts that the model may not write: each token that would complete one, or has one within it, is ruled out."""
    allowed_tokens: tuple[int, ...] = ()
    """The ids of the only tokens that the model may choose; () is all."""
    constraint: Constraint | None = None
    """The form that the answer keeps to."""
    n_top: int | None = None
    """The number of likeliest tokens whose logprobs are reported beside each chosen one's; None reports none at all."""


@dataclass(frozen=True)
class Infill:
    """A gap to fill in: the text before and behind it, and texts of other files, each with the file's name."""

    before: str = field(repr=False)
    behind: str = field(repr=False)
    files: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    param: str = "suffix"
    """The field of the request that a model without tokens for this refuses."""


@dataclass(frozen=True)
class Prompt:
    """The text a model reads.

    `typed` are the spans (start, end; in characters, ascending) that people or models wrote: what looks like a special
    token there is plain text, while in the template around them it is the token.
    """

    text: str = field(repr=False)
    typed: tuple[tuple[int, int], ...] = ()
    ids: tuple[int, ...] = field(default=(), repr=False)
    """The prompt as token ids, instead of the text."""
    bos: bool = True
    """True if the model's BOS token comes first, where it has one."""
    infill: Infill | None = None
    """A gap to fill in with the model's own tokens for that; `text` is then as long as all of its texts."""
    borders: tuple[int, ...] = ()
    """Where messages begin in the text, and the last one ends, in characters, ascending; as far as that is known."""


@dataclass(frozen=True)
class ChatFormat:
    """The chat format of a model, by its file.

    `template` is Jinja, "" if there is none; `tool_template` is the one that the file names for conversations with
    tools. `specials` are the texts of its special tokens, the longest first.
    """

    template: str
    bos: str
    eos: str
    specials: tuple[str, ...]
    tool_template: str = ""
    longest_token: int = 0
    """The most bytes of UTF-8, white space not counted, that one token stands for; 0: not known."""


@dataclass(frozen=True)
class GenerationRequest:
    """One answer to generate.

    `owner` is the key's id: computed state is shared within one owner only, but for the first `n_head` tokens, which are
    the template's own. `session` names the owner's conversation; "" is none, and the state of a name that begins with
    TEMPORARY is never kept on disk.
    """

    tokens: tuple[int, ...] = field(repr=False)
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    owner: str = ""
    session: str = ""
    n_head: int = 0
    background: bool = False
    """True if nobody waits for it, so that other requests go first."""
    borders: tuple[int, ...] = field(default=(), repr=False)
    """Where messages begin in the prompt's text, and the last one ends, in bytes of UTF-8, ascending; then its length.

    () where that is not known."""
    resume_tokens: tuple[int, ...] = field(default=(), repr=False)
    delivered: int = 0
    """Of an answer that another engine has begun: its tokens so far, and how many characters are delivered already.

    A `Mark` counts as the characters of its text.
    """
    thoughts: Thoughts | None = None
    """How the model thinks; None: it does not, or nobody reads its thoughts."""
    prompt_logprobs: bool = False
    """True if the choices of the prompt's tokens are wanted too; all of it is then read anew."""
    marks: bool = False
    """True if special tokens come as `Mark` among the text; else they are left out."""
    stop_tokens: tuple[int, ...] = ()
    """Token ids that end the answer as the model's own do, and are no part of its text."""
    keeps_stop: bool = False
    """True if the text that ended the answer, of `stop` or a stop token's, is its last text."""
    account: str = ""
    """The account whose share of the engine it takes: a key and those that it minted; "" is the owner's own."""


@dataclass(frozen=True)
class TokenChoice:
    """A token of an answer: its bytes, the natural logarithm of its probability, and the likeliest tokens in its place."""

    piece: bytes = field(repr=False)
    logprob: float
    top: tuple[tuple[bytes, float], ...] = field(default=(), repr=False)
    ids: tuple[int, ...] = field(default=(), repr=False)
    """The ids of the token and of those of `top`; () where they are not known."""


@dataclass(frozen=True)
class PrefetchRequest:
    """The beginning of a prompt that is likely to come: its tokens, owner, session and account, as in GenerationRequest.

    One of the owner EVERYBODY is the beginning of a template.
    """

    tokens: tuple[int, ...] = field(repr=False)
    owner: str
    session: str
    account: str = ""
    is_draft: bool = False
    """True if it ends with words that a person is still writing: the session's own state stays as it is."""

    @property
    def conversation(self) -> str:
        """The name of the conversation that the state belongs to."""
        return draft_of(self.session) if self.is_draft else self.session


@dataclass(frozen=True)
class Finish:
    """The end of a generation: its reason, the counts of tokens, and the times in milliseconds.

    Where tokens were computed ahead, `timings` holds their number as `draft_n`, and `draft_n_accepted` of them came true.
    """

    reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0
    """Of `completion_tokens`, those of thoughts."""
    timings: dict[str, float] = field(default_factory=dict)
    was_closed: bool = False
    """True if what a constraint had opened was closed by force: the end of the text is not the model's own."""
    stop_string: str = ""
    """The stop string that ended the text; "" if none did."""


@dataclass(frozen=True)
class Spent(Amounts):
    """The cost of a request: tokens read (and how many of them were computed before), tokens written, and CPU seconds."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cpu_seconds: float = 0.0
