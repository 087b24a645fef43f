"""Finding the texts behind which constraints begin."""

from __future__ import annotations

from collections.abc import Sequence


class Triggers:
    """Looks for texts in an answer that comes token by token."""

    def __init__(self, *groups: Sequence[str]) -> None:
        """Each group has the triggers of one constraint."""
        self._texts = tuple((text.encode(), number) for number, group in enumerate(groups) for text in group if text)
        self._n_kept = max((len(text) for text, _ in self._texts), default=1) - 1
        self._window = b""
        """The last bytes, which may be the beginning of a trigger."""

    def end_in(self, data: bytes, is_mark: bool) -> tuple[int, int] | None:
        """Return after how many bytes of the next token the first trigger ends, and its group; None if none does.

        Of several that end there the longest counts. In a special token (`is_mark`) one may end only where the token does.
        """
        n, text = len(self._window), self._window + data
        found = []
        for each, group in self._texts:
            # Each match ends within the new bytes.
            at = len(text) - len(each) if is_mark and text.endswith(each) else -1
            if not is_mark:
                at = text.find(each, max(n - len(each) + 1, 0))
            if at >= 0:
                found.append((at + len(each) - n, -len(each), group))
        if not found:
            return None
        end, _, group = min(found)
        return end, group

    def add(self, data: bytes, is_mark: bool) -> None:
        """Add a token's bytes; behind a trigger the search begins anew."""
        if self.end_in(data, is_mark) is not None:
            self._window = b""
        else:
            self._window = (self._window + data)[-self._n_kept :] if self._n_kept else b""
