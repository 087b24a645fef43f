"""Python's parser of regular expressions, an undocumented part of `re` (CPython 3.10 to 3.14).

`re._parser` and `re._constants` are called sre_parse and sre_constants in Python 3.10. A test compares the parsed form of
each construct with the one that is relied on.
"""

from __future__ import annotations

from typing import Any

try:
    from re import _constants as ops  # type: ignore[attr-defined]
    from re import _parser  # type: ignore[attr-defined]
except ImportError:  # Python 3.10
    import sre_constants as ops  # type: ignore[import-not-found, no-redef, unused-ignore]
    import sre_parse as _parser  # type: ignore[import-not-found, no-redef, unused-ignore]

__all__ = ["ops", "parse_regex"]


def parse_regex(pattern: str) -> list[tuple[Any, Any]]:
    """The pattern's items in sequence, each an operation of `ops` and its operands.

    Raises ValueError where it cannot be parsed.
    """
    try:
        return list(_parser.parse(pattern))
    except (_parser.error, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from None
