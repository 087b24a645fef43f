"""The fields of chats and completions that say how tokens are chosen; the names are OpenAI's and llama-server's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from services.answers.request import sampling_of
from services.api.http.open_body import Open, Whole
from services.api.openai.samplers import sampler_names
from services.api.openai.thinking_fields import agreed
from services.storage.json_text import read_json_text
from services.validation import AnswerPenalty, RepeatPenalty, Share, StopString, at_most

# What a client may ask for at most: as many tokens as there is room for.
UNLIMITED = 2**31 - 1
MOST_BIASES, MOST_STOPS = 1024, 64
MOST_IDS = 2**18

# What bans a token. It is no infinity, since the engine's requests are JSON.
_NEVER = -1e9
# The most characters of a text that holds sequence breakers.
_LONGEST_BREAKERS = 2**13
_ID = re.compile(r"-?[0-9]{1,20}")


def _seed(seed: object) -> object:
    """Return any whole number that a client draws as one that llama.cpp takes, and -1, which draws a new one, as None."""
    if not isinstance(seed, int) or isinstance(seed, bool):
        return seed
    return None if seed == -1 else seed % (2**32 - 1)


def _top_k(k: object) -> object:
    """Return -1, which is vLLM's word for all tokens, as 0."""
    return 0 if k == -1 and not isinstance(k, bool) else k


def _pairs(given: object) -> object:
    """Return biases as a list of pairs, which llama-server takes beside OpenAI's mapping.

    A mapping's key that is a number is a token id, any other a text, as each text in a list is.
    """
    if isinstance(given, dict):
        if wrong := next((key for key in given if key.startswith("-") and _ID.fullmatch(key)), None):
            raise ValueError(f"{wrong} is no token id")
        return [(int(key) if _ID.fullmatch(key) else key, bias) for key, bias in given.items()]
    return [tuple(each) if isinstance(each, list) else each for each in given] if isinstance(given, list) else given


def _stops(given: object) -> object:
    """Return stop texts as a list without empty ones, which end nothing; None if there are no others."""
    stops = [given] if isinstance(given, str) else given
    if not isinstance(stops, list | None):
        raise ValueError("should be a text or a list of texts")
    return ([stop for stop in stops if stop != ""] or None) if stops else stops


def _breakers(given: object) -> object:
    """Return DRY's sequence breakers as a list: SillyTavern sends the text of one, or texts with commas between."""
    if not isinstance(given, str) or len(given) > _LONGEST_BREAKERS:
        return given
    for text in (given, f"[{given}]"):
        if isinstance(listed := read_json_text(text), list):
            return listed
    return [each for each in given.split(",") if each]


def _samplers(given: object) -> object:
    if not isinstance(given, str | list) or not all(isinstance(each, str) for each in given):
        raise ValueError("should be a list of the names of samplers")
    return sampler_names(given)


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
BiasedText = Annotated[str, Field(min_length=1, max_length=256)]
Biases = Annotated[
    list[tuple[Token | BiasedText, Bias | bool]],
    Field(max_length=MOST_BIASES),
    BeforeValidator(_pairs, json_schema_input_type=dict[str, Bias | bool]),
]
Breakers = Annotated[
    list[Annotated[str, Field(max_length=64)]],
    Field(max_length=64),
    BeforeValidator(_breakers, json_schema_input_type=list[str]),
]
# OpenAI's models end at 2, others do not.
AnyTemperature = Annotated[float, Field(ge=0, le=5)]
AnyStop = Annotated[
    Annotated[list[StopString], Field(max_length=MOST_STOPS)] | None,
    BeforeValidator(_stops, json_schema_input_type=StopString | list[StopString] | None),
]
SamplerNames = Annotated[tuple[str, ...], BeforeValidator(_samplers, json_schema_input_type=list[str] | str)]
DynatempValue = Annotated[float, Field(ge=0, le=100)]
Ids = Annotated[list[Token], Field(max_length=MOST_IDS), at_most(MOST_IDS)]
FewIds = Annotated[list[Token], Field(max_length=64), at_most(64)]
Words = Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=256), at_most(256)]


class SamplingFields(Open):
    """How tokens are chosen, and where the answer ends. A field that is left out the profile decides."""

    max_tokens: AnyMaxTokens | None = None
    n_predict: AnyMaxTokens | None = None
    n: Answers | None = None
    n_cmpl: Answers | None = None
    temperature: AnyTemperature | None = None
    dynatemp_range: DynatempValue | None = None
    dynatemp_exponent: DynatempValue | None = None
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
    mirostat_mode: Annotated[Literal[0, 1, 2], Whole] | None = None
    mirostat_tau: Annotated[float, Field(ge=0, le=1000)] | None = None
    mirostat_eta: Share | None = None
    seed: AnySeed | None = None
    samplers: SamplerNames | None = None
    min_keep: Count | None = None
    stop: AnyStop = None
    stop_token_ids: FewIds | None = None
    include_stop_str_in_output: bool | None = None
    no_stop_trim: bool | None = None
    logit_bias: Biases | None = None
    bad_words: Words | None = None
    banned_strings: Words | None = None
    allowed_token_ids: Annotated[Ids, Field(min_length=1)] | None = None
    min_tokens: Count | None = None
    ignore_eos: bool | None = None

    @model_validator(mode="after")
    def _agrees(self) -> SamplingFields:
        agreed(self.given("n", "n_cmpl"))
        agreed(self.given("repeat_penalty", "repetition_penalty"))
        longest = agreed(self.given(*self._lengths))
        if self.min_tokens and longest is not None and 0 <= longest < self.min_tokens:
            raise ValueError(f"min_tokens: {self.min_tokens} tokens are more than the answer may have, {longest}")
        agreed(self.given("mirostat", "mirostat_mode"))
        agreed(self.given("include_stop_str_in_output", "no_stop_trim"))
        if any(bias is True for _, bias in self.logit_bias or ()):
            raise ValueError("logit_bias: a bias is a number, or false")
        return self

    @property
    def n_answers(self) -> int:
        """The number of answers to each prompt."""
        return agreed(self.given("n", "n_cmpl")) or 1

    def longest(self, default: int) -> int:
        """Return the most tokens of an answer; `default` if the request does not say."""
        longest: int | None = agreed(self.given(*self._lengths))
        return default if longest is None else UNLIMITED if longest == -1 else longest

    @property
    def keeps_stop(self) -> bool:
        """True if the stop text that ended the answer is its last text."""
        return bool(agreed(self.given("include_stop_str_in_output", "no_stop_trim")))

    def sampling(self) -> dict[str, Any]:
        """Return the fields of `Sampling` that the request sets, but for the biases of token ids."""
        given: Mapping[str, Any] = sampling_of(self)
        changed: dict[str, Any] = {
            "repeat_penalty": agreed(self.given("repeat_penalty", "repetition_penalty")),
            "mirostat": agreed(self.given("mirostat", "mirostat_mode")),
            "dry_sequence_breakers": None if self.dry_sequence_breakers is None else tuple(self.dry_sequence_breakers),
            "text_bias": tuple((text, bias) for text, bias in self._biases() if isinstance(text, str)) or None,
            "banned": (*(self.bad_words or ()), *(self.banned_strings or ())) or None,
            "allowed_tokens": tuple(self.allowed_token_ids) if self.allowed_token_ids else None,
        }
        return {**given, **{name: value for name, value in changed.items() if value is not None}}

    def biases(self) -> tuple[tuple[int, float], ...]:
        """Return what is added to the logits of tokens, by their ids."""
        return tuple((token, bias) for token, bias in self._biases() if isinstance(token, int))

    def _biases(self) -> Iterator[tuple[int | str, float]]:
        for token, bias in self.logit_bias or ():
            yield token, _NEVER if bias is False else float(bias)

    @property
    def _lengths(self) -> tuple[str, ...]:
        """The fields that limit the answer."""
        return "max_tokens", "n_predict"

    def given(self, *names: str) -> Iterator[tuple[str, Any]]:
        """Yield those of the fields that the request sets, with their values."""
        yield from ((name, value) for name in names if (value := getattr(self, name)) is not None)
