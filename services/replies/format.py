"""The format of a model's replies: its thoughts, its syntaxes of calls, and what surrounds its content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.backend.types import Constraint
from services.replies.grammar import Lark
from services.replies.reader import FormatReader, Plan, Reader
from services.replies.syntax import CallSyntax, ThoughtTags
from services.replies.toolset import Toolset


@dataclass(frozen=True)
class ReplyFormat:
    """The format in which a model thinks, answers and calls tools."""

    name: str
    thoughts: ThoughtTags | None = None
    knows_tools: bool = True
    """True if the model's template writes tools, calls and results."""
    syntaxes: tuple[CallSyntax, ...] = ()
    """The syntaxes of calls that are read; the model was taught the first."""
    wraps: tuple[tuple[str, str], ...] = ()
    """Pairs of tags around the content, which are no part of it. They count at the content's beginning, and behind it."""
    skipped: tuple[str, ...] = ()
    """Texts that are no part of the content wherever they stand."""
    breaks: tuple[str, ...] = ()
    """Texts that end a thought without its ending: openers, if a call can be read behind them, and others of `skipped`."""
    tokens: frozenset[str] = field(default=frozenset(), repr=False)
    """The special tokens of the model, by their texts."""

    def reader(self, tools: Sequence[Mapping[str, Any]], is_thinking: bool, continues: bool = False) -> Reader:
        """Return a reader of one reply.

        `tools`, in OpenAI's form, are those that may be called; what looks like a call of another, or of any if there are
        none, is content. `is_thinking`: the prompt ended within a thought. `continues`: the prompt ended within a message
        of the model's, so that white space at the reply's beginning belongs to it.
        """
        plan = Plan(self.thoughts, self.syntaxes, self.wraps, self.skipped, self.breaks)
        return FormatReader(plan, tools, is_thinking, continues)

    def framed(self, constraint: Constraint) -> Constraint:
        """Return a constraint of the answer's content together with what the model writes around its content.

        Only schemas and regular expressions are framed; a grammar is the whole answer's.
        """
        if not self.wraps or constraint.kind not in ("json_schema", "regex") or constraint.triggers:
            return constraint
        lark, (begins, ends) = Lark(self.tokens), self.wraps[0]
        return Constraint("lark", lark.source(f"{lark.text(begins)} {lark.content(constraint)} {lark.text(ends)}"))

    def constraint(self, tools: Sequence[Mapping[str, Any]], choice: str, parallel: bool) -> Constraint | None:
        """Return what holds calls to the names and schemas of the tools; None if there is no tool to call.

        `choice`: "auto" (a call that has begun is held), "required" (the answer is a call), or a tool's name (it is a call
        of this one). `parallel`: several calls are allowed; with "auto", the caller ends the answer behind the first.
        """
        wanted = Toolset.of(tools).only(choice)
        if not wanted.schemas or not self.syntaxes:
            return None
        lark, syntax = Lark(self.tokens), self.syntaxes[0]
        if choice == "auto":
            return self._lazy(lark, syntax, wanted, parallel)
        call = lark.rule("call", f"{lark.text(syntax.trigger)} {syntax.grammar(lark, wanted, parallel)}")
        more = f" ({lark.text(syntax.between)} {call})*" if parallel and not syntax.is_list else ""
        return Constraint("lark", lark.source(call + more))

    def _lazy(self, lark: Lark, syntax: CallSyntax, tools: Toolset, parallel: bool) -> Constraint:
        free = syntax.free_text(tools)
        if free is None:
            return Constraint("lark", lark.source(syntax.grammar(lark, tools, parallel)), (syntax.trigger,))
        call = f"{lark.text(syntax.trigger)} {syntax.grammar(lark, tools, parallel)}"
        return Constraint("lark", lark.source(f"{call} | FREE") + f"FREE: {free}\n")

    def is_thinking(self, prompt_tail: str) -> bool:
        """Return whether a prompt that ends so has begun a thought."""
        if not self.thoughts:
            return False
        _, begins, behind = prompt_tail.rpartition(self.thoughts.begins)
        # A turn's end behind the opener shows that somebody wrote of it.
        return bool(begins) and self.thoughts.ends not in behind and not any(token in behind for token in self.tokens)
