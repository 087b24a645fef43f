"""One answer on its way: its prompt, fitted into the context, becomes a request of the backend; then an Answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

from auth.rate_limits import Ticket
from services.answers.admission import Poll
from services.answers.cancellation import CancelToken
from services.answers.client import Client
from services.answers.deadline import Deadline
from services.answers.grounding import CONTEXT_SHARE, Given, Grounding
from services.answers.mark_reader import MarkReader
from services.answers.reading import Reading
from services.answers.replay import stored_summary
from services.answers.request import AnswerRequest
from services.answers.stream import Answer, summary
from services.backend.protocols import Generation, Model
from services.backend.types import Finish, GenerationRequest, PrefetchRequest, Prompt
from services.errors import HearthError, PromptTooLong, TemplateTooSlow
from services.models.profile import Chosen
from services.prompts.chat import ChatForm
from services.prompts.fit import FittedPrompt, PromptFitter, fitter_of
from services.prompts.form import Exchange, Form
from services.replies.events import Reply
from services.sessions.conversation import Conversation
from services.sessions.service import Sessions


@dataclass(frozen=True)
class PreparedAnswer:
    """Everything that an answer needs before it is computed. Owned by the thread that opens it."""

    asked: AnswerRequest
    chosen: Chosen
    model: Model
    conversation: Conversation
    fitter: PromptFitter
    given: Given | None
    """The passages of own files that the prompt holds; None: the request names none."""
    start: int
    """The number of exchanges that the prompt leaves out: the conversation's, or those of the request's history."""
    request: GenerationRequest
    reading: Reading
    ticket: Ticket
    deadline: Deadline
    cancel_token: CancelToken | None
    """Stops the answer of a session; None where it belongs to none."""
    prefetching: Callable[[], AbstractContextManager[Poll]]
    """Returns the context in which the next prompt is written; it yields what to call meanwhile."""
    on_finish: Callable[[Finish], None]
    end: ExitStack
    """Releases everything that the answer holds."""

    def answer(self, generation: Generation) -> Answer:
        """Return the answer that `generation` now computes."""
        self.deadline.attach(generation)
        if self.asked.on_prompt:
            self.asked.on_prompt(self.request.tokens, self.model.pieces(self.request.tokens))
        if self.cancel_token:
            self.cancel_token.attach(generation)
        self.end.callback(lambda: self.ticket.add(generation.spent))
        # Called before the line above: its whole cost is known once it is cancelled.
        self.end.callback(generation.cancel)

        # Now: what is stored at the end counts no more.
        start = 0 if self.asked.history else self.start
        counts = self.conversation.counts(start)

        def finished(reply: Reply, finish: Finish) -> dict[str, Any]:
            self.on_finish(finish)
            if self.asked.begun:
                reasoning = self.asked.begun_reasoning or reply.reasoning
                reply = replace(reply, content=self.asked.begun + reply.content, reasoning=reasoning)
            told = {**summary(reply, self.asked.session_id, self.chosen, finish), **counts}
            if self.given:
                told["citations"] = self.given.citations(reply.content)
            if self._is_stored(reply, is_whole=finish.reason != "cancelled"):
                exchange = Exchange(self.asked.prompt, reply.content, reply.reasoning)
                is_cut = finish.reason in ("length", "cancelled")
                forgotten = self.conversation.store(exchange, start, stored_summary(told), is_cut, self.asked.goes_on)
                # When the answer is out and closed: the client waits for nothing of it.
                self.end.callback(self._prefetch_next, exchange, forgotten)
            return told

        return Answer(
            generation,
            MarkReader() if self.asked.shows_specials else self.reading.reader(),
            self.deadline.poll,
            finished,
            self.end,
            self.chosen.name,
            trims=self.asked.trims,
            trims_start=not self.asked.continues,
            n_prompt=len(self.request.tokens),
            n_left_out=self.start - start,
            given=self.given,
        )

    def _is_stored(self, reply: Reply, is_whole: bool) -> bool:
        """Return whether the exchange is stored; a reply that was stopped is not whole."""
        # An exchange ends in words: calls, and what they return, come again with the client's next messages.
        if reply.calls or reply.cut_call:
            return False
        # What was stopped before its first word never happened.
        return bool(reply.content or is_whole) and self.asked.stores(reply, is_whole)

    def _prefetch_next(self, exchange: Exchange, forgotten: int) -> None:
        """Have the next prompt read up to the person's next words, if that prompt is to be expected.

        `forgotten` is how many exchanges an unsaved conversation has dropped for this one.
        """
        conversation, exchanges = self.conversation, [*self.conversation.exchanges, exchange]
        if not conversation.name:
            return
        memory_k = conversation.memory_k
        dropped = max(len(exchanges) - memory_k, 0) if memory_k is not None else forgotten
        # The answer is stored: whatever the engine comes to, it is not taken back.
        with suppress(HearthError):
            words, begun = self.asked.prompt, max(self.start - dropped, 0)
            with self.prefetching() as pause:
                start, beginning = self.fitter.pausing(pause).ahead(exchanges[dropped:], words, begun)
            if start > begun and self.given and self.given.is_whole:
                # The next prompt rather holds passages of the files than less of the conversation.
                return
            # Where the window begins is settled here, so that the next prompt is the one that is read ahead.
            if start or memory_k is None:
                conversation.keep_start(dropped + start)
            self.model.prefetch(PrefetchRequest(beginning, conversation.owner, conversation.name))


def conversation_of(sessions: Sessions, client: Client, asked: AnswerRequest, chosen: Chosen) -> Conversation:
    """Return the conversation that a request goes on with.

    Raises InvalidRequest where it wants to keep more messages than there are.
    """
    usual = chosen.profile.memory
    conversation = Conversation(
        sessions,
        client.identity.id,
        asked.session_id,
        usual if asked.memory_k is None else asked.memory_k,
        usual,
        asked.system,
        asked.conversation,
        asked.keep,
        client.request_name,
    )
    conversation.check()
    return conversation


@dataclass(frozen=True)
class Fitting:
    """A prompt that fits into the context, what it was fitted with, and the passages of own files that it holds."""

    fitter: PromptFitter
    fitted: FittedPrompt
    given: Given | None = None


def fitted_prompt(
    asked: AnswerRequest,
    chosen: Chosen,
    model: Model,
    form: Form,
    conversation: Conversation,
    longest: int,
    pause: Poll,
    grounding: Grounding | None = None,
) -> Fitting:
    """Fit the prompt into the context, beside an answer of `longest` tokens at most.

    Where the whole text of the request's files fits without leaving out more of the conversation, it holds that; otherwise
    the passages that match. `pause` is called while the prompt is written and tokenized. Raises what that raises,
    PromptTooLong, InvalidRequest, and NotFound for a file that is gone by now.
    """
    n_ctx = asked.context(chosen.profile, model.n_ctx)
    exchanges = [*conversation.exchanges, *asked.history]
    start = asked.history_start if asked.history else conversation.start

    def fit(form: Form, given: Given | None = None) -> Fitting:
        fitter = fitter_of(form, model, n_ctx, longest, pause)
        if asked.slides or not isinstance(form, ChatForm):
            return Fitting(fitter, fitter.fit(exchanges, asked.prompt, start), given)
        return Fitting(
            fitter, fitter_of(form.holding(exchanges), model, n_ctx, longest, pause).fit([], asked.prompt), given
        )

    if grounding is None:
        return fit(form)
    if whole := grounding.whole(form, n_ctx):
        with suppress(PromptTooLong, TemplateTooSlow):
            fitting = fit(*whole)
            has_room = fitting.fitted.max_tokens >= min(longest, n_ctx // 4)
            if fitting.fitted.start <= start and has_room:
                return fitting

    def count(texts: Sequence[str]) -> list[int]:
        return [len(tokens) for tokens in model.tokenize_all([Prompt(text) for text in texts])]

    return fit(*grounding.with_found(form, int(CONTEXT_SHARE * n_ctx), count))


def generation_request(
    asked: AnswerRequest,
    chosen: Chosen,
    fitted: FittedPrompt,
    conversation: Conversation,
    reading: Reading,
    form_stop: tuple[str, ...],
    account: str,
    background: bool,
) -> GenerationRequest:
    """Return the backend's request for a fitted prompt, with the request's own sampling before the profile's."""
    sampling = replace(
        chosen.profile.sampling(),
        constraint=reading.constraint,
        logit_bias=asked.logit_bias,
        n_top=asked.n_top,
        **asked.sampling,
    )
    stop = chosen.profile.stop if asked.stop is None else asked.stop
    return GenerationRequest(
        tokens=fitted.tokens,
        borders=fitted.borders,
        max_tokens=fitted.max_tokens,
        sampling=sampling,
        stop=tuple(dict.fromkeys([*stop, *form_stop])),
        stop_tokens=asked.stop_tokens,
        keeps_stop=asked.keeps_stop,
        owner=conversation.owner,
        session=conversation.name or asked.state,
        n_head=fitted.n_head,
        background=background,
        thoughts=reading.thoughts,
        marks=reading.marks or asked.shows_specials,
        prompt_logprobs=asked.prompt_logprobs and asked.n_top is not None,
        account=account,
    )
