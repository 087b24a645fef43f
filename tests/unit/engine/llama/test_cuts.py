"""Long texts of letters that a SentencePiece vocabulary has to spell in bytes."""

from __future__ import annotations

import time
from functools import cache
from random import Random

import pytest

from services.backend.types import Prompt
from services.engine.llama.cuts import MOST_SPELLED, Cuts
from services.engine.llama.vocabulary import Vocabulary
from services.engine.llama.vocabulary_file import load_vocabulary
from services.errors import InvalidRequest
from tests.support.real_models import gemma3

# A cuneiform letter, NUL and a control character, of which Gemma 3 has a token for none beside its bytes.
RARE = ["\U00010380", "\0", "\x03"]


@cache
def gemma() -> Vocabulary:
    return load_vocabulary(gemma3())


@pytest.mark.parametrize("letter", RARE)
def test_gemma_reads_a_body_full_of_rare_letters_in_a_moment(letter: str) -> None:
    vocabulary = gemma()
    vocabulary.tokenize(Prompt(letter * 5_000))
    began = time.thread_time()
    tokens = vocabulary.tokenize(Prompt(letter * 150_000, bos=False))
    assert time.thread_time() - began < 3
    assert len(tokens) == 150_000 * len(letter.encode())


def test_cutting_at_rare_letters_changes_no_token() -> None:
    vocabulary, random = gemma(), Random(3)
    letters = [*RARE, "\n", "\x02", "word ", "  ", "x", "中", "\f", "\t", "<h1>"]
    for has_special in (False, True):
        text = "".join(random.choice(letters) for _ in range(6_000))
        expected = vocabulary._tokenize_here(text, has_special)
        assert list(vocabulary._tokenize_long(text, has_special)) == expected


def test_what_cannot_be_cut_and_would_take_long_is_refused() -> None:
    cuts = Cuts(["ab", "c"], ["<x>"])
    assert [part for _, part in cuts.parts("c" * 2 * MOST_SPELLED, False)] != ["c" * 2 * MOST_SPELLED]
    assert "".join(part for _, part in cuts.parts("cz" * MOST_SPELLED, False)) == "cz" * MOST_SPELLED
    with pytest.raises(InvalidRequest, match="20,000 letters on end"):
        list(cuts.parts("a" * (MOST_SPELLED + 1), False))
    assert all(guard == "z" for guard, _ in list(cuts.parts("z\f" * MOST_SPELLED, True))[1:])
