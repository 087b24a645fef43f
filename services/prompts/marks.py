"""Marks on text from people that looks like a special token, by which it is told from the template's own special tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from services.backend.types import Prompt
from services.errors import InvalidRequest

# Fields of a model's earlier messages, and the tags by which templates find its thoughts in them to leave them out.
SAID = ("content", "reasoning_content", "reasoning", "thinking", "thought")
THOUGHT = re.compile(r"</?(?:\w+:)?think(?:ing)?>")


class Marks:
    """Marks the special tokens' texts in messages, and finds them again in the rendered text.

    The mark is one character that occurs nowhere else, put behind the first letter of each special token's text: the
    template's own trimming and splitting works as before.
    """

    def __init__(
        self, special: re.Pattern[str], firsts: re.Pattern[str], values: Sequence[Any], is_strict: bool = False
    ) -> None:
        """`special` finds the special tokens' texts, `firsts` the characters with which they begin.

        `is_strict`: mark every such character, and not only whole texts. Raises InvalidRequest as `unused_letter` does.
        """
        self._special = special
        self._firsts = firsts
        self._values = values
        self._is_strict = is_strict
        self._mark = unused_letter(values)

    def strict(self) -> Marks:
        """The same, marking every character with which a special token begins."""
        return Marks(self._special, self._firsts, self._values, is_strict=True)

    def put(self, value: Any, but: re.Pattern[str] | None = None) -> Any:
        """The value with marks in all its strings, except in special tokens that match `but`."""
        if isinstance(value, str):
            if self._is_strict:
                return self._firsts.sub(lambda found: found[0] + self._mark, value)
            return self._special.sub(lambda found: self._put_in(found[0], but), value)
        if isinstance(value, Mapping):
            return {self.put(key): self.put(each, but) for key, each in value.items()}
        return [self.put(each, but) for each in value] if isinstance(value, list | tuple) else value

    def _put_in(self, text: str, but: re.Pattern[str] | None) -> str:
        return text if but and but.fullmatch(text) else text[0] + self._mark + text[1:]

    def may_be_joined(self, *values: Any) -> bool:
        """Return whether the values hold text that could be part of a special token."""
        return any(self._firsts.search(self._special.sub("", text)) for text in _strings(values))

    def joined(self, prompt: Prompt) -> int:
        """The number of special tokens in a prompt that were not typed as a whole."""
        starts = {start for start, _ in prompt.typed}
        return sum(found.start() not in starts for found in self._special.finditer(prompt.text))

    def harmless(self, value: Any) -> Any:
        """The messages or tools with an "x" for each character that may be part of a special token."""
        if isinstance(value, str):
            kept = [(found.start(), found.end()) for found in THOUGHT.finditer(value)]
            return self._firsts.sub(lambda found: found[0] if any(a <= found.start() < b for a, b in kept) else "x", value)
        if isinstance(value, Mapping):
            return {key: self.harmless(each) for key, each in value.items()}
        return [self.harmless(each) for each in value] if isinstance(value, list | tuple) else value

    def take(self, text: str) -> Prompt:
        """The text without the marks, with the spans that were marked as typed."""
        first, *rest = text.split(self._mark)
        pieces, typed, at = [first], [], len(first)
        for piece in rest:
            # A template that cut the text in the middle has left no special token.
            if found := self._special.match(pieces[-1][-1:] + piece):
                typed.append((at - 1, at - 1 + len(found[0])))
            pieces.append(piece)
            at += len(piece)
        return Prompt("".join(pieces), tuple(typed))


def unused_letter(values: Sequence[Any]) -> str:
    """Return a character of private use that occurs in none of the values. Raises InvalidRequest if there is none."""
    used = set("".join(_strings(values)))
    letter = next((letter for number in range(0xE000, 0xF900) if (letter := chr(number)) not in used), None)
    if letter is None:
        raise InvalidRequest("the messages hold every one of the 6,400 characters of private use", param="messages")
    return letter


def _strings(value: Any) -> list[str]:
    """All strings in a JSON value, names included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    return [text for each in value for text in _strings(each)] if isinstance(value, list | tuple) else []
