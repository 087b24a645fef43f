"""The format of a model's replies: its thoughts, its syntaxes of calls, and what surrounds its content."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from services.backend.types import Constraint
from services.replies.free_text import FreeText
from services.replies.grammar import SPACE, Lark
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
        if constraint.kind not in ("json_schema", "regex") or constraint.triggers:
            return constraint
        lark = Lark(self.tokens)
        if not self.wraps:
            if not self.thoughts or constraint.kind == "regex":
                return constraint
            # Models put an empty line between their thoughts and the answer.
            return Constraint("lark", lark.source(rf"/\n{{0,2}}/ {lark.content(constraint)}"))
        begins, ends = self.wraps[0]
        return Constraint("lark", lark.source(f"{lark.text(begins)} {lark.content(constraint)} {lark.text(ends)}"))

    def constraint(self, tools: Sequence[Mapping[str, Any]], choice: str, parallel: bool) -> Constraint | None:
        """Return what holds calls to the names and schemas of the tools; None if there is no tool to call.

        `choice`: "auto" (a call that has begun is held), "required" (the answer is a call), or a tool's name (it is a call
        of this one). `parallel`: several calls are allowed; else the answer ends behind the first. Raises InvalidRequest,
        naming the tool, for a schema that cannot be kept to.
        """
        wanted = Toolset.of(tools).only(choice)
        if not wanted.schemas or not self.syntaxes:
            return None
        if choice == "auto":
            is_bare = any(each.bare_pattern(wanted) for each in self.syntaxes)
            return self._bare(wanted, parallel) if is_bare else self._lazy(wanted, parallel)
        lark, syntax = Lark(self.tokens), self.syntaxes[0]
        # A thought that has no ending may end with any of these.
        openers = dict.fromkeys((syntax.trigger, *(each for each in syntax.openers if each in self.breaks)))
        each = (f"{lark.text(opener)} {syntax.grammar(lark, wanted, parallel, opener)}" for opener in openers)
        call = lark.rule("call", " | ".join(each))
        between = SPACE if syntax.between.isspace() else lark.text(syntax.between)
        # White space alone asks for no further call.
        more = f" ({between} {call})* {SPACE}" if parallel and not syntax.is_list else ""
        return Constraint("lark", lark.source(call + more))

    def _lazy(self, tools: Toolset, parallel: bool) -> Constraint | None:
        """Return what holds each call from behind its beginning on."""
        begins = [begin for syntax in self.syntaxes for begin in syntax.begins(tools, parallel)]
        found = [Constraint("lark", _source(self.tokens, begin.rest), begin.texts, once=not parallel) for begin in begins]
        return replace(found[0], also=tuple(found[1:])) if found else None

    def _bare(self, tools: Toolset, parallel: bool) -> Constraint:
        """Return what holds calls where one may be the answer's beginning, without an opener: the grammar of all of it."""
        lark = Lark(self.tokens)
        bare = [each for each in self.syntaxes if each.bare_pattern(tools)]
        calls = [f"{lark.text(each.trigger)} {each.grammar(lark, tools, parallel)}" for each in bare]
        patterns = "|".join(each.bare_pattern(tools) for each in bare)
        begins = [begin for syntax in self.syntaxes for begin in syntax.begins(tools, parallel)]
        return Constraint("lark", FreeText(lark, begins, self._marks()).source(calls, patterns, parallel))

    def _marks(self) -> list[str]:
        """Return the special tokens that may stand in an answer, besides those of calls."""
        tags = (self.thoughts.begins, self.thoughts.ends) if self.thoughts else ()
        known = (*tags, *(tag for pair in self.wraps for tag in pair), *self.skipped)
        return [text for text in dict.fromkeys(known) if text in self.tokens]

    def thought_breaks(self, tools: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
        """Return the texts with which a thought ends without its ending where these tools may be called."""
        openers = [opener for syntax in self.syntaxes for opener in syntax.openers] if tools else []
        return tuple(text for text in self.breaks if text in openers or text in self.skipped)

    def is_thinking(self, prompt_tail: str) -> bool:
        """Return whether a prompt that ends so has begun a thought."""
        if not self.thoughts:
            return False
        _, begins, behind = prompt_tail.rpartition(self.thoughts.begins)
        # A turn's end behind the opener shows that somebody wrote of it.
        return bool(begins) and self.thoughts.ends not in behind and not any(token in behind for token in self.tokens)


def _source(tokens: frozenset[str], rest: Callable[[Lark], str]) -> str:
    lark = Lark(tokens)
    return lark.source(rest(lark))
