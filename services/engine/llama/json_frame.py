"""The JSON texts and lists within an answer by a grammar in Lark: where they begin and end, and the watches over them.

llguidance does not tell. So the answer is read a second time, byte by byte, by the same grammar with marks around the
schemas to be watched: tokens of a small vocabulary that the model knows nothing of. A mark that is allowed may stand there.
"""

from __future__ import annotations

import re
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from services.engine.llama.json_watch import JsonWatch
from services.engine.llama.lark import LIST_MARKS, GrammarError, LarkSource
from services.engine.llama.token_table import TokenTable

# The small vocabulary: all bytes, the end, the marks in front of any schema and behind it, those of lists; then special
# tokens, and a mark for each schema.
_END, BEGINS, ENDS, LIST, ITEM, CLOSE, _OTHERS = range(256, 263)
# What JSON begins with.
BEGINNING = re.compile(rb'["\[{\-0-9tfn]')
_ANY = re.compile(rb"(?s:.)")


class Frame:
    """The grammar of answers with marks around its watched schemas, and the watches over them. Never changed."""

    def __init__(self, source: LarkSource, table: TokenTable, limits: Any) -> None:
        """`limits` are llguidance's. Raises GrammarError."""
        self.table = table
        texts = source.names(table.special_ids)
        watched = [n for n, each in enumerate(source.schemas) if each.schema.is_watched]
        self.specials = {table.special_ids[text]: _OTHERS + n for n, text in enumerate(texts)}
        """The special tokens of the grammar: the vocabulary's, and the small one's."""
        first = _OTHERS + len(texts)
        self.watches = {first + n: JsonWatch(source.schemas[each].schema.schema, table) for n, each in enumerate(watched)}
        """The watch of each schema at its beginning, by its mark."""
        marks = {each: f"<[{BEGINS}]> <[{first + n}]>" for n, each in enumerate(watched)}
        text = source.framed(
            {text: self.specials[table.special_ids[text]] for text in texts},
            lambda n: (marks[n], f"<[{ENDS}]>") if n in marks else ("", ""),
            dict(zip(LIST_MARKS, (f"<[{mark}]>" for mark in (LIST, ITEM, CLOSE)), strict=True)),
        )
        self.has_lists = source.has_marks
        self.stops = _ANY if source.has_marks else BEGINNING
        """The bytes in front of which marks may stand."""
        tokenizer = LLTokenizer(_Bytes(first + len(watched)), slices=[])  # type: ignore[arg-type]
        self.start = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(text), log_level=0, limits=limits)
        if self.start.is_error():
            raise GrammarError(self.start.get_error().partition("\n")[0])


class _Bytes:
    """The small vocabulary as llguidance takes it."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = _END

    def __init__(self, size: int) -> None:
        self.tokens = [bytes([code]) for code in range(_END)] + [b"<%d>" % n for n in range(_END, size)]
        self.special_token_ids = list(range(_END, size))

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)
