"""The sandbox for chat templates: untrusted Jinja that can reach no Python objects, with limits on its time and output.

The environment is the one that Hugging Face's templates are written for (transformers, "Chat templates"): blocks are
trimmed, and there are `raise_exception`, `strftime_now`, `tojson` and the tags of loop controls and `generation`. The
filter `from_json` is llama.cpp's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from types import CodeType
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer
from typing_extensions import override

# The CPU seconds that a rendering may take: some, some more for each message (Gemma 4's template looks through all earlier
# messages at each), and at most.
RUN_SECONDS, MESSAGE_SECONDS, MOST_SECONDS = 2.0, 0.01, 8.0
# The most characters of a text that a template may make.
LONGEST = 2**23
# The most characters of the indent and of each separator of `tojson`.
_WIDEST = 100


class SandboxViolation(Exception):
    """The template called raise_exception."""


class Slow(Exception):
    """The template takes too long."""


# What a template may do to lists that it made itself.
_CHANGES = ("append", "insert", "pop")
# Filters whose names no template can write.
_WATCHED, _JOINED = "watched loop", "joined text"
FAILURES = (jinja2.TemplateError, MemoryError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)


class Clock:
    """The time limit of one rendering, on the thread that made it."""

    def __init__(self, n_messages: int = 0, pause: Callable[[], None] = lambda: None, seconds: float | None = None) -> None:
        """`pause` is called now and then, and may raise to give up. `seconds`: the limit, if it is another."""
        usual = min(RUN_SECONDS + MESSAGE_SECONDS * n_messages, MOST_SECONDS)
        self._ends = time.thread_time() + (usual if seconds is None else seconds)
        self._pause = pause
        self._n_checks = 0

    def check(self) -> None:
        """Raise Slow if the limit has passed, and whatever `pause` raises. Only every 64th call checks: it is expensive."""
        self._n_checks += 1
        if self._n_checks % 64 == 0:
            if time.thread_time() > self._ends:
                raise Slow
            self._pause()


class _Generation(Extension):
    """`{% generation %}`, which marks the model's own text for training; here it has no effect."""

    tags = {"generation"}

    @override
    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Watching(NodeTransformer):
    """Routes each loop and each `~` of a template through a filter of the sandbox."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        """Filter the iterable by _WATCHED. A recursive loop is bounded by its calls."""
        if not node.recursive:
            node.iter = nodes.Filter(node.iter, _WATCHED, [], [], None, None, lineno=node.lineno)
        return self.generic_visit(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        """Join the parts by _JOINED."""
        parts = nodes.List(node.nodes, lineno=node.lineno)
        joined = nodes.Filter(parts, _JOINED, [], [], None, None, lineno=node.lineno)
        return self.generic_visit(joined)


class _Given(list[Any]):
    """A list that was handed to a template, which cannot change it."""


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, for one rendering: loops, calls and lookups check its clock, and values that grow their size.

    A template may change lists of its own, an entry at a time, as Kimi K2's does; transformers lets it change none.
    """

    intercepted_binops = frozenset({"*", "**", "+"})

    def __init__(self, clock: Clock) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        self._clock = clock
        self.globals.update(raise_exception=_refuse, strftime_now=_now)
        # Jinja's own filter escapes characters for HTML.
        self.filters["tojson"] = _to_json
        self.filters["from_json"] = json.loads
        self.filters[_WATCHED] = self._watched
        self.filters[_JOINED] = self._joined

    def _watched(self, values: Any) -> Any:
        """Yield the values, with a check of the clock before each."""
        for value in values:
            self._clock.check()
            yield value

    def _joined(self, parts: Sequence[Any]) -> str:
        """The parts as one text. Raises TemplateRuntimeError if it is too long."""
        text = [str(part) for part in parts]
        if sum(map(len, text)) > LONGEST:
            raise jinja2.TemplateRuntimeError("it makes too long a text")
        return "".join(text)

    @override
    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute a sum, product or power. Raises TemplateRuntimeError if it is too large."""
        self._clock.check()
        size = max((len(each) for each in (left, right) if hasattr(each, "__len__")), default=1)
        factor = max((abs(each) for each in (left, right) if isinstance(each, int | float)), default=0)
        if operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__") and len(left) + len(right) > LONGEST:
            raise jinja2.TemplateRuntimeError("it makes too large a value")
        if (operator == "*" and size * factor > LONGEST) or (operator == "**" and factor > 64):
            raise jinja2.TemplateRuntimeError("it makes too large a value")
        return super().call_binop(context, operator, left, right)

    @override
    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return (type(obj) is list and attr in _CHANGES) or super().is_safe_attribute(obj, attr, value)

    @override
    def call(self, *arguments: Any, **named: Any) -> Any:
        self._clock.check()
        return super().call(*arguments, **named)

    @override
    def getattr(self, obj: Any, attribute: str) -> Any:
        self._clock.check()
        return super().getattr(obj, attribute)


def compiled(source: str) -> tuple[CodeType, frozenset[str]]:
    """Compile a template for `rendered`; also return the names of the variables that it reads.

    Raises jinja2.TemplateError, and RecursionError, ValueError or SyntaxError.
    """
    sandbox = Sandbox(Clock())
    tree = sandbox.parse(source)
    variables = frozenset(meta.find_undeclared_variables(tree))
    return sandbox.compile(_Watching().visit(tree)), variables


def global_names() -> frozenset[str]:
    """Return the names of the functions that every template may call."""
    return frozenset(Sandbox(Clock()).globals)


def rendered(code: CodeType, values: dict[str, Any], clock: Clock) -> Iterator[str]:
    """Render a compiled template, piece by piece. Raises SandboxViolation, Slow, and one of FAILURES."""
    sandbox = Sandbox(clock)
    template = jinja2.Template.from_code(sandbox, code, sandbox.make_globals(None))
    for piece in template.generate({name: _given(value) for name, value in values.items()}):
        clock.check()
        yield piece


def _given(value: Any) -> Any:
    """A JSON value whose lists the template cannot change."""
    if isinstance(value, dict):
        return {name: _given(each) for name, each in value.items()}
    return _Given(map(_given, value)) if isinstance(value, list | tuple) else value


def local_time() -> datetime:
    """Return the time that templates are told, with its zone."""
    return datetime.now().astimezone()


def _refuse(message: object = "") -> NoReturn:
    raise SandboxViolation(str(message))


def _now(layout: str) -> str:
    return local_time().strftime(str(layout))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return a value as JSON. The parameters and their order are those of transformers' filter.

    What `map` and `select` return is written as a list, as in llama.cpp. Raises TemplateRuntimeError if the indent or the
    separators are too long.
    """
    widths = [indent if isinstance(indent, int) else len(indent or ""), *map(len, separators or ())]
    if max(widths) > _WIDEST:
        raise jinja2.TemplateRuntimeError("it makes too long a text")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, default=_listed
    )


def _listed(value: object) -> list[object]:
    if isinstance(value, Iterator):
        return list(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
