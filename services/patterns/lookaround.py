"""Patterns with lookaround, and opposites of patterns, as regular expressions without any.

A pattern becomes an automaton whose nodes say what holds for the rest of a text: that a character comes and another node
holds behind it, that one of two nodes holds, that a lookahead does. Read from its end, a text determines which nodes hold:
the sets of nodes that hold at once are the states of a deterministic automaton of the texts read backwards.
Brzozowski and Leiss, On equations for regular languages, finite automata, and sequential networks (1980).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from services.patterns.alphabet import Alphabet, folded
from services.patterns.charsets import ANY, CharSet
from services.patterns.effort import Effort
from services.patterns.expressions import expression, minimal
from services.patterns.syntax import Branches, Item, NothingFits, PatternError

MOST_NODES = 1_500
MOST_STATES = 250
_TOO_LARGE = "its lookaround makes it too large to be kept to"
_TRUE = 0
_END = 1


@dataclass
class _Node:
    """A condition on the rest of a text at a place in it. `kind`: what has to hold there beside `then`."""

    kind: str
    then: int = _TRUE
    other: int = _TRUE
    chars: CharSet = ANY
    is_negative: bool = False


@dataclass
class _Machine:
    """The nodes of a pattern. `strata`: those that read no character, what lookaheads say first."""

    nodes: list[_Node] = field(default_factory=lambda: [_Node("true"), _Node("end")])
    strata: list[list[int]] = field(default_factory=list)
    behind: list[CharSet] = field(default_factory=list)
    """The sets that the character in front of a place is asked for."""


def without_lookaround(
    branches: Branches, flags: str, effort: Effort, *, is_open: tuple[bool, bool], is_complement: bool = False
) -> str:
    """Return a pattern in Rust's syntax for the whole of each text that a pattern with lookaround matches.

    `is_open`: whether any text may stand in front of the match, and behind it. `is_complement`: for all other texts.
    Raises NothingFits if no text is left, PatternError if it is not regular or too large.
    """
    try:
        return _expression(branches, flags, effort, is_open, is_complement)
    except NothingFits:
        raise
    except PatternError as error:
        # Read from the other side it may be smaller, or ask for one character where it asked for many.
        try:
            mirrored = tuple(_mirrored(branch) for branch in branches)
            return _expression(mirrored, flags, effort, is_open[::-1], is_complement, is_mirrored=True)
        except NothingFits:
            raise
        except PatternError:
            raise error from None


def _expression(
    branches: Branches,
    flags: str,
    effort: Effort,
    is_open: tuple[bool, bool],
    is_complement: bool,
    is_mirrored: bool = False,
) -> str:
    builder = _Builder()
    start = builder.branches(branches, flags, _TRUE if is_open[1] else _END)
    if is_open[0]:
        loop = builder.either(start, _TRUE)
        builder.machine.nodes[loop].other = builder.add(_Node("char", loop))
        start = loop
    builder.close()
    states, accepting, alphabet = _determined(builder.machine, start, effort)
    if is_complement:
        accepting = [not is_accepting for is_accepting in accepting]
    states, accepting = minimal(states, accepting, effort)
    return expression(states, accepting, alphabet, effort, is_reversed=not is_mirrored)


def _mirrored(branch: tuple[Item, ...]) -> tuple[Item, ...]:
    return tuple(
        replace(
            item,
            kind={"^": "$", "$": "^"}.get(item.kind, item.kind),  # type: ignore[arg-type]
            branches=tuple(_mirrored(inner) for inner in item.branches),
            is_behind=not item.is_behind,
        )
        for item in reversed(branch)
    )


class _Builder:
    """Makes the nodes of a pattern, each after the node that has to hold behind it."""

    def __init__(self) -> None:
        self.machine = _Machine()
        self._strata: list[list[int]] = [[]]

    def add(self, node: _Node) -> int:
        """Add a node and return its number. Raises PatternError for too many."""
        if len(self.machine.nodes) >= MOST_NODES:
            raise PatternError(_TOO_LARGE)
        self.machine.nodes.append(node)
        if node.kind != "char":
            self._strata[-1].append(len(self.machine.nodes) - 1)
        return len(self.machine.nodes) - 1

    def either(self, one: int, other: int) -> int:
        """Add a node that holds where one of two does."""
        return self.add(_Node("either", one, other))

    def close(self) -> None:
        """Complete the nodes of a lookahead, or of the whole."""
        self.machine.strata.append(self._strata.pop())

    def branches(self, branches: Branches, flags: str, then: int) -> int:
        """Add the nodes of alternatives, and return the one with which they begin."""
        starts = []
        for branch in branches:
            start = then
            for item in reversed(branch):
                start = self._item(item, flags, start)
            starts.append(start)
        found = starts[0]
        for start in starts[1:]:
            found = self.either(found, start)
        return found

    def _item(self, item: Item, flags: str, then: int) -> int:
        if not item.is_repeated:
            return self._once(item, flags, then)
        start = then
        if item.most is None:
            start = self.either(then, _TRUE)
            self.machine.nodes[start].other = self._once(item, flags, start)
        else:
            for _ in range(item.most - item.least):
                start = self.either(then, self._once(item, flags, start))
        for _ in range(item.least):
            before, start = start, self._once(item, flags, start)
            if start == before:
                break
        return start

    def _once(self, item: Item, flags: str, then: int) -> int:
        if item.kind == "group":
            return self.branches(item.branches, flags + item.flags, then)
        if item.kind == "set":
            return self.add(_Node("char", then, chars=self._chars(item, flags)))
        if item.kind == "look":
            return self._behind(item, flags, then) if item.is_behind else self._ahead(item, flags, then)
        return self.add(_Node(item.kind, then))

    def _chars(self, item: Item, flags: str) -> CharSet:
        if item.chars.is_dot and "s" in flags:
            return ANY
        return folded(item.chars) if "i" in flags else item.chars

    def _ahead(self, item: Item, flags: str, then: int) -> int:
        self._strata.append([])
        start = self.branches(item.branches, flags, _TRUE)
        self.close()
        return self.add(_Node("ahead", then, start, is_negative=item.is_negative))

    def _behind(self, item: Item, flags: str, then: int) -> int:
        """A lookbehind at one character or the beginning of the text: each of its alternatives, or none of them."""
        found: list[int] = []
        start = then
        for branch in item.branches:
            if len(branch) != 1 or branch[0].is_repeated or branch[0].kind not in ("set", "^"):
                raise PatternError("a lookbehind at more than one character cannot be kept to at this place")
            chars = CharSet(()) if branch[0].kind == "^" else self._chars(branch[0], flags)
            if chars.ranges or chars.properties or chars.is_negated:
                self.machine.behind.append(chars)
                node = _Node("behind", start if item.is_negative else then, chars=chars, is_negative=item.is_negative)
            else:
                node = _Node("^", start if item.is_negative else then, is_negative=item.is_negative)
            start = self.add(node)
            found.append(start)
        if item.is_negative:
            return start
        start = found[0]
        for each in found[1:]:
            start = self.either(start, each)
        return start


def _determined(machine: _Machine, start: int, effort: Effort) -> tuple[list[list[int]], list[bool], Alphabet]:
    """Return the states of the texts read backwards: by state and letter the next state; and which of them accept."""
    nodes = machine.nodes
    reading = [n for n, node in enumerate(nodes) if node.kind == "char"]
    alphabet = Alphabet([*{nodes[n].chars: None for n in reading}, *dict.fromkeys(machine.behind)], effort)
    letters = range(len(alphabet.letters))
    effort.spend(5 * len(letters) * (len(reading) + len(machine.behind)))
    readers = [frozenset(n for n in reading if alphabet.has(letter, nodes[n].chars)) for letter in letters]
    before = [frozenset(chars for chars in machine.behind if alphabet.has(letter, chars)) for letter in letters]
    # At the end of a text no character comes.
    numbers: dict[tuple[frozenset[int], bool], int] = {(frozenset(), True): 0}
    states: list[list[int]] = []
    accepting: list[bool] = []
    for holding, is_end in iter(_Queue(numbers).next, None):
        holds: dict[frozenset[CharSet], bytearray] = {}
        row = []
        for letter, chars in enumerate(before):
            if chars not in holds:
                holds[chars] = _holds(machine, holding, is_end, chars.__contains__, False)
                effort.spend(5 * len(nodes))
            values = holds[chars]
            state = frozenset(n for n in readers[letter] if values[nodes[n].then]), False
            effort.spend(len(readers[letter]) + 10)
            row.append(numbers.setdefault(state, len(numbers)))
        states.append(row)
        accepting.append(bool(_holds(machine, holding, is_end, _never, True)[start]))
        effort.spend(5 * len(nodes))
        if len(numbers) > MOST_STATES:
            raise PatternError(_TOO_LARGE)
    return states, accepting, alphabet


class _Queue:
    """The states in the order in which they are found."""

    def __init__(self, numbers: dict[tuple[frozenset[int], bool], int]) -> None:
        self._numbers = numbers
        self._known: list[tuple[frozenset[int], bool]] = []
        self._at = 0

    def next(self) -> tuple[frozenset[int], bool] | None:
        if self._at >= len(self._known):
            self._known = list(self._numbers)
        self._at += 1
        return self._known[self._at - 1] if self._at <= len(self._known) else None


def _never(chars: CharSet) -> bool:
    return False


def _holds(
    machine: _Machine, holding: frozenset[int], is_end: bool, is_behind: Callable[[CharSet], bool], is_start: bool
) -> bytearray:
    """Which nodes hold at a place, from those that read a character and hold."""
    values = bytearray(len(machine.nodes))
    values[_TRUE], values[_END] = True, is_end
    for n in holding:
        values[n] = True
    for stratum in machine.strata:
        is_changed = True
        while is_changed:
            is_changed = False
            for n in stratum:
                if not values[n] and _is_true(machine.nodes[n], values, is_end, is_behind, is_start):
                    values[n] = is_changed = True
    return values


def _is_true(node: _Node, values: bytearray, is_end: bool, is_behind: Callable[[CharSet], bool], is_start: bool) -> bool:
    if node.kind == "either":
        return bool(values[node.then] or values[node.other])
    if not values[node.then]:
        return False
    if node.kind == "ahead":
        return bool(values[node.other]) != node.is_negative
    if node.kind == "behind":
        return is_behind(node.chars) != node.is_negative
    return (is_start if node.kind == "^" else is_end) != node.is_negative
