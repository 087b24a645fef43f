"""Finding thoughts in the bytes of an answer, however these come."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.backend.thoughts import ThoughtTracker, is_whole
from services.backend.types import Thoughts

THINK = Thoughts("<think>", "</think>")
HARMONY = Thoughts("<|channel|>analysis<|message|>", "<|end|>")


def parted(tracker: ThoughtTracker, pieces: list[bytes], marks: tuple[bytes, ...] = ()) -> list[tuple[bytes, bool]]:
    """The text with neighbouring parts of one kind joined."""
    found: list[tuple[bytes, bool]] = []
    for piece in pieces:
        for part, is_thought in tracker.add(piece, piece in marks):
            if found and found[-1][1] == is_thought:
                found[-1] = (found[-1][0] + part, is_thought)
            else:
                found.append((part, is_thought))
    return found


def pieces_at(data: bytes, cuts: set[int]) -> list[bytes]:
    return [data[start:end] for start, end in pairwise([0, *sorted(cuts), len(data)]) if start < end]


@given(st.sets(st.integers(1, 60)))
def test_tags_in_plain_text_are_found_at_every_split(cuts: set[int]) -> None:
    data = b"\n<think>a < b</think > \xc3\xa9</think>\n\n<think>!</think>So <think>no</think>."
    found = parted(ThoughtTracker(THINK), pieces_at(data, {cut for cut in cuts if cut < len(data)}))
    assert found == [
        (b"\n<think>", False),
        (b"a < b</think > \xc3\xa9</think>", True),
        (b"\n\n<think>", False),
        (b"!</think>", True),
        # Behind other text the model writes about tags.
        (b"So <think>no</think>.", False),
    ]


def test_a_special_token_begins_a_thought_anywhere() -> None:
    marks = (b"<think>", b"</think>")
    pieces = [b"So ", b"<think>", b"hm", b"</think>", b" yes"]
    assert parted(ThoughtTracker(THINK), pieces, marks) == [(b"So <think>", False), (b"hm</think>", True), (b" yes", False)]


def test_a_tag_of_several_tokens() -> None:
    marks = (b"<|channel|>", b"<|message|>", b"<|end|>", b"<|start|>")
    header = [b"<|channel|>", b"ana", b"lysis", b"<|message|>"]
    pieces = [*header, b"hm", b"<|end|>", b"<|start|>", b"assistant", *header, b"!", b"<|end|>", b"<|start|>", b"assistant"]
    pieces += [b"<|channel|>", b"final", b"<|message|>", b"Yes"]
    tracker = ThoughtTracker(HARMONY)
    opened = []
    for piece in pieces:
        tracker.add(piece, piece in marks)
        opened.append(tracker.is_open)
    assert [n for n, is_open in enumerate(opened) if is_open] == [3, 4, 11, 12]
    # Headers are searched for stop strings as little as thoughts.
    found = parted(ThoughtTracker(HARMONY, "<|message|>"), pieces, marks)
    assert [part for part, is_hidden in found if not is_hidden] == [b"<|message|>", b"<|message|>", b"<|message|>Yes"]


def test_an_open_thought_and_one_without_a_beginning() -> None:
    tracker = ThoughtTracker(Thoughts("", "</think>", is_open=True))
    assert parted(tracker, [b"hm</think>yes<think>"]) == [(b"hm</think>", True), (b"yes<think>", False)]
    tracker = ThoughtTracker(Thoughts("<think>", "</think>", is_open=True))
    tracker.close()
    tracker.close()
    assert not tracker.is_open


@pytest.mark.parametrize("text", ["", "a", "é", "€", "😀", "a😀"])
def test_the_end_of_a_character(text: str) -> None:
    data = text.encode()
    assert is_whole(data)
    for n in range(1, len(text[-1:].encode())):
        assert not is_whole(data[:-n])
