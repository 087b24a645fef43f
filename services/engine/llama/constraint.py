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

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from services.backend.types import Constraint, Prompt
from services.engine.llama.bindings import llama_cpp
from services.engine.llama.frame_watch import FrameWatch
from services.engine.llama.gbnf import GbnfError, lark_of
from services.engine.llama.json_frame import Frame
from services.engine.llama.json_watch import JsonWatch
from services.engine.llama.lark import EmbeddedError, GrammarError, LarkSource, Note, schema_text
from services.engine.llama.matcher import Grammar, GuidedGrammar, Matcher, Watch, WatchedGrammar
from services.engine.llama.schemas.errors import SchemaError
from services.engine.llama.schemas.simplify import Simplified, simplified
from services.engine.llama.token_table import TokenTable
from services.engine.llama.vocabulary import Vocabulary
from services.errors import InvalidRequest
from services.patterns.patterns import PatternError, matched

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
    "max_items_in_row": 12_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}
# An attribute of tokens (llama.h, llama_token_attr) that are no text.
_SPECIAL = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
_MARKED = _SPECIAL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
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
        parsed = _parsed(constraint)
        source = _guided(constraint, parsed, table.special_ids)
        matcher = LLMatcher(tokenizer, source, log_level=0, limits=LLParserLimits(**_LIMITS))
        if matcher.is_error():
            raise _found(constraint, parsed, matcher.get_error())
        grammar: Grammar = GuidedGrammar(matcher, size, frozenset(table.ends.tolist()))
        # The first mask is computed here, so that a grammar that allows nothing is refused.
        if not grammar.allowed().any():
            raise GrammarError(matcher.get_error() or "no text fits it")
        watch = _watch(parsed, table)
        if watch is None:
            return grammar
        table.prepare()
        return WatchedGrammar(grammar, watch)

    def _make_tokenizer(self) -> tuple[LLTokenizer, TokenTable]:
        vocabulary = self._vocabulary
        pieces = vocabulary.pieces(range(vocabulary.size))
        marks = {text.encode() for text in vocabulary.chat_format.specials}
        attributes = llama_cpp.llama_vocab_get_attr
        specials = [
            token
            for token, piece in enumerate(pieces)
            if (kind := attributes(vocabulary.pointer, token) & _MARKED) and (kind & _SPECIAL or piece in marks)
        ]
        table = TokenTable(pieces, specials, vocabulary.endings)
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
        parsed = _parsed(constraint)
        if error := _invalid(_guided(constraint, parsed, {})):
            raise _found(constraint, parsed, error)

    _refusing(constraint, check)


def _parsed(constraint: Constraint) -> Simplified | LarkSource | None:
    """A schema or a grammar, read; None for a regular expression. Raises what is wrong with it."""
    if constraint.kind == "regex":
        return None
    if constraint.kind == "json_schema":
        return simplified(constraint.source)
    return LarkSource(lark_of(constraint.source) if constraint.kind == "gbnf" else constraint.source)


def _guided(constraint: Constraint, parsed: Simplified | LarkSource | None, specials: dict[str, int]) -> str:
    """A constraint as llguidance takes it. Raises PatternError."""
    if isinstance(parsed, Simplified):
        return LLMatcher.grammar_from_json_schema(schema_text(parsed.text))
    if parsed is None:
        return LLMatcher.grammar_from_regex(matched(constraint.source))
    return LLMatcher.grammar_from_lark(parsed.text(specials))


def _watch(parsed: Simplified | LarkSource | None, table: TokenTable) -> Watch | None:
    """The watch over what a grammar cannot say; None if it says everything."""
    if isinstance(parsed, Simplified):
        return JsonWatch(parsed.schema, table) if parsed.is_watched else None
    if parsed is None or not (parsed.has_marks or any(each.schema.is_watched for each in parsed.schemas)):
        return None
    return FrameWatch(Frame(parsed, table, LLParserLimits(**_LIMITS)))


def _invalid(grammar: str) -> str:
    """Return llguidance's complaint about a grammar; "" if it has none."""
    is_wrong, reasons = LLMatcher.validate_grammar_with_warnings(grammar, None, limits=LLParserLimits(**_LIMITS))
    return "; ".join(reasons) if is_wrong else ""


def _found(constraint: Constraint, parsed: Simplified | LarkSource | None, reason: str) -> Exception:
    """The error for what llguidance refuses; for a schema with the place of the keyword at fault, if that is found."""
    if constraint.kind == "json_schema":
        return _at_fault(constraint.source) or SchemaError("#", reason.partition("\n")[0])
    for each in parsed.schemas if isinstance(parsed, LarkSource) else ():
        if _invalid(LLMatcher.grammar_from_json_schema(schema_text(each.schema.text))):
            return EmbeddedError(_at_fault(each.source) or SchemaError("#", reason.partition("\n")[0]), each.note)
    found = _ERROR.search(reason)
    return GrammarError(found[1] if found else reason.partition("\n")[0])


def _at_fault(source: str) -> SchemaError | None:
    """The error of the keyword in a schema that llguidance refuses; None if it is none by itself."""
    try:
        simplified(source, lambda part: _invalid(LLMatcher.grammar_from_json_schema(schema_text(json.dumps(part)))))
    except SchemaError as error:
        return SchemaError(error.where, error.reason.partition("\n")[0])
    return None


def _refusing(constraint: Constraint, work: Callable[[], T]) -> T:
    """The result of `work`. Raises InvalidRequest, naming the request's field, where a constraint cannot be kept to."""
    name, param, code = _WORDS[constraint.kind]
    try:
        return work()
    except EmbeddedError as error:
        reason = str(error)
        if error.note:
            name, param, code = _named(error.note), error.note.param, "bad_schema"
    except (SchemaError, PatternError, GrammarError, GbnfError) as error:
        reason = str(error)
    if len(reason) > LONGEST_REASON:
        reason = f"{reason[:LONGEST_REASON]}…"
    raise InvalidRequest(f"{name} cannot be kept to: {reason}", param=param, code=code)


def _named(note: Note) -> str:
    """Return the words for a schema within a grammar, with its tool if it is of one."""
    return f"the schema of tool {json.dumps(note.name, ensure_ascii=False)}" if note.name else "the JSON schema"
