"""Finding the texts of special tokens in a text, however many there are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

# Stands in a node for: a text ends here.
_END = ""


def special_pattern(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern that matches the longest of `texts` at each place; nothing where there are none.

    It goes letter by letter: a vocabulary may have thousands, which Python's `re` would try one after the other at every
    place where the first letter is theirs.
    """
    known = sorted(set(filter(None, texts)), key=len, reverse=True)
    root: dict[str, Any] = {}
    for text in known:
        node = root
        for letter in text:
            node = node.setdefault(letter, {})
        node[_END] = {}
    try:
        return re.compile(_expression(root) if root else r"(?!)")
    except RecursionError:
        # Each is the beginning of the next, for hundreds.
        return re.compile("|".join(map(re.escape, known)))


def _expression(node: dict[str, Any]) -> str:
    """What matches the longest way from a node to an end."""
    ways = []
    for letter, child in node.items():
        way = re.escape(letter)
        while len(child) == 1 and _END not in child:
            # In a loop, since texts may be long.
            ((letter, child),) = child.items()
            way += re.escape(letter)
        if child.keys() - {_END}:
            way += _expression(child)
        if letter:
            ways.append(way)
    return f"(?:{'|'.join(ways)})" + ("?" if _END in node else "")
