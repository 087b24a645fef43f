"""Steering the next token of an answer: thoughts with their budget, the constraint behind them, and tokens that are due.

Pure Python: it knows tokens by their bytes, and a constraint by its matcher.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from services.backend.thoughts import Parts, ThoughtTracker, is_whole
from services.backend.types import GenerationRequest, Prompt, Thoughts
from services.engine.llama.constraint import Matcher
from services.engine.llama.triggers import Triggers
from services.engine.llama.vocabulary import TokenText
from services.errors import InvalidRequest

# The last quarter of the answer's tokens, within these bounds, is reserved for closing what a constraint has opened.
LEAST_CLOSING, MOST_CLOSING = 16, 256

# White space that models write in front of a thought.
_SPACES = ("\n", "\n\n", " ")


class Tokens(Protocol):
    """A vocabulary's tokens as text; see `Vocabulary`."""

    def known(self, token: int) -> TokenText:
        """Return a token as text."""
        ...

    def tokenize(self, prompt: Prompt) -> list[int]:
        """Return the tokens of a text, in which special tokens are written out."""
        ...

    def continuation(self, text: str) -> list[int]:
        """Return tokens that write exactly `text` behind other text; [] if none do."""
        ...


class Steering:
    """Steers one answer. Owned by the thread that makes it, then by the engine's.

    Thoughts are no part of a constraint's text. A constraint without triggers waits until no thought is open, and then
    holds to the answer's end; what may come first there is also what begins a thought, behind which it holds anew. One with
    triggers holds from behind a trigger until its text is over, or complete and the model goes on with something else.
    """

    def __init__(self, request: GenerationRequest, tokens: Tokens, make: Callable[[], Matcher] | None) -> None:
        """`make` makes the constraint's matcher, where the request has one. Raises what that raises."""
        thoughts, constraint = request.thoughts, request.sampling.constraint
        self._tokens = tokens
        self._make = make
        self._triggers = Triggers(constraint.triggers if constraint else ())
        self._is_lazy = constraint is not None and bool(constraint.triggers)
        self._reserve = min(MOST_CLOSING, max(LEAST_CLOSING, request.max_tokens // 4))
        self._tracker = self._tracker_of(thoughts, request.tokens) if thoughts else None
        self._budget = thoughts.budget if thoughts else None
        self._closing = self._closing_of(thoughts) if thoughts else []
        self._beginning = self._beginning_of(thoughts) if thoughts else []
        spaces = [self._special(text) for text in _SPACES] if self._beginning and make else []
        self._spaces = {tokens[0] for tokens in spaces if len(tokens) == 1}
        # Made here in any case, so that what cannot be kept is refused at once.
        self._made = make() if make else None
        self._matcher: Matcher | None = None
        self._is_waiting = make is not None and not self._is_lazy
        self._n_begun = 0
        """How many of the tokens that begin a thought the answer consists of; -1: no thought can begin there any more."""
        self._due: deque[int] = deque()
        self._is_closing = False
        self._last: list[int] = []
        """The last tokens of the open thought, as many as `_closing` has."""
        self._tail = b""
        self.n_thought_tokens = 0
        """The tokens written while a thought was open."""
        self.is_over = False
        """True if the answer ends here, since nothing more fits the constraint."""
        self._was_closed = False

    @property
    def is_constrained(self) -> bool:
        """True if the request has a constraint, whether it holds at this token or not."""
        return self._make is not None

    @property
    def is_cut(self) -> bool:
        """True if an answer that ended here would not be whole: the constraint is not complete, or was closed by force."""
        matcher = self._matcher
        return self._was_closed or self._is_waiting or (matcher is not None and not matcher.is_complete)

    @property
    def _is_thinking(self) -> bool:
        return self._tracker is not None and self._tracker.is_open

    @property
    def _holding(self) -> Matcher | None:
        """The constraint's matcher, where it holds."""
        return None if self._is_thinking else self._matcher

    def stop_thinking(self) -> None:
        """End the open thought at the next token, and every later one as soon as it begins."""
        self._budget = 0

    def due(self, left: int) -> int | None:
        """Return the token that has to come next, of `left` more; None if the model chooses. Called before each token."""
        if not self._due and self._has_to_close(left):
            self._close()
        if self._due:
            return self._due[0]
        if self._is_waiting and not self._is_thinking:
            self._matcher, self._is_waiting = self._fresh(), False
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
        return self._is_lazy and matcher.is_complete

    def mask(self, logits: npt.NDArray[np.float32]) -> None:
        """Set the logits of all tokens that may not come next to minus infinity."""
        beginning = self._next_beginning()
        kept = [] if beginning is None else [beginning, *(token for token in self._spaces if self._is_before(token))]
        before = logits[kept]
        if matcher := self._holding:
            matcher.mask(logits)
        logits[kept] = before

    def settle(self, token: int, left: int) -> int | None:
        """Return the token to write instead of an allowed one, the same in most cases; None: the answer ends before it.

        With few tokens left that is the one that ends the constraint's text soonest. A token that would go beyond the end
        of a thought is written in parts, so that the constraint begins exactly there.
        """
        known = self._tokens.known(token)
        self._leave(token, known)
        matcher = self._holding
        if matcher is None:
            return self._cut(token, known)
        if left > self._reserve or self._is_lazy:
            # A call of the model's own that is closed early would have other arguments than it meant.
            return token
        if matcher.is_complete:
            is_last = left == 1 and not known.ends_answer
            return None if is_last else token
        closing = matcher.closing_token()
        if closing is None or closing == token:
            return token
        self._was_closed = True
        return closing

    def resume(self, token: int, left: int) -> Parts:
        """Go on behind a token that another engine has written, of `left` more then; return as `accept`.

        Raises InvalidRequest if the constraint does not allow it.
        """
        due = self.due(left)
        if due is not None and due != token:
            self._due.clear()
            self._is_closing = False
        elif due is None and not self.allows(token):
            raise InvalidRequest("resume_tokens: the grammar does not allow what was said so far", param="resume_tokens")
        matcher = self._holding
        if matcher and left <= self._reserve and not matcher.is_complete and matcher.closing_token() == token:
            # It may have been the model's own choice, which is not known here.
            self._was_closed = True
        return self.accept(token)

    def accept(self, token: int) -> Parts:
        """Add the next token; return its bytes, cut where a thought begins or ends."""
        known = self._tokens.known(token)
        is_due = bool(self._due)
        if is_due:
            self._due.popleft()
        self._tail = (self._tail + known.written)[-4:]
        if self._is_thinking:
            self.n_thought_tokens += 1
            self._last = [*self._last, token][-max(len(self._closing), 1) :]
        self._leave(token, known)
        matcher = self._holding
        if matcher is None or is_due:
            return self._accept_free(known)
        return self._accept_matched(token, known, matcher)

    def _accept_matched(self, token: int, known: TokenText, matcher: Matcher) -> Parts:
        """Add a token under the constraint, or one that begins a thought before it."""
        if self._is_before(token) and not matcher.allows(token):
            return ((known.piece, False),)
        begins = token == self._next_beginning()
        fits = not known.ends_answer and (not begins or matcher.allows(token))
        if fits:
            matcher.accept(token)
        if begins and self._tracker:
            return self._accept_beginning(known, fits, self._tracker)
        self._n_begun = -1
        if matcher.is_over:
            self.is_over = not self._is_lazy
            self._end_span()
        return ((known.piece, False),)

    def _accept_beginning(self, known: TokenText, fits: bool, tracker: ThoughtTracker) -> Parts:
        """Add a token that begins a thought; `fits`: it may be the beginning of the constraint's text as well."""
        self._n_begun += 1
        parts = tracker.add(known.written, known.mark is not None)
        if not fits or tracker.is_open:
            self._due.extend(self._beginning[self._n_begun :])
            # The constraint begins anew behind the thought.
            self._matcher, self._is_waiting, self._n_begun = None, True, -1
        return _shown(parts, known)

    def _leave(self, token: int, known: TokenText) -> None:
        """End a triggered text that is complete, if the model goes on with something else."""
        matcher = self._holding
        if self._is_lazy and matcher and matcher.is_complete and not known.ends_answer and not matcher.allows(token):
            self._end_span()

    def _end_span(self) -> None:
        """Let the answer go on freely behind a triggered text."""
        if self._is_lazy:
            self._matcher = None
            if self._tracker:
                self._tracker.interrupt()

    def _accept_free(self, known: TokenText) -> Parts:
        """Add a token of a thought, or of an answer that nothing constrains there."""
        is_mark = known.mark is not None
        was_thinking = self._is_thinking
        parts: Parts = self._tracker.add(known.written, is_mark) if self._tracker else ((known.written, False),)
        if was_thinking and not self._due:
            if self._is_closing and self._tracker:
                # Whatever the closing tokens say.
                self._tracker.close()
            elif not self._is_thinking:
                # Another engine may have begun to close it: what it writes behind the thought is due as well.
                self._due.extend(self._rest_of_closing())
        self._is_closing = self._is_closing and bool(self._due)
        if not self._is_thinking:
            self._last = []
            if self._is_lazy:
                self._watch(b"".join(part for part, is_thought in parts if not is_thought), is_mark)
        return _shown(parts, known)

    def _watch(self, data: bytes, is_mark: bool) -> None:
        """Begin the constraint behind its trigger."""
        end = self._triggers.end_in(data, is_mark)
        self._triggers.add(data, is_mark)
        if end is not None:
            self._matcher = self._behind(data[end:]) or self._fresh()

    def _behind(self, data: bytes) -> Matcher | None:
        """Return the constraint's matcher behind what a token says behind a trigger; None if that does not fit it."""
        matcher = self._fresh()
        tokens = self._spelled(data) if data else []
        for token in tokens:
            if not matcher.allows(token):
                return None
            matcher.accept(token)
        return matcher if tokens or not data else None

    def _cut(self, token: int, known: TokenText) -> int:
        """Return the token to write where the constraint does not hold yet, and put off those that follow it."""
        if self._is_waiting and known.ends_answer:
            # The constraint is still to come.
            self._close()
            return self._due[0] if self._due else token
        end = None if known.mark else self._border(known.written)
        if end is None or end >= len(known.written):
            return token
        parts = self._spelled(known.written[:end])
        self._due.extend(parts)
        return parts[0] if parts else token

    def _border(self, data: bytes) -> int | None:
        """Return after how many bytes of a token the constraint begins; None if the token need not end there."""
        if self._is_waiting:
            return self._tracker.border(data, False) if self._tracker else None
        end = None if self._is_thinking else self._triggers.end_in(data, False)
        return None if end is None or self._behind(data[end:]) else end

    def _spelled(self, data: bytes) -> list[int]:
        """Return tokens that write `data` and nothing more; [] if none do."""
        try:
            return self._tokens.continuation(data.decode())
        except UnicodeDecodeError:
            return []

    def _has_to_close(self, left: int) -> bool:
        """Return whether the open thought ends here: its budget is used up, or the tokens are needed for the constraint."""
        if not self._is_thinking or not self._closing or not is_whole(self._tail):
            return False
        if self._budget is not None and self.n_thought_tokens >= self._budget:
            return True
        return self._is_waiting and left <= self._reserve + len(self._closing)

    def _close(self) -> None:
        self._due.extend(self._rest_of_closing() or self._closing)
        self._is_closing = True

    def _rest_of_closing(self) -> list[int]:
        """Return the closing tokens behind those that the thought ends with already."""
        closing = self._closing
        n = next((n for n in range(min(len(closing), len(self._last)), 0, -1) if self._last[-n:] == closing[:n]), 0)
        return closing[n:] if n else []

    def _next_beginning(self) -> int | None:
        """Return the token that goes on beginning a thought, where the answer may begin with one."""
        if self._is_lazy or self._matcher is None or self._budget == 0:
            return None
        return self._beginning[self._n_begun] if 0 <= self._n_begun < len(self._beginning) else None

    def _is_before(self, token: int) -> bool:
        """Return whether a token is white space in front of a thought with which the answer may begin."""
        return self._n_begun == 0 and token in self._spaces and self._next_beginning() is not None

    def _fresh(self) -> Matcher:
        """Return the constraint's matcher at its beginning."""
        assert self._make is not None
        made, self._made = self._made or self._make(), None
        return made

    def _closing_of(self, thoughts: Thoughts) -> list[int]:
        return list(thoughts.closing) or self._special(thoughts.ends)

    def _beginning_of(self, thoughts: Thoughts) -> list[int]:
        return [] if thoughts.is_open else self._special(thoughts.begins)

    def _tracker_of(self, thoughts: Thoughts, prompt: Sequence[int]) -> ThoughtTracker:
        tag = [self._tokens.known(token).mark for token in self._special(thoughts.begins)]
        if not tag or not tag[0] or not tag[-1] or None not in tag:
            return ThoughtTracker(thoughts)
        # Text between special tokens: a header.
        last = next((mark for token in reversed(prompt) if (mark := self._tokens.known(token).mark)), None)
        return ThoughtTracker(thoughts, tag[-1], last != tag[-1])

    def _special(self, text: str) -> list[int]:
        """Return the tokens of a tag."""
        tokens = self._tokens.tokenize(Prompt(text, bos=False)) if text else []
        written = b"".join(self._tokens.known(token).written for token in tokens)
        # Some vocabularies put a space in front of a text.
        return tokens if written == text.encode() else self._tokens.continuation(text) or tokens


def _shown(parts: Parts, known: TokenText) -> Parts:
    """The parts of a token as an answer shows them: a special token is whole, and may have no bytes."""
    return parts if known.mark is None else ((known.piece, parts[-1][1] if parts else False),)
