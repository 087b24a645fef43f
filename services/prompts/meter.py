"""The limits of one rendering of a chat template: on its time, and on the bytes of all that it makes.

Every operation of a template reports its operands and its result here (`services.prompts.filters`, `operations`). As the
time of an operation follows the sizes of both, and as a rendering can keep no more than it has made, this bounds both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import chain
from sys import getrefcount
from typing import Any

# The CPU seconds that a rendering may take: some, some more for each message (Gemma 4's template looks through all earlier
# messages at each), and at most.
RUN_SECONDS, MESSAGE_SECONDS, MOST_SECONDS = 1.0, 0.01, 8.0
# The bytes that it may make: some, the conversation's some times over, and at most.
RUN_BYTES, TIMES, MOST_BYTES = 2**26, 64, 2**28
# The bytes of one value at most. A value is as large as its text would be: a list that occurs twice in it counts twice.
LARGEST = 2**25
# The entries of a list of the template's own at most, those of lists in it included; and the lists within each other.
MOST_ENTRIES, DEEPEST = 2**18, 100
# The bytes of an entry of a list, at least.
ENTRY = 8
# The steps of an operation whose time grows with the product of its operands' lengths.
_MOST_STEPS = 2**28
# The largest number in bits.
_WIDEST = 2**14
# The clock is looked at with every value of so many bytes, and with every so many operations.
_LARGE, _OFTEN = 2**13, 64
_EMPTY: dict[str, str] = {}
_VIEWS = (type(_EMPTY.keys()), type(_EMPTY.values()), type(_EMPTY.items()))
_CONTAINERS = (list, tuple, dict, set, *_VIEWS)


class Excessive(Exception):
    """The template takes too long, or makes too much; the text completes "the template"."""


class GivenList(list[Any]):
    """A list that was handed to a template, which cannot change it. `_weight` is its size in bytes."""

    __slots__ = ("_weight",)
    _weight: int


class GivenDict(dict[Any, Any]):
    """A dict that was handed to a template, which cannot change it. `_weight` is its size in bytes."""

    __slots__ = ("_weight",)
    _weight: int


for _kind, _name in ((GivenList, "list"), (GivenDict, "dict")):
    # Errors of templates name the types of values.
    _kind.__name__, _kind.__qualname__, _kind.__module__ = _name, _name, "builtins"


class Meter:
    """Counts what one rendering takes, on the thread that made it."""

    def __init__(
        self,
        n_messages: int = 0,
        pause: Callable[[], None] = lambda: None,
        seconds: float | None = None,
        n_bytes: int | None = None,
    ) -> None:
        """`pause` is called now and then, and may raise to give up. `seconds`, `n_bytes`: other limits than the usual."""
        usual = min(RUN_SECONDS + MESSAGE_SECONDS * n_messages, MOST_SECONDS)
        self._ends = time.thread_time() + (usual if seconds is None else seconds)
        self._left = RUN_BYTES if n_bytes is None else n_bytes
        self._pause = pause
        self._n_operations = 0
        self._large: list[Any] = []
        """Large values that the template has made, until they are found to be gone."""

    def take_in(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return a template's variables as it may have them. It may make more, the more it is given."""
        given = {name: _given(value) for name, value in values.items()}
        self._left += min(TIMES * sum(map(_weight, given.values())), MOST_BYTES)
        return given

    def pay(self, n_bytes: int = 0) -> None:
        """Count an operation that makes a value of so many bytes. Raises Excessive, and whatever `pause` raises."""
        self._n_operations += 1
        if n_bytes > 0:
            self._left -= n_bytes
        if n_bytes > _LARGE or self._n_operations % _OFTEN == 0:
            self._look()
            if n_bytes > LARGEST:
                raise Excessive("makes too large a value")

    def made(self, value: Any) -> None:
        """Count an operation by the value that it has made, for as long as the template keeps it if it is large."""
        size = self._own_size(value)
        if size > _LARGE:
            self._large.append(value)
        self.pay(size)

    def work(self, steps: int) -> None:
        """Raise Excessive if an operation of so many steps takes too long."""
        if steps > _MOST_STEPS:
            raise Excessive("takes too long")

    def weigh(self, value: Any) -> int:
        """Return the size of an operand in bytes. Raises Excessive if it is too large to be compared or written."""
        kind = type(value)
        if kind is str:
            total = len(value)
        elif kind is int or kind is bool or value is None:
            return _flat_weight(value)
        elif kind is GivenDict or kind is GivenList:
            total = value._weight
        elif isinstance(value, _CONTAINERS):
            total = _weight_of_tree(value)
        else:
            return _flat_weight(value)
        if total > _LARGE:
            self._look()
        return total

    def _own_size(self, value: Any) -> int:
        """The bytes of a value without its parts, which have been paid for."""
        if isinstance(value, str):
            return len(value) if value.isascii() else 4 * len(value)
        return ENTRY * len(value) if isinstance(value, _CONTAINERS) else self.weigh(value)

    def _look(self) -> None:
        if self._left < 0:
            # Templates that add to a text message by message leave many behind.
            self._forget()
        if self._left < 0:
            raise Excessive("makes too much")
        if time.thread_time() > self._ends:
            raise Excessive("takes too long")
        self._pause()

    def _forget(self) -> None:
        """Give back what was paid for large values that are gone: those of which no references are left but ours."""
        large, self._large = self._large, []
        while large:
            value, n_references = _last_of(large)
            if n_references > _OURS:
                self._large.append(value)
            else:
                self._left += self._own_size(value)


def _last_of(values: list[Any]) -> tuple[Any, int]:
    """Take the last value from a list; also return the number of references to it."""
    value = values.pop()
    return value, getrefcount(value)


# Those to a value that nothing else refers to, which versions of Python count differently.
_OURS = _last_of([object()])[1]


def _given(value: Any) -> Any:
    """A JSON value that the template cannot change."""
    if isinstance(value, str):
        return value
    made: GivenDict | GivenList
    if isinstance(value, dict):
        made = GivenDict({name: _given(each) for name, each in value.items()})
        made._weight = ENTRY + sum(map(_weight, made)) + sum(map(_weight, made.values()))
    elif isinstance(value, list | tuple):
        made = GivenList(map(_given, value))
        made._weight = ENTRY + sum(map(_weight, made))
    else:
        return value
    return made


def _weight(given: Any) -> int:
    if isinstance(given, str):
        return ENTRY + len(given)
    return given._weight if isinstance(given, GivenDict | GivenList) else ENTRY


def _weight_of_tree(value: Any) -> int:
    """The size of a list or dict that the template has made, whose parts may occur in it more than once."""
    total, n_entries, path = ENTRY, 0, [_parts(value)]
    while path:
        for each in path[-1]:
            n_entries += 1
            if isinstance(each, _CONTAINERS) and not isinstance(each, GivenDict | GivenList):
                total += ENTRY
                path.append(_parts(each))
                break
            total += _flat_weight(each)
            if total > LARGEST or n_entries > MOST_ENTRIES:
                break
        else:
            path.pop()
        if total > LARGEST or n_entries > MOST_ENTRIES or len(path) > DEEPEST:
            raise Excessive("makes too large a value")
    return total


def _parts(value: Any) -> Iterator[Any]:
    return chain(value, value.values()) if isinstance(value, dict) else iter(value)


def _flat_weight(value: Any) -> int:
    if isinstance(value, int) and value.bit_length() > _WIDEST:
        raise Excessive("makes too large a number")
    return _weight(value)
