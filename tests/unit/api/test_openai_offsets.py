"""The offsets of tokens, in characters, however the text and its tokens come."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.api.openai.offsets import Offsets


def offsets_of(text: str, pieces: list[bytes]) -> list[int]:
    offsets = Offsets()
    offsets.add(text)
    return [offsets.next(piece) for piece in pieces]


def test_they_count_characters_and_not_bytes() -> None:
    assert offsets_of("é🙂 ok", ["é".encode(), "🙂".encode(), b" ok"]) == [0, 1, 2]


def test_parts_of_a_character_begin_where_it_does() -> None:
    smile = "🙂".encode()
    assert offsets_of("a🙂b", [b"a", smile[:2], smile[2:], b"b"]) == [0, 1, 1, 2]


def test_special_tokens_are_no_part_of_the_text() -> None:
    assert offsets_of("ab", [b"<|x|>", b"a", b"<|y|>", b"b", b"<|end|>"]) == [0, 0, 1, 1, 2]


def test_a_space_before_the_first_word_may_be_left_out() -> None:
    assert offsets_of("The capital", [b" The", b" capital"]) == [0, 3]


def test_a_token_may_be_read_before_its_text() -> None:
    offsets = Offsets()
    first = [offsets.next(b"one"), offsets.next(b" t")]
    offsets.add("o")
    offsets.add("ne two")
    assert [*first, offsets.next(b"wo")] == [0, 3, 5]
    special = Offsets()
    special.add("a")
    assert [special.next(b"a"), special.next(b"<|x|>")] == [0, 1]
    special.add("b")
    assert special.next(b"b") == 1


def test_the_offsets_of_half_a_character_do_not_go_back() -> None:
    offsets = Offsets(5)
    offsets.add("\ufffd")
    assert [offsets.next(b"\xf0\x9f"), offsets.next(b"\x98")] == [5, 5]


@given(st.text(min_size=1, max_size=20), st.data())
def test_whole_and_streamed_texts_have_the_same(text: str, data: st.DataObject) -> None:
    text = text.encode("utf-8", "ignore").decode()
    written = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(written)), max_size=6)) | {0, len(written)})
    pieces = [written[a:b] for a, b in pairwise(cuts)]
    whole = offsets_of(text, pieces)
    expected = [len(written[:cut].decode("utf-8", "ignore")) for cut in cuts[:-1]]
    assert whole == expected
    streamed, found = Offsets(), []
    for piece in pieces:
        found.append(streamed.next(piece))
    streamed.add(text)
    assert found == expected
