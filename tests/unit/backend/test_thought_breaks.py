"""Thoughts that end in front of a call, without their closing tag."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.backend.thoughts import ThoughtTracker
from services.backend.types import Thoughts

BREAKS = ("<tool_call>", "<t>go", "[C")
OPEN = Thoughts("<think>", "</think>", is_open=True, breaks=BREAKS)


def joined(tracker: ThoughtTracker, pieces: list[bytes], marks: tuple[bytes, ...] = ()) -> list[tuple[bytes, bool]]:
    """The text with neighbouring parts of one kind joined, and what is held back at its end."""
    found: list[tuple[bytes, bool]] = []
    parts = [part for piece in pieces for part in tracker.add(piece, piece in marks)]
    for part, is_thought in (*parts, *tracker.close()):
        if found and found[-1][1] == is_thought:
            found[-1] = (found[-1][0] + part, is_thought)
        else:
            found.append((part, is_thought))
    return found


def cut(data: bytes, cuts: set[int]) -> list[bytes]:
    return [data[start:end] for start, end in pairwise([0, *sorted(cuts), len(data)]) if start < end]


def expected(data: bytes, thoughts: Thoughts) -> list[tuple[bytes, bool]]:
    """The parts of a text that begins within a thought and never begins another."""
    ends = [(at + len(thoughts.ends), 0, at + len(thoughts.ends)) for at in [data.find(thoughts.ends.encode())] if at >= 0]
    for text in thoughts.breaks:
        if (at := data.find(text.encode())) >= 0:
            ends.append((at + len(text), 1, at))
    border = min(ends)[2] if ends else len(data)
    return [part for part in [(data[:border], True), (data[border:], False)] if part[0]]


TEXTS = st.lists(
    st.sampled_from(["a", "<", "<t", "<t>", "go", "<tool", "_call>", "<tool_call>", "[", "[C", "</", "think>", "</think>"]),
    max_size=8,
).map("".join)
# "<" and "think>" begin another thought.
TEXTS = TEXTS.filter(lambda text: OPEN.begins not in text)


@settings(max_examples=200)
@given(TEXTS, st.sets(st.integers(1, 60)))
def test_a_thought_ends_in_front_of_a_break_at_every_split(text: str, cuts: set[int]) -> None:
    data = text.encode()
    assert joined(ThoughtTracker(OPEN), cut(data, {at for at in cuts if at < len(data)})) == expected(data, OPEN)


@settings(max_examples=100)
@given(TEXTS)
def test_nothing_is_shown_before_it_is_known(text: str) -> None:
    """What is shown of a beginning is shown alike of the whole."""
    data = text.encode()
    parts = expected(data, OPEN)
    whole = b"".join(part for part, is_thought in parts if is_thought)
    # Of each byte, whether it is part of a thought: an answer may stand between two.
    belongs = [is_thought for part, is_thought in parts for _ in part]
    assert len(belongs) == len(data)
    tracker, thought = ThoughtTracker(OPEN), b""
    for n in range(len(data)):
        thought += b"".join(part for part, is_thought in tracker.add(data[n : n + 1], False) if is_thought)
        assert whole.startswith(thought)
        assert len(thought) >= sum(belongs[: n + 1]) - max(map(len, BREAKS))


@pytest.mark.parametrize(
    ("pieces", "marks", "parts"),
    [
        ([b"hm", b"<tool_call>", b"{"], (b"<tool_call>",), [(b"hm", True), (b"<tool_call>{", False)]),
        # Of several tokens, of which some are special.
        ([b"hm", b"<t>", b"go", b"!"], (b"<t>",), [(b"hm", True), (b"<t>go!", False)]),
        ([b"hm", b"<t>", b"no", b"<t>", b"go"], (b"<t>",), [(b"hm<t>no", True), (b"<t>go", False)]),
        ([b"h<t", b">g", b"o.."], (), [(b"h", True), (b"<t>go..", False)]),
        # Not within a special token.
        ([b"hm", b"a[C", b"!"], (b"a[C",), [(b"hma[C!", True)]),
        ([b"hm", b"[Call]", b"!"], (b"[Call]",), [(b"hm[Call]!", True)]),
        ([b"hm", b"a<t>", b"go"], (b"a<t>",), [(b"hma<t>go", True)]),
        ([b"hm[C"], (), [(b"hm", True), (b"[C", False)]),
        # What might have been one.
        ([b"hm<tool_call"], (), [(b"hm<tool_call", True)]),
        ([b"hm", b"<t>"], (b"<t>",), [(b"hm<t>", True)]),
        # Behind one, breaks are text, and a thought may begin anew.
        ([b"[C", b"[C", b"<think>", b"[C"], (b"<think>",), [(b"[C[C<think>[C", False)]),
    ],
)
def test_breaks_of_tokens(pieces: list[bytes], marks: tuple[bytes, ...], parts: list[tuple[bytes, bool]]) -> None:
    assert joined(ThoughtTracker(OPEN), pieces, marks) == parts


def test_what_is_behind_the_thought_is_counted() -> None:
    tracker = ThoughtTracker(OPEN)
    tracker.add(b"hm<t", False)
    assert (tracker.n_behind, tracker.is_broken) == (2, False)
    tracker.add(b"", False)
    assert tracker.n_behind == 2
    tracker.add(b">goes", False)
    assert (tracker.n_behind, tracker.n_rest, tracker.is_broken, tracker.is_open) == (7, 2, True, False)
    tracker.add(b"on", False)
    assert (tracker.n_behind, tracker.is_broken) == (2, False)


def test_looking_ahead_changes_nothing() -> None:
    tracker = ThoughtTracker(OPEN)
    tracker.add(b"hm<t>", False)
    assert tracker.ahead(b"go", False).is_broken
    assert tracker.add(b"no", False) == ((b"<t>no", True),)


def test_a_break_that_begins_the_tag_of_a_thought() -> None:
    """gpt-oss's messages begin alike, whatever they are."""
    thoughts = Thoughts("<|c|>analysis<|m|>", "<|end|>", is_open=True, breaks=("<|c|>",))
    tracker = ThoughtTracker(thoughts, "<|m|>")
    marks = (b"<|c|>", b"<|m|>", b"<|end|>")
    opened = []
    for piece in (b"hm", b"<|c|>", b"analysis", b"<|m|>", b"so", b"<|c|>", b"final", b"<|m|>", b"yes"):
        tracker.add(piece, piece in marks)
        opened.append(tracker.is_open)
    assert opened == [True, False, False, True, True, False, False, False, False]
