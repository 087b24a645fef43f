"""Finding the texts behind which a constraint begins."""

from __future__ import annotations

from collections.abc import Sequence


class Triggers:
    """Looks for texts in an answer that comes token by token."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = tuple(text.encode() for text in texts if text)
        self._n_kept = max(map(len, self._texts), default=1) - 1
        self._window = b""
        """The last bytes, which may be the beginning of a trigger."""

    def end_in(self, data: bytes, is_mark: bool) -> int | None:
        """Return after how many bytes of the next token the first trigger ends; None if none does.

        In a special token (`is_mark`) one may end only where the token does.
        """
        n, text = len(self._window), self._window + data
        if is_mark:
            return len(data) if any(text.endswith(each) for each in self._texts) else None
        # Each match ends within the new bytes.
        found = ((text.find(each, max(n - len(each) + 1, 0)), len(each)) for each in self._texts)
        return min((at + length - n for at, length in found if at >= 0), default=None)

    def add(self, data: bytes, is_mark: bool) -> None:
        """Add a token's bytes; behind a trigger the search begins anew."""
        if self.end_in(data, is_mark) is not None:
            self._window = b""
        else:
            self._window = (self._window + data)[-self._n_kept :] if self._n_kept else b""
