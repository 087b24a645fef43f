from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import pytest

from services.backend.types import LoadSettings, Prompt
from services.engine.llama.runner import Runner
from services.engine.llama.vocabulary import MOST_TAGS, Vocabulary, on_big_stack
from tests.support.serving import ROOT
from tests.support.tiny import GUIDE, write_random_model

END = "<|end|>"


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[Vocabulary]:
    runner = Runner(LoadSettings(GUIDE, 256))
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


def test_a_long_run_of_one_character_does_not_end_the_process(tmp_path: Path) -> None:
    """Nor with a vocabulary whose text llama.cpp splits with a regular expression that recurses."""
    write_random_model(tmp_path / "tekken.gguf", dim=64, layers=1, ffn=64, pre="tekken")
    program = (
        "import sys; from pathlib import Path; from services.engine.loop.engine import Engine\n"
        "from services.backend.types import LoadSettings, Prompt\n"
        "engine = Engine.open(LoadSettings(Path(sys.argv[1]), 256))\n"
        "print(len(engine.tokenize(Prompt('a' * 1_000_000))))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "tekken.gguf")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1000


def test_an_error_on_the_big_stack_reaches_the_caller() -> None:
    def fail() -> list[int]:
        raise ZeroDivisionError

    before = threading.stack_size()
    with pytest.raises(ZeroDivisionError):
        on_big_stack(fail, 1)
    assert threading.stack_size() == before


def test_ordinary_typed_text_is_tokenized_with_the_template_around_it(vocabulary: Vocabulary) -> None:
    assert vocabulary.tokenize(Prompt("Human: What?", ((7, 12),))) == vocabulary.tokenize(Prompt("Human: What?"))


def test_a_text_of_the_models_own_is_tokenized_once(vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    tokenize = vocabulary.tokenize

    def counted(prompt: Prompt) -> list[int]:
        asked.append(prompt.text)
        return tokenize(prompt)

    monkeypatch.setattr(vocabulary, "tokenize", counted)
    text = f"\n\nEnough of that.{END}\n"
    tokens = vocabulary.tag(text)
    assert b"".join(vocabulary.known(token).written for token in tokens) == text.encode()
    assert vocabulary.known(tokens[-2]).mark == END
    assert vocabulary.tag(text) == tokens
    assert asked == [text]
    assert vocabulary.tag("") == ()
    # However many texts there are, not all are kept.
    for n in range(2 * MOST_TAGS):
        vocabulary.tag(f"{n}")
    assert len(vocabulary._tags) <= MOST_TAGS
