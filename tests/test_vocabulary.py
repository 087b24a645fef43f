from __future__ import annotations

from collections.abc import Iterator

import llama_cpp
import pytest

from services.backend import LoadSettings, Prompt
from services.engine.runner import Runner
from services.engine.vocabulary import Vocabulary
from tests.tiny import GUIDE

END = "<|end|>"


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[Vocabulary]:
    runner = Runner(LoadSettings(GUIDE, 256), n_slots=1)
    yield runner.vocabulary
    runner.close()


def test_tokens_are_those_of_llama_cpp_python_and_go_back_to_the_text(vocabulary: Vocabulary) -> None:
    model = llama_cpp.Llama(str(GUIDE), vocab_only=True, verbose=False)
    for text in ("Human: What is my name?\nAI:", "Grüße, 世界! 😀", f"a{END}b", " ", "\0"):
        tokens = vocabulary.tokenize(Prompt(text))
        assert tokens == model.tokenize(text.encode(), add_bos=False, special=True)
        assert b"".join(map(vocabulary.piece, tokens)) == text.replace(END, "").encode()
    model.close()


def test_a_special_token_is_one_in_the_template_and_text_where_it_was_typed(vocabulary: Vocabulary) -> None:
    [end] = vocabulary.tokenize(Prompt(END))
    assert vocabulary.ends_answer(end)
    assert vocabulary.piece(end) == b""
    text = f"a{END}b {END} c"
    assert vocabulary.tokenize(Prompt(text)).count(end) == 2
    mixed = vocabulary.tokenize(Prompt(text, ((0, 9),)))
    assert mixed.count(end) == 1
    assert b"".join(map(vocabulary.piece, mixed)) == f"a{END}b  c".encode()
    assert end not in vocabulary.tokenize(Prompt(text, ((0, len(text)),)))
    # Half typed, half template: not a token either.
    assert end not in vocabulary.tokenize(Prompt(END, ((0, 3),)))


def test_ordinary_typed_text_is_tokenized_with_the_template_around_it(vocabulary: Vocabulary) -> None:
    assert vocabulary.tokenize(Prompt("Human: What?", ((7, 12),))) == vocabulary.tokenize(Prompt("Human: What?"))
