"""The prices in bytes of what filters and methods of chat templates make, for those that make more than they take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from services.prompts.meter import ENTRY, Excessive

# The bytes of a text of one character, of a short one, and of a list or dict.
LETTER, WORD, BOX = 84, 58, 64
# The most characters of a text that `wordwrap` takes, whose time grows with the square; the most digits of `round`.
_WRAPPED, _DIGITS = 2**14, 1000
# A width or precision in a format: digits, or one that is an argument.
_WIDTH = re.compile(r"[%).][#0 +-]*(\d{4,}|\*)")


def spread_price(value: Any, *_: Any, **__: Any) -> int:
    """The price of a list of a value's parts, which are those of a text too."""
    return LETTER * len(value) if isinstance(value, str) else ENTRY * len(value) if hasattr(value, "__len__") else 0


def words_price(value: Any, *_: Any, **__: Any) -> int:
    """The price of a list of a text's words."""
    return WORD * len(str(value))


def padded_price(value: Any, width: int = 80, *_: Any) -> int:
    """The price of a text of so many characters."""
    return max(int(width), 0)


def replaced_price(value: Any, old: Any, new: Any, count: int | None = None) -> int:
    """The price of a text with each `old` replaced by `new`."""
    text, old, new = str(value), str(old), str(new)
    return len(text) + text.count(old) * len(new)


def indented_price(value: Any, width: int | str = 4, *_: Any, **__: Any) -> int:
    """The price of a text with each line indented."""
    text = str(value)
    n_lines = 1 + sum(map(text.count, "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"))
    return len(text) + n_lines * (len(width) if isinstance(width, str) else int(width))


def joined_price(value: Any, d: Any = "", *_: Any, **__: Any) -> int:
    """The price of the parts with `d` between them."""
    return spread_price(value) + len(value) * len(str(d))


def formatted_price(value: Any, *args: Any, **named: Any) -> int:
    """The price of `%` with these operands: each may be written with each of the format's fields. Raises Excessive."""
    text = str(value)
    widths = _WIDTH.findall(text)
    if "*" in widths:
        raise Excessive("makes a text of a width that it does not name")
    # A mapping's values may be written many times, others once.
    times = text.count("%") if named or (args and isinstance(args[0], Mapping)) else 1
    size = sum(len(str(each)) for each in (*args, *named.values()))
    return len(text) + times * size + sum(int(each[:9]) for each in widths)


def rounded_price(value: Any, precision: int = 0, *_: Any, **__: Any) -> int:
    """The price of a rounded number. Raises Excessive, as a power of ten is computed."""
    if abs(int(precision)) > _DIGITS:
        raise Excessive("makes too large a number")
    return ENTRY


def wrapped_price(value: Any, width: int = 79, long: bool = True, wrapstring: str | None = None, *_: Any, **__: Any) -> int:
    """The price of a text with a break after each character. Raises Excessive if it is long."""
    if len(value) > _WRAPPED:
        raise Excessive("wraps too long a text")
    return len(value) * (1 + len(wrapstring or "\n"))


def batched_price(value: Any, count: int, *_: Any, **__: Any) -> int:
    """The price of so many lists of a value's parts."""
    return spread_price(value) + BOX * abs(int(count))


def escaped_price(value: Any, *_: Any) -> int:
    """The price of a text with HTML's characters escaped."""
    return 6 * len(str(value))
