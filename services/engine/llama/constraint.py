"""The form that an answer's text keeps to: JSON schemas, regular expressions, GBNF and Lark grammars.

llguidance keeps to all of them. What it would relax without a word is refused first (`schemas/`).
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import llama_cpp
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from services.backend.types import Constraint, Prompt
from services.engine.llama.gbnf import GbnfError, lark_of
from services.engine.llama.json_watch import JsonWatch
from services.engine.llama.lark import GrammarError, prepared, schema_text
from services.engine.llama.matcher import Grammar, GuidedGrammar, Matcher, WatchedGrammar
from services.engine.llama.schemas.errors import SchemaError
from services.engine.llama.schemas.patterns import PatternError, matched
from services.engine.llama.schemas.simplify import Simplified, simplified
from services.engine.llama.token_table import TokenTable
from services.engine.llama.vocabulary import Vocabulary
from services.errors import InvalidRequest

__all__ = ["Constraints", "Matcher", "check_constraint"]

# The most compiled constraints that are kept for a model, each of up to a few megabytes.
MOST_KEPT = 64
# The most errors of a library that are shown, in characters.
LONGEST_REASON = 400
# llguidance's limits, by its own units: about 20 ms for a token, and about 100 ms for a grammar.
_LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 2_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_items_in_row": 2_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}
# An attribute of tokens (llama.h, llama_token_attr) that are no text.
_SPECIAL = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
# What an error of the regular expressions' parser says, among lines that show where.
_ERROR = re.compile(r"^error: (.*)$", re.MULTILINE)
T = TypeVar("T")
# How a kind of constraint is called, the request's field, and the code of the refusal.
_WORDS = {
    "json_schema": ("the JSON schema", "response_format", "bad_schema"),
    "regex": ("the regular expression", "regex", "bad_grammar"),
    "gbnf": ("the grammar", "grammar", "bad_grammar"),
    "lark": ("the grammar", "grammar", "bad_grammar"),
}


class Constraints:
    """The compiled constraints of one model. Any thread may call it while the model is loaded."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        """Protects what is made once."""
        self._tokenizer: tuple[LLTokenizer, TokenTable] | None = None
        self._compiled: OrderedDict[tuple[str, str], Grammar] = OrderedDict()

    def matcher(self, constraint: Constraint) -> Matcher:
        """Return a matcher at the beginning of a text that keeps to the constraint, whose triggers are left to the caller.

        Raises InvalidRequest if the constraint cannot be kept to.
        """
        key = constraint.kind, constraint.source
        with self._lock:
            tokenizer, table = self._tokenizer = self._tokenizer or self._make_tokenizer()
            grammar = self._compiled.get(key)
            if grammar is not None:
                self._compiled.move_to_end(key)
        if grammar is None:
            # Outside of the lock: a large one takes a while.
            grammar = _refusing(constraint, lambda: self._compile(constraint, tokenizer, table))
            with self._lock:
                self._compiled[key] = grammar
                while len(self._compiled) > MOST_KEPT:
                    self._compiled.popitem(last=False)
        with self._lock:
            copied = grammar.copy()
        return Matcher(copied, table)

    def _compile(self, constraint: Constraint, tokenizer: LLTokenizer, table: TokenTable) -> Grammar:
        size = self._vocabulary.size
        schema = simplified(constraint.source) if constraint.kind == "json_schema" else None
        source = _guided(constraint, schema, table.special_ids)
        matcher = LLMatcher(tokenizer, source, log_level=0, limits=LLParserLimits(**_LIMITS))
        if matcher.is_error():
            raise _found(constraint, matcher.get_error())
        grammar: Grammar = GuidedGrammar(matcher, size, frozenset(table.ends.tolist()))
        # The first mask is computed here, so that a grammar that allows nothing is refused.
        if not grammar.allowed().any():
            raise GrammarError(matcher.get_error() or "no text fits it")
        if schema is not None and schema.is_watched:
            grammar = WatchedGrammar(grammar, JsonWatch(schema.schema, table))
        return grammar

    def _make_tokenizer(self) -> tuple[LLTokenizer, TokenTable]:
        vocabulary = self._vocabulary
        pieces = vocabulary.pieces(range(vocabulary.size))
        marks = set(vocabulary.chat_format.specials)
        ends, specials = [], []
        for token in range(vocabulary.size):
            if llama_cpp.llama_vocab_is_eog(vocabulary.pointer, token):
                ends.append(token)
            if _is_special(vocabulary.pointer, token, pieces[token], marks):
                specials.append(token)
        table = TokenTable(pieces, specials, ends)
        wrapper = _Tokenizer(vocabulary, table)
        tokenizer = LLTokenizer(wrapper, eos_token=table.ends.tolist())  # type: ignore[arg-type]
        wrapper.greedy = tokenizer.greedy_tokenize
        table.spell = tokenizer.tokenize_bytes
        return tokenizer, table


class _Tokenizer:
    """A vocabulary as llguidance takes it (llguidance._tokenizer.TokenizerWrapper)."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, table: TokenTable) -> None:
        self.tokens = table.pieces
        self.special_token_ids = table.specials.tolist()
        self.eos_token_id = int(table.ends[0])
        self._vocabulary = vocabulary
        self._table = table
        self.greedy: Callable[[str], list[int]] = lambda text: []
        """llguidance's own way to tokenize; set once its tokenizer is made."""

    def __call__(self, text: bytes | str) -> list[int]:
        """Return the tokens of a text that continues another, as the model would write it."""
        data = text.encode() if isinstance(text, str) else text
        plain = data.decode("utf-8", "replace")
        tokens = self._vocabulary.tokenize(Prompt(plain, typed=((0, len(plain)),), bos=False))
        if b"".join(self._table.pieces[token] for token in tokens) == data:
            return tokens
        # Some vocabularies put a space in front of a text.
        return self.greedy(plain)


def check_constraint(constraint: Constraint) -> None:
    """Raise InvalidRequest if a constraint is refused whatever the model."""

    def check() -> None:
        schema = simplified(constraint.source) if constraint.kind == "json_schema" else None
        if error := _invalid(_guided(constraint, schema, {})):
            raise _found(constraint, error)

    _refusing(constraint, check)


def _invalid(grammar: str) -> str:
    """What llguidance finds wrong with a grammar; "" if nothing."""
    is_wrong, reasons = LLMatcher.validate_grammar_with_warnings(grammar, None, limits=LLParserLimits(**_LIMITS))
    return "; ".join(reasons) if is_wrong else ""


def _found(constraint: Constraint, reason: str) -> Exception:
    """The error for what llguidance refuses; for a schema with the place of the keyword at fault, if that is found."""
    if constraint.kind != "json_schema":
        found = _ERROR.search(reason)
        return GrammarError(found[1] if found else reason.partition("\n")[0])
    try:
        simplified(
            constraint.source, lambda part: _invalid(LLMatcher.grammar_from_json_schema(schema_text(json.dumps(part))))
        )
    except SchemaError as error:
        return SchemaError(error.where, error.reason.partition("\n")[0])
    return SchemaError("#", reason.partition("\n")[0])


def _guided(constraint: Constraint, schema: Simplified | None, specials: dict[str, int]) -> str:
    """A constraint as llguidance takes it. Raises GrammarError, SchemaError, PatternError."""
    if schema is not None:
        return LLMatcher.grammar_from_json_schema(schema_text(schema.text))
    if constraint.kind == "regex":
        return LLMatcher.grammar_from_regex(matched(constraint.source))
    source = lark_of(constraint.source) if constraint.kind == "gbnf" else constraint.source
    return LLMatcher.grammar_from_lark(prepared(source, specials))


def _refusing(constraint: Constraint, work: Callable[[], T]) -> T:
    """The result of `work`. Raises InvalidRequest, naming the request's field, where a constraint cannot be kept to."""
    try:
        return work()
    except (SchemaError, PatternError, GrammarError, GbnfError) as error:
        reason = str(error)
    if len(reason) > LONGEST_REASON:
        reason = f"{reason[:LONGEST_REASON]}…"
    name, param, code = _WORDS[constraint.kind]
    raise InvalidRequest(f"{name} cannot be kept to: {reason}", param=param, code=code)


def _is_special(pointer: Any, token: int, piece: bytes, marks: set[str]) -> bool:
    attributes = llama_cpp.llama_vocab_get_attr(pointer, token)
    if attributes & llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED:
        return piece.decode("utf-8", "replace") in marks
    return bool(attributes & _SPECIAL)
