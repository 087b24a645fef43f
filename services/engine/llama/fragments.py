"""Cutting a text at the tokens that a model's makers added to its vocabulary, as llama.cpp would.

llama.cpp looks for each of these tokens in the whole text, and walks through all that it has found so far whenever it finds
one (src/llama-vocab.cpp, tokenizer_st_partition): for thousands of both that takes minutes. Here all are found in one pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from services.backend.special_text import special_pattern

# What C's isspace knows, and llama.cpp strips beside some tokens.
SPACE = " \t\n\v\f\r"


@dataclass(frozen=True)
class Added:
    """A token that is found in a text before anything else, and whether white space beside it is left out.

    `is_control`: only where special tokens are wanted.
    """

    id: int
    text: str
    is_control: bool
    strips_left: bool
    strips_right: bool


@dataclass(frozen=True)
class Fragment:
    """A text between such tokens. `has_special`: llama.cpp has to look for control tokens in it."""

    text: str
    has_special: bool


class Fragments:
    """Finds the added tokens of a vocabulary. Any thread may call it."""

    def __init__(self, added: Iterable[Added]) -> None:
        tokens = [each for each in added if each.text]
        self._all = _Finder(tokens)
        self._shown = _Finder([each for each in tokens if not each.is_control])

    def split(self, text: str, parse_special: bool) -> Iterator[int | Fragment]:
        """The ids of a text's added tokens, and what stands between them."""
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
            # What is white space, and whether it is a token or left out, depends on the order in which they are looked for.
            twice |= {text for text in self._tokens if not text.strip(SPACE)}
        self._left_alone = twice
        """Texts that llama.cpp has to find itself."""
        self._pattern = special_pattern(self._tokens)
        self._begun: dict[str, int] = {}
        """By what tokens begin with, the length in bytes of the longest one."""
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
        """Where a longer token ends that begins within this one and goes beyond; 0: there is none.

        llama.cpp takes the longest first.
        """
        length, end = len(match[0].encode()), 0
        for at in range(match.start() + 1, match.end()):
            if self._begun.get(text[at : match.end()], 0) > length:
                found = self._pattern.match(text, at)
                if found and found.end() > match.end() and len(found[0].encode()) > length:
                    end = max(end, found.end())
        return end
