"""llama.cpp's samplers: what each of them leaves out, drawn from the guide's own probabilities."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest

from services.backend.types import GenerationRequest, LoadSettings, Prompt, Sampling
from services.engine.llama.batch import Run
from services.engine.llama.runner import Runner
from services.engine.llama.sampling import ChainSampler
from services.errors import InvalidRequest
from tests.support.tiny import GUIDE

# Everything is likely enough to be drawn.
WIDE = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=1)
N_DRAWN = 1500


@dataclass
class Row:
    """The guide's logits behind a prompt, in the runner's context."""

    runner: Runner
    tokens: tuple[int, ...]
    number: int
    logits: npt.NDArray[np.float32]

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        weights = np.exp(self.logits.astype(np.float64) - self.logits.max())
        found: npt.NDArray[np.float64] = weights / weights.sum()
        return found

    def sampler(self, sampling: Sampling, max_tokens: int = 10_000) -> ChainSampler:
        return self.runner.sampler(GenerationRequest(self.tokens, max_tokens, sampling))

    def drawn(self, sampling: Sampling, n: int = N_DRAWN) -> list[int]:
        sampler = self.sampler(sampling)
        found = []
        for _ in range(n):
            sampled = sampler.sample(self.number, 10_000)
            assert sampled
            found.append(sampled.token)
        sampler.close()
        return found


@pytest.fixture(scope="module")
def row() -> Iterator[Row]:
    runner = Runner(LoadSettings(GUIDE, 512, n_parallel=1, n_threads=1))
    tokens = tuple(runner.vocabulary.tokenize(Prompt("Human: Tell me about yourself.\nAI: I")))
    [number] = runner.decode([Run(0, 0, tokens, True)])
    sampler = runner.sampler(GenerationRequest(tokens, 10, WIDE))
    yield Row(runner, tokens, number, sampler._logits(number).copy())
    sampler.close()
    runner.close()


def hot(row: Row, **fields: float) -> Sampling:
    """A sampling at a temperature at which many tokens are likely."""
    return replace(WIDE, temperature=3.0, **fields)  # type: ignore[arg-type]


def test_top_k_0_and_below_mean_all(row: Row) -> None:
    drawn = row.drawn(hot(row, top_k=0))
    assert len(set(drawn)) > 40
    assert row.drawn(hot(row, top_k=-1)) == drawn


def test_top_k_keeps_the_likeliest(row: Row) -> None:
    assert set(row.drawn(hot(row, top_k=3))) == set(np.argsort(-row.logits)[:3].tolist())


def test_top_n_sigma_keeps_what_is_near_the_likeliest(row: Row) -> None:
    # As many deviations below the likeliest as keep five tokens.
    fifth = np.sort(row.logits)[-5]
    n = float((row.logits.max() - fifth) / row.logits.std()) + 1e-3
    assert set(row.drawn(replace(WIDE, temperature=10.0, top_n_sigma=n))) == set(np.argsort(-row.logits)[:5].tolist())


def test_typical_p_leaves_out_what_surprises_too_much_or_too_little(row: Row) -> None:
    probabilities = row.probabilities
    surprise = -np.log(np.maximum(probabilities, 1e-300))
    entropy = float((probabilities * surprise).sum())
    order = np.argsort(np.abs(surprise - entropy), kind="stable")
    n = int(np.searchsorted(np.cumsum(probabilities[order]), 0.3)) + 1
    assert set(row.drawn(replace(WIDE, typical_p=0.3))) <= set(order[: n + 1].tolist())


def test_xtc_leaves_out_the_likeliest_now_and_then(row: Row) -> None:
    sampling = replace(WIDE, top_k=5, temperature=1.0)
    order = np.argsort(-row.logits)[:5]
    kept = row.probabilities[order] / row.probabilities[order].sum()
    # XTC looks at the probabilities before the temperature; all but the last token above the threshold go.
    threshold = float(kept[2]) - 1e-4
    if threshold > 0.5:
        pytest.skip("the guide is too sure")
    always = Counter(row.drawn(replace(sampling, xtc_probability=1.0, xtc_threshold=threshold)))
    assert set(always) <= set(order[2:].tolist())
    half = Counter(row.drawn(replace(sampling, xtc_probability=0.5, xtc_threshold=threshold)))
    share = (half[int(order[0])] + half[int(order[1])]) / N_DRAWN
    assert math.isclose(share, 0.5 * float(kept[:2].sum()), abs_tol=0.06)
    never = Counter(row.drawn(replace(sampling, xtc_probability=0.5, xtc_threshold=0.6)))
    assert never[int(order[0])] / N_DRAWN == pytest.approx(float(kept[0]), abs=0.06)


def test_dry_forbids_to_go_on_with_a_repetition(row: Row) -> None:
    wanted = int(row.logits.argmax())
    others = np.argsort(-row.logits)[50:55].tolist()
    repeated = (*others, wanted, *others)
    sampling = Sampling(temperature=0, dry_multiplier=50.0, dry_sequence_breakers=())

    def likeliest(sampling: Sampling) -> int:
        sampler = row.runner.sampler(GenerationRequest(repeated, 100, sampling))
        sampled = sampler.sample(row.number, 100)
        sampler.close()
        assert sampled
        return sampled.token

    assert likeliest(Sampling(temperature=0)) == wanted
    assert likeliest(sampling) != wanted
    assert likeliest(replace(sampling, dry_allowed_length=6)) == wanted
    assert likeliest(replace(sampling, dry_penalty_last_n=0)) == wanted
    assert likeliest(replace(sampling, dry_penalty_last_n=5)) == wanted
    # A repetition ends at a breaker.
    breaker = row.runner.vocabulary.piece(others[-1]).decode()
    assert likeliest(replace(sampling, dry_sequence_breakers=(breaker,))) == wanted


def test_repeat_last_n_bounds_the_repeat_penalty(row: Row) -> None:
    wanted = int(row.logits.argmax())
    rest = np.argsort(-row.logits)[50:150].tolist()
    prompt = (wanted, *rest)
    strong = Sampling(temperature=0, repeat_penalty=1e6)

    def likeliest(last_n: int) -> int:
        sampler = row.runner.sampler(GenerationRequest(prompt, 100, replace(strong, repeat_last_n=last_n)))
        sampled = sampler.sample(row.number, 100)
        sampler.close()
        assert sampled
        return sampled.token

    assert [likeliest(last_n) == wanted for last_n in (64, 0, 100, 101, 1000, -1)] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_aims_at_a_surprise(row: Row, version: int) -> None:
    def surprise(tau: float) -> float:
        tokens = row.drawn(replace(WIDE, mirostat=version, mirostat_tau=tau, mirostat_eta=0.1, temperature=2.0), 400)
        return float(-np.log2(row.probabilities[tokens]).mean())

    assert surprise(0.5) < surprise(6.0)
    # At temperature 0 the likeliest token is taken all the same.
    assert set(row.drawn(replace(WIDE, mirostat=version, temperature=0.0), 20)) == {int(row.logits.argmax())}


def test_an_answer_may_not_end_before_its_least_tokens(row: Row) -> None:
    [end] = row.runner.vocabulary.tokenize(Prompt("<|end|>"))
    bias = replace(WIDE, temperature=0, logit_bias=((end, 1000.0),), n_top=1)
    assert row.drawn(bias, 3) == [end] * 3
    before = row.logits.copy()
    assert [token == end for token in row.drawn(replace(bias, min_tokens=3), 5)] == [False] * 3 + [True] * 2
    assert end not in row.drawn(replace(bias, ignore_eos=True), 5)
    # The model's own probabilities are told.
    sampler = row.sampler(replace(bias, ignore_eos=True))
    assert (sampler._logits(row.number) == before).all()
    sampler.close()


def test_a_bias_of_an_unknown_token_is_refused(row: Row) -> None:
    with pytest.raises(InvalidRequest, match="logit_bias"):
        row.sampler(replace(WIDE, logit_bias=((10**6, 1.0),)))
