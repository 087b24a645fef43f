from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest

from services.backend.types import Mark
from services.engine.loop.text import TextAssembler

MARK, OTHER = Mark("<|end|>"), Mark("<tool>")


def assemble(pieces: Sequence[bytes | Mark], *stop: str, marks: bool = True) -> tuple[list[str], bool]:
    """The text of pieces, of which a mark has no bytes if it is a control token's."""
    text = TextAssembler(stop, marks)
    parts: list[str] = []
    for piece in pieces:
        if isinstance(piece, Mark):
            parts += text.add(b"" if piece is MARK else piece.encode(), piece)
        else:
            parts += text.add(piece)
    parts += text.flush()
    assert all(parts)
    return parts, text.stopped


def test_characters_cut_in_two_come_whole() -> None:
    pieces = [bytes([byte]) for byte in "é€😀".encode()]
    assert assemble(pieces) == (["é", "€", "😀"], False)


def test_bytes_that_never_become_a_character_are_replaced() -> None:
    assert assemble([b"a\xe2\x82"]) == (["a", "�"], False)
    assert assemble([b"\xff", b"b"]) == (["�", "b"], False)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_stop_string_ends_the_text_however_it_is_cut(size: int) -> None:
    data = b"One. Two.\nHuman: three"
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    parts, stopped = assemble(pieces, "never", "\nHuman:")
    assert ("".join(parts), stopped) == ("One. Two.", True)


def test_what_only_looked_like_a_stop_string_is_given() -> None:
    parts, stopped = assemble([b"a\n", b"Hum", b"an", b"s\n", b"Hu"], "\nHuman:")
    assert ("".join(parts), stopped) == ("a\nHumans\nHu", False)
    assert parts[0] == "a"


def test_the_first_of_several_stop_strings_counts() -> None:
    assert assemble([b"abcdef"], "ef", "cd", "zz") == (["ab"], True)
    assert assemble([b"aab"], "ab") == (["a"], True)
    assert assemble([b"a", b"a", b"b", b"c"], "aab", "bc") == ([], True)


def test_a_mark_comes_alone_behind_the_text_before_it() -> None:
    pieces: list[bytes | Mark] = [b"a\n", MARK, b"Hum", OTHER, b"an: ", MARK, MARK]
    assert assemble(pieces, "\nHuman:") == (["a", "\n", MARK, "Hum", OTHER, "an: ", MARK, MARK], False)
    assert assemble([b"a\xe2\x82", MARK, b"\xac"]) == (["a", "\ufffd", MARK, "\ufffd"], False)
    assert assemble(pieces, "x", marks=False) == (["a\n", "Hum", "<tool>", "an: "], False)


@pytest.mark.parametrize("stop", ["<|end|>", "a<|end|>b", "<|end|>b<tool>", "<tool>", "b<tool>c", "<tool>c"])
def test_a_stop_string_with_marks_in_it(stop: str) -> None:
    shown = "a<|end|>b<tool>c"
    pieces: list[bytes | Mark] = [b"a", MARK, b"b", OTHER, b"c"]
    parts, stopped = assemble(pieces, "zzz", stop)
    assert ("".join(parts), stopped) == (shown[: shown.index(stop)], True)
    parts, stopped = assemble(pieces, stop, marks=False)
    assert ("".join(parts), stopped) == (shown[: shown.index(stop)].replace("<|end|>", ""), True)
    # The same in plain text.
    parts, stopped = assemble([bytes([byte]) for byte in shown.encode()], stop)
    assert ("".join(parts), stopped) == (shown[: shown.index(stop)], True)


@pytest.mark.parametrize("stop", ["<", ">", "|", "end", "<|end|", "|>b", "ool>", "a<|"])
def test_no_stop_string_matches_a_part_of_a_mark(stop: str) -> None:
    pieces: list[bytes | Mark] = [b"a", MARK, b"b", OTHER, b"c"]
    assert assemble(pieces, stop) == (["a", MARK, "b", OTHER, "c"], False)


def test_control_tokens_do_not_cut_a_stop_string_that_is_text() -> None:
    assert assemble([b"One, t", MARK, b"wo"], "two", marks=False) == (["One, "], True)
    assert assemble([b"One, t", MARK, b"wo"], "two") == (["One, ", "t", MARK, "wo"], False)


def test_thoughts_are_not_searched_but_for_their_marks() -> None:
    text = TextAssembler(("stop", MARK), marks=True)
    assert text.add(b"a st") == ["a "]
    assert text.add(b"op stop st", searches=False) == ["stop stop st"]
    assert text.add(b"op") == ["op"]
    assert text.add(b"", MARK, searches=False) == []
    assert text.stopped


def test_half_a_surrogate_in_a_stop_string_stands_for_nothing() -> None:
    for stop, marks in product(["\ud800", "\ud800\ud801", f"{MARK}\ud800"], [True, False]):
        shown = "ab" if not marks else f"a{MARK}b"
        parts, stopped = assemble([b"a", MARK, b"b"], stop, marks=marks)
        assert ("".join(parts), stopped) == (shown, False)
