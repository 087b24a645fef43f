"""The methods and operators of chat templates, and their prices, which are paid in advance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from services.prompts.meter import ENTRY, Excessive, GivenDict, GivenList, Meter
from services.prompts.prices import WORD, formatted_price, joined_price, padded_price, replaced_price, words_price


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The methods of texts, lists and dicts that a template may call. It may change lists of its own alone.
_OF_TEXT = _names(
    "capitalize casefold center count endswith find format format_map index isalnum isalpha isascii isdecimal isdigit "
    "isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip partition removeprefix "
    "removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title "
    "upper zfill"
)
_OF_LIST = frozenset(("copy", "count", "index"))
_OF_OWN_LIST = _OF_LIST | {"append", "insert", "pop"}
DICT_METHODS = frozenset(("copy", "get", "items", "keys", "values"))
_NONE: frozenset[str] = frozenset()


def methods_of(value: Any) -> frozenset[str] | None:
    """Return the names of a value's methods that a template may call; None for Jinja's own objects."""
    if isinstance(value, str):
        return _OF_TEXT
    if isinstance(value, dict):
        return DICT_METHODS
    if isinstance(value, list):
        return _OF_LIST if isinstance(value, GivenList) else _OF_OWN_LIST
    return _NONE if isinstance(value, int | float | bytes | range | set) or type(value) is tuple else None


def pay_for_method(meter: Meter, owner: Any, name: str, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Pay for the call of a method of `owner`, one of `methods_of`. Raises Excessive."""
    for each in (*args, *named.values()):
        size = meter.weigh(each)
        if name in ("append", "insert") and not isinstance(each, str | GivenDict | GivenList):
            # Small lists are not paid for when they are made.
            meter.pay(size)
    if isinstance(owner, str) and (price := _METHODS.get(name)):
        meter.pay(price(meter, owner, *args, **named))


def _separated(meter: Meter, text: str, sep: str | None = None, *_: Any, **__: Any) -> int:
    return len(text) + WORD * (1 + (text.count(sep) if sep else len(text) // 2))


def _separated_from_right(meter: Meter, text: str, sep: str | None = None, *_: Any, **__: Any) -> int:
    _searched(meter, text, sep)
    return _separated(meter, text, sep)


def _searched(meter: Meter, text: str, part: str | None = None, *_: Any) -> int:
    """A search from the right, or one of any letters, may compare each character with each."""
    meter.work(len(text) * len(part or ""))
    return ENTRY


_METHODS: dict[str, Callable[..., int]] = {
    **dict.fromkeys(("rfind", "rindex", "rpartition", "strip", "lstrip", "rstrip"), _searched),
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), lambda _, text, width, *rest: padded_price(text, width)),
    **dict.fromkeys(("split", "splitlines"), _separated),
    "rsplit": _separated_from_right,
    "title": lambda _, text: words_price(text),
    "join": lambda _, text, parts: joined_price(parts, text),
    "replace": lambda _, *args, **named: replaced_price(*args, **named),
}


def pay_for_operator(meter: Meter, operator: str, left: Any, right: Any) -> None:
    """Pay for a binary operator. Raises Excessive."""
    if type(left) is int and type(right) is int and operator != "**":
        meter.pay(meter.weigh(left) + meter.weigh(right))
        return
    if operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
        meter.pay(_size(left) + _size(right))
        return
    if operator == "%" and isinstance(left, str):
        meter.weigh(right)
        meter.pay(formatted_price(left, right))
        return
    sizes = [meter.weigh(each) for each in (left, right)]
    meter.pay(4 * ENTRY)
    if operator == "*":
        for each, times in ((left, right), (right, left)):
            if isinstance(each, str | list | tuple) and isinstance(times, int):
                meter.pay(_size(each) * max(times, 0))
    elif operator == "-" and not isinstance(left, int | float):
        meter.pay(sum(sizes))
    elif operator == "**" and not all(isinstance(each, int | float) and abs(each) <= 64 for each in (left, right)):
        raise Excessive("makes too large a number")


def _size(value: Any) -> int:
    return len(value) * (ENTRY if not isinstance(value, str) else 1 if value.isascii() else 4)
