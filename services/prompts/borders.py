"""The places in a prompt's text at which messages begin: an edited prompt, or another answer to it, forks there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# So many of a message's first characters tell where it begins.
_BEGINNING = 100


def message_borders(text: str, contents: Iterable[str]) -> tuple[int, ...]:
    """Return the positions in `text` at which messages with these contents begin, and the last one ends; in characters.

    They are ascending. A message that the text does not hold as it is has none, and one without text neither.
    """
    starts, at = [], 0
    for content in contents:
        whole = content.strip()
        beginning = whole[:_BEGINNING]
        found = text.find(beginning, at) if beginning else -1
        if found >= 0:
            starts.append(found)
            at = found + len(whole if text.startswith(whole, found) else beginning)
    return (*starts, at) if starts else ()


def contents_of(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the texts of messages that have one."""
    return [content for each in messages if isinstance(content := each.get("content"), str)]


def in_bytes(text: str, borders: Sequence[int]) -> tuple[int, ...]:
    """Return positions in `text`, ascending, in bytes of UTF-8, and behind them the length of the whole text."""
    sizes, done, n_bytes = [], 0, 0
    for border in (*borders, len(text)):
        n_bytes += len(text[done:border].encode("utf-8", "replace"))
        sizes.append(n_bytes)
        done = border
    return tuple(sizes)
