"""The fields of chats and completions that say how tokens are chosen; the names are OpenAI's and llama-server's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from services.answers.request import sampling_of
from services.api.openai.open_body import Open, Whole
from services.api.openai.thinking_fields import agreed
from services.validation import AnswerPenalty, RepeatPenalty, Share, StopStrings, Temperature

# What a client may ask for at most: as many tokens as there is room for.
UNLIMITED = 2**31 - 1
MOST_BIASES = 1024

# What bans a token. It is no infinity, since the engine's requests are JSON.
_NEVER = -1e9


def _seed(seed: object) -> object:
    """Return any whole number that a client draws as one that llama.cpp takes, and -1, which draws a new one, as None."""
    if not isinstance(seed, int) or isinstance(seed, bool):
        return seed
    return None if seed == -1 else seed % (2**32 - 1)


def _top_k(k: object) -> object:
    """Return -1, which is vLLM's word for all tokens, as 0."""
    return 0 if k == -1 and not isinstance(k, bool) else k


def _pairs(given: object) -> object:
    """Return biases as a list of pairs, which llama-server takes beside OpenAI's mapping."""
    if isinstance(given, dict):
        return list(given.items())
    return [tuple(each) if isinstance(each, list) else each for each in given] if isinstance(given, list) else given


def _at_most_8(n: int) -> int:
    if n > 8:
        raise ValueError("one request may ask for 8 answers at most: send several requests for more")
    return n


AnySeed = Annotated[int | None, BeforeValidator(_seed), Whole]
AnyTopK = Annotated[int, Field(ge=0, le=2**31 - 1), BeforeValidator(_top_k), Whole]
AnyMaxTokens = Annotated[int, Field(ge=-1, le=UNLIMITED), Whole]
Count = Annotated[int, Field(ge=0, le=UNLIMITED), Whole]
# Tokens to look back on; -1: all of the context.
LastN = Annotated[int, Field(ge=-1, le=UNLIMITED), Whole]
Answers = Annotated[int, Field(ge=1), AfterValidator(_at_most_8), Whole]
Bias = Annotated[float, Field(ge=-100, le=100)]
Token = Annotated[int, Field(ge=0, le=UNLIMITED), Whole]
Biases = Annotated[
    list[tuple[Token | str, Bias | bool]],
    Field(max_length=MOST_BIASES),
    BeforeValidator(_pairs, json_schema_input_type=dict[str, Bias | bool]),
]
Breakers = Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=64)]


class SamplingFields(Open):
    """How tokens are chosen, and where the answer ends. A field that is left out the profile decides."""

    max_tokens: AnyMaxTokens | None = None
    n_predict: AnyMaxTokens | None = None
    n: Answers | None = None
    n_cmpl: Answers | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: AnyTopK | None = None
    min_p: Share | None = None
    typical_p: Share | None = None
    top_n_sigma: Annotated[float, Field(ge=-1, le=1000)] | None = None
    xtc_probability: Share | None = None
    xtc_threshold: Share | None = None
    repeat_penalty: RepeatPenalty | None = None
    repetition_penalty: RepeatPenalty | None = None
    repeat_last_n: LastN | None = None
    presence_penalty: AnswerPenalty | None = None
    frequency_penalty: AnswerPenalty | None = None
    dry_multiplier: Annotated[float, Field(ge=0, le=1000)] | None = None
    dry_base: Annotated[float, Field(ge=1, le=1000)] | None = None
    dry_allowed_length: Count | None = None
    dry_penalty_last_n: LastN | None = None
    dry_sequence_breakers: Breakers | None = None
    mirostat: Annotated[Literal[0, 1, 2], Whole] | None = None
    mirostat_tau: Annotated[float, Field(ge=0, le=1000)] | None = None
    mirostat_eta: Share | None = None
    seed: AnySeed | None = None
    stop: StopStrings | None = None
    logit_bias: Biases | None = None
    min_tokens: Count | None = None
    ignore_eos: bool | None = None

    @model_validator(mode="after")
    def _agrees(self) -> SamplingFields:
        agreed(self._given("n", "n_cmpl"))
        agreed(self._given("repeat_penalty", "repetition_penalty"))
        longest = agreed(self._given(*self._lengths))
        if self.min_tokens and longest is not None and 0 <= longest < self.min_tokens:
            raise ValueError(f"min_tokens: {self.min_tokens} tokens are more than the answer may have, {longest}")
        self.biases()
        return self

    @property
    def n_answers(self) -> int:
        """How many answers each prompt gets."""
        return agreed(self._given("n", "n_cmpl")) or 1

    def longest(self, default: int) -> int:
        """Return the most tokens of an answer; `default` if the request does not say."""
        longest: int | None = agreed(self._given(*self._lengths))
        return default if longest is None else UNLIMITED if longest == -1 else longest

    def sampling(self) -> dict[str, Any]:
        """Return the fields of `Sampling` that the request sets."""
        given: Mapping[str, Any] = sampling_of(self)
        penalty = agreed(self._given("repeat_penalty", "repetition_penalty"))
        changed = {
            "repeat_penalty": penalty,
            "dry_sequence_breakers": None if self.dry_sequence_breakers is None else tuple(self.dry_sequence_breakers),
        }
        return {**given, **{name: value for name, value in changed.items() if value is not None}}

    def biases(self) -> tuple[tuple[int, float], ...]:
        """Return what is added to the logits of tokens. Raises ValueError for a key that is no token id."""
        biases = []
        for token, bias in self.logit_bias or ():
            if isinstance(token, str) and (not token.isdecimal() or len(token) > 9):
                raise ValueError(f"logit_bias: {token[:32]!r} is no token id; /tokenize gives the ids of a text")
            if bias is True:
                raise ValueError("logit_bias: a bias is a number, or false")
            biases.append((int(token), _NEVER if bias is False else float(bias)))
        return tuple(biases)

    @property
    def _lengths(self) -> tuple[str, ...]:
        """The fields that limit the answer."""
        return "max_tokens", "n_predict"

    def _given(self, *names: str) -> Iterator[tuple[str, Any]]:
        yield from ((name, value) for name in names if (value := getattr(self, name)) is not None)
