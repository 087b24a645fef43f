"""Cutting a text at a vocabulary's added tokens, with the same result as llama.cpp.

llama.cpp searches the whole text for each of these tokens, and walks through all fragments so far at each match
(src/llama-vocab.cpp, tokenizer_st_partition): thousands of both take minutes. Here one pass finds all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from services.backend.special_text import special_pattern

# The white space of C's isspace, which llama.cpp strips beside some tokens.
SPACE = " \t\n\v\f\r"


@dataclass(frozen=True)
class Added:
    """An added token, which is looked for in a text first, and the sides on which it strips white space.

    A control token is looked for only where special tokens are parsed.
    """

    id: int
    text: str
    is_control: bool
    strips_left: bool
    strips_right: bool


@dataclass(frozen=True)
class Fragment:
    """The text between two added tokens. `has_special`: llama.cpp has to look for control tokens in it."""

    text: str
    has_special: bool


class Fragments:
    """Finds the added tokens of a vocabulary. Any thread may call it."""

    def __init__(self, added: Iterable[Added]) -> None:
        tokens = [each for each in added if each.text]
        self._all = _Finder(tokens)
        self._shown = _Finder([each for each in tokens if not each.is_control])

    def split(self, text: str, parse_special: bool) -> Iterator[int | Fragment]:
        """Yield the ids of a text's added tokens, and the fragments between them."""
        return (self._all if parse_special else self._shown).split(text, parse_special)


class _Finder:
    def __init__(self, tokens: list[Added]) -> None:
        self._tokens: dict[str, Added] = {}
        twice = set()
        for each in tokens:
            if each.text in self._tokens:
                twice.add(each.text)
            self._tokens[each.text] = each
        if any(each.strips_left or each.strips_right for each in tokens):
            # A white-space token may be stripped by another, depending on the order of llama.cpp's search.
            twice |= {text for text in self._tokens if not text.strip(SPACE)}
        self._left_alone = twice
        """Texts that are left to llama.cpp to find."""
        self._pattern = special_pattern(self._tokens)
        self._begun: dict[str, int] = {}
        """By each proper prefix of a token, the length in bytes of the longest token with that prefix."""
        for text in self._tokens:
            for end in range(1, len(text)):
                self._begun[text[:end]] = max(self._begun.get(text[:end], 0), len(text.encode()))

    def split(self, text: str, parse_special: bool) -> Iterator[int | Fragment]:
        done, blocked, has_special, strips = 0, 0, False, False
        for match in self._pattern.finditer(text):
            blocked = max(blocked, self._end_of_longer(match, text))
            if blocked > match.start() or match[0] in self._left_alone:
                has_special = parse_special
                continue
            token = self._tokens[match[0]]
            fragment = text[done : match.start()]
            fragment = fragment.lstrip(SPACE) if strips else fragment
            fragment = fragment.rstrip(SPACE) if token.strips_left else fragment
            if fragment:
                yield Fragment(fragment, has_special)
            yield token.id
            done, has_special, strips = match.end(), False, token.strips_right
        rest = text[done:].lstrip(SPACE) if strips else text[done:]
        if rest:
            yield Fragment(rest, has_special)

    def _end_of_longer(self, match: re.Match[str], text: str) -> int:
        """The end of a longer token that overlaps this one's end; 0 if there is none. llama.cpp takes the longest first."""
        length, end = len(match[0].encode()), 0
        for at in range(match.start() + 1, match.end()):
            if self._begun.get(text[at : match.end()], 0) > length:
                found = self._pattern.match(text, at)
                if found and found.end() > match.end() and len(found[0].encode()) > length:
                    end = max(end, found.end())
        return end
