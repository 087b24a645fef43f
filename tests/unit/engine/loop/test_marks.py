"""Special tokens in an answer, and thoughts: a model that says given tokens, at temperature 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.backend.types import Constraint, Finish, GenerationRequest, LoadSettings, Mark, Prompt, Sampling, Thoughts
from services.engine.loop.engine import Engine
from tests.support.scripted_model import write_marked_model

GREEDY = Sampling(temperature=0)
CONTROLS = ("<|part|>", "<|text|>", "<|stop|>", "<think>")
MARKS = ("</think>", "<tool>")
SAID = ("<|part|>", "analysis", "<|text|>", "Let me", "\nstop", " ponder", "<|stop|>", "It is\xa0", "<tool>", "twelve")
PIECES = [Mark("<|part|>"), "analysis", Mark("<|text|>"), "Let me", "\nstop", " ponder", Mark("<|stop|>")]
PIECES += ["It is\xa0", Mark("<tool>"), "twelve"]
THOUGHTS = Thoughts("<|part|>analysis<|text|>", "<|stop|>")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = tmp_path_factory.mktemp("scripted") / "scripted.gguf"
    made = Engine.open(LoadSettings(write_marked_model(path, SAID, CONTROLS, MARKS), 1024, n_parallel=1, n_threads=1))
    yield made
    made.close()


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Opens engines that say the given tokens."""
    opened: list[Engine] = []

    def open_(*said: str) -> Engine:
        path = write_marked_model(tmp_path / f"{len(opened)}.gguf", said, CONTROLS, MARKS)
        opened.append(Engine.open(LoadSettings(path, 1024, n_parallel=1, n_threads=1)))
        return opened[-1]

    yield open_
    for each in opened:
        each.close()


def request(engine: Engine, sampling: Sampling = GREEDY, max_tokens: int = 60, **fields: Any) -> GenerationRequest:
    return GenerationRequest(tuple(engine.tokenize(Prompt("Hello"))), max_tokens, sampling, marks=True, **fields)


def run(engine: Engine, asked: GenerationRequest) -> tuple[list[str], Finish]:
    generation = engine.submit(asked)
    pieces = [piece for piece in generation.chunks(lambda: None) if piece]
    assert generation.finish
    assert generation.n_choices == len(generation.choices)
    return pieces, generation.finish


def ids(engine: Engine, text: str) -> tuple[int, ...]:
    return tuple(engine.tokenize(Prompt(text)))


def kinds(pieces: list[str]) -> list[tuple[str, bool]]:
    """The pieces, with the text between marks as one."""
    found: list[tuple[str, bool]] = []
    for piece in pieces:
        is_mark = isinstance(piece, Mark)
        if found and not is_mark and not found[-1][1]:
            found[-1] = (found[-1][0] + piece, False)
        else:
            found.append((str(piece), is_mark))
    return found


def test_special_tokens_come_as_marks_in_their_places(engine: Engine) -> None:
    pieces, finish = run(engine, request(engine))
    assert kinds(pieces) == kinds(PIECES)
    assert (finish.reason, finish.completion_tokens, finish.reasoning_tokens) == ("stop", len(SAID) + 1, 0)


def test_without_marks_control_tokens_are_left_out_and_added_ones_are_text(engine: Engine) -> None:
    pieces, _ = run(engine, replace(request(engine), marks=False))
    assert "".join(pieces) == "analysisLet me\nstop ponderIt is\xa0<tool>twelve"
    assert not any(isinstance(piece, Mark) for piece in pieces)


@pytest.mark.parametrize("marks", [True, False])
@pytest.mark.parametrize("stop", ["<|stop|>", "<tool>", "ponder<|stop|>It", "It is\xa0<tool>", "<tool>twelve"])
def test_a_stop_string_may_name_special_tokens(engine: Engine, stop: str, marks: bool) -> None:
    shown = "".join(PIECES)
    pieces, finish = run(engine, replace(request(engine, stop=(stop,)), marks=marks))
    expected = shown[: shown.index(stop)]
    if not marks:
        for control in CONTROLS:
            expected = expected.replace(control, "")
    assert "".join(pieces) == expected
    assert finish.reason == "stop"


@pytest.mark.parametrize("stop", ["|>", "<", "channel", "tool>"])
def test_a_stop_string_is_not_found_within_a_mark(engine: Engine, stop: str) -> None:
    pieces, _ = run(engine, request(engine, stop=(stop,)))
    assert kinds(pieces) == kinds(PIECES)


def test_half_a_character_before_a_mark_comes_before_it(scripted: Callable[..., Engine]) -> None:
    # The first bytes of a character of three.
    engine = scripted("abcdef", "<tool>")
    generation = engine.submit(request(engine))
    text = generation._text
    assert text.add(b"x\xe2\x82", None) == ["x"]
    assert text.add(b"<tool>", Mark("<tool>")) == ["\ufffd", Mark("<tool>")]
    generation.cancel()


def test_stop_strings_do_not_look_into_thoughts(engine: Engine) -> None:
    pieces, finish = run(engine, request(engine, stop=("\nstop", "me"), thoughts=THOUGHTS))
    assert kinds(pieces) == kinds(PIECES)
    # The tokens behind the tag that begins it, and the one that ends it.
    assert finish.reasoning_tokens == 4


def test_stop_strings_do_not_look_into_headers(engine: Engine) -> None:
    """Where a thought begins with text between special tokens, other parts of an answer do too."""
    pieces, _ = run(engine, request(engine, stop=("analysis", "is"), thoughts=THOUGHTS))
    assert kinds(pieces) == kinds(PIECES)
    other = replace(THOUGHTS, begins="<|part|>other<|text|>")
    pieces, finish = run(engine, request(engine, stop=("analysis", "me"), thoughts=other))
    assert ("".join(pieces), finish.reason) == ("<|part|>analysis<|text|>Let ", "stop")


def test_a_budget_closes_the_thought(engine: Engine) -> None:
    closing = " Enough.<|stop|>"
    thoughts = replace(THOUGHTS, budget=2, closing=closing)
    pieces, finish = run(engine, request(engine, thoughts=thoughts))
    assert "".join(pieces) == "<|part|>analysis<|text|>Let me\nstop Enough.<|stop|>It is\xa0<tool>twelve"
    assert finish.reasoning_tokens == 2 + len(ids(engine, closing))
    assert finish.reason == "stop"


def test_no_budget_closes_an_open_thought_at_once(engine: Engine) -> None:
    thoughts = replace(THOUGHTS, is_open=True, budget=0, closing="<|stop|>")
    pieces, finish = run(engine, request(engine, thoughts=thoughts))
    assert "".join(pieces) == "<|stop|>It is\xa0<tool>twelve"
    assert finish.reasoning_tokens == 1
    # Where nobody says how, the tag alone closes it.
    pieces, _ = run(engine, request(engine, thoughts=replace(THOUGHTS, budget=0)))
    assert "".join(pieces) == "<|part|>analysis<|text|><|stop|>It is\xa0<tool>twelve"


def test_a_thought_is_stopped_at_its_readers_wish(engine: Engine) -> None:
    generation = engine.submit(request(engine, thoughts=replace(THOUGHTS, closing="!<|stop|>")))
    generation.stop_thinking()
    assert "".join(generation.chunks(lambda: None)) == "<|part|>analysis<|text|>!<|stop|>It is\xa0<tool>twelve"


def test_choices_of_special_and_forced_tokens_have_their_text(engine: Engine) -> None:
    thoughts = replace(THOUGHTS, budget=1, closing="!<|stop|>")
    generation = engine.submit(request(engine, replace(GREEDY, n_top=2), thoughts=thoughts))
    pieces: list[tuple[str, bytes]] = []
    n = 0
    for piece in generation.chunks(lambda: None):
        pieces.append((piece, b"".join(choice.piece for choice in generation.choices[n : generation.n_choices])))
        n = generation.n_choices
    assert all(piece.encode() == chosen for piece, chosen in pieces)
    assert "".join(piece for piece, _ in pieces) == "<|part|>analysis<|text|>Let me!<|stop|>It is\xa0<tool>twelve"
    assert all(len(choice.top) == 2 for choice in generation.choices)


@pytest.mark.parametrize(
    "thoughts", [None, THOUGHTS, replace(THOUGHTS, budget=2), replace(THOUGHTS, is_open=True, budget=0)]
)
@pytest.mark.parametrize("stop", [(), ("tool", "twelve"), ("<tool>",)])
@pytest.mark.parametrize("marks", [True, False])
def test_another_engine_goes_on_with_marks_and_thoughts(
    engine: Engine, thoughts: Thoughts | None, stop: tuple[str, ...], marks: bool
) -> None:
    if thoughts:
        thoughts = replace(thoughts, closing=" So.<|stop|>")
    asked = replace(request(engine, thoughts=thoughts, stop=stop), marks=marks)
    first = engine.submit(asked)
    pieces = [piece for piece in first.chunks(lambda: None) if piece]
    chosen, whole = tuple(first.tokens), kinds(pieces)
    assert first.finish
    for n_given in range(1, len(chosen) + 1):
        for n_pieces in range(len(pieces) + 1):
            delivered = sum(map(len, pieces[:n_pieces]))
            rest, finish = run(engine, replace(asked, resume_tokens=chosen[:n_given], delivered=delivered))
            assert kinds(pieces[:n_pieces] + rest) == whole
            assert (finish.reason, finish.reasoning_tokens) == (first.finish.reason, first.finish.reasoning_tokens)


def test_an_answer_of_no_tokens_reads_the_prompt(engine: Engine) -> None:
    pieces, finish = run(engine, request(engine, max_tokens=0))
    assert (pieces, finish.reason, finish.completion_tokens) == ([], "length", 0)
    assert finish.prompt_tokens == len(ids(engine, "Hello"))


def test_the_prompts_tokens_have_choices_too(engine: Engine) -> None:
    prompt = "Tell me of many things, " * 20
    asked = replace(request(engine, replace(GREEDY, n_top=2)), tokens=ids(engine, prompt), prompt_logprobs=True)
    for _ in range(2):
        # The second time too nothing is taken from what is computed.
        generation = engine.submit(asked)
        assert "".join(generation.chunks(lambda: None)) == "".join(PIECES)
        told = generation.prompt_choices
        assert b"".join(choice.piece for choice in told).decode() == prompt.removeprefix(
            b"".join(engine.pieces(asked.tokens[:1])).decode()
        )
        assert all(len(choice.top) == 2 and choice.logprob <= choice.top[0][1] <= 0 for choice in told)
        assert generation.finish
        assert generation.finish.cached_tokens == 0
    # An answer of no tokens has them as well.
    generation = engine.submit(replace(asked, max_tokens=0))
    assert list(generation.chunks(lambda: None)) == []
    assert [choice.logprob for choice in generation.prompt_choices] == [choice.logprob for choice in told]


def test_the_constraint_holds_behind_the_thought(scripted: Callable[..., Engine]) -> None:
    engine = scripted("<think>", "{thoughts}", "</think>", "saids!")
    thoughts = Thoughts("<think>", "</think>")
    schema = Constraint("json_schema", '{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}')
    sampling = replace(GREEDY, constraint=schema)
    # The model may think first, and need not.
    pieces, finish = run(engine, request(engine, sampling, thoughts=thoughts))
    assert "".join(pieces).startswith("<think>{thoughts}</think>{")
    assert finish.reason in ("stop", "length")
    pieces, _ = run(engine, request(engine, sampling))
    assert "".join(pieces).startswith("{")
    pieces, _ = run(engine, request(engine, sampling, thoughts=replace(thoughts, is_open=True)))
    assert "".join(pieces).startswith("<think>{thoughts}</think>{")


def test_an_end_within_a_thought_does_not_leave_out_the_constraint(scripted: Callable[..., Engine]) -> None:
    engine = scripted("{thoughts}")
    thoughts = Thoughts("<think>", "</think>", is_open=True)
    sampling = replace(GREEDY, constraint=Constraint("regex", "yes|no"))
    pieces, finish = run(engine, request(engine, sampling, thoughts=thoughts))
    text = "".join(pieces)
    assert text.startswith("{thoughts}</think>")
    assert text.removeprefix("{thoughts}</think>") in ("yes", "no")
    assert finish.reason == "stop"
    # A short answer's thought makes room for the constraint.
    pieces, finish = run(engine, request(engine, sampling, max_tokens=10, thoughts=thoughts))
    assert "".join(pieces).removeprefix("</think>") in ("yes", "no")


def test_a_lazy_constraint_holds_behind_its_trigger(scripted: Callable[..., Engine]) -> None:
    engine = scripted("before ", "<tool>", " behind")
    constraint = Constraint("regex", "yes|no", ("<tool>",))
    pieces, finish = run(engine, request(engine, replace(GREEDY, constraint=constraint), max_tokens=40))
    assert "".join(pieces[:2]) == "before <tool>"
    assert "".join(pieces[2:]).startswith(("yes", "no"))
    assert finish.reason in ("stop", "length")


def test_the_least_tokens_and_no_end(scripted: Callable[..., Engine]) -> None:
    engine = scripted("one.", "two.", "three.")
    _, finish = run(engine, request(engine, replace(GREEDY, min_tokens=9)))
    assert finish.completion_tokens >= 9
    _, finish = run(engine, request(engine, replace(GREEDY, ignore_eos=True), max_tokens=30))
    assert (finish.reason, finish.completion_tokens) == ("length", 30)
    # Stop strings do not end it before either.
    pieces, finish = run(engine, request(engine, replace(GREEDY, min_tokens=2), stop=("one", "two", "three")))
    assert "".join(pieces) == "one."
