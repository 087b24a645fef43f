"""The order of the samplers, the temperature that follows the entropy, and the tokens that a request rules out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.backend.types import SAMPLERS, GenerationRequest, LoadSettings, Prompt, Sampling
from services.engine.llama.batch import Run
from services.engine.llama.prefix_table import PrefixTable
from services.engine.llama.runner import Runner
from services.errors import InvalidRequest
from tests.support.tiny import GUIDE, guide_tokens, write_chain

# Everything is likely enough to be drawn.
WIDE = Sampling(temperature=3.0, top_k=0, top_p=1.0, min_p=0.0, seed=1)
N_DRAWN = 400


class Row:
    """The guide's logits behind a prompt."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.tokens = tuple(runner.vocabulary.tokenize(Prompt("Human: Tell me about yourself.\nAI: I")))
        [self.number] = runner.decode([Run(0, 0, self.tokens, True)])
        sampler = runner.sampler(GenerationRequest(self.tokens, 10, WIDE))
        self.logits = sampler._logits(self.number).copy()
        sampler.close()

    @property
    def order(self) -> list[int]:
        found: list[int] = np.argsort(-self.logits, kind="stable").tolist()
        return found

    def drawn(self, sampling: Sampling, n: int = N_DRAWN, **fields: tuple[int, ...]) -> list[int]:
        sampler = self.runner.sampler(GenerationRequest(self.tokens, 10_000, sampling, **fields))  # type: ignore[arg-type]
        found = []
        for _ in range(n):
            if (sampled := sampler.sample(self.number, 10_000)) is None:
                break
            found.append(sampled.token)
        sampler.close()
        return found

    def probabilities(self, temperature: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        weights = np.exp((self.logits.astype(np.float64) - self.logits.max()) / temperature)
        return np.asarray(weights / weights.sum())


@pytest.fixture(scope="module")
def row() -> Iterator[Row]:
    runner = Runner(LoadSettings(GUIDE, 512, n_parallel=1, n_threads=1))
    yield Row(runner)
    runner.close()


def test_the_usual_order_may_be_named(row: Row) -> None:
    sampling = replace(WIDE, top_k=20, top_p=0.9, min_p=0.01, repeat_penalty=1.3, xtc_probability=0.5, xtc_threshold=0.05)
    assert row.drawn(sampling) == row.drawn(replace(sampling, samplers=SAMPLERS))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("penalties", {"repeat_penalty": 5.0, "presence_penalty": 50.0}),
        ("dry", {"dry_multiplier": 50.0, "dry_allowed_length": 1}),
        ("top_n_sigma", {"top_n_sigma": 0.5}),
        ("top_k", {"top_k": 2}),
        ("typ_p", {"typical_p": 0.2}),
        ("top_p", {"top_p": 0.2}),
        ("min_p", {"min_p": 0.5}),
        ("xtc", {"xtc_probability": 1.0, "xtc_threshold": 1e-9}),
        ("temperature", {"temperature": 5.0}),
    ],
)
def test_a_sampler_that_is_not_named_is_off(row: Row, name: str, changes: dict[str, float]) -> None:
    others = tuple(each for each in SAMPLERS if each != name)
    changed = replace(WIDE, **changes)  # type: ignore[arg-type]
    usual = row.drawn(replace(WIDE, samplers=others))
    assert row.drawn(replace(changed, samplers=others)) == usual
    assert row.drawn(replace(changed, samplers=SAMPLERS)) != usual


def test_the_order_counts(row: Row) -> None:
    # As many as make up 0.8 of the chances before the temperature, and behind it.
    counts = []
    for temperature in (1.0, 3.0):
        summed = np.cumsum(np.sort(row.probabilities(temperature))[::-1])
        counts.append(int(np.searchsorted(summed, 0.8)) + 1)
    assert counts[0] < counts[1]
    sampling = replace(WIDE, top_p=0.8)
    n_before = len(set(row.drawn(replace(sampling, samplers=("top_p", "temperature")), 4000)))
    n_behind = len(set(row.drawn(replace(sampling, samplers=("temperature", "top_p")), 4000)))
    assert n_before <= counts[0] < n_behind <= counts[1]
    # A sampler that remembers counts behind XTC as well.
    late = replace(WIDE, xtc_probability=0.5, xtc_threshold=0.5, samplers=("xtc", "penalties"), frequency_penalty=1e4)
    assert len(set(row.drawn(late, 30))) == 30


def test_temperature_0_draws_where_it_is_not_named(row: Row) -> None:
    cold = replace(WIDE, temperature=0.0)
    assert set(row.drawn(cold)) == {row.order[0]}
    assert set(row.drawn(replace(cold, samplers=("temperature", "top_k")))) == {row.order[0]}
    # The first three alike likely.
    even = tuple((token, float(row.logits.max() - row.logits[token])) for token in row.order[:3])
    drawn = row.drawn(replace(cold, samplers=("top_k",), top_k=3, logit_bias=even))
    assert set(drawn) == set(row.order[:3])


def test_samplers_keep_a_least_number(row: Row) -> None:
    for changes in ({"top_p": 0.001}, {"min_p": 1.0}, {"typical_p": 0.001}):
        sampling = replace(WIDE, **changes)  # type: ignore[arg-type]
        assert len(set(row.drawn(sampling))) == 1
        assert len(set(row.drawn(replace(sampling, min_keep=4), 1000))) == 4
    # The likeliest one goes once others are left.
    xtc = replace(WIDE, top_k=3, xtc_probability=1.0, xtc_threshold=0.0001)
    assert row.order[0] not in row.drawn(xtc)
    assert row.order[0] in row.drawn(replace(xtc, min_keep=3))


def test_the_temperature_follows_the_entropy(row: Row) -> None:
    for temperature, spread, exponent in ((1.0, 0.8, 1.0), (2.0, 1.0, 0.3), (0.5, 2.0, 1.0), (0.0, 3.0, 0.5)):
        plain = row.probabilities(1.0)
        entropy = float(-(plain * np.log(np.maximum(plain, 1e-300))).sum() / np.log(len(plain)))
        lowest, highest = max(temperature - spread, 0.0), temperature + spread
        wanted = lowest + (highest - lowest) * entropy**exponent
        sampling = replace(WIDE, temperature=temperature, dynatemp_range=spread, dynatemp_exponent=exponent)
        # The same random numbers choose the same tokens at that temperature.
        assert row.drawn(sampling) == pytest.approx(row.drawn(replace(WIDE, temperature=wanted)), abs=0) or (
            np.mean(np.array(row.drawn(sampling)) == np.array(row.drawn(replace(WIDE, temperature=wanted)))) > 0.97
        )
    # However little the temperature becomes, the numbers stay numbers.
    sampling = replace(WIDE, temperature=1.0, dynatemp_range=1.0, dynatemp_exponent=100.0)
    assert set(row.drawn(sampling)) == {row.order[0]}


@pytest.mark.parametrize("names", [("top_k", "tail_free"), ("",), ("top_k", "min_p", "top_k")])
def test_what_is_no_sampler_is_refused(row: Row, names: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest, match="samplers") as refused:
        row.drawn(replace(WIDE, samplers=names))
    assert refused.value.param == "samplers"


def test_a_texts_bias_is_that_of_its_tokens(row: Row) -> None:
    text = "number stream"
    tokens = row.runner.vocabulary.tokenize(Prompt(text, bos=False))
    assert len(tokens) > 1
    strong = row.drawn(replace(WIDE, text_bias=((text, 1000.0),)))
    assert set(strong) == set(tokens)
    # Added to that of an id.
    assert set(row.drawn(replace(WIDE, text_bias=((text, 1000.0),), logit_bias=((tokens[0], -2000.0),)))) == set(tokens[1:])
    # A special token's text is that token.
    [end] = row.runner.vocabulary.tokenize(Prompt("<|end|>"))
    assert set(row.drawn(replace(WIDE, text_bias=(("<|end|>", 1000.0),)), 5)) == {end}


@pytest.mark.parametrize("temperature", [0.0, 3.0])
def test_only_allowed_tokens_are_chosen(row: Row, temperature: float) -> None:
    allowed = tuple(row.order[50:54])
    sampling = replace(WIDE, temperature=temperature, allowed_tokens=(*allowed, allowed[0]), n_top=1)
    drawn = row.drawn(sampling)
    assert set(drawn) == (set(allowed) if temperature else {allowed[0]})
    # The typical ones among them too, where llama.cpp itself would compute with the logarithm of 0.
    assert set(row.drawn(replace(sampling, typical_p=0.9))) <= set(allowed)
    # The model's own probabilities are told.
    sampler = row.runner.sampler(GenerationRequest(row.tokens, 10, sampling))
    sampled = sampler.sample(row.number, 10)
    assert sampled
    assert sampled.choice
    assert sampled.choice.top[0][0] == row.runner.vocabulary.known(row.order[0]).written
    sampler.close()


@pytest.mark.parametrize("changes", [{"top_n_sigma": 4.0}, {"min_p": 1e-12}, {"temperature": 0.05}])
def test_the_typical_ones_of_those_that_others_left(row: Row, changes: dict[str, float]) -> None:
    """Others leave tokens of no probability, of which llama.cpp's typical_p alone would make no numbers."""
    even = tuple((token, float(row.logits.max() - row.logits[token])) for token in row.order[:4])
    rare = (row.order[4], float(row.logits.max() - row.logits[row.order[4]]) - 0.1)
    sampling = replace(WIDE, logit_bias=(*even, rare), samplers=("min_p", "top_n_sigma", "temperature", "typ_p"))
    sampling = replace(sampling, typical_p=0.7, **{"temperature": 0.1, **changes})  # type: ignore[arg-type]
    # Alike likely, they surprise as much as is expected; the rarer one does more, and comes last.
    assert set(row.drawn(sampling)) <= set(row.order[:4])
    assert len(set(row.drawn(sampling))) >= 3


def test_a_bias_of_minus_infinity_rules_a_token_out(row: Row) -> None:
    never = -math.inf
    first, second = row.order[:2]
    text = row.runner.vocabulary.known(first).written.decode()
    for temperature in (0.0, 0.01):
        cold = replace(WIDE, temperature=temperature, typical_p=0.9)
        assert set(row.drawn(replace(cold, logit_bias=((first, never),)), 20)) == {second}
        assert first not in row.drawn(replace(cold, text_bias=((text, never),)), 20)
        assert row.drawn(replace(cold, logit_bias=tuple((token, never) for token in range(len(row.logits))))) == []


def test_nothing_is_left_where_all_is_ruled_out(row: Row) -> None:
    first = row.order[0]
    text = row.runner.vocabulary.known(first).written.decode()
    for temperature in (0.0, 1.0):
        assert row.drawn(replace(WIDE, temperature=temperature, allowed_tokens=(first,), banned=(text,))) == []


def test_banned_texts_are_not_written(row: Row) -> None:
    vocabulary = row.runner.vocabulary
    first = vocabulary.known(row.order[0]).written.decode()
    drawn = row.drawn(replace(WIDE, temperature=0, banned=(first.strip(),)), 3)
    assert first.strip() not in b"".join(map(vocabulary.piece, drawn)).decode("utf-8", "replace")
    assert drawn[0] != row.order[0]
    # Whatever tokens would write it.
    texts = ("e", " th", "\n", "an")
    text = b"".join(map(vocabulary.piece, row.drawn(replace(WIDE, banned=texts), 2000))).decode("utf-8", "replace")
    assert len(text) > 1000
    assert not any(each in text for each in texts)
    # A special token too.
    [end] = vocabulary.tokenize(Prompt("<|end|>"))
    sure = replace(WIDE, logit_bias=((end, 1000.0),))
    assert row.drawn(sure, 2) == [end] * 2
    assert end not in row.drawn(replace(sure, banned=("<|end|>",)), 5)


def test_a_banned_text_is_completed_by_no_token(row: Row) -> None:
    vocabulary = row.runner.vocabulary
    tokens = row.order[:40]
    # Only the last token of these may not come, and only behind the others.
    words = [token for token in tokens if vocabulary.piece(token).strip()][:3]
    text = b"".join(map(vocabulary.piece, words)).decode()
    sampling = replace(WIDE, temperature=0, banned=(text,))
    sampler = row.runner.sampler(GenerationRequest(row.tokens, 10, sampling))
    for token in words[:2]:
        sampler.resume(token, 10)
    masked = sampler._limits.masked(row.logits)
    assert masked[words[2]] == -np.inf
    assert masked[words[0]] > -np.inf
    sampler.resume(words[0], 9)
    assert sampler._limits.masked(row.logits)[words[2]] > -np.inf
    sampler.close()


def test_stop_tokens_wait_for_the_least_tokens(row: Row) -> None:
    [end] = row.runner.vocabulary.tokenize(Prompt("<|end|>"))
    sure = replace(WIDE, temperature=0, logit_bias=((row.order[9], 1000.0),))
    assert row.drawn(sure, 2, stop_tokens=(row.order[9],)) == [row.order[9]] * 2
    drawn = row.drawn(replace(sure, min_tokens=2), 3, stop_tokens=(row.order[9],))
    assert [token == row.order[9] for token in drawn] == [False, False, True]
    # One that is named ends the answer, though the model's own ends do not.
    sure = replace(WIDE, logit_bias=((end, 1000.0),), ignore_eos=True)
    assert row.drawn(sure, 2, stop_tokens=(end,)) == [end, end]


@pytest.mark.parametrize(
    ("sampling", "stop_tokens", "param"),
    [
        (WIDE, (10**6,), "stop_token_ids"),
        (WIDE, (-1,), "stop_token_ids"),
        (replace(WIDE, allowed_tokens=(1, 10**6)), (), "allowed_token_ids"),
        (replace(WIDE, banned=("a", "")), (), "bad_words"),
    ],
)
def test_what_does_not_exist_is_refused(row: Row, sampling: Sampling, stop_tokens: tuple[int, ...], param: str) -> None:
    with pytest.raises(InvalidRequest, match=param) as refused:
        row.drawn(sampling, stop_tokens=stop_tokens)
    assert refused.value.param == param


def test_tokens_by_their_beginnings() -> None:
    texts = [b"", b"ab", b"b", b"abc", b"\xff", b"\xffa", b"ab", b"cab"]
    table = PrefixTable(texts)
    for text in (b"a", b"ab", b"abcd", b"\xff", b"c", b"d"):
        wanted = [n for n, each in enumerate(texts) if each.startswith(text)]
        assert sorted(table.beginning_with(text).tolist()) == wanted
        assert sorted(table.containing([text]).tolist()) == [n for n, each in enumerate(texts) if text in each]
    assert sorted(table.containing([b"abc", b"\xffa"]).tolist()) == [3, 5]


def test_what_the_model_s_file_suppresses_is_never_written(tmp_path: Path) -> None:
    tokens = [*guide_tokens(), "<one>", "<two>", "<three>"]
    ids = {text: tokens.index(text) for text in tokens[-3:]}
    only = replace(WIDE, allowed_tokens=tuple(ids.values()))
    for suppressed in ((), ("<two>",)):
        file = write_chain(tmp_path / f"{len(suppressed)}.gguf", tokens, tokens[-3:], suppressed=suppressed)
        runner = Runner(LoadSettings(file, 512, n_parallel=1))
        assert set(Row(runner).drawn(only)) == {token for text, token in ids.items() if text not in suppressed}
        runner.close()
