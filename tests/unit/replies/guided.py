"""Trying grammars of calls on texts, as the engine's library keeps to them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from llguidance import LLMatcher, LLTokenizer
from llguidance._tokenizer import TokenizerWrapper

from services.backend.types import Constraint, Mark
from services.engine.llama.lark import LarkSource

_END = b"<|end of the answer|>"


class _Bytes:
    """A vocabulary of single bytes and special tokens."""

    def __init__(self, specials: Sequence[str]) -> None:
        self.tokens = [bytes([n]) for n in range(256)] + [text.encode() for text in specials] + [_END]
        self.eos_token_id = len(self.tokens) - 1
        self.bos_token_id = None
        self.special_token_ids = list(range(256, len(self.tokens)))

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@lru_cache
def _tokenizer(specials: tuple[str, ...]) -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_Bytes(specials)))


def allows(constraint: Constraint, pieces: Sequence[str], specials: tuple[str, ...] = ()) -> bool:
    """Return whether an answer in these pieces, of which marks are special tokens, keeps to a Lark grammar and is whole."""
    return kept(constraint, pieces, specials) == "whole"


def kept(constraint: Constraint, pieces: Sequence[str], specials: tuple[str, ...] = ()) -> str:
    """Return "whole", "begun" if more has to come, or the text up to what the grammar does not allow."""
    assert constraint.kind == "lark"
    tokens = {text: 256 + n for n, text in enumerate(specials)}
    source = LLMatcher.grammar_from_lark(LarkSource(constraint.source).text(tokens))
    matcher = LLMatcher(_tokenizer(specials), source, log_level=0)
    assert not matcher.is_error(), matcher.get_error() + constraint.source
    done = ""
    for piece in pieces:
        ids = [tokens[piece]] if isinstance(piece, Mark) else list(piece.encode())
        taken = matcher.try_consume_tokens(ids)
        done += piece.encode()[:taken].decode("utf-8", "replace") if not isinstance(piece, Mark) else piece if taken else ""
        if taken < len(ids):
            return done
    return "whole" if matcher.is_accepting() else "begun"


def held(constraint: Constraint, pieces: Sequence[str], specials: tuple[str, ...] = ()) -> str:
    """Return what `kept` says of an answer from behind the first text on that is a trigger; "free" if none comes.

    A constraint without triggers holds from the beginning.
    """
    if not constraint.triggers:
        return kept(constraint, pieces, specials)
    text = "".join(pieces)
    found = [
        (text.index(trigger) + len(trigger), each)
        for each in (constraint, *constraint.also)
        for trigger in each.triggers
        if trigger in text
    ]
    if not found:
        return "free"
    end, each = min(found, key=lambda pair: pair[0])
    return kept(each, behind(pieces, end), specials)


def behind(pieces: Sequence[str], end: int) -> list[str]:
    """Return the pieces of a text from a character on."""
    left = []
    for piece in pieces:
        if end <= 0 or end < len(piece):
            left.append(piece[max(end, 0) :] if end > 0 else piece)
        end -= len(piece)
    return left
