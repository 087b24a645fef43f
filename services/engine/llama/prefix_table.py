"""A vocabulary's tokens by their bytes: those that begin with a text, and those that hold one."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt


class PrefixTable:
    """The tokens of a vocabulary, sorted by their bytes. Any thread may call it."""

    def __init__(self, written: Sequence[bytes]) -> None:
        """`written` are the bytes of each token, those that name special ones included."""
        order = sorted(range(len(written)), key=written.__getitem__)
        self._ids = np.array(order, np.int32)
        self._texts = [written[token] for token in order]
        self._all = b"".join(self._texts)
        self._ends = list(accumulate(map(len, self._texts)))
        """Where each text ends in `_all`."""

    def beginning_with(self, text: bytes) -> npt.NDArray[np.int32]:
        """Return the tokens whose bytes begin with `text`."""
        first = bisect_left(self._texts, text)
        return self._ids[first : bisect_left(self._texts, True, first, key=lambda each: not each.startswith(text))]

    def containing(self, texts: Iterable[bytes]) -> npt.NDArray[np.int32]:
        """Return the tokens within whose bytes one of `texts` stands, none of which is empty."""
        return self._ids[sorted({number for text in texts for number in self._holders(text)})]

    def _holders(self, text: bytes) -> Iterator[int]:
        """Yield the positions of the sorted texts that hold `text`."""
        at = self._all.find(text)
        while at >= 0:
            number = bisect_right(self._ends, at)
            end = self._ends[number]
            if at + len(text) <= end:
                yield number
                at = end
            else:
                # It begins in one and ends in another.
                at += 1
            at = self._all.find(text, at)
