"""The watches over the JSON texts and lists within one answer; see `Frame`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher
from typing_extensions import Self, override

from services.engine.llama.json_frame import BEGINNING, BEGINS, CLOSE, ENDS, ITEM, LIST, Frame
from services.engine.llama.json_watch import JsonWatch
from services.engine.llama.matcher import Watch

# The most readings of an answer that are followed at once: a grammar that leaves open where JSON begins has many.
MOST_READINGS = 16
# What numbers and names consist of, and what other JSON begins with.
_SCALAR = re.compile(rb"[-+.0-9a-zA-Z]")
_WATCHED = b'"[{'


@dataclass(frozen=True)
class _List:
    """A list that is being written: its items so far, and the text of the one that is being written, if one is."""

    items: frozenset[bytes] = frozenset()
    item: bytes | None = None

    def with_text(self, text: bytes) -> _List:
        return self if self.item is None else _List(self.items, self.item + text)


class _Reading:
    """One way to read the answer so far: outside of watched JSON, or within it (`is_within`)."""

    __slots__ = ("is_shared", "is_within", "lists", "matcher", "unread", "watch")

    def __init__(self, matcher: LLMatcher) -> None:
        self.matcher = matcher
        self.is_shared = True
        """True if the matcher belongs to another reading too, and is copied before it goes on."""
        self.is_within = False
        self.watch: JsonWatch | None = None
        """The watch over the JSON that is being read; None if it is a number or a name."""
        self.unread = b""
        """The last bytes of the JSON, which the matcher has still to take."""
        self.lists: tuple[_List, ...] = ()
        """The lists that are being written, the outermost first."""

    def copy(self) -> _Reading:
        copied = _Reading(self.matcher)
        self.is_shared = True
        copied.is_within, copied.unread = self.is_within, self.unread
        copied.watch, copied.lists = self.watch.copy() if self.watch else None, self.lists
        return copied

    def take_text(self, tokens: list[int], text: bytes) -> bool:
        """Take tokens, as `take`, that are the text of items too."""
        self.lists = tuple(each.with_text(text) for each in self.lists)
        return self.take(tokens)

    def mark(self, mark: int) -> bool:
        """Take a mark of a list; return False if an item is there already."""
        *outer, last = self.lists or (_List(),)
        if mark == LIST:
            self.lists = (*self.lists, _List())
        elif mark == ITEM:
            self.lists = (*outer, _List(last.items, b""))
        elif last.item is None:
            self.lists = tuple(outer)
        else:
            self.lists = (*outer, _List(last.items | {last.item}))
            return last.item not in last.items
        return True

    def is_stuck(self) -> bool:
        """Return whether an item is written that is there already, and can only end."""
        last = self.lists[-1] if self.lists else None
        if last is None or last.item not in last.items or self.matcher.validate_tokens([CLOSE]) < 1:
            return False
        bits = int.from_bytes(self.matcher.compute_bitmask(), "little")
        return bits == 1 << CLOSE

    def take(self, tokens: list[int]) -> bool:
        """Take tokens of the small vocabulary; return False, and take none, if they are not allowed."""
        if self.matcher.validate_tokens(tokens) < len(tokens):
            return False
        if self.is_shared:
            self.matcher, self.is_shared = self.matcher.deep_copy(), False
        return self.matcher.consume_tokens(tokens)

    def take_unread(self) -> bool:
        """Have the matcher take what it has not."""
        data, self.unread = self.unread, b""
        return not data or self.take(list(data))


class FrameWatch(Watch):
    """Follows one answer. A token is allowed if no name or item is repeated by one way to read it at least."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._readings = [_Reading(frame.start)]

    @override
    def copy(self) -> Self:
        copied = type(self)(self._frame)
        copied._readings = [each.copy() for each in self._readings]
        return copied

    @override
    def accept(self, token: int) -> None:
        self._readings = self._behind(self._readings, token)

    @override
    def forbid(self, allowed: npt.NDArray[np.bool_], tokens: npt.NDArray[np.int32] | None) -> None:
        if tokens is not None:
            for n in np.flatnonzero(allowed):
                allowed[n] = self._allows(int(tokens[n]))
            return
        found = [self._frame.table.compounds, *(each.watch.suspects(allowed) for each in self._readings if each.watch)]
        if self._frame.has_lists:
            found += self._ends_of_items()
        suspects = np.unique(np.concatenate(found))
        for token in suspects[allowed[suspects]].tolist():
            if not self._allows(token):
                allowed[token] = False

    def _ends_of_items(self) -> Iterator[npt.NDArray[np.int32]]:
        """Yield the tokens that might end an item of a list as one that is there already."""
        table = self._frame.table
        yield table.stutters
        for last in {each.lists[-1] for each in self._readings if each.lists}:
            begun = last.item or b""
            for item in last.items:
                if item == begun:
                    yield table.everything
                elif item.startswith(begun):
                    yield table.beginning_with(item[len(begun) :])

    def _allows(self, token: int) -> bool:
        table = self._frame.table
        if token in table.end_set:
            return True
        if len(self._readings) == 1 and (watch := self._readings[0].watch):
            # The grammar allows the token, so that this way to read it is right.
            n_read = watch.trial().read(table.pieces[token], is_trial=True)
            if n_read is None or n_read == len(table.pieces[token]):
                return n_read is not None
        is_outside = not (self._frame.has_lists or any(each.is_within for each in self._readings))
        if is_outside and not BEGINNING.search(table.pieces[token]):
            return True
        return bool(self._behind([each.copy() for each in self._readings], token))

    def _behind(self, readings: list[_Reading], token: int) -> list[_Reading]:
        """The readings, which it changes, behind a token."""
        frame = self._frame
        piece, special = frame.table.pieces[token], frame.specials.get(token)
        found: list[_Reading] = []
        for each in readings:
            if special is not None:
                found += self._at_special(each, special, piece)
            else:
                found += self._within(each, piece) if each.is_within else self._outside(each, piece)
        if len(found) > 1:
            # Now it has to be seen which of them are possible.
            found = [each for each in found if each.take_unread()]
        return [each for each in found if not each.is_stuck()][:MOST_READINGS]

    def _at_special(self, reading: _Reading, token: int, piece: bytes) -> Iterator[_Reading]:
        """Yield the readings behind a special token, of the small vocabulary, which JSON never holds."""
        if reading.is_within:
            return
        for each in (reading, *self._marked(reading)):
            if each.take_text([token], piece):
                yield each

    def _outside(self, reading: _Reading, data: bytes) -> Iterator[_Reading]:
        """Yield the readings behind bytes that do not begin within watched JSON."""
        at = 0
        while match := self._frame.stops.search(data, at):
            if match.start() > at and not reading.take_text(list(data[at : match.start()]), data[at : match.start()]):
                return
            at = match.start()
            yield from self._begun(reading, data[at:])
            for each in self._marked(reading):
                yield from self._begun(each, data[at:])
                if each.take_text([data[at]], data[at : at + 1]):
                    yield from self._outside(each, data[at + 1 :])
            if not reading.take_text([data[at]], data[at : at + 1]):
                return
            at += 1
        if at == len(data) or reading.take_text(list(data[at:]), data[at:]):
            yield reading

    def _marked(self, reading: _Reading) -> list[_Reading]:
        """The readings in which marks of lists stand here, one or several."""
        found: list[_Reading] = []
        for mark in (LIST, ITEM, CLOSE) if self._frame.has_lists else ():
            if reading.matcher.validate_tokens([mark]) == 1:
                marked = reading.copy()
                if marked.take([mark]) and marked.mark(mark):
                    found += [marked, *self._marked(marked)]
        return found

    def _begun(self, reading: _Reading, data: bytes) -> Iterator[_Reading]:
        """Yield the readings in which watched JSON begins with `data`."""
        if reading.matcher.validate_tokens([BEGINS]) < 1:
            return
        for mark, watch in self._frame.watches.items():
            begun = reading.copy()
            if begun.take([BEGINS, mark]):
                begun.is_within = True
                begun.watch = watch.copy() if data[0] in _WATCHED else None
                yield from self._within(begun, data)

    def _within(self, reading: _Reading, data: bytes) -> Iterator[_Reading]:
        """Yield the readings behind bytes that begin within watched JSON."""
        if reading.watch is None:
            yield from self._scalar(reading, data)
            return
        n_read = reading.watch.read(data)
        if n_read is None:
            return
        reading.unread += data[:n_read]
        reading.lists = tuple(each.with_text(data[:n_read]) for each in reading.lists)
        if not reading.watch.is_over:
            yield reading
        elif reading.take_unread() and reading.take([ENDS]):
            reading.is_within, reading.watch = False, None
            yield from self._outside(reading, data[n_read:])

    def _scalar(self, reading: _Reading, data: bytes) -> Iterator[_Reading]:
        """Yield the readings behind bytes that begin within a number or a name, which may end anywhere."""
        for at in range(len(data) + 1):
            if reading.matcher.validate_tokens([ENDS]) == 1:
                ended = reading.copy()
                if ended.take([ENDS]):
                    ended.is_within = False
                    if at < len(data):
                        yield from self._outside(ended, data[at:])
            if at < len(data) and not (_SCALAR.match(data, at) and reading.take_text([data[at]], data[at : at + 1])):
                return
        yield reading
