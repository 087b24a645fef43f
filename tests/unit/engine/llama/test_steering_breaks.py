"""Thoughts that a call ends, with the constraints behind them: the words and constraints are those of word_steering.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.backend.types import Constraint, Mark, Thoughts
from services.engine.llama.progress import Part
from services.errors import InvalidRequest
from tests.support.word_steering import END, WORDS, one_of, steered_by, steering, write


def thinking(*breaks: str, **fields: Any) -> Thoughts:
    return Thoughts("<think>", "</think>", is_open=True, breaks=breaks, **fields)


@pytest.mark.parametrize("closing", ["", "end</think>\n"])
@pytest.mark.parametrize(
    ("text", "break_", "wanted", "n_thoughts"),
    [
        ("<call>yes", "<call>", ["a", "b", "<call>", "yes"], 2),
        ("<call>yes", "<call>", ["<call>", "yes"], 0),
        ("call:yes", "call:", ["a", "c", "a", "ll:", "yes"], 1),
        ("call:yes", "call:", ["a", "c", "a", "ll:y", "e", "s"], 1),
        # What might have been a call is a thought.
        ("call:yes", "call:", ["c", "a", "b", "<", "call:", "yes"], 4),
        # It begins within a token.
        ("be:yes", "be:", ["maybe", ":", "yes"], 1),
        ("ye:yes", "ye", ["a", "nk>ye", ":", "yes"], 2),
    ],
)
def test_a_required_call_begins_with_what_ends_the_thought(
    text: str, break_: str, wanted: list[str], n_thoughts: int, closing: str
) -> None:
    steered = steering(text, "no", thoughts=thinking(break_, closing=closing))
    assert write(steered, wanted) == "".join(wanted)
    assert (steered.n_thought_tokens, steered.is_over, steered.is_cut) == (n_thoughts, True, False)


@pytest.mark.parametrize(
    ("break_", "wanted", "written"),
    [
        ("<call>", ["a", "<call>", "no"], "aend</think>\nno"),
        ("call:", ["a", "c", "a", "ll:", "no"], "acaend</think>\nno"),
        ("call:", ["a", "call:x", "no"], "aend</think>\nno"),
        # The thought in the same token is written first.
        (">y", ["a", "nk>ye", "nk>ye"], "ank" * 2),
    ],
)
def test_a_constraint_that_does_not_begin_so_comes_behind_the_closed_thought(
    break_: str, wanted: list[str], written: str
) -> None:
    steered = steering("yes", "no", thoughts=thinking(break_, closing="end</think>\n"))
    assert write(steered, wanted) == written.replace("ank" * 2, "anknk")


def test_a_thought_that_the_model_begins_itself() -> None:
    thoughts = Thoughts("<think>", "</think>", breaks=("<call>",), closing="end</think>\n")
    steered = steering("<call>yes", "no", thoughts=thoughts)
    assert write(steered, ["<think>", "a", "<call>", "yes"]) == "<think>a<call>yes"
    assert (steered.n_thought_tokens, steered.is_over) == (1, True)
    assert write(steering("<call>yes", "no", thoughts=thoughts), ["<call>", "yes"]) == "<call>yes"


WANTED = st.lists(st.sampled_from(("a", "c", "ll:", "call:", "call:x", "ll:y", "<call>", "</think>", "<think>", "yes",
                                   "no", "maybe", ":", "nk>ye", "<", "e", "s")), max_size=12)  # fmt: skip
CONSTRAINTS = (
    None,
    one_of("yes", "no", triggers=("<call>", "call:")),
    one_of("yes", triggers=("call:",), also=(one_of("no", triggers=("<call>", "e")),), once=True),
    one_of("call:yes", "<call>no", "be:yes"),
    one_of("yes", "no"),
)


@settings(max_examples=100)
@given(
    WANTED,
    st.sampled_from(CONSTRAINTS),
    st.lists(st.sampled_from(("<call>", "call:", "be:", ">y", "<call>call:", "a")), max_size=3),
    st.sampled_from((None, 0, 3)),
    st.booleans(),
)
def test_nothing_is_lost_and_another_engine_comes_to_the_same(
    wanted: list[str], constraint: Constraint | None, breaks: list[str], budget: int | None, is_open: bool
) -> None:
    thoughts = Thoughts("<think>", "</think>", is_open, budget, "end</think>\n", tuple(breaks))
    steered, other = steered_by(constraint, thoughts=thoughts), steered_by(constraint, thoughts=thoughts)
    tokens: list[int] = []
    parts: list[Part] = []
    coming, left = list(wanted), 100
    while not steered.is_over and (coming or steered.due(left) is not None):
        if (token := steered.due(left)) is None:
            token = WORDS.index(coming.pop(0))
            if not steered.allows(token):
                continue
            settled = steered.settle(token, left)
            if settled is None or settled == END:
                break
            token = settled
        tokens.append(token)
        parts += steered.accept(token)
        left -= 1
    text = "".join(WORDS[token] for token in tokens)
    assert "".join(part.mark or part.data.decode() for part in (*parts, *steered.rest)) == text
    resumed = [part for number, token in enumerate(tokens) for part in other.resume(token, 100 - number)]
    assert (resumed, other.rest) == (parts, steered.rest)
    assert other.due(left) == steered.due(left)
    assert (other.n_thought_tokens, other.is_over, other.is_cut) == (
        steered.n_thought_tokens,
        steered.is_over,
        steered.is_cut,
    )
    assert [other.allows(token) for token in range(len(WORDS))] == [steered.allows(token) for token in range(len(WORDS))]


def test_a_token_beyond_the_call_is_cut_where_that_fits() -> None:
    steered = steering("call:yes", thoughts=thinking("call:"))
    assert write(steered, ["a", "call:x", "yes"]) == "acall:yes"
    assert steered.n_thought_tokens == 1


@pytest.mark.parametrize(
    ("wanted", "written"),
    [
        (["a", "<call>", "no", "b"], "a<call>nob"),
        (["a", "c", "a", "ll:", "no", "b"], "acall:nob"),
        (["a", "c", "a", "ll:y", "e", "s", "b"], "acall:yesb"),
        (["a", "call:x", "no", "b"], "acall:nob"),
        # Behind the thought a trigger is one as anywhere.
        (["a", "<call>", "no", "b", "call:", "yes"], "a<call>nobcall:yes"),
        (["a", "</think>", "b", "<call>", "yes"], "a</think>b<call>yes"),
    ],
)
def test_a_lazy_constraint_holds_behind_what_ends_the_thought(wanted: list[str], written: str) -> None:
    triggers = ("<call>", "call:")
    steered = steering("yes", "no", triggers=triggers, thoughts=thinking(*triggers, closing="end</think>\n"))
    assert write(steered, wanted) == written
    assert steered.n_thought_tokens == (2 if "</think>" in wanted else 1)


def test_a_budget_counts_no_call() -> None:
    steered = steering("call:yes", thoughts=thinking("call:", budget=2))
    assert write(steered, ["a", "c", "a", "ll:", "yes"]) == "acall:yes"
    # What turns out to be no call is counted then.
    steered = steering("call:yes", thoughts=thinking("call:", budget=2))
    assert write(steered, ["a", "c", "b", "call:", "yes"]) == "acb</think>call:yes"
    assert steered.n_thought_tokens == 4
    # The reader's wish does not wait.
    steered = steering("call:yes", thoughts=thinking("call:"))
    assert write(steered, ["a", "c"]) == "ac"
    assert steered.n_thought_tokens == 2
    steered.stop_thinking()
    assert write(steered, ["a", "call:", "yes"]).startswith("</think>")


def shown(words: Sequence[str], *breaks: str) -> tuple[list[tuple[Part, ...]], tuple[Part, ...]]:
    steered = steering(thoughts=thinking(*breaks))
    return [steered.accept(WORDS.index(word)) for word in words], steered.rest


def test_tokens_are_shown_once_it_is_known_what_they_are() -> None:
    parts, rest = shown(["a", "c", "a", "ll:y"], "call:")
    thought, answer = (Part(b"a", True),), tuple(Part(data, False) for data in (b"c", b"a", b"ll:", b"y"))
    assert parts == [thought, (), (), answer]
    assert rest == ()
    call, end = Part(b"", False, Mark("<call>")), Part(b"", True, Mark("<call>"))
    assert shown(["a", "<call>", "b"], "<call>b") == ([(Part(b"a", True),), (), (call, Part(b"b", False))], ())
    assert shown(["a", "<call>", "c"], "<call>b") == ([(Part(b"a", True),), (), (end, Part(b"c", True))], ())
    # An answer that ends so ends within the thought.
    assert shown(["a", "<call>"], "<call>b") == ([(Part(b"a", True),), ()], (end,))
    assert shown(["maybe", ":"], "be:n")[1] == (Part(b"be", True), Part(b":", True))


def call(*texts: str, **fields: Any) -> Constraint:
    return one_of(*texts, triggers=("<call>",), **fields)


def test_an_answer_of_one_call_ends_with_it() -> None:
    steered = steered_by(call("yes", "no", once=True))
    assert write(steered, ["a", "<call>", "yes", "b"]) == "a<call>yes"
    assert (steered.is_over, steered.is_cut) == (True, False)
    # One that may go on does so, or else ends.
    assert write(steered_by(call("no", "noyes", once=True)), ["<call>", "no", "yes", "b"]) == "<call>noyes"
    steered = steered_by(call("no", "noyes", once=True))
    assert write(steered, ["<call>", "no", "b", "<call>", "no"]) == "<call>no"
    assert not steered.is_cut
    assert write(steered_by(call("no", "noyes")), ["<call>", "no", "b", "<call>", "no"]) == "<call>nob<call>no"
    # Before it, the answer is free.
    assert write(steered_by(call("no", once=True)), ["a", "b", "<|end|>"]) == "ab"


def test_no_other_engine_goes_on_behind_the_one_call() -> None:
    steered = steered_by(call("no", "noyes", once=True))
    for at, word in enumerate(["a", "<call>", "no"]):
        steered.resume(WORDS.index(word), 100 - at)
    with pytest.raises(InvalidRequest, match="resume_tokens"):
        steered.resume(WORDS.index("b"), 97)
    assert steered.settle(WORDS.index("b"), 97) == END


@pytest.mark.parametrize("once", [True, False])
def test_each_trigger_has_its_constraint(once: bool) -> None:
    constraint = call("yes", once=once, also=(one_of("no", triggers=("call:",)), one_of("maybe", triggers=("ab:", ":"))))
    rest = "" if once else "b"
    for wanted in (["<call>", "yes", "b"], ["c", "a", "ll:", "no", "b"], ["a", "b", ":", "maybe", "b"]):
        steered = steered_by(constraint)
        assert write(steered, wanted) == "".join(wanted[:-1]) + rest
        assert steered.is_over == once
    # The longest trigger of those that end alike.
    steered = steered_by(one_of("yes", triggers=("ll:",), also=(one_of("no", triggers=("call:",)),)))
    assert write(steered, ["c", "a", "ll:", "no"]) == "call:no"
    # What a token says behind it has to fit its own constraint.
    steered = steered_by(one_of("x", triggers=("<",), also=(one_of("yes", triggers=("call:",)),)))
    assert write(steered, ["c", "a", "ll:y", "e"]) == "call:ye"


def test_the_others_are_held_to_behind_a_thought_as_well() -> None:
    constraint = call("yes", also=(one_of("no", triggers=("call:",)),))
    steered = steered_by(constraint, thoughts=thinking("<call>", "call:"))
    assert write(steered, ["a", "c", "a", "ll:", "no", "<call>", "yes"]) == "acall:no<call>yes"


def test_a_stop_token_ends_what_is_complete() -> None:
    stops = (WORDS.index("z"), WORDS.index("</think>"))
    steered = steering("no", "noyes", stop_tokens=stops)
    steered.due(100)
    assert not steered.allows(stops[0])
    steered.accept(WORDS.index("no"))
    assert all(map(steered.allows, stops))
    # One that fits is text too.
    steered = steering("nz", stop_tokens=stops)
    assert write(steered, ["n", "z"]) == "nz"
    # In a thought it does not leave out the constraint.
    steered = steering("yes", stop_tokens=stops[:1], thoughts=thinking())
    assert write(steered, ["a", "z", "yes"]) == "a</think>yes"
