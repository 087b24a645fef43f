"""Speculation: the answers are those without it, whatever ends them, and so is the state they leave."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.backend.types import Constraint, Finish, GenerationRequest, LoadSettings, Prompt, Sampling
from services.engine.kv.checkpoints import STEP
from services.engine.loop.engine import Engine
from services.engine.loop.generation import EngineGeneration
from services.engine.loop.ngrams import NGrams
from services.engine.loop.sequence import Sequence
from services.engine.loop.speculation import SIZES, Speculation, StepCosts
from tests.support.real_models import smollm2
from tests.support.tiny import (
    write_hybrid_model,
    write_random_model,
    write_recurrent_model,
    write_window_model,
)
from tests.unit.engine.loop.test_sliding_window import ask, distance

GREEDY = Sampling(temperature=0)
# The circle model goes on with the next id. Its prompt has a part of the circle, and then a jump where a draft goes wrong.
PART = tuple(range(400, 480))
PROMPT = (*PART, *range(700, 760), *PART[:4])
CIRCLE = range(404, 700)


@pytest.fixture(autouse=True)
def _free_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that cost next to nothing, so that each match is a draft whatever this machine measures."""
    monkeypatch.setattr(StepCosts, "cost", lambda self, n_rows: 1 + n_rows / 1000)
    monkeypatch.setattr(StepCosts, "most_rows", SIZES[-1])


@pytest.fixture(scope="module")
def circle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = tmp_path_factory.mktemp("circle") / "circle.gguf"
    engine = Engine.open(LoadSettings(write_random_model(path, layers=1, ffn=64, certain=True), 2048, n_threads=1))
    yield engine
    engine.close()


def submitted(engine: Engine, prompt: tuple[int, ...] = PROMPT, max_tokens: int = 60, **fields: Any) -> EngineGeneration:
    fields.setdefault("sampling", GREEDY)
    fields.setdefault("owner", "a")
    return engine.submit(GenerationRequest(prompt, max_tokens, **fields))


def answered(engine: Engine, *args: Any, **fields: Any) -> tuple[list[int], str, Finish]:
    generation = submitted(engine, *args, **fields)
    text = "".join(generation.chunks(lambda: None))
    assert generation.finish
    return generation.tokens, text, generation.finish


def text_of(engine: Engine, tokens: list[int]) -> str:
    return b"".join(engine.pieces(tokens)).decode()


def test_a_copy_is_drafted_up_to_where_it_ends(circle: Engine) -> None:
    before = circle.counts.drafted_tokens, circle.counts.accepted_tokens
    tokens, text, finish = answered(circle, max_tokens=100)
    assert tokens == list(CIRCLE[:100])
    assert text == text_of(circle, tokens)
    timings = finish.timings
    # All of the part but for its last tokens, which share a draft with the jump.
    assert len(PART) - 20 < timings["draft_n_accepted"] < timings["draft_n"]
    after = circle.counts.drafted_tokens, circle.counts.accepted_tokens
    assert [new - old for new, old in zip(after, before, strict=True)] == [timings["draft_n"], timings["draft_n_accepted"]]


@pytest.mark.parametrize("n", range(1, 40, 3))
def test_the_most_tokens_end_an_answer_within_a_draft(circle: Engine, n: int) -> None:
    tokens, _, finish = answered(circle, max_tokens=n, owner=f"most {n}")
    assert tokens == list(CIRCLE[:n])
    assert (finish.reason, finish.completion_tokens) == ("length", n)
    # The state ends before the last token, which was never computed.
    _, _, again = answered(circle, (*PROMPT, *tokens, 5), 1, owner=f"most {n}")
    assert again.cached_tokens == len(PROMPT) + n - 1


@pytest.mark.parametrize("n", range(1, 40, 3))
def test_a_stop_within_a_draft_ends_the_answer_there(circle: Engine, n: int) -> None:
    stop = text_of(circle, [CIRCLE[n]])
    written = next(m for m in range(1, n + 2) if stop in text_of(circle, list(CIRCLE[:m])))
    tokens, text, finish = answered(circle, stop=(stop,), owner=str(n))
    assert text == text_of(circle, list(CIRCLE[:written])).partition(stop)[0]
    assert (tokens, finish.reason) == (list(CIRCLE[:written]), "stop")
    _, _, again = answered(circle, (*PROMPT, *tokens, 5), 1, owner=str(n))
    assert again.cached_tokens == len(PROMPT) + written - 1
    tokens, _, finish = answered(circle, stop_tokens=(CIRCLE[n],))
    assert (tokens, finish.reason, finish.completion_tokens) == (list(CIRCLE[:n]), "stop", n + 1)


def test_every_field_of_a_request_holds_within_drafts(circle: Engine) -> None:
    plain = list(CIRCLE[:60])
    generation = submitted(circle, sampling=replace(GREEDY, n_top=2))
    list(generation.chunks(lambda: None))
    assert [choice.ids[0] for choice in generation.choices] == plain
    assert all(choice.logprob > -0.5 for choice in generation.choices)
    stop = CIRCLE[5]
    tokens, _, _ = answered(circle, sampling=replace(GREEDY, min_tokens=30), stop_tokens=(stop,))
    assert stop not in tokens
    assert len(tokens) == 60
    banned = text_of(circle, [CIRCLE[20]])
    _, text, _ = answered(circle, sampling=replace(GREEDY, banned=(banned,)))
    assert banned not in text


def test_a_constrained_answer_is_the_same(circle: Engine) -> None:
    written = text_of(circle, list(CIRCLE[:30]))
    assert not set(written) & set("\\")
    literal = "".join(f"\\{each}" if not each.isalnum() and each.isascii() and each != " " else each for each in written)
    tokens, text, finish = answered(circle, sampling=replace(GREEDY, constraint=Constraint("regex", literal)))
    assert (text, finish.reason) == (written, "stop")
    assert finish.timings["draft_n_accepted"] > 0
    assert tokens[:30] == list(CIRCLE[:30])


def test_a_seed_draws_the_same_tokens(circle: Engine) -> None:
    few = tuple(CIRCLE[:6])
    sampling = Sampling(temperature=30, seed=7, allowed_tokens=few, top_k=0, top_p=1)
    drawn, _, finish = answered(circle, max_tokens=200, sampling=sampling)
    assert finish.timings["draft_n"] > finish.timings["draft_n_accepted"] > 10
    # Beside another answer there are no drafts.
    other = submitted(circle, (5, 6, 7), 1000)
    plain, _, finish = answered(circle, max_tokens=200, sampling=sampling)
    other.stop()
    list(other.chunks(lambda: None))
    assert "draft_n" not in finish.timings
    assert drawn == plain
    assert len(set(drawn)) == len(few)


def test_what_another_engine_has_begun_goes_on_by_drafts(circle: Engine) -> None:
    _, text, finish = answered(circle, max_tokens=60, resume_tokens=tuple(CIRCLE[:20]))
    assert text == text_of(circle, list(CIRCLE[:60]))
    assert finish.timings["draft_n_accepted"] > 20


def test_cancelling_leaves_a_state_that_is_gone_on_with(circle: Engine) -> None:
    for n in (1, 5, 20):
        generation = submitted(circle, max_tokens=900, owner=f"cancelled {n}")
        chunks = generation.chunks(lambda: None)
        for _ in range(n):
            next(chunks)
        generation.stop()
        list(chunks)
        assert generation.finish
        assert generation.finish.reason == "cancelled"
        tokens = generation.tokens
        assert tokens == list(CIRCLE[: len(tokens)])
        assert (
            answered(circle, (*PROMPT, *tokens, 5), 1, owner=f"cancelled {n}")[2].cached_tokens
            == len(PROMPT) + len(tokens) - 1
        )


def test_a_profile_can_do_without(circle: Engine, tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "circle.gguf", layers=1, ffn=64, certain=True)
    engine = Engine.open(LoadSettings(path, 2048, n_threads=1, speculation=False))
    tokens, _, finish = answered(engine)
    engine.close()
    assert tokens == list(CIRCLE[:60])
    assert "draft_n" not in finish.timings


KINDS: dict[str, tuple[Callable[[Path], Path], dict[str, Any], bool]] = {
    "plain": (lambda path: write_random_model(path, dim=128, layers=2, ffn=256), {}, True),
    "window": (write_window_model, {"n_batch": 32, "swa_full": False}, True),
    "whole window": (write_window_model, {"swa_full": True}, True),
    "recurrent": (lambda path: write_recurrent_model(path, dim=128, state=16, layers=2), {}, False),
    "hybrid": (write_hybrid_model, {}, False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_behind_drafts_is_what_would_be_computed_cold(kind: str, tmp_path: Path) -> None:
    write, changes, has_drafts = KINDS[kind]
    loaded = LoadSettings(write(tmp_path / "model.gguf"), 2048, n_parallel=1, n_threads=1, **changes)
    rng = random.Random(3)
    prompt = tuple(rng.choices(range(400, 900), k=STEP - 30))
    # Few tokens to choose from repeat themselves often, and go on otherwise as often.
    sampling = Sampling(temperature=1, seed=1, allowed_tokens=(401, 402, 403))
    engine = Engine.open(loaded)
    tokens, _, finish = answered(engine, prompt, 400, sampling=sampling, session="1")
    if has_drafts:
        assert finish.timings["draft_n"] > finish.timings["draft_n_accepted"] > 10
    else:
        engine.close()
        assert "draft_n" not in finish.timings
        return
    turn = (*prompt, *tokens, *rng.choices(range(400, 900), k=9))
    edit = (*turn[: STEP + 6], *rng.choices(range(400, 900), k=9))
    warm = {}
    for asked, n_cached in ((turn, len(prompt) + 399), (edit, STEP if changes.get("swa_full") is False else STEP + 6)):
        warm[asked], finish = ask(engine, asked, "1")
        assert finish.cached_tokens == n_cached
    engine.close()
    cold: list[dict[Any, Any]] = []
    for n_batch in (128, 17):
        engine = Engine.open(replace(loaded, n_batch=n_batch, speculation=False))
        cold.append({asked: ask(engine, asked, str(len(asked)))[0] for asked in (turn, edit)})
        engine.close()
    noise = max(distance(cold[0][asked], cold[1][asked]) for asked in (turn, edit))
    for asked, said in warm.items():
        assert distance(said, cold[0][asked]) <= 2 * noise + 1e-4


def test_no_draft_leaps_over_a_checkpoint(tmp_path: Path) -> None:
    write, changes, _ = KINDS["window"]
    loaded = LoadSettings(write(tmp_path / "model.gguf"), 2048, n_parallel=1, n_threads=1, **changes)
    engine = Engine.open(loaded)
    prompt = tuple(range(400, 400 + STEP - 30))
    tokens, _, finish = answered(engine, prompt, 400, sampling=replace(GREEDY, allowed_tokens=(401,)), session="1")
    _, edited = ask(engine, (*prompt, *tokens[:36], 500), "1")
    engine.close()
    assert finish.timings["draft_n_accepted"] > 300
    assert edited.cached_tokens == STEP


def test_smollm2_repeats_its_prompt_as_without(monkeypatch: pytest.MonkeyPatch) -> None:
    # Said twice already, it is gone on with by every kernel; a draft is made once half of it has come true.
    verse = (
        "Seven grey herons stood beside the mill, and each of them had caught a silver fish before the bell rang twice. "
        "Then all of them flew over the hill, while the miller closed his door and lit the lamp."
    )
    asked = f"{verse}\n{verse}\n{verse[:23]}"
    said = {}
    for speculation in (True, False):
        engine = Engine.open(LoadSettings(smollm2(), 512, n_parallel=1, n_threads=1, speculation=speculation))
        said[speculation] = answered(engine, tuple(engine.tokenize(Prompt(asked))), 36)
        engine.close()
    assert said[True][:2] == said[False][:2]
    assert said[True][2].timings["draft_n_accepted"] >= 10


def test_an_occurrence_that_reaches_the_end_is_repeated() -> None:
    ngrams = NGrams([7, 1, 2, 3, 4, 1, 2, 3])
    assert ngrams.draft(8) == [4, 1, 2, 3, 4, 1, 2, 3]
    tokens = [5, 5, 5]
    ngrams = NGrams(tokens)
    assert ngrams.draft(4) == []
    tokens.append(5)
    ngrams.advance()
    assert ngrams.draft(4) == [5, 5, 5, 5]


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=80), st.integers(1, 20))
def test_a_draft_is_what_came_behind_the_last_tokens_before(prompt: list[int], answer: list[int], most: int) -> None:
    tokens = list(prompt)
    ngrams = NGrams(tokens)
    for token in answer:
        tokens.append(token)
        ngrams.advance()
        draft, chances = ngrams.draft(most), ngrams.chances(most)
        written = [*tokens, *draft]
        earlier = [n for n in range(3, len(tokens)) if tokens[n - 3 : n] == tokens[-3:]]
        assert bool(draft) == bool(earlier)
        assert any(written[n : n + len(draft)] == draft for n in earlier) or not draft
        assert len(draft) == len(chances) == (most if draft else 0)
        assert chances == sorted(chances, reverse=True)


@pytest.fixture
def _real_costs(monkeypatch: pytest.MonkeyPatch, _free_rows: None) -> None:
    monkeypatch.undo()


@pytest.mark.usefixtures("_real_costs")
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), row=st.floats(0, 1), share=st.floats(0, 1))
def test_drafts_never_cost_and_a_copy_gains(seed: int, row: float, share: float) -> None:
    """Answers that go on as their prompt does for a share of their tokens, on machines where rows cost any amount."""
    rng = random.Random(seed)
    prompt = [rng.randrange(30) for _ in range(200)]
    speculation = Speculation(is_on=True, n_ctx=10_000)
    seconds, n_tokens = 0.0, 0
    for _ in range(4):
        sequence = Sequence(GenerationRequest(tuple(prompt), 400, GREEDY))
        sequence.ngrams = NGrams(sequence.tokens)
        source = rng.randrange(200)
        answer = []
        for _ in range(400):
            source = (source + 1) % 200 if rng.random() < share else rng.randrange(200)
            answer.append(prompt[source])
        at = 0
        while at < 400:
            draft = speculation.draft(sequence, 15) if at else ()
            n_right = next((n for n, token in enumerate(draft) if token != answer[at + n]), len(draft))
            took = (1 + row * len(draft)) * rng.uniform(0.9, 1.1)
            speculation.costs.observe(1 + len(draft), took)
            seconds += took
            for token in answer[at : at + n_right + 1]:
                sequence.append(token)
            at += n_right + 1
        n_tokens += 400
    assert seconds <= 1.02 * n_tokens
    if share > 0.99 and row < 0.5:
        assert seconds <= n_tokens / 1.3
