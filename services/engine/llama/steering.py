"""Steering the next token of an answer: thoughts with their budget, the constraint behind them, and tokens that are due.

Pure Python: it knows tokens by their bytes, and a constraint by its matcher.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from services.backend.thoughts import ThoughtTracker
from services.backend.types import Constraint, GenerationRequest, Thoughts
from services.engine.llama.answer_constraints import AnswerConstraints
from services.engine.llama.closing import Closing
from services.engine.llama.constraint import Matcher
from services.engine.llama.progress import Piece, Progress, Shown
from services.engine.llama.vocabulary import TokenText
from services.errors import InvalidRequest

# In the last quarter of the answer's tokens, within these bounds, each has to leave room to close what is open.
LEAST_CLOSING, MOST_CLOSING = 16, 256
# The most tokens by which one token is expected to lengthen what completes a text.
MOST_OPENED = 64
# A text whose end leaves more tokens than these was not closed by force by another engine.
MOST_SPARE = 2

# White space that models write in front of a thought.
_SPACES = ("\n", "\n\n", " ")


class Tokens(Protocol):
    """A vocabulary's tokens as text; see `Vocabulary`."""

    def known(self, token: int) -> TokenText:
        """Return a token as text."""
        ...

    def tag(self, text: str) -> Sequence[int]:
        """Return the tokens of a text that a model writes, special tokens among them."""
        ...

    def continuation(self, text: str) -> list[int]:
        """Return tokens that write exactly `text` behind other text; [] if none do."""
        ...


class Steering:
    """Steers one answer. Owned by the thread that makes it, then by the engine's.

    Thoughts are no part of a constraint's text. A constraint without triggers waits until no thought is open, and then
    holds to the answer's end; what may come first there is also what begins a thought, behind which it holds anew. One with
    triggers holds from behind a trigger until its text is over, or complete and the model goes on with something else.
    Where a text of `Thoughts.breaks` ends a thought, a constraint that waits holds from this text's beginning on.
    """

    def __init__(self, request: GenerationRequest, tokens: Tokens, make: Callable[[Constraint], Matcher]) -> None:
        """`make` makes a constraint's matcher. Raises what that raises."""
        thoughts, constraint = request.thoughts, request.sampling.constraint
        self._tokens = tokens
        self._constraints = AnswerConstraints(constraint, make, tokens.continuation)
        self._is_lazy, self._is_once = self._constraints.is_lazy, self._constraints.is_once
        self._stops = frozenset(request.stop_tokens)
        self._keeps_stop = request.keeps_stop
        self._reserve = min(MOST_CLOSING, max(LEAST_CLOSING, request.max_tokens // 4))
        self._progress = Progress(self._tracker_of(thoughts, request.tokens) if thoughts else None)
        self._closing = Closing(thoughts, tokens.tag(thoughts.closing or thoughts.ends) if thoughts else ())
        self._beginning = list(tokens.tag(thoughts.begins)) if thoughts and not thoughts.is_open else []
        spaces = [tokens.tag(text) for text in _SPACES] if self._beginning and constraint else []
        self._spaces = {tokens[0] for tokens in spaces if len(tokens) == 1}
        self._matcher: Matcher | None = None
        self._is_waiting = constraint is not None and not self._is_lazy
        self._n_begun = 0
        """How many of the tokens that begin a thought the answer consists of; -1: no thought can begin there any more."""
        self._due: deque[int] = deque()
        self.is_over = False
        """True if the answer ends here, since nothing more fits the constraint."""
        self.was_closed = False
        """True if the constraint's text was closed by force."""
        self._is_closing = False
        """True while it is."""
        self._n_unchecked = 0
        """So many tokens are written without looking whether they leave room, since they do, or nothing helps any more."""

    @property
    def is_constrained(self) -> bool:
        """True if the request has a constraint, whether it holds at this token or not."""
        return bool(self._constraints)

    @property
    def is_cut(self) -> bool:
        """True if an answer that ended here would not be whole: the constraint is not complete, or was closed by force."""
        matcher = self._matcher
        is_missing = self._is_waiting and self._constraints.may_close
        return self.was_closed or is_missing or (matcher is not None and not matcher.is_complete)

    @property
    def n_thought_tokens(self) -> int:
        """The tokens written while a thought was open."""
        return self._progress.n_thought_tokens

    @property
    def rest(self) -> Shown:
        """What of the answer is not shown yet: if it ends here, the end of a thought."""
        return self._progress.rest

    @property
    def _is_thinking(self) -> bool:
        return self._progress.is_thinking

    @property
    def _holding(self) -> Matcher | None:
        """The constraint's matcher, where it holds."""
        return None if self._is_thinking else self._matcher

    def stop_thinking(self) -> None:
        """End the open thought at the next token, and every later one as soon as it begins."""
        self._closing.budget = 0

    def due(self, left: int) -> int | None:
        """Return the token that has to come next, of `left` more; None if the model chooses. Called before each token."""
        if not self._due and self._is_thinking:
            spare = left - self._reserve if self._is_waiting else None
            if self._closing.is_needed(self._progress.n_decided, spare):
                self._due.extend(self._closing.begin())
        if self._due:
            return self._due[0]
        if self._is_waiting and not self._is_thinking:
            self._matcher, self._is_waiting = self._constraints.fresh(0), False
        if left <= self._reserve and not self._n_begun:
            # There is no room for a thought.
            self._n_begun = -1
        return None

    def allows(self, token: int) -> bool:
        """Return whether the model's own choice may come next."""
        matcher = self._holding
        if matcher is None:
            return True
        if self._tokens.known(token).ends_answer:
            return matcher.is_complete
        if matcher.allows(token) or token == self._next_beginning() or self._is_before(token):
            return True
        return (self._is_lazy or token in self._stops) and matcher.is_complete

    def mask(self, logits: npt.NDArray[np.float32]) -> None:
        """Set the logits of all tokens that may not come next to minus infinity."""
        beginning, matcher = self._next_beginning(), self._holding
        kept = [] if beginning is None else [beginning, *(token for token in self._spaces if self._is_before(token))]
        if self._stops and matcher and matcher.is_complete:
            kept += self._stops
        before = logits[kept]
        if matcher:
            matcher.mask(logits)
        logits[kept] = before

    def settle(self, token: int, left: int) -> int | None:
        """Return the token to write instead of an allowed one, the same in most cases; None: the answer ends before it.

        If too few tokens would be left behind it, that is the one that ends the constraint's text soonest. A token that
        would go beyond the end of a thought is written in parts, so that the constraint begins exactly there.
        """
        known = self._tokens.known(token)
        if self._is_once and self._goes_on_behind(token, known):
            # The one that ends the answer.
            return self._matcher.closing_token() if self._matcher else None
        self._leave(token, known)
        matcher = self._holding
        if matcher is None:
            return self._cut(token, known)
        if left > self._reserve or not self._constraints.may_close or self._ends(token, known):
            return token
        if self._has_room(matcher, token, left):
            return token
        if matcher.is_complete:
            return None
        closing = matcher.closing_tokens()
        if not closing or len(closing) > left or closing[0] == token:
            # What cannot be closed any more is at least the model's own.
            return token
        self.was_closed = self._is_closing = True
        return closing[0]

    def _has_room(self, matcher: Matcher, token: int, left: int) -> bool:
        """Return whether the constraint's text can still be completed behind a token, of `left` with this one."""
        if self._is_closing or not matcher.allows(token):
            return False
        if self._n_unchecked:
            self._n_unchecked -= 1
            return True
        rest = matcher.closing_behind(token, left - 1)
        if rest is None:
            return False
        room = left - 1 - len(rest)
        # A token may open much, and closes little.
        self._n_unchecked = max(room - MOST_OPENED, 0) // 8 if room >= 0 else -room // 2
        return room >= 0

    def resume(self, token: int, left: int) -> Shown:
        """Go on behind a token that another engine has written, of `left` more then; return as `accept`.

        Raises InvalidRequest if the constraint does not allow it.
        """
        due = self.due(left)
        if due is not None and due != token:
            self._due.clear()
            self._closing.is_under_way = False
        elif due is None and not self._may_follow(token):
            raise InvalidRequest("resume_tokens: the grammar does not allow what was said so far", param="resume_tokens")
        matcher = self._holding
        if matcher and self._constraints.may_close and left <= self._reserve and not matcher.is_complete:
            closing = matcher.closing_tokens() or [-1]
            # Whether the model would have written the same is not known here.
            is_needed = self.was_closed or 0 <= left - len(closing) <= MOST_SPARE
            self.was_closed = is_needed and closing[0] == token
        return self.accept(token)

    def accept(self, token: int) -> Shown:
        """Add the next token; return what may be shown by now, cut where a thought begins or ends."""
        known = self._tokens.known(token)
        is_due = bool(self._due)
        if is_due:
            self._due.popleft()
        self._closing.add(token, known.written, self._is_thinking)
        self._leave(token, known)
        matcher = self._holding
        if matcher is None or is_due:
            return self._accept_free(token, known)
        return self._accept_matched(token, known, matcher)

    def _accept_matched(self, token: int, known: TokenText, matcher: Matcher) -> Shown:
        """Add a token under the constraint, or one that begins a thought before it."""
        if self._is_before(token):
            if matcher.allows(token):
                matcher.accept(token)
                self._note_end(matcher)
            return self._progress.add_matched(known)
        begins = token == self._next_beginning()
        needs_no_fit = begins or token in self._stops
        fits = not known.ends_answer and (not needs_no_fit or matcher.allows(token))
        if fits:
            matcher.accept(token)
        if begins:
            return self._accept_beginning(token, known, fits)
        self._n_begun = -1
        self._note_end(matcher)
        return self._progress.add_matched(known)

    def _accept_beginning(self, token: int, known: TokenText, fits: bool) -> Shown:
        """Add a token that begins a thought; `fits`: it may be the beginning of the constraint's text as well."""
        self._n_begun += 1
        shown = self._progress.add(token, known)
        if not fits or self._is_thinking:
            self._due.extend(self._beginning[self._n_begun :])
            # The constraint begins anew behind the thought.
            self._matcher, self._is_waiting, self._n_begun = None, True, -1
        return shown

    def _accept_free(self, token: int, known: TokenText) -> Shown:
        """Add a token of a thought, or of an answer that nothing constrains there."""
        if known.ends_answer or (token in self._stops and not self._keeps_stop):
            # It is no part of the text.
            self._progress.end()
            return ()
        progress, was_thinking = self._progress, self._is_thinking
        shown = progress.add(token, known)
        if was_thinking and not self._due:
            if self._closing.is_under_way:
                # Whatever the closing tokens say.
                shown += progress.close()
            elif not self._is_thinking and not progress.is_broken:
                # Another engine may have begun to close it: what it writes behind the thought is due as well.
                self._due.extend(self._closing.rest())
        self._closing.is_under_way = self._closing.is_under_way and bool(self._due)
        if not self._is_thinking:
            self._closing.forget()
            found = self._constraints.triggered(progress.behind) if self._is_lazy else None
            if found:
                self._begin(*found)
            elif self._is_waiting and progress.is_broken:
                self._begin(0, progress.behind)
        return shown

    def _may_follow(self, token: int) -> bool:
        """Return whether a token may come next, the model's own or one that `settle` returns for it."""
        known = self._tokens.known(token)
        return self.allows(token) and not (self._is_once and self._goes_on_behind(token, known))

    def _ends(self, token: int, known: TokenText) -> bool:
        """Return whether a token ends the answer."""
        return known.ends_answer or token in self._stops

    def _goes_on_behind(self, token: int, known: TokenText) -> bool:
        """Return whether the model goes on with something else behind a triggered text that is complete."""
        matcher = self._holding
        is_over = self._is_lazy and matcher is not None and matcher.is_complete
        return is_over and not self._ends(token, known) and matcher is not None and not matcher.allows(token)

    def _leave(self, token: int, known: TokenText) -> None:
        """End a triggered text that is complete, if the model goes on with something else."""
        if self._goes_on_behind(token, known):
            self._end_span()

    def _note_end(self, matcher: Matcher) -> None:
        """Take note of the end of a constraint's text, if it is reached."""
        if not matcher.is_over:
            return
        self.is_over = self._is_once or not self._is_lazy
        if self._is_lazy and not self.is_over:
            self._end_span()

    def _end_span(self) -> None:
        """Let the answer go on freely behind a triggered text."""
        self._matcher = None
        if self._progress.tracker:
            self._progress.tracker.interrupt()

    def _begin(self, number: int, pieces: Sequence[Piece]) -> None:
        """Let a constraint begin with `pieces`, or behind them if they do not fit it."""
        matcher = self._constraints.matched(number, pieces) or self._constraints.fresh(number)
        self._matcher, self._is_waiting, self._n_begun = matcher, False, -1
        self._note_end(matcher)

    def _cut(self, token: int, known: TokenText) -> int:
        """Return the token to write where the constraint does not hold yet, and put off those that follow it."""
        n = len(known.written)
        end = 0 if self._is_waiting and self._ends(token, known) else self._border(token, known)
        if end is None or end >= n:
            return token
        if end <= 0:
            # The constraint is still to come.
            self._due.extend(self._closing.begin())
            return self._due[0] if self._due else token
        parts = self._constraints.spelled(known.written[:end])
        self._due.extend(parts)
        return parts[0] if parts else token

    def _border(self, token: int, known: TokenText) -> int | None:
        """Return how many bytes of a token may be written, so that the constraint begins exactly behind them.

        None if the token need not end there; 0 if the thought has to be closed instead of it.
        """
        tracker = self._progress.tracker
        if tracker is None:
            whole = Piece(token, known.written, known)
            return None if known.mark or self._is_waiting else self._constraints.border_of_trigger([whole])
        ahead = self._progress.ahead(token, known)
        if self._is_waiting and ahead.is_broken:
            return self._constraints.border_of_break(ahead)
        if known.mark:
            return None
        if self._is_waiting:
            return tracker.border(known.written, False)
        return self._constraints.border_of_trigger(ahead.behind) if ahead.behind and not ahead.is_thinking else None

    def _next_beginning(self) -> int | None:
        """Return the token that goes on beginning a thought, where the answer may begin with one."""
        if self._is_lazy or self._matcher is None or self._closing.budget == 0:
            return None
        return self._beginning[self._n_begun] if 0 <= self._n_begun < len(self._beginning) else None

    def _is_before(self, token: int) -> bool:
        """Return whether a token is white space in front of a thought with which the answer may begin."""
        return self._n_begun == 0 and token in self._spaces and self._next_beginning() is not None

    def _tracker_of(self, thoughts: Thoughts, prompt: Sequence[int]) -> ThoughtTracker:
        tag = [self._tokens.known(token).mark for token in self._tokens.tag(thoughts.begins)]
        if not tag or not tag[0] or not tag[-1] or None not in tag:
            return ThoughtTracker(thoughts)
        # Text between special tokens: a header.
        last = next((mark for token in reversed(prompt) if (mark := self._tokens.known(token).mark)), None)
        return ThoughtTracker(thoughts, tag[-1], last != tag[-1])
