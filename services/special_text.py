"""Finding the texts of special tokens in a text, however many there are."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable


def special_pattern(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern that matches the longest of `texts` at each place; nothing where there are none.

    They are told apart by their first character first: a vocabulary may have thousands, which Python's `re` would try one
    after the other at every place.
    """
    by_first: dict[str, list[str]] = defaultdict(list)
    for text in sorted(filter(None, texts), key=len, reverse=True):
        by_first[text[0]].append(re.escape(text[1:]))
    groups = (f"{re.escape(first)}(?:{'|'.join(rest)})" for first, rest in by_first.items())
    return re.compile("|".join(groups) or r"(?!)")
