"""The grammar of a whole answer that is free where no call begins: for calls that may begin without an opener."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.patterns.patterns import literal
from services.replies.grammar import Lark, any_of
from services.replies.syntax import Begin


@dataclass(frozen=True)
class FreeText:
    """Free text, and calls in it. `marks` are special tokens that may stand in the text."""

    lark: Lark
    begins: Sequence[Begin]
    marks: Sequence[str]

    def text(self, many: bool) -> str:
        """Return the expression for text with calls; unless `many`, only the end may come behind one."""
        text = self.lark.rule("OTHER", "/(?s:.*)/")
        return self._flow(*self._parts(text, "OTHER"), text, many)

    def source(self, calls: Sequence[str], bare: str, many: bool) -> str:
        """Return the grammar of an answer that may begin with one of `calls`, and has others in free text.

        `bare` is the regular expression of texts with which one of `calls` begins.
        """
        lark = self.lark
        first = lark.rule("FIRST", f"/(?s:.*)/ & ~/({bare})(?s:.*)/")
        prose, call = self._parts(first, "FIRST")
        behind = self.text(many)
        called = lark.rule("called", any_of(filter(None, (*calls, call))))
        further = f"{called} ({behind})" if many else called
        return lark.source(" | ".join([further, first, *([f"{prose} ({behind})"] if prose else [])]))

    def _flow(self, prose: str, call: str, text: str, many: bool) -> str:
        if many:
            return f"{self.lark.rule('part', ' | '.join(filter(None, (prose, call))))}* {text}"
        begun = f"{self.lark.rule('prose', prose)}*" if prose else ""
        return f"{begun} {text} | {begun} ({call})"

    def _parts(self, text: str, name: str) -> tuple[str, str]:
        """Return the expressions for text up to a special token, and for text up to a call and that call."""
        marks = [self.lark.text(mark) for mark in self.marks]
        calls = []
        for n, begin in enumerate(self.begins):
            tokens = [each for each in begin.texts if self._begins_with_token(each)]
            plain = [each for each in begin.texts if each not in tokens]
            rest = begin.rest(self.lark)
            calls += [f"{text} {any_of(self.lark.text(each) for each in tokens)} {rest}"] if tokens else []
            if plain:
                head = self.lark.rule(f"{name}_{n}_HEAD", f"{text} /{'|'.join(map(literal, plain))}/")
                lazy = f"{head.lower()}_lazy"
                self.lark.rules[f"{lazy}[lazy]"] = head
                calls.append(f"{lazy} {rest}")
        return f"{text} {any_of(marks)}" if marks else "", " | ".join(calls)

    def _begins_with_token(self, text: str) -> bool:
        return any(text.startswith(token) for token in self.lark.tokens if token)
