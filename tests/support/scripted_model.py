"""GGUF files of models that say the same tokens whatever they are asked, special tokens among them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf

from tests.support.tiny import gpt2_spelling, guide_tokens, write_chain


def write_marked_model(path: Path, said: Sequence[str], controls: Sequence[str] = (), marks: Sequence[str] = ()) -> Path:
    """A llama that says the tokens `said`, each once and none of the guide's, and then ends its answer, at temperature 0.

    `controls` are further special tokens, and those in `said` that are control tokens; `marks` likewise of added tokens
    that are no control tokens. Nothing is computed in the one layer: a token's embedding alone chooses the next one.
    """
    known = guide_tokens()
    said = list(map(gpt2_spelling, said))
    added = list(dict.fromkeys([*said, *controls, *marks]))
    assert not set(added) & set(known), set(added) & set(known)
    special = dict.fromkeys(marks, gguf.TokenType.USER_DEFINED) | dict.fromkeys(controls, gguf.TokenType.CONTROL)
    return write_chain(path, [*known, *added], said, special)
