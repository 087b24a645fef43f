"""Where a part of a GBNF grammar ends: whether a terminal that takes all it can leaves what follows to what follows.

Sets of characters are integers: a bit for each character of ASCII, and one for all others. What is found here errs on the
side of conflicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

_OTHERS = 1 << 128
ANY = (1 << 129) - 1


@dataclass
class Node:
    """A part of a rule.

    `kind` is "text", "set" (one of `characters`; `text` is its regular expression), "token" (`text` is Lark's name of it),
    "rule" (`text` is its name), "sequence" or "choice" (of `parts`); `repeat` is a sequence's quantifier.
    """

    kind: str
    text: str = ""
    parts: list[Node] = field(default_factory=list)
    repeat: str = ""
    characters: int = 0

    def references(self) -> Iterator[str]:
        """Yield the names of the rules that it refers to."""
        if self.kind == "rule":
            yield self.text
        for part in self.parts:
            yield from part.references()

    def is_regular(self, regular: set[str]) -> bool:
        """Return whether it names no tokens, and no rules but those in `regular`."""
        if self.kind == "rule":
            return self.text in regular
        return self.kind != "token" and all(part.is_regular(regular) for part in self.parts)

    @property
    def may_repeat(self) -> bool:
        """True if its parts may come more than once."""
        return self.repeat not in ("", "?", "{0,1}", "{1,1}", "{1}", "{0}", "{0,0}")

    @property
    def may_be_left_out(self) -> bool:
        """True if its quantifier allows none at all."""
        return self.repeat[:1] in ("*", "?") or self.repeat.startswith("{0,") or self.repeat == "{0}"


# The most characters of a terminal with its repetitions written out, and the most steps of a comparison of two.
MOST_POSITIONS = 1_500
MOST_STEPS = 200_000


class TooLarge(ValueError):
    """A grammar is too large to be looked through."""


def characters_of(ranges: Sequence[tuple[int, int]], is_negated: bool) -> int:
    """Return the set of the characters in these ranges of code points, or of all others."""
    found = 0
    for first, last in ranges:
        if first < 128:
            found |= (1 << (min(last, 127) + 1)) - (1 << first)
        found |= _OTHERS if last > 127 else 0
    return ((ANY & ~found) | _OTHERS) if is_negated else found


def in_groups(parts: Sequence[Node], regular: set[str]) -> Iterator[list[Node]]:
    """Yield the parts of a row: regular ones that follow each other together, every other one alone."""
    group: list[Node] = []
    for part in parts:
        if part.is_regular(regular):
            group.append(part)
            continue
        if group:
            yield group
        yield [part]
        group = []
    if group:
        yield group


@dataclass
class Automaton:
    """The texts of a terminal, by Glushkov's construction: positions are characters, of which others may follow.

    Position 0 is the beginning.
    """

    characters: list[int] = field(default_factory=lambda: [0])
    follow: list[set[int]] = field(default_factory=lambda: [set()])
    ends: set[int] = field(default_factory=set)

    def add(self, characters: int) -> int:
        """Add a position; return it."""
        if len(self.characters) > MOST_POSITIONS:
            raise TooLarge
        self.characters.append(characters)
        self.follow.append(set())
        return len(self.characters) - 1

    def goes_on(self, other: Automaton, after: int) -> bool:
        """Return whether a text of this terminal, and then a character of `after`, may be the beginning of `other`'s."""
        waiting, seen = [(0, 0)], {(0, 0)}
        while waiting:
            here, there = waiting.pop()
            if here in self.ends and any(other.characters[each] & after for each in other.follow[there]):
                return True
            for first in self.follow[here]:
                for second in other.follow[there]:
                    if (first, second) not in seen and self.characters[first] & other.characters[second]:
                        seen.add((first, second))
                        waiting.append((first, second))
            if len(seen) > MOST_STEPS:
                raise TooLarge
        return False


@dataclass(frozen=True)
class _Span:
    """A part of an automaton: the positions that it may begin and end with, and whether it may be empty."""

    first: frozenset[int] = frozenset()
    last: frozenset[int] = frozenset()
    is_empty: bool = False


class Borders:
    """Looks for terminals that might take characters of what follows them."""

    def __init__(self, rules: dict[str, Node], regular: set[str]) -> None:
        """`regular` are the rules that become terminals as a whole."""
        self._rules = rules
        self._regular = regular
        self._first = dict.fromkeys(rules, (0, False))
        """The characters that each rule may begin with, and whether it may be empty."""
        self._after = dict.fromkeys(rules, 0)
        self._terminals: list[tuple[list[Node], int]] = []
        """Each terminal, and the characters that may follow it."""
        self._settle()
        try:
            self.are_clear = self._are_clear()
        except TooLarge:
            self.are_clear = False
        """True if no terminal might take characters of what follows it."""

    def _settle(self) -> None:
        while True:
            found = {name: self._begin(body) for name, body in self._rules.items()}
            if found == self._first:
                break
            self._first = found
        while True:
            before, self._terminals = dict(self._after), []
            for name, body in self._rules.items():
                if name not in self._regular:
                    self._look(body, self._after[name])
            if before == self._after:
                break

    def _are_clear(self) -> bool:
        built = [(self._automaton(parts), after) for parts, after in self._terminals]
        return not any(one.goes_on(other, after) for one, after in built if after for other, _ in built)

    def _begin(self, node: Node) -> tuple[int, bool]:
        if node.kind == "text":
            return (characters_of([(ord(node.text[0]),) * 2], False), False) if node.text else (0, True)
        if node.kind == "rule":
            return self._first[node.text]
        if node.kind in ("set", "token"):
            return node.characters, False
        if node.kind == "choice":
            found = [self._begin(part) for part in node.parts]
            return _union(first for first, _ in found), any(is_empty for _, is_empty in found)
        first, is_empty = self._begin_row(node.parts)
        return first, is_empty or node.may_be_left_out

    def _begin_row(self, parts: Sequence[Node]) -> tuple[int, bool]:
        found = 0
        for part in parts:
            first, is_empty = self._begin(part)
            found |= first
            if not is_empty:
                return found, False
        return found, True

    def _look(self, node: Node, after: int) -> None:
        """Note what may follow each rule and terminal in a part that `after` may follow."""
        if node.is_regular(self._regular):
            self._terminals.append(([node], after))
        elif node.kind == "rule":
            self._after[node.text] |= after
        elif node.kind == "choice":
            for part in node.parts:
                self._look(part, after)
        elif node.kind == "sequence":
            self._look_along(node, after)

    def _look_along(self, node: Node, after: int) -> None:
        if node.may_repeat:
            after |= self._begin(node)[0]
        for group in reversed(list(in_groups(node.parts, self._regular))):
            if group[0].is_regular(self._regular):
                self._terminals.append((group, after))
            else:
                self._look(group[0], after)
            first, is_empty = self._begin_row(group)
            after = first | (after if is_empty else 0)

    def _automaton(self, parts: Sequence[Node]) -> Automaton:
        automaton = Automaton()
        span = self._row(parts, automaton)
        automaton.follow[0] = set(span.first)
        automaton.ends = set(span.last)
        return automaton

    def _row(self, parts: Sequence[Node], automaton: Automaton) -> _Span:
        found = _Span(is_empty=True)
        for part in parts:
            found = _joined(found, self._span(part, automaton), automaton)
        return found

    def _span(self, node: Node, automaton: Automaton) -> _Span:
        if node.kind == "text":
            found = _Span(is_empty=True)
            for char in node.text:
                found = _joined(found, _single(automaton.add(characters_of([(ord(char),) * 2], False))), automaton)
            return found
        if node.kind == "set":
            return _single(automaton.add(node.characters))
        if node.kind == "rule":
            return self._span(self._rules[node.text], automaton)
        if node.kind == "choice":
            spans = [self._span(part, automaton) for part in node.parts]
            return _Span(
                frozenset().union(*(span.first for span in spans)),
                frozenset().union(*(span.last for span in spans)),
                any(span.is_empty for span in spans),
            )
        found = self._row(node.parts, automaton)
        if node.may_repeat:
            # Bounds are left out: a terminal with more texts has no fewer conflicts.
            for position in found.last:
                automaton.follow[position] |= found.first
        return _Span(found.first, found.last, found.is_empty or node.may_be_left_out)


def _single(position: int) -> _Span:
    return _Span(frozenset({position}), frozenset({position}))


def _joined(one: _Span, other: _Span, automaton: Automaton) -> _Span:
    for position in one.last:
        automaton.follow[position] |= other.first
    first = one.first | other.first if one.is_empty else one.first
    last = one.last | other.last if other.is_empty else other.last
    return _Span(first, last, one.is_empty and other.is_empty)


def _union(sets: Iterable[int]) -> int:
    found = 0
    for each in sets:
        found |= each
    return found
