"""Texts that a constraint lets through, written at random with a real vocabulary and no model."""

from __future__ import annotations

import functools
import json
import random
from dataclasses import dataclass
from typing import Any, Literal

import jsonschema
import numpy as np
import numpy.typing as npt

from services.backend.types import Constraint
from services.engine.llama.constraint import Constraints
from services.engine.llama.matcher import Matcher
from services.engine.llama.vocabulary import Vocabulary
from services.errors import InvalidRequest
from tests.support import real_models

BPE = "llama-bpe"
# A smaller one, for tests of many texts.
SMALL = "gpt-2"

# What escapes and repetitions in JSON consist of.
_PUSHED = [
    "\\",
    "u",
    "\\u",
    "00",
    "0",
    "6",
    "1",
    "61",
    "62",
    "e9",
    "d83d",
    "de00",
    '"',
    '","',
    "a",
    "b",
    "1",
    ",",
    "]",
    "}",
]

Kind = Literal["json_schema", "regex", "gbnf", "lark"]


@dataclass
class Writer:
    """Writes with one vocabulary, any token that is allowed."""

    vocabulary: Vocabulary
    constraints: Constraints
    pieces: list[bytes]
    spelled: dict[bytes, int]
    """The tokens by their bytes."""

    @functools.cached_property
    def pushed(self) -> list[int]:
        """Tokens of which escapes and repetitions consist."""
        return [self.spelled[text.encode()] for text in _PUSHED if text.encode() in self.spelled]

    def matcher(self, kind: Kind, source: Any) -> Matcher:
        """Return a matcher; a schema may be given as it is."""
        return self.constraints.matcher(Constraint(kind, source if isinstance(source, str) else json.dumps(source)))

    def tried(self, schema: Any) -> Matcher | InvalidRequest:
        """Return a matcher for a schema, or the error by which it is refused."""
        try:
            return self.matcher("json_schema", schema)
        except InvalidRequest as error:
            return error

    def accepts(self, matcher: Matcher, text: str) -> bool:
        """Return whether a text is allowed from beginning to end."""
        data = text.encode()
        while data:
            # The longest token that fits, so that tokens of several letters are tried too.
            sizes = range(min(len(data), 12), 0, -1)
            token = next(self.spelled[data[:size]] for size in sizes if data[:size] in self.spelled)
            if not matcher.allows(token):
                return False
            matcher.accept(token)
            data = data[len(self.pieces[token]) :]
        return matcher.is_complete

    def write(self, matcher: Matcher, rng: random.Random, longest: int) -> tuple[str, bool]:
        """Write at random, `longest` tokens at most before the text is closed; return it, and whether it is complete.

        The matcher raises ValueError if its mask lets a token through that its check does not.
        """
        written: list[int] = []
        logits = np.zeros(self.vocabulary.size, np.float32)
        while len(written) < longest:
            logits[:] = 0
            matcher.mask(logits)
            if matcher.is_complete and (matcher.is_over or rng.random() < 0.2):
                return self.text(written), True
            token = self._chosen(logits == 0, rng)
            if token is None:
                return self.text(written, matcher.is_complete), matcher.is_complete
            matcher.accept(token)
            written.append(token)
        for token in matcher.closing_tokens() or ():
            matcher.accept(token)
            written.append(token)
        return self.text(written, matcher.is_complete), matcher.is_complete

    def _chosen(self, allowed: npt.NDArray[np.bool_], rng: random.Random) -> int | None:
        """A token that is no end; one of few bytes half of the time, or one of those that are pushed."""
        if rng.random() < 0.4 and (pushed := [token for token in self.pushed if allowed[token]]):
            return rng.choice(pushed)
        tokens = np.flatnonzero(allowed)
        for n in range(40):
            if not len(tokens):
                return None
            token = int(tokens[rng.randrange(len(tokens))])
            is_short = len(self.pieces[token]) < 3
            if not self.vocabulary.ends_answer(token) and (is_short or n > 8 or rng.random() < 0.2):
                return token
        left = [int(token) for token in tokens if not self.vocabulary.ends_answer(int(token))]
        return left[0] if left else None

    def text(self, tokens: list[int], is_complete: bool = True) -> str:
        """Return what tokens say; one that is not complete may end within a character."""
        return b"".join(self.pieces[token] for token in tokens).decode(errors="strict" if is_complete else "replace")


def writer(name: str = BPE) -> Writer:
    """Return the writer with one of llama.cpp's vocabularies; see `real_models.vocabulary`. It is made once."""
    return _writer(name)


@functools.cache
def _writer(name: str) -> Writer:
    vocabulary = real_models.vocabulary(name)
    constraints = Constraints(vocabulary)
    pieces = constraints.matcher(Constraint("regex", "a"))._table.pieces
    special = {text.encode() for text in vocabulary.chat_format.specials}
    spelled = {piece: token for token, piece in enumerate(pieces) if piece and piece not in special}
    return Writer(vocabulary, constraints, pieces, spelled)


def check_mask(here: Writer, matcher: Matcher, rng: random.Random, steps: int) -> None:
    """Check in a text of up to `steps` random tokens that the matcher's check allows what its mask does."""
    logits = np.zeros(here.vocabulary.size, np.float32)
    for _ in range(steps):
        logits[:] = 0
        matcher.mask(logits)
        allowed = np.flatnonzero(np.isfinite(logits))
        for token in [*rng.sample(range(len(logits)), 200), *map(int, allowed[:50])]:
            # A mask may name only the model's own way to write what has to come; the check takes all.
            assert matcher.allows(token) or np.isneginf(logits[token])
        token = int(allowed[rng.randrange(len(allowed))])
        if here.vocabulary.ends_answer(token):
            break
        matcher.accept(token)


def fits(schema: Any, text: str, draft: str = "draft2020-12") -> bool:
    """Return whether a JSON text fits a schema, formats included, by the jsonschema package. No name may be there twice.

    `draft` is what a schema that names none is of.
    """
    value = json.loads(text, object_pairs_hook=_without_repetition)
    usual = getattr(jsonschema, f"{draft.replace('-', '').capitalize()}Validator")
    kind = jsonschema.validators.validator_for(schema, default=usual) if isinstance(schema, dict) else usual
    try:
        return bool(kind(schema, format_checker=kind.FORMAT_CHECKER).is_valid(value))
    except RecursionError:
        # A schema that refers to itself without going further into the value has no meaning.
        return True


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({name for name, _ in pairs}) == len(pairs), f"a name is there twice: {pairs}"
    return dict(pairs)
