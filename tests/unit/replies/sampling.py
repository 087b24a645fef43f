"""Texts made at random that a grammar of calls allows."""

from __future__ import annotations

import json
import random
from functools import lru_cache

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from services.backend.types import Constraint
from services.engine.llama.lark import LarkSource
from services.replies.format import ReplyFormat
from services.replies.formats import format_of
from tests.support.llama_replies import chat_format

_BYTES = LLTokenizer("byte")
_END = _BYTES.eos_token
_LONGEST = 2_000
# Texts that end a value or a call in one family or another: a random walk through free text hardly ever writes them.
_ENDS: tuple[str, ...] = (
    *("</parameter>", "\n</parameter>", "</arg_value>", "</arg_value:opensource>", "</param>", "</atem:parameter>"),
    *('<|"|>', "<|close|>argument<|sep|>", "</\uff5cDSML\uff5cparameter>"),
    *(f"]<]minimax[>[</{name}>" for name in ("city", "x", "y", "z", "v", "p", "item")),
)


def text_format(template: str) -> ReplyFormat:
    """Return the format of a model whose vocabulary spells the markers as text, which a byte tokenizer can write."""
    own = chat_format(template)
    return format_of(type(own)(own.template, own.bos, own.eos, ()))


def matcher_of(constraint: Constraint) -> LLMatcher:
    """Return a matcher over bytes of a grammar in Lark."""
    return _compiled(constraint.source).deep_copy()


@lru_cache(maxsize=8)
def _compiled(source: str) -> LLMatcher:
    matcher = LLMatcher(_BYTES, LarkSource(source).text({}), log_level=0)
    assert not matcher.is_error(), matcher.get_error() + source
    return matcher


def sampled(constraint: Constraint, source: random.Random) -> str | None:
    """Return a text that the grammar allows, closing free texts early; None if it became too long."""
    matcher = matcher_of(constraint)
    ends = [list(end.encode()) for end in _ENDS if json.dumps(end, ensure_ascii=False)[1:-1] in constraint.source]
    ends += [[ord(sign)] for sign in '"}]']
    out = bytearray()
    while not matcher.is_stopped():
        if len(out) > _LONGEST:
            return None
        allowed = _allowed(matcher)
        assert allowed, (bytes(out), matcher.get_error())
        if _END in allowed and (len(allowed) == 1 or source.random() < 0.5):
            break
        closing = [end for end in ends if matcher.validate_tokens(end) == len(end)]
        plain = [token for token in allowed if 32 <= token < 127 or token == 10]
        chosen = source.choice(closing) if closing and source.random() < 0.5 else [source.choice(plain or allowed)]
        for token in chosen:
            matcher.consume_token(token)
            out.append(token)
    return out.decode("utf-8", "replace")


def _allowed(matcher: LLMatcher) -> list[int]:
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), count=_BYTES.vocab_size, bitorder="little")
    return [int(token) for token in np.flatnonzero(bits)]
