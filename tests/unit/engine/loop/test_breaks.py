"""Calls within thoughts, one call alone, and tokens that end an answer: models that say given tokens, at temperature 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.backend.types import Constraint, Finish, GenerationRequest, LoadSettings, Mark, Prompt, Sampling, Thoughts
from services.engine.loop.engine import Engine
from services.errors import InvalidRequest
from tests.support.scripted_model import write_marked_model

GREEDY = Sampling(temperature=0)
CONTROLS, MARKS = ("<|stop|>", "<|mark|>"), ("<think>", "</think>", "<tool>")
THOUGHTS = Thoughts("<think>", "</think>", is_open=True)
CALL = Constraint("lark", 'start: "yes" | "no"', ("<tool>",))


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Engine]]:
    """Opens engines that say the given tokens, each once."""
    folder: Path = tmp_path_factory.mktemp("scripted")
    opened: dict[tuple[str, ...], Engine] = {}

    def open_(*said: str) -> Engine:
        if said not in opened:
            path = write_marked_model(folder / f"{len(opened)}.gguf", said, CONTROLS, MARKS)
            opened[said] = Engine.open(LoadSettings(path, 512, n_parallel=1, n_threads=1))
        return opened[said]

    yield open_
    for each in opened.values():
        each.close()


def request(engine: Engine, constraint: Constraint | None = None, **fields: Any) -> GenerationRequest:
    sampling = replace(fields.pop("sampling", GREEDY), constraint=constraint)
    asked = GenerationRequest(tuple(engine.tokenize(Prompt("Hello"))), 60, sampling, marks=True)
    return replace(asked, **fields)


def run(engine: Engine, asked: GenerationRequest) -> tuple[list[str], Finish]:
    generation = engine.submit(asked)
    pieces = [piece for piece in generation.chunks(lambda: None) if piece]
    assert generation.finish
    return pieces, generation.finish


def token(engine: Engine, text: str) -> int:
    size = engine._runner.vocabulary.size
    return engine.pieces(range(size)).index(text.encode())


SPECIAL = ("Let me", "\nponder", "<tool>", "{twelve}")
SPELLED = ("Let me", "\nponder<to", "ol>{", "twelve}")


@pytest.mark.parametrize("said", [SPECIAL, SPELLED])
@pytest.mark.parametrize("closing", ["", " So.</think>\n\n"])
def test_a_call_ends_the_thought(scripted: Callable[..., Engine], said: tuple[str, ...], closing: str) -> None:
    engine = scripted(*said)
    thoughts = replace(THOUGHTS, breaks=("<tool>",), closing=closing)
    # The stop string is the call's own, not the thought's.
    for stop, text in (((), "".join(said)), (("me", "{tw"), "Let me\nponder<tool>"), (("<tool>",), "Let me\nponder")):
        pieces, finish = run(engine, request(engine, thoughts=thoughts, stop=stop))
        assert "".join(pieces) == text
        assert (finish.reason, finish.reasoning_tokens) == ("stop", 2)
    # Without breaks it is a thought.
    _, finish = run(engine, request(engine, thoughts=replace(thoughts, breaks=())))
    assert finish.reasoning_tokens == len(said) + 1


def test_white_space_behind_a_thought_holds_no_stop_string(scripted: Callable[..., Engine]) -> None:
    engine = scripted("ponder", "</think>", "\n\n \n", "\nZwölf", "\n\nmore")
    for stop, text in (("\n", "Zwölf"), ("\n\n", "Zwölf"), ("Z", ""), ("wölf", "Z"), ("\n\nm", "Zwölf")):
        pieces, finish = run(engine, request(engine, thoughts=THOUGHTS, stop=(stop,)))
        assert "".join(pieces) == f"ponder</think>\n\n \n\n{text}"
        assert finish.reason == "stop"


@pytest.mark.parametrize("said", [SPECIAL, SPELLED])
@pytest.mark.parametrize("budget", [None, 3])
def test_a_constraint_holds_behind_the_call(
    scripted: Callable[..., Engine], said: tuple[str, ...], budget: int | None
) -> None:
    engine = scripted(*said)
    thoughts = replace(THOUGHTS, breaks=("<tool>",), closing=" So.</think>\n\n", budget=budget)
    required = (
        Constraint("regex", "<tool>(yes|no)") if said is SPELLED else Constraint("lark", 'start: <tool> ("yes" | "no")')
    )
    for constraint in (replace(CALL, once=True), required):
        pieces, finish = run(engine, request(engine, constraint, thoughts=thoughts))
        assert "".join(pieces) in ("Let me\nponder<tool>yes", "Let me\nponder<tool>no")
        assert (finish.reason, finish.reasoning_tokens) == ("stop", 2)
    # What the constraint does not begin with closes the thought instead.
    pieces, finish = run(engine, request(engine, Constraint("regex", "yes|no"), thoughts=thoughts))
    before, _, answer = "".join(pieces).partition(" So.</think>\n\n")
    assert before == "Let me\nponder" + ("" if said is SPECIAL else "<to")
    assert answer.strip() in ("yes", "no")


def test_a_call_of_several_tokens_may_hold_special_ones(scripted: Callable[..., Engine]) -> None:
    engine = scripted("Let me", "<tool>", "[go]", "twelve")
    break_ = "<tool>[go]"
    pieces, finish = run(engine, request(engine, thoughts=replace(THOUGHTS, breaks=(break_,)), stop=("go", "me")))
    assert pieces == ["Let me", Mark("<tool>"), "["]
    assert [type(piece) for piece in pieces] == [str, Mark, str]
    assert finish.reasoning_tokens == 1
    # What might have been one is a thought, at the end too.
    for stop in ((), ("go", "twelve")):
        thoughts = replace(THOUGHTS, breaks=("<tool>[gone]", "twelve!"))
        pieces, finish = run(engine, request(engine, thoughts=thoughts, stop=stop))
        assert ("".join(pieces), finish.reasoning_tokens) == ("Let me<tool>[go]twelve", 5)


def test_an_answer_ends_with_its_one_call(scripted: Callable[..., Engine]) -> None:
    engine = scripted("before ", "<tool>", " behind")
    pieces, finish = run(engine, request(engine, replace(CALL, once=True)))
    assert "".join(pieces) in ("before <tool>yes", "before <tool>no")
    assert finish.reason == "stop"
    pieces, _ = run(engine, request(engine, CALL))
    assert "".join(pieces) not in ("before <tool>yes", "before <tool>no")
    # A call that may be longer ends where the model writes something else.
    longer = Constraint("regex", "(yes|no)[xyz]*", ("<tool>",), once=True)
    pieces, finish = run(engine, request(engine, longer))
    assert "".join(pieces).removeprefix("before <tool>").rstrip("xyz") in ("yes", "no")
    assert finish.reason == "stop"


def test_each_trigger_holds_its_own(scripted: Callable[..., Engine]) -> None:
    constraint = replace(CALL, triggers=("call:",), also=(Constraint("regex", "aab|ab", ("<tool>",)),), once=True)
    for said, texts in ((("before ", "<tool>"), ("aab", "ab")), (("before ", "call:x"), ("yes", "no"))):
        engine = scripted(*said)
        pieces, finish = run(engine, request(engine, constraint))
        assert "".join(pieces).removeprefix("before ").removeprefix("<tool>").removeprefix("call:") in texts
        assert finish.reason == "stop"
    with pytest.raises(InvalidRequest, match="regular expression"):
        engine.submit(request(engine, replace(constraint, also=(Constraint("regex", "(", ("<tool>",)),))))


def test_a_trigger_in_a_header(scripted: Callable[..., Engine]) -> None:
    """gpt-oss names the function it calls in a message's header."""
    engine = scripted("analysis", "<|stop|>", "Hm", "<think>", "<tool>", "to=f", "twelve")
    thoughts = Thoughts("<tool>analysis<|stop|>", "<think>", breaks=())
    pieces, finish = run(engine, request(engine, Constraint("regex", "yes|no", ("to=f",), once=True), thoughts=thoughts))
    assert "".join(pieces).endswith(("<tool>to=fyes", "<tool>to=fno"))
    assert finish.reason == "stop"


@pytest.mark.parametrize("marks", [True, False])
@pytest.mark.parametrize("keeps", [True, False])
def test_a_stop_token_ends_the_answer(scripted: Callable[..., Engine], marks: bool, keeps: bool) -> None:
    said = ("one,", "two,", "<|mark|>", "three,")
    engine = scripted(*said)
    for text, n in (("two,", 2), ("<|mark|>", 3), ("one,", 1)):
        asked = request(engine, stop_tokens=(token(engine, text), token(engine, "three,")), marks=marks, keeps_stop=keeps)
        pieces, finish = run(engine, asked)
        expected = "".join(said[: n if keeps else n - 1])
        assert "".join(pieces) == (expected if marks else expected.replace("<|mark|>", ""))
        assert (finish.reason, finish.completion_tokens) == ("stop", n)


@pytest.mark.parametrize("stop", [("o,t",), ("wo,", "two,x"), ("<tool>",), ("o,t", "o,"), ("<tool>four", "r"), ("four!",)])
def test_the_stop_string_may_be_kept(scripted: Callable[..., Engine], stop: tuple[str, ...]) -> None:
    said = ("one,", "two,", "<tool>", "four.")
    engine = scripted(*said)
    text = "".join(said)
    found = min(((text.index(each), len(each)) for each in stop if each in text), default=None)
    for keeps in (True, False):
        pieces, finish = run(engine, request(engine, stop=stop, keeps_stop=keeps))
        end = len(text) if found is None else found[0] + (found[1] if keeps else 0)
        assert "".join(pieces) == text[:end]
        assert finish.reason == "stop"


@pytest.mark.parametrize(
    "fields",
    [
        {"thoughts": replace(THOUGHTS, breaks=("<tool>",)), "stop": ("{t",)},
        {"thoughts": replace(THOUGHTS, breaks=("<tool>{", "}x"), budget=2, closing=" So.</think>"), "stop": ("tool",)},
        {"thoughts": replace(THOUGHTS, breaks=("<tool>{twelve}!",))},
        {"stop": ("{twel",), "keeps_stop": True},
        {"sampling": replace(GREEDY, banned=("ponder<", "{t", "ol>"))},
        {"sampling": replace(GREEDY, text_bias=(("ponder", 5.0),), min_keep=2, samplers=("top_k",), top_k=3, seed=5)},
        {"sampling": Sampling(temperature=1.5, seed=3, dynatemp_range=1.0, allowed_tokens=(*range(300, 900),))},
        {"sampling": Sampling(temperature=1.5, seed=3, samplers=("xtc", "penalties", "temperature"), xtc_probability=0.5,
                              xtc_threshold=0.01, repeat_penalty=1.5)},
        {"constraint": replace(CALL, once=True), "thoughts": replace(THOUGHTS, breaks=("<tool>",), closing=" So")},
        {"constraint": Constraint("regex", "yes|no"), "thoughts": replace(THOUGHTS, breaks=("<tool>",), closing=" So")},
        {"constraint": Constraint("regex", "<tool>(yes|no)+!"), "thoughts": replace(THOUGHTS, breaks=("<tool>",))},
        {"constraint": replace(CALL, triggers=("Let me",), also=(CALL,))},
    ],
)  # fmt: skip
@pytest.mark.parametrize("said", [SPECIAL, ("Let me", "\nponder<to", "ol>", "{twelve}")])
def test_another_engine_goes_on(scripted: Callable[..., Engine], said: tuple[str, ...], fields: dict[str, Any]) -> None:
    engine = scripted(*said)
    asked = request(engine, **{"max_tokens": 12, **fields})
    first = engine.submit(asked)
    pieces = [piece for piece in first.chunks(lambda: None) if piece]
    whole, chosen = "".join(pieces), tuple(first.tokens)
    assert first.finish
    for n_given in range(1, len(chosen) + 1):
        for delivered in {0, sum(map(len, pieces[: n_given - 1]))}:
            rest, finish = run(engine, replace(asked, resume_tokens=chosen[:n_given], delivered=delivered))
            assert whole[:delivered] + "".join(rest) == whole
            assert (finish.reason, finish.reasoning_tokens) == (first.finish.reason, first.finish.reasoning_tokens)


def test_what_has_ended_by_a_stop_token_is_over(scripted: Callable[..., Engine]) -> None:
    engine = scripted("one,", "two,", "<|mark|>", "three,")
    asked = request(engine, stop_tokens=(token(engine, "two,"),), keeps_stop=True)
    generation = engine.submit(asked)
    assert "".join(generation.chunks(lambda: None)) == "one,two,"
    pieces, finish = run(engine, replace(asked, resume_tokens=tuple(generation.tokens), delivered=4))
    assert ("".join(pieces), finish.reason, finish.completion_tokens) == ("two,", "stop", 2)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop_tokens": (10**7,)}, "stop_token_ids"),
        ({"sampling": replace(GREEDY, allowed_tokens=(10**7,))}, "allowed_token_ids"),
        ({"sampling": replace(GREEDY, banned=("",))}, "bad_words"),
        ({"sampling": replace(GREEDY, samplers=("top_a",))}, "samplers"),
    ],
)
def test_what_is_not_valid_is_refused_before_it_queues(
    scripted: Callable[..., Engine], fields: dict[str, Any], param: str
) -> None:
    engine = scripted("one,", "two,", "<|mark|>", "three,")
    with pytest.raises(InvalidRequest) as refused:
        engine.submit_all([request(engine), request(engine, **fields)])
    assert refused.value.param == param
    assert engine.n_waiting == 0
