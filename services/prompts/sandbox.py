"""The sandbox for chat templates: untrusted Jinja that can reach no Python objects, with limits on its time and memory.

The environment is the one that Hugging Face's templates are written for (transformers, "Chat templates"): blocks are
trimmed, and there are `raise_exception`, `strftime_now`, `tojson` and the tags of loop controls and `generation`. The
filter `from_json` is llama.cpp's.

The limits' rule: each operation pays for the value that it makes, and weighs its operands before it compares, writes or
hashes them (`services.prompts.meter`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from string import Formatter
from types import BuiltinMethodType, CodeType
from typing import Any, NoReturn, cast

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace, missing
from markupsafe import EscapeFormatter, Markup
from typing_extensions import override

from services.prompts import metering
from services.prompts.filters import CHECKED_FILTERS, CHECKED_TESTS
from services.prompts.meter import ENTRY, Excessive, GivenDict, Meter
from services.prompts.operations import DICT_METHODS, methods_of, pay_for_method, pay_for_operator

# The most characters of a template, and nodes of its tree: the largest real ones have 17,000 and 1,300.
LONGEST_SOURCE, MOST_NODES = 2**17, 2**13
# The most characters of a prompt, and of a message of the template's own.
LONGEST, _LONGEST_MESSAGE = 2**23, 500
# The bytes that a call makes by itself.
_CALL = 256
# Arguments that Jinja's compiler adds to calls.
_JINJAS = ("_loop_vars", "_block_vars")
FAILURES = (jinja2.TemplateError, MemoryError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)


class SandboxViolation(Exception):
    """The template called raise_exception."""


class _Generation(Extension):
    """`{% generation %}`, which marks the model's own text for training; here it has no effect."""

    tags = {"generation"}

    @override
    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    """Jinja's, written without what it holds."""

    def __repr__(self) -> str:
        return "<namespace>"


# Objects of Jinja's that have no more than what they show.
_OF_TEMPLATES = (LoopContext, _Namespace)


class _Formatter(SandboxedFormatter):
    """The formatter of `str.format`, whose fields pay."""

    def __init__(self, sandbox: Sandbox, **options: Any) -> None:
        super().__init__(sandbox, **options)
        self._meter = sandbox.meter

    @override
    def convert_field(self, value: Any, conversion: Any) -> Any:
        self._meter.weigh(value)
        converted = super().convert_field(value, conversion)
        self._meter.made(converted)
        return converted

    @override
    def format_field(self, value: Any, format_spec: str) -> Any:
        self._meter.weigh(value)
        digits = "".join(letter if letter.isdecimal() else " " for letter in format_spec).split()
        self._meter.pay(sum(int(each[:9]) for each in digits))
        text = super().format_field(value, format_spec)
        self._meter.made(text)
        return text


class _EscapingFormatter(_Formatter, EscapeFormatter):
    """That of texts marked as safe."""


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, for one rendering.

    A template may change lists of its own, an entry at a time, as Kimi K2's does; transformers lets it change none.
    """

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self, meter: Meter) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation], finalize=self._written
        )
        self.meter = meter
        del self.globals["lipsum"]
        self.globals.update(raise_exception=_refuse, strftime_now=_now, namespace=_Namespace)
        known: Any = {**CHECKED_FILTERS, **metering.FILTERS}
        self.filters, self.tests = known, cast(Any, CHECKED_TESTS)

    def for_rendering(self, meter: Meter) -> Sandbox:
        """Return the same sandbox with a meter of its own."""
        made = copy.copy(self)
        made.meter = meter
        made.finalize = made._written
        return made

    def _written(self, value: Any) -> Any:
        """Pay for a value that is written."""
        if type(value) is str:
            self.meter.pay(len(value) if value.isascii() else 4 * len(value))
        else:
            self.meter.pay(self.meter.weigh(value))
        return value

    @override
    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if type(left) is str and type(right) is str and operator == "+":
            made: str = left + right
            self.meter.made(made)
            return made
        pay_for_operator(self.meter, operator, left, right)
        return self.binop_table[operator](left, right)

    @override
    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        known = methods_of(obj)
        return super().is_safe_attribute(obj, attr, value) if known is None else attr in known

    @override
    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None
        text = value.__self__
        is_safe = isinstance(text, Markup)
        formatter: Formatter = _EscapingFormatter(self, escape=text.escape) if is_safe else _Formatter(self)

        def formatted(*args: Any, **named: Any) -> str:
            if value.__name__ == "format_map":
                args, named = (), dict(*args, **named)
            made: str = type(text)(formatter.vformat(text, args, named))
            self.meter.made(made)
            return made

        return formatted

    @override
    def call(__self, __context: Any, __obj: Any, *args: Any, **named: Any) -> Any:  # noqa: N805
        meter = __self.meter
        # The arguments are copied on their way.
        meter.pay(_CALL + 8 * ENTRY * (len(args) + len(named)))
        if not isinstance(__obj, Macro):
            own = {name: value for name, value in named.items() if name not in _JINJAS} if named else named
            args = __self._pay_for_call(__obj, args, own)
        result = super().call(__context, __obj, *args, **named)
        meter.made(result)
        return result

    def _pay_for_call(self, function: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, ...]:
        """Pay for the call of a function that is no macro, and return the arguments as it may have them."""
        if isinstance(function, BuiltinMethodType) and methods_of(function.__self__) is not None:
            if function.__name__ == "join":
                args = tuple(list(each) if isinstance(each, Iterator) else each for each in args)
            pay_for_method(self.meter, function.__self__, function.__name__, args, named)
        else:
            for each in (*args, *named.values()):
                self.meter.weigh(each)
        return args

    @override
    def getattr(self, obj: Any, attribute: str) -> Any:
        self.meter.pay()
        kind = type(obj)
        if kind is GivenDict or kind is dict:
            # Jinja looks for an attribute first, and raises in vain for most.
            if attribute not in DICT_METHODS:
                return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        elif kind in _OF_TEMPLATES and not attribute.startswith("_"):
            value = getattr(obj, attribute, missing)
            return self.undefined(obj=obj, name=attribute) if value is missing else value
        return super().getattr(obj, attribute)

    @override
    def getitem(self, obj: Any, argument: Any) -> Any:
        # Python computes a hash of it.
        self.meter.weigh(argument)
        return super().getitem(obj, argument)


@lru_cache(maxsize=1)
def _sandbox() -> Sandbox:
    """The sandbox that those of all renderings are copies of: Jinja takes a while to make one."""
    return Sandbox(Meter())


def compiled(source: str) -> tuple[CodeType, frozenset[str]]:
    """Compile a template for `rendered`; also return the names of the variables that it reads.

    Raises jinja2.TemplateError, and RecursionError, ValueError or SyntaxError.
    """
    if len(source) > LONGEST_SOURCE:
        raise ValueError(f"it has {len(source)} characters; {LONGEST_SOURCE} are the most")
    sandbox = _sandbox().for_rendering(Meter())
    tree = sandbox.parse(source)
    if sum(1 for _ in tree.find_all(nodes.Node)) > MOST_NODES:
        raise ValueError("it has too many statements and expressions")
    variables = frozenset(meta.find_undeclared_variables(tree))
    return sandbox.compile(metering.Metering().visit(tree)), variables


def global_names() -> frozenset[str]:
    """Return the names of the functions that every template may call."""
    return frozenset(_sandbox().globals)


def rendered(code: CodeType, values: Mapping[str, Any], meter: Meter) -> Iterator[str]:
    """Render a compiled template, piece by piece. Raises SandboxViolation, Excessive, and one of FAILURES."""
    sandbox = _sandbox().for_rendering(meter)
    template = jinja2.Template.from_code(sandbox, code, sandbox.make_globals(None))
    for piece in template.generate(meter.take_in(dict(values))):
        meter.pay()
        yield piece


def local_time() -> datetime:
    """Return the time that templates are told, with its zone."""
    return datetime.now().astimezone()


def shortened(message: object) -> str:
    """Return what a template or Jinja says, cut to what fits into an error."""
    text = str(message)
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "…"


def _refuse(message: object = "") -> NoReturn:
    raise SandboxViolation(shortened(message))


def _now(layout: str) -> str:
    if len(text := str(layout)) > _LONGEST_MESSAGE:
        raise Excessive("makes too long a date")
    return local_time().strftime(text)
