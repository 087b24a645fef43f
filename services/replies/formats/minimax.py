"""MiniMax M1: objects in `<tool_calls>`, one a line. M3: formats/minimax_m3.py; M2: formats/invoke.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from typing_extensions import override

from services.backend.types import ChatFormat
from services.replies.format import ReplyFormat
from services.replies.formats.minimax_m3 import M3, NS
from services.replies.formats.tagged_json import TaggedJson
from services.replies.formats.thinking import tags_of
from services.replies.grammar import Lark, quoted
from services.replies.syntax import Begin, ThoughtTags
from services.replies.toolset import Toolset


@dataclass(frozen=True)
class JsonLines(TaggedJson):
    """Objects one behind the other within one pair of tags, each on a line."""

    openers: tuple[str, ...] = ("<tool_calls>",)
    markers: tuple[str, ...] = ("</tool_calls>",)
    closer: str = "</tool_calls>"
    is_list: bool = True

    @override
    def grammar(self, lark: Lark, tools: Toolset, many: bool, opener: str = "") -> str:
        return f"{quoted(chr(10))} {self._lines(lark, tools, many, '')}"

    @override
    def begins(self, tools: Toolset, many: bool) -> Iterator[Begin]:
        yield Begin(('<tool_calls>\n{"',), lambda lark: self._lines(lark, tools, many, '{"'))

    def _lines(self, lark: Lark, tools: Toolset, many: bool, begun: str) -> str:
        first = self.objects_grammar(lark, tools, begun)
        more = f"({quoted(chr(10))} {self.objects_grammar(lark, tools)})*" if many else ""
        return f"{first} {more} {quoted(chr(10))} {lark.text(self.closer)}"


M1 = JsonLines()


def minimax(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of the templates of M1 and M3."""
    template = chat_format.template + chat_format.tool_template
    tokens = frozenset(chat_format.specials)
    if NS in template and "<invoke name=" in template:
        thoughts = ThoughtTags("<mm:think>", "</mm:think>", after="")
        return ReplyFormat(
            "minimax-m3", thoughts, syntaxes=(M3,), skipped=(thoughts.ends,), breaks=M3.openers, tokens=tokens
        )
    if "<tool_calls>\\n{" in template:
        return ReplyFormat("minimax-m1", tags_of(chat_format), syntaxes=(M1,), tokens=tokens)
    return None
