"""The constraints of one answer: their triggers, and their matchers from where each begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy

from services.backend.types import Constraint
from services.engine.llama.constraint import Matcher
from services.engine.llama.progress import Piece, Progress
from services.engine.llama.triggers import Triggers


class AnswerConstraints:
    """The request's constraint, and those beside it. Owned as its steering is.

    Each is known by its number; 0 is the request's own.
    """

    def __init__(
        self,
        constraint: Constraint | None,
        make: Callable[[Constraint], Matcher],
        spell: Callable[[str], list[int]],
    ) -> None:
        """`make` makes a constraint's matcher, and `spell` returns the tokens that write a text; [] if none do.

        Raises what `make` raises.
        """
        self._make = make
        self._spell = spell
        self.is_lazy = constraint is not None and bool(constraint.triggers)
        """True if the constraints hold behind their triggers."""
        self.is_once = self.is_lazy and constraint is not None and constraint.once
        self._all = (constraint, *(constraint.also if self.is_lazy else ())) if constraint else ()
        self._triggers = Triggers(*(each.triggers for each in self._all))
        # Made here in any case, so that what cannot be kept is refused at once.
        self._made = {number: make(each) for number, each in enumerate(self._all)}
        self.may_close = bool(self._all) and not self.is_lazy and not self._made[0].is_complete
        """True if a text is closed where the tokens run out. One that may be empty is free text, in which a call may begin:
        closed early, the call would have other arguments than the model meant."""

    def __bool__(self) -> bool:
        return bool(self._all)

    def fresh(self, number: int) -> Matcher:
        """Return a constraint's matcher at its beginning."""
        return self._made.pop(number, None) or self._make(self._all[number])

    def matched(self, number: int, pieces: Sequence[Piece]) -> Matcher | None:
        """Return a constraint's matcher behind `pieces`; None if they do not fit it."""
        matcher = self.fresh(number)
        for piece in pieces:
            tokens = [piece.token] if piece.is_whole else self.spelled(piece.data)
            for token in tokens:
                if not matcher.allows(token):
                    return None
                matcher.accept(token)
            if not tokens:
                return None
        return matcher

    def triggered(self, pieces: Sequence[Piece]) -> tuple[int, list[Piece]] | None:
        """Add what the answer goes on with; return the constraint that begins there, and what it begins with."""
        for number, piece in enumerate(pieces):
            is_mark = piece.known.mark is not None
            found = self._triggers.end_in(piece.data, is_mark)
            self._triggers.add(piece.data, is_mark)
            if found:
                end, constraint = found
                return constraint, _behind(piece, end, pieces[number + 1 :])
        return None

    def spelled(self, data: bytes) -> list[int]:
        """Return tokens that write `data` and nothing more; [] if none do."""
        try:
            return self._spell(data.decode())
        except UnicodeDecodeError:
            return []

    def border_of_trigger(self, pieces: Sequence[Piece]) -> int | None:
        """Return how many bytes of the last of these tokens may be written, where a constraint begins within it.

        None if the token need not end there.
        """
        *before, last = pieces
        triggers = copy(self._triggers)
        for piece in before:
            triggers.add(piece.data, piece.known.mark is not None)
        found = triggers.end_in(last.data, False)
        if found is None:
            return None
        rest = _behind(last, found[0], ())
        return len(last.known.written) - len(rest[0].data) if rest and not self.matched(found[1], rest) else None

    def border_of_break(self, ahead: Progress) -> int | None:
        """Return how many bytes of a token may be written that ends a thought by a break, where a constraint waits.

        `ahead` is the progress behind it. None if all of it fits the constraint, 0 if the thought has to be closed instead.
        """
        if ahead.tracker is None or self.matched(0, ahead.behind):
            return None
        *before, last = ahead.behind
        n_rest = ahead.tracker.n_rest
        broken = [*before, last._replace(data=last.data[: len(last.data) - n_rest])]
        n = len(last.known.written)
        return n - n_rest if n_rest and self.matched(0, broken) else max(n - ahead.tracker.n_behind, 0)


def _behind(piece: Piece, end: int, others: Sequence[Piece]) -> list[Piece]:
    """Return what follows the first `end` bytes of a piece, and the pieces behind it."""
    rest = piece.data[end:]
    return [*([piece._replace(data=rest)] if rest else []), *others]
