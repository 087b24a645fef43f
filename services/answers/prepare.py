"""One answer on its way: what is asked, of which model, in which conversation, becomes one request; then an Answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from typing import Any

from auth.rate_limits import Ticket
from services.answers.admission import Poll
from services.answers.cancellation import CancelToken
from services.answers.replay import request_name, told_of
from services.answers.request import AnswerRequest
from services.answers.stream import Answer, Deadline, finish_of, summary
from services.backend.protocols import Generation, Model
from services.backend.types import Finish, GenerationRequest, PrefetchRequest
from services.errors import HearthError
from services.models.profile import Chosen
from services.prompts.fit import FittedPrompt, fitter_of
from services.prompts.form import Exchange, Form
from services.sessions.conversation import Conversation
from services.sessions.service import Sessions


class PreparedAnswer:
    """What is ready to be computed. Owned by the thread that opens it.

    `deadline`, `stop`, `end`, which lets go of everything that it holds, and `working`, in which the next prompt is
    written, are set by whoever makes it.
    """

    deadline: Deadline
    stop: CancelToken | None
    working: Callable[[], AbstractContextManager[Poll]]
    end: ExitStack

    def __init__(
        self, ask: AnswerRequest, chosen: Chosen, model: Model, form: Form, talk: Conversation, ticket: Ticket, pause: Poll
    ) -> None:
        """`pause` is called while the prompt is written and tokenized.

        Raises what that raises, PromptTooLong, InvalidRequest, and RateLimitExceeded where the key has not enough tokens
        left.
        """
        self.model = model
        self._ask = ask
        self._chosen = chosen
        self._talk = talk
        self._ticket = ticket
        longest = ticket.cap(ask.question.max_tokens or chosen.profile.max_tokens)
        n_ctx = ask.context(chosen.profile, model.n_ctx)
        self._fitter = fitter_of(form, model, n_ctx, longest, pause)
        fitted = self._fitter.fit(talk.exchanges, ask.question.prompt, talk.start)
        self._start, self._forgotten = fitted.start, 0
        most = ticket.reserve(len(fitted.tokens), fitted.max_tokens)
        self.request = _request(chosen, replace(fitted, max_tokens=most), ask, talk, form.stop)

    def answer(self, generation: Generation, on_finish: Callable[[Finish], None]) -> Answer:
        """The answer that is now being computed."""
        self.deadline.attach(generation)
        if self.stop:
            self.stop.attach(generation)
        self.end.callback(lambda: setattr(self._ticket, "spent", generation.spent))
        self.end.callback(generation.cancel)

        # Now: what is stored at the end counts no more.
        counts = self._talk.counts(self._start)

        def finished(text: str) -> dict[str, Any]:
            finish = finish_of(generation)
            on_finish(finish)
            is_whole = finish.reason != "cancelled"
            told = {**summary(text, self._ask.question, self._chosen, generation), **counts}
            # What was stopped before its first word never happened.
            if (text or is_whole) and self._ask.stores(text, is_whole):
                exchange = Exchange(self._ask.question.prompt, text)
                self._forgotten = self._talk.store(exchange, self._start, told_of(told))
                # When the answer is out and closed: the caller waits for nothing of it.
                self.end.callback(self._prefetch_next, exchange)
            return told

        return Answer(generation, self.deadline.poll, self._ask.trims, finished, self.end, self._chosen.name)

    def _prefetch_next(self, exchange: Exchange) -> None:
        """Have the next prompt read up to the person's next words, if that prompt is to be expected."""
        talk, exchanges = self._talk, [*self._talk.exchanges, exchange]
        if not talk.name:
            return
        dropped = max(len(exchanges) - talk.memory_k, 0) if talk.memory_k is not None else self._forgotten
        # The answer is stored: whatever the engine comes to, it is not taken back.
        with suppress(HearthError):
            words, start = self._ask.question.prompt, max(self._start - dropped, 0)
            with self.working() as pause:
                start, beginning = self._fitter.pausing(pause).ahead(exchanges[dropped:], words, start)
            # Where the window begins is settled here, so that the next prompt is the one that is read ahead.
            if start or talk.memory_k is None:
                talk.keep_start(dropped + start)
            self.model.prefetch(PrefetchRequest(beginning, talk.owner, talk.name))


def conversation_of(sessions: Sessions, owner: str, ask: AnswerRequest, chosen: Chosen) -> Conversation:
    """The conversation that an ask goes on with. Raises InvalidRequest where it wants to keep more than there is."""
    question, usual = ask.question, chosen.profile.memory
    memory_k = usual if question.memory_k is None else question.memory_k
    talk = Conversation(
        sessions, owner, question.session_id, memory_k, usual, ask.system, ask.talk, question.keep, request_name()
    )
    talk.check()
    return talk


def _request(
    chosen: Chosen, fitted: FittedPrompt, ask: AnswerRequest, talk: Conversation, form_stop: tuple[str, ...]
) -> GenerationRequest:
    question = ask.question
    sampling = replace(
        chosen.profile.sampling(),
        json_schema=ask.json_schema,
        logit_bias=ask.logit_bias,
        n_top=ask.n_top,
        **question.sampling(),  # type: ignore[arg-type]
    )
    return GenerationRequest(
        tokens=fitted.tokens,
        max_tokens=fitted.max_tokens,
        sampling=sampling,
        stop=tuple(dict.fromkeys([*(chosen.profile.stop if question.stop is None else question.stop), *form_stop])),
        owner=talk.owner,
        session=talk.name,
        n_head=fitted.n_head,
    )
