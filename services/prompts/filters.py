"""The filters and tests of chat templates: Jinja's, which pay for what they make and weigh what they look at.

Its filters that write HTML (`urlize`, `striptags`, `xmlattr`) or debug (`pprint`) are left out: their time grows with the
square of their input.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, cast

from jinja2 import pass_context
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.runtime import Context
from jinja2.tests import TESTS

from services.prompts.meter import ENTRY, Meter
from services.prompts.prices import (
    BOX,
    batched_price,
    escaped_price,
    formatted_price,
    indented_price,
    joined_price,
    padded_price,
    replaced_price,
    rounded_price,
    spread_price,
    words_price,
    wrapped_price,
)

Function = Callable[..., Any]


def meter_of(context: Context) -> Meter:
    """Return the meter of the rendering to which a context belongs."""
    meter: Meter = context.environment.meter  # type: ignore[attr-defined]
    return meter


def _guarded(function: Function, price: Function | None = None, is_whole: bool = True) -> Function:
    """A filter or test of Jinja's that pays. `is_whole`: it looks at all of its operands, and not at their parts' names."""
    passed = getattr(getattr(function, "jinja_pass_arg", None), "name", "")

    # With the context as its first argument, Jinja computes it in no compilation.
    @pass_context
    def guarded(context: Context, value: Any, *args: Any, **named: Any) -> Any:
        meter = meter_of(context)
        if is_whole:
            value = list(value) if isinstance(value, Iterator) else value
            for each in (value, *args, *named.values()):
                meter.weigh(each)
        if price:
            meter.pay(price(value, *args, **named))
        firsts = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        first = (firsts[passed],) if passed else ()
        result = function(*first, value, *args, **named)
        if result is not value:
            meter.made(result)
        return result

    return guarded


@pass_context
def _sum(context: Context, value: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    """Jinja's `sum`, addition by addition, as those of lists are expensive."""
    parts = map(make_attrgetter(context.environment, attribute), value) if attribute is not None else value
    for each in parts:
        start = context.environment.call_binop(context, "+", start, each)  # type: ignore[attr-defined]
    return start


@pass_context
def _trim(context: Context, value: Any, chars: str | None = None) -> str:
    meter, text = meter_of(context), value
    if not isinstance(value, str):
        meter.weigh(value)
        text = str(value)
    if chars:
        meter.work(len(text) * len(chars))
    stripped: str = text.strip(chars)
    meter.made(stripped)
    return stripped


@pass_context
def _to_json(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return a value as JSON. The parameters and their order are those of transformers' filter.

    What `map` and `select` return is written as a list, as in llama.cpp.
    """
    meter = meter_of(context)

    def listed(part: object) -> list[object]:
        if not isinstance(part, Iterator):
            raise TypeError(f"Object of type {type(part).__name__} is not JSON serializable")
        made = list(part)
        meter.weigh(made)
        return made

    width = len(indent) if isinstance(indent, str) else indent or 0
    # Each entry may be preceded by all of these.
    each = 1 + sum(map(len, separators or ())) + (width * 2 if indent is not None else 0)
    meter.pay(meter.weigh(value) // ENTRY * each)
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, default=listed
    )
    if indent is None:
        text = encoder.encode(value)
        meter.made(text)
        return text
    pieces = []
    for piece in encoder.iterencode(value):
        # However deep it is.
        meter.pay(len(piece))
        pieces.append(piece)
    return "".join(pieces)


@pass_context
def _from_json(context: Context, value: str) -> Any:
    meter_of(context).pay(BOX * len(value))
    return json.loads(value)


def _of_number(test: Function) -> Function:
    """A test of numbers alone: `%` writes texts."""

    @wraps(test)
    def checked(value: Any, *args: Any) -> bool:
        if not isinstance(value, int | float):
            raise TypeError(f"{type(value).__name__} is no number")
        return bool(test(value, *args))

    return _guarded(checked)


_PRICES: dict[str, Function] = {
    **dict.fromkeys(("sort", "unique", "groupby", "dictsort"), spread_price),
    **dict.fromkeys(("title", "wordcount", "urlencode"), words_price),
    **dict.fromkeys(("batch", "slice"), batched_price),
    **dict.fromkeys(("e", "escape", "forceescape"), escaped_price),
    "center": padded_price,
    "format": formatted_price,
    "indent": indented_price,
    "join": joined_price,
    "list": spread_price,
    "replace": replaced_price,
    "round": rounded_price,
    "wordwrap": wrapped_price,
}
_WHOLE = (
    "abs capitalize center dictsort e escape filesizeformat float forceescape format groupby indent int join lower max min "
    "replace round safe sort string title truncate unique upper urlencode wordcount wordwrap"
)
_SHALLOW = (
    "attr batch count d default first items last length list map random reject rejectattr reverse select selectattr slice"
)
CHECKED_FILTERS: dict[str, Function] = {
    **{name: _guarded(FILTERS[name], _PRICES.get(name)) for name in _WHOLE.split()},
    **{name: _guarded(FILTERS[name], _PRICES.get(name), is_whole=False) for name in _SHALLOW.split()},
    "sum": _sum,
    "trim": _trim,
    "tojson": _to_json,
    "from_json": _from_json,
}
_COMPARISONS = "in == eq equalto != ne > gt greaterthan >= ge < lt lessthan <= le lower upper"
_JINJAS_TESTS = cast(dict[str, Function], TESTS)
CHECKED_TESTS: dict[str, Function] = {
    **_JINJAS_TESTS,
    **{name: _guarded(_JINJAS_TESTS[name]) for name in _COMPARISONS.split()},
    **{name: _of_number(_JINJAS_TESTS[name]) for name in ("odd", "even", "divisibleby")},
}
