"""The tokens around a gap, with real vocabularies of models for code."""

from __future__ import annotations

import pytest

from services.backend.types import Infill, Prompt
from services.errors import InvalidRequest
from tests.support.real_models import vocabulary

BEFORE, BEHIND = "def f(x):\n    return <fim_suffix>", "\n\nprint(f(1))"


def written(name: str, **fields: object) -> str:
    vocab = vocabulary(name)
    tokens = vocab.tokenize(Prompt("", infill=Infill(BEFORE, BEHIND, **fields)))  # type: ignore[arg-type]
    return b"".join(vocab.pieces(tokens)).decode()


@pytest.mark.parametrize("name", ["starcoder", "refact"])
def test_the_texts_stand_between_the_models_own_tokens(name: str) -> None:
    assert written(name) == f"<fim_prefix>{BEFORE}<fim_suffix>{BEHIND}<fim_middle>"
    # A person's text is none of these tokens.
    vocab = vocabulary(name)
    suffix = vocab.tokenize(Prompt("<fim_suffix>", bos=False))
    assert len(suffix) == 1
    assert vocab.tokenize(Prompt("", infill=Infill(BEFORE, BEHIND))).count(suffix[0]) == 1


def test_other_files_come_first() -> None:
    files = (("a.py", "x = 1"), ("b.py", "y = 2"))
    shown = written("starcoder", files=files)
    assert shown.endswith(f"<fim_prefix>{BEFORE}<fim_suffix>{BEHIND}<fim_middle>")
    assert shown.index("x = 1") < shown.index("y = 2") < shown.index("<fim_prefix>")
    assert written("deepseek-coder").startswith("<\uff5cbegin\u2581of\u2581sentence\uff5c>")


def test_a_model_without_such_tokens_says_so() -> None:
    with pytest.raises(InvalidRequest) as refused:
        written("llama-bpe", param="input_suffix")
    assert (refused.value.param, refused.value.code) == ("input_suffix", "no_infill")
