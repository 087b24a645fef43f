"""Deterministic automata as regular expressions."""

from __future__ import annotations

from typing import Literal, NamedTuple

from services.patterns.alphabet import Alphabet
from services.patterns.effort import Effort
from services.patterns.syntax import NothingFits, PatternError

# Of the expression, in characters.
LONGEST = 20_000
# Of the automaton: the expression may grow with its square.
MOST_STATES = 150
_TOO_LARGE = "its lookaround makes it too large to be kept to"


class _Text(NamedTuple):
    """A piece of an expression: a set of letters, one of its kind that binds, or a sequence or alternatives."""

    kind: Literal["set", "atom", "sequence", "either"]
    text: str = ""
    letters: frozenset[int] = frozenset()


_EMPTY = _Text("sequence")


def minimal(states: list[list[int]], accepting: list[bool], effort: Effort) -> tuple[list[list[int]], list[bool]]:
    """Return the least automaton of the same texts; its first state is the one at the beginning, as before.

    `states`: for each state the next one by letter.
    """
    groups = [int(is_accepting) for is_accepting in accepting]
    while True:
        numbers: dict[tuple[int, ...], int] = {}
        effort.spend(len(states) * (len(states[0]) + 5))
        found = [
            numbers.setdefault((groups[n], *(groups[then] for then in row)), len(numbers)) for n, row in enumerate(states)
        ]
        if len(numbers) == len(set(groups)):
            break
        groups = found
    kept = {group: n for n, group in reversed(list(enumerate(found)))}
    rows = [[found[then] for then in states[kept[group]]] for group in range(len(kept))]
    return rows, [accepting[kept[group]] for group in range(len(kept))]


def expression(
    states: list[list[int]], accepting: list[bool], alphabet: Alphabet, effort: Effort, *, is_reversed: bool
) -> str:
    """Return an expression of the texts that an automaton accepts, in Rust's syntax; `is_reversed`: of them backwards.

    Raises NothingFits if there are none, PatternError if the expression is too long.
    """
    ways = _ways(states, accepting, alphabet, is_reversed)
    if len(ways) > MOST_STATES:
        raise PatternError(_TOO_LARGE)
    while True:
        inner = [n for n in ways if n not in (-1, -2)]
        if not inner:
            break
        effort.spend(5 * sum(len(way) for way in ways.values()) + len(ways) ** 2)
        _remove(min(inner, key=lambda n: _weight(ways, n)), ways, alphabet)
    found = ways[-1].get(-2)
    if found is None:
        raise NothingFits("no text fits it")
    return f"(?:{_written(found, alphabet)})"


_Ways = dict[int, dict[int, _Text]]


def _ways(states: list[list[int]], accepting: list[bool], alphabet: Alphabet, is_reversed: bool) -> _Ways:
    """The texts that lead from state to state; -1 is in front of the beginning, -2 behind the end."""
    sets: dict[tuple[int, int], set[int]] = {}
    for n, row in enumerate(states):
        for letter, then in enumerate(row):
            sets.setdefault((n, then), set()).add(letter)
    living = _living(sets, accepting)
    edges = {pair: _Text("set", "", frozenset(letters)) for pair, letters in sets.items() if set(pair) <= living}
    edges |= {(-1, 0): _EMPTY} | {(n, -2): _EMPTY for n, is_accepting in enumerate(accepting) if is_accepting}
    ways: _Ways = {-1: {}, -2: {}, **{n: {} for n in sorted(living | {0})}}
    for (start, end), text in edges.items():
        if is_reversed:
            start, end = ({-1: -2, -2: -1}.get(n, n) for n in (end, start))
        ways[start][end] = text
    return ways


def _living(sets: dict[tuple[int, int], set[int]], accepting: list[bool]) -> set[int]:
    living = {n for n, is_accepting in enumerate(accepting) if is_accepting}
    while found := {start for start, end in sets if end in living} - living:
        living |= found
    return living


def _weight(ways: _Ways, n: int) -> int:
    """How much longer the expression becomes without a state."""
    into = [way[n] for start, way in ways.items() if n in way and start != n]
    out = [text for end, text in ways[n].items() if end != n]
    loop = len(ways[n][n].text) if n in ways[n] else 0
    length_in, length_out = sum(len(each.text) + 10 for each in into), sum(len(each.text) + 10 for each in out)
    return length_in * (len(out) - 1) + length_out * (len(into) - 1) + loop * (len(into) * len(out) - 1)


def _remove(n: int, ways: _Ways, alphabet: Alphabet) -> None:
    out = ways.pop(n)
    loop = out.pop(n, None)
    for way in ways.values():
        if n not in way:
            continue
        start = way.pop(n)
        for end, text in out.items():
            pieces = [start, *([] if loop is None else [_Text("atom", f"{_bound(loop, alphabet)}*")]), text]
            found = _Text("sequence", "".join(_bound(each, alphabet, "sequence") for each in pieces))
            if len([each for each in pieces if each != _EMPTY]) == 1:
                found = next(each for each in pieces if each != _EMPTY)
            way[end] = _either(way[end], found, alphabet) if end in way else found
            if len(way[end].text) > LONGEST:
                raise PatternError(_TOO_LARGE)


def _either(one: _Text, other: _Text, alphabet: Alphabet) -> _Text:
    if one == other:
        return one
    if one.kind == other.kind == "set":
        return _Text("set", "", one.letters | other.letters)
    if _EMPTY in (one, other):
        return _Text("atom", f"{_bound(other if one == _EMPTY else one, alphabet)}?")
    return _Text("either", f"{_written(one, alphabet)}|{_written(other, alphabet)}")


def _bound(text: _Text, alphabet: Alphabet, within: str = "") -> str:
    """An expression that a quantifier, or within a sequence its neighbours, can stand beside."""
    if text.kind == "set" or (within and text.kind != "either"):
        return _written(text, alphabet)
    return f"(?:{text.text})"


def _written(text: _Text, alphabet: Alphabet) -> str:
    return alphabet.text(text.letters) if text.kind == "set" else text.text
