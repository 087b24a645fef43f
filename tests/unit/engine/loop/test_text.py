from __future__ import annotations

import pytest

from services.answers.stream import trim
from services.engine.loop.text import TextAssembler


def assemble(pieces: list[bytes], *stop: str) -> tuple[list[str], bool]:
    text = TextAssembler(stop)
    parts = [text.add(piece) for piece in pieces]
    return [part for part in [*parts, text.flush()] if part], text.stopped


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


def test_white_space_at_the_ends_is_left_out() -> None:
    assert list(trim([" ", "\n a", " ", "b ", "\n", " c", " \n"])) == ["a", " b", " \n c"]
    assert list(trim([" ", "\n"])) == []
    assert list(trim(["", "a ", "", "b"])) == ["", "a", "", " b"]
