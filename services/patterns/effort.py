"""A bound on the work that patterns make, in steps, so that the same pattern is refused on every machine."""

from __future__ import annotations

from services.patterns.syntax import PatternError

# Of about 0.1 µs each.
FOR_A_PATTERN = 500_000
FOR_A_SCHEMA = 3_000_000


class Effort:
    """The steps that are left to one schema, or one pattern."""

    def __init__(self, n_steps: int = FOR_A_PATTERN) -> None:
        self._n_left = n_steps

    def spend(self, n_steps: int) -> None:
        """Count these steps. Raises PatternError if fewer are left."""
        self._n_left -= n_steps
        if self._n_left < 0:
            raise PatternError("its lookaround makes it too large to be kept to")

    def part(self) -> Effort:
        """Return the effort for one pattern, of what is left."""
        return _Part(self)


class _Part(Effort):
    def __init__(self, whole: Effort) -> None:
        super().__init__()
        self._whole = whole

    def spend(self, n_steps: int) -> None:
        self._whole.spend(n_steps)
        super().spend(n_steps)
