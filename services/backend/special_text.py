"""Finding the texts of special tokens in a text, however many special tokens a vocabulary has."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

# Marks a node where a text ends.
_END = ""


def special_pattern(texts: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches the longest of `texts` at each position; one that matches nothing if there are none.

    It goes letter by letter: a vocabulary may have thousands, which Python's `re` would try one after the other at every
    position where the first letter matches.
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
        # Hundreds of texts are each a prefix of the next.
        return re.compile("|".join(map(re.escape, known)))


def _expression(node: dict[str, Any]) -> str:
    """Return the expression that matches the longest path from a node to an end."""
    alternatives = []
    for letter, child in node.items():
        path = re.escape(letter)
        while len(child) == 1 and _END not in child:
            # In a loop, since texts may be long.
            ((letter, child),) = child.items()
            path += re.escape(letter)
        if child.keys() - {_END}:
            path += _expression(child)
        if letter:
            alternatives.append(path)
    return f"(?:{'|'.join(alternatives)})" + ("?" if _END in node else "")
