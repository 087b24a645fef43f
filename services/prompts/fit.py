"""Fitting a conversation into a model's context: the exchanges that the prompt holds, and its tokens."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from services.backend.protocols import Model
from services.backend.types import Prompt
from services.errors import PromptTooLong, TemplateTooSlow
from services.prompts.borders import in_bytes
from services.prompts.form import (
    FEWEST_MARKS,
    LONGEST_TOKEN,
    PROBE,
    Exchange,
    Form,
    Pause,
    before_probe,
    least_tokens,
)

# A full window is emptied down to this share of its room, so that the next many prompts begin alike.
SLIDE_TO = 0.6
# A window that fills less than this share, as after an edit far back, takes earlier exchanges in again.
REFILL_BELOW = 0.3
# The most characters that a next prompt's words are expected to have.
LIKELY_WORDS = 400
# The characters at a draft's end that are taken for an unfinished word, at most: some languages have no spaces.
_LONGEST_WORD = 16
# Words that begin with different tokens: the tokens that prompts for all of them have in common come before any words.
_PROBES = ("A", "0", "\n")
# The number of template heads in the cache.
_KEPT_HEADS = 256
# The characters at a prompt's end by which a reader sees whether a thought is open.
_TAIL = 200


@dataclass(frozen=True)
class FittedPrompt:
    """A prompt that fits: its token ids, the most tokens of the answer, and the number of tokens before any person's text.

    `start` is the number of the conversation's exchanges that it leaves out, `tail` the last characters of its text, and
    `borders` are as in `GenerationRequest`.
    """

    tokens: tuple[int, ...]
    max_tokens: int
    n_head: int
    start: int
    tail: str = field(default="", repr=False)
    borders: tuple[int, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class PromptFitter:
    """Fits prompts of one form into a model's context. `n_ctx` and `max_tokens` (of the answer) count tokens.

    `longest_token` is as in `ChatFormat`. `pause` is called before each text is tokenized, and raises to give up.
    """

    form: Form
    tokenize_all: Callable[[Sequence[Prompt]], list[list[int]]]
    n_ctx: int
    max_tokens: int = 1
    longest_token: int = 0
    pause: Pause = lambda: None

    def pausing(self, pause: Pause) -> PromptFitter:
        """Return the same fitter with another `pause`."""
        return replace(self, form=self.form.pausing(pause), pause=pause)

    def fit(self, exchanges: Sequence[Exchange], words: str, start: int = 0) -> FittedPrompt:
        """Fill the form with the exchanges from `start` on, or from a later one if these do not fit beside the answer.

        The answer is guaranteed the smaller of `max_tokens` and a quarter of the context: older exchanges make room for it.
        The prompt alone may fill the context but for one token, and all of it without an answer. Raises PromptTooLong if it
        does not fit even so.
        """
        if (least := self.form.least(self.longest_token)) > self.n_ctx:
            # Before it is rendered: a template may take long over so much.
            raise PromptTooLong(least, self.n_ctx, at_least=True)
        head = _heads.of(self.form)
        start, filled = self._find_start(exchanges, start, lambda window: self.form.fill(window, words), head)
        tokens = filled.tokens(start)
        left = self.n_ctx - len(tokens)
        if left < min(self.max_tokens, 1):
            raise PromptTooLong(len(tokens), self.n_ctx)
        n_head = len(common_beginning([tokens, filled.beside]))
        prompt = filled.prompt(start)
        borders = in_bytes(prompt.text, prompt.borders) if prompt.borders else ()
        return FittedPrompt(tuple(tokens), min(self.max_tokens, left), n_head, start, prompt.text[-_TAIL:], borders)

    def head(self) -> tuple[int, ...]:
        """Return the tokens before any person's text."""
        return self._stable(_heads.of(self.form))

    def ahead(self, exchanges: Sequence[Exchange], words: str, start: int = 0) -> tuple[int, tuple[int, ...]]:
        """Return the next prompt's window start and its tokens before the words, which are taken to be as long as `words`.

        Longer ones than LIKELY_WORDS are not expected.
        """
        likely, begun = words[:LIKELY_WORDS], start
        start, _ = self._find_start(exchanges, begun, lambda window: self.form.next(window, likely))
        if start == len(exchanges):
            # Shorter words would leave room for the exchange that they refer to.
            start, _ = self._find_start(exchanges, begun, lambda window: self.form.next(window, ""))
        return start, self._stable(before_probe(self.form.next(exchanges[start:], PROBE)))

    def draft(self, exchanges: Sequence[Exchange], words: str, start: int = 0) -> tuple[tuple[int, ...], int]:
        """Return the beginning of the prompt that `words` make, as far as more words leave its tokens as they are.

        Also returns how many of the tokens come before the words. There are none where the template hides the words' place.
        Raises as `fit` does.
        """
        window = exchanges[self.fit(exchanges, words, start).start :]
        settled = _settled(words)
        unsettled = words[len(settled) :]
        gap = unsettled[: len(unsettled) - len(unsettled.lstrip())]
        before = self._stable(before_probe(self.form.fill(window, PROBE)))
        upto = self._stable(before_probe(self.form.fill(window, settled + PROBE)), gap)
        return upto, len(common_beginning([before, upto]))

    def _stable(self, beginning: Prompt, gap: str = "") -> tuple[int, ...]:
        """The tokens of a prompt's beginning, without the last ones if these depend on the text that follows `gap`."""
        if not beginning.text:
            return ()
        self.pause()
        prompts = [Prompt(f"{beginning.text}{gap}{probe}", beginning.typed) for probe in _PROBES]
        return tuple(common_beginning(self.tokenize_all(prompts)))

    def _find_start(
        self,
        exchanges: Sequence[Exchange],
        start: int,
        fill: Callable[[Sequence[Exchange]], Prompt],
        beside: Prompt | None = None,
    ) -> tuple[int, _Filled]:
        """The first exchange of a prompt that fits, and the prompts tried; `beside` is tokenized with the first of them."""
        room = self.n_ctx - min(self.max_tokens, max(1, self.n_ctx // 4))
        goal = int(SLIDE_TO * room) if self.form.slides else room
        start = min(start, len(exchanges))
        filled = _Filled(self, lambda n: fill(exchanges[n:]), beside)
        if not _is_hopeless(exchanges[start:], room) and filled.fits(start, room, is_last=start == len(exchanges)):
            if start and len(filled.tokens(start)) < REFILL_BELOW * room:
                start = filled.first_within(goal, 0, start)
        elif start < len(exchanges):
            low, start = start + 1, filled.first_within(goal, start + 1, len(exchanges))
            if start == len(exchanges):
                # The last exchange alone may exceed the goal, but the next words are about it.
                start = filled.first_within(room, low, start)
        filled.tokens(start)
        return start, filled


class _Filled:
    """The prompts by their first exchange, each made once. Owned by the thread that fits."""

    def __init__(self, fitter: PromptFitter, fill: Callable[[int], Prompt], beside: Prompt | None) -> None:
        self._fitter = fitter
        self._fill = fill
        self._beside = beside
        self.beside: list[int] = []
        """The tokens of the prompt that was tokenized with the first of them."""
        self._made: dict[int, list[int]] = {}
        self._prompts: dict[int, Prompt] = {}

    def tokens(self, start: int) -> list[int]:
        """The tokens of the prompt that begins with the exchange `start`.

        Raises PromptTooLong, without tokenizing it, if they are certainly more than the context holds.
        """
        if start not in self._made:
            prompt = self._fill(start)
            n_ctx = self._fitter.n_ctx
            if (least := len(prompt.ids) or least_tokens(prompt.text, self._fitter.longest_token)) > n_ctx:
                raise PromptTooLong(least, n_ctx, at_least=not prompt.ids)
            self._fitter.pause()
            # In one call: the model may be in another process.
            more = [self._beside] if self._beside and self._beside.text and not self._made else []
            tokens, *rest = self._fitter.tokenize_all([prompt, *more])
            self.beside = rest[0] if rest else self.beside
            self._made[start], self._prompts[start] = tokens, prompt
        return self._made[start]

    def prompt(self, start: int) -> Prompt:
        """The prompt that begins with the exchange `start`, once its tokens are made."""
        return self._prompts[start]

    def fits(self, start: int, room: int, is_last: bool = False) -> bool:
        """Return whether the prompt takes no more than `room`. One that is too slow to render does not; the last raises."""
        try:
            return len(self.tokens(start)) <= room
        except (TemplateTooSlow, PromptTooLong):
            if is_last:
                raise
            return False

    def first_within(self, room: int, low: int, high: int) -> int:
        """The first start from `low` on that fits into `room`; `high` if none before it does.

        The search begins at the end of the conversation, so that no prompt much longer than the window is rendered.
        """
        step = 8
        while high > low:
            tried = max(high - step, low)
            if not self.fits(tried, room):
                # Fewer exchanges are fewer tokens.
                return bisect_left(range(high), True, lo=tried + 1, key=lambda n: self.fits(n, room))
            high, step = tried, 2 * step
        return high


def fitter_of(form: Form, model: Model, n_ctx: int, max_tokens: int = 1, pause: Pause = lambda: None) -> PromptFitter:
    """Return a `PromptFitter` for `n_ctx` tokens of a model's context."""
    longest = model.chat_format.longest_token
    return PromptFitter(form.pausing(pause), model.tokenize_all, n_ctx, max_tokens, longest, pause)


class _Heads:
    """A cache of the forms' beginnings, before any text from the caller. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[Hashable, Prompt] = OrderedDict()

    def of(self, form: Form) -> Prompt:
        key = form.key
        with self._lock:
            if key is not None and key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        head = before_probe(form.bare())
        with self._lock:
            if key is not None:
                self._known[key] = head
                if len(self._known) > _KEPT_HEADS:
                    self._known.popitem(last=False)
        return head


_heads = _Heads()


def _settled(words: str) -> str:
    """Return the words without the last one, which may go on."""
    ended = words.rstrip()
    unended = ended[-_LONGEST_WORD:].split()[-1:] if len(ended) == len(words) else []
    return ended[: len(ended) - sum(map(len, unended))].rstrip()


def _is_hopeless(window: Sequence[Exchange], room: int) -> bool:
    """Return whether so many exchanges cannot fit, by an estimate that needs no rendering."""
    least = sum(2 * FEWEST_MARKS + (len(each.human) + len(each.ai)) // LONGEST_TOKEN for each in window)
    return least > room


def common_beginning(rows: Sequence[Sequence[int]]) -> list[int]:
    """Return the common beginning of all rows of tokens."""
    return [ids[0] for ids in takewhile(lambda ids: len(set(ids)) == 1, zip(*rows, strict=False))]
