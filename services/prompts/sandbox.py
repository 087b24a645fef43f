"""Where chat templates run: Jinja from a stranger, which reaches nothing of Python's own, and has an end.

The environment is the one that Hugging Face's templates are written for (transformers, "Chat templates"): blocks are
trimmed, `raise_exception`, `strftime_now` and `tojson` exist, and nothing else can be reached or changed.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

# How long, in seconds of this thread's own time, a template may run, and for each message beside (Gemma 4's looks through
# all earlier ones at each), and at most; how long a text it may make.
RUN_SECONDS, MESSAGE_SECONDS, MOST_SECONDS = 2.0, 0.01, 8.0
LONGEST = 2**23


class SandboxViolation(Exception):
    """The template called raise_exception."""


class Slow(Exception):
    """The template takes too long."""


# Filters that templates cannot name.
_WATCHED, _JOINED = "watched loop", "joined text"
FAILURES = (jinja2.TemplateError, MemoryError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)


class _Clock(threading.local):
    """How long the template runs on this thread."""

    ends = 0.0
    looks = 0

    def __init__(self) -> None:
        self.pause: Callable[[], None] = lambda: None

    def start(self, n_messages: int) -> None:
        self.ends = time.thread_time() + min(RUN_SECONDS + MESSAGE_SECONDS * n_messages, MOST_SECONDS)

    @contextmanager
    def pausing(self, pause: Callable[[], None]) -> Iterator[None]:
        """Call `pause` too where the clock is looked at, on this thread."""
        before, self.pause = self.pause, pause
        try:
            yield
        finally:
            self.pause = before

    def check(self) -> None:
        """Raises Slow once it has run too long, and what `pause` raises. That costs much: it is not done each time."""
        self.looks += 1
        if self.looks % 64 == 0:
            if time.thread_time() > self.ends:
                raise Slow
            self.pause()


class _Generation(Extension):
    """`{% generation %}` marks, for training, what the model wrote; here its body is text like any other."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Watching(NodeTransformer):
    """Has each loop and each `~` of a template go through a filter of ours."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        """A loop over what is watched; one that calls itself is bounded as calls are."""
        if not node.recursive:
            node.iter = nodes.Filter(node.iter, _WATCHED, [], [], None, None, lineno=node.lineno)
        return self.generic_visit(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        """The same parts, joined by our filter."""
        parts = nodes.List(node.nodes, lineno=node.lineno)
        joined = nodes.Filter(parts, _JOINED, [], [], None, None, lineno=node.lineno)
        return self.generic_visit(joined)


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which lets a template reach nothing of Python's own; and here it cannot take for ever either."""

    intercepted_binops = frozenset({"*", "**", "+"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        self.clock = _Clock()
        self.globals.update(raise_exception=_refuse, strftime_now=_now)
        # Jinja's own escapes what HTML would misread.
        self.filters["tojson"] = _to_json
        self.filters[_WATCHED] = self._watched
        self.filters[_JOINED] = self._joined

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """See Jinja. Loops look at the clock, and texts that are put together at their length."""
        tree: nodes.Template = _Watching().visit(super()._parse(source, name, filename))
        return tree

    def _watched(self, values: Any) -> Any:
        """The same values, one by one while there is time."""
        for value in values:
            self.clock.check()
            yield value

    def _joined(self, parts: Sequence[Any]) -> str:
        """The parts as one text, unless it would be huge."""
        text = [str(part) for part in parts]
        if sum(map(len, text)) > LONGEST:
            raise jinja2.TemplateRuntimeError("it makes too long a text")
        return "".join(text)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """A repetition or a power, unless it would make something huge."""
        self.clock.check()
        size = max((len(each) for each in (left, right) if hasattr(each, "__len__")), default=1)
        factor = max((abs(each) for each in (left, right) if isinstance(each, int | float)), default=0)
        if operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__") and len(left) + len(right) > LONGEST:
            raise jinja2.TemplateRuntimeError("it makes too large a value")
        if (operator == "*" and size * factor > LONGEST) or (operator == "**" and factor > 64):
            raise jinja2.TemplateRuntimeError("it makes too large a value")
        return super().call_binop(context, operator, left, right)

    def call(self, *arguments: Any, **named: Any) -> Any:
        """See Jinja."""
        self.clock.check()
        return super().call(*arguments, **named)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """See Jinja."""
        self.clock.check()
        return super().getattr(obj, attribute)


def _refuse(message: object = "") -> NoReturn:
    raise SandboxViolation(str(message))


def _now(layout: str) -> str:
    return datetime.now().astimezone().strftime(str(layout))


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
