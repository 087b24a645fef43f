"""The service behind every endpoint that generates: session + profile + prompt → one request, and the exchange stored."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from auth.metering import Meter, Ticket
from services.answer import Answer, Deadline, Poll, finish_of, summary
from services.backend import EVERYBODY, Backend, Embedder, GenerationRequest, Health, LoadSettings, Model, Thought
from services.conversation import Conversation
from services.errors import BadModelFile, HearthError, NotPermitted, Unavailable
from services.models import ModelFiles
from services.profiles import Chosen, Profiles
from services.prompts import Exchange, FittedPrompt, PromptFitter, TemplateForm
from services.question import Ask, Question
from services.session_history import SessionKey
from services.sessions import Sessions
from services.status import Status
from services.stops import Stops


class Answers:
    """Opens answers. Any thread may call it; `_turn` protects the count of those that are open."""

    def __init__(
        self,
        profiles: Profiles,
        files: ModelFiles,
        sessions: Sessions,
        backend: Backend,
        meter: Meter,
        max_open: int,
        max_seconds: float = 600,
    ) -> None:
        self._meter = meter
        self._profiles = profiles
        self._files = files
        self._sessions = sessions
        self._backend = backend
        self._max_open = max_open
        self._max_seconds = max_seconds
        self._stops = Stops()
        self._turn = threading.Lock()
        self._n_open = 0
        self._here = threading.local()
        self._warming = False
        self._broken: LoadSettings | None = None
        """What could not be loaded when last tried."""

    def open(self, owner: str, ask: Ask, poll: Poll) -> Answer:
        """Start to answer. `poll` is called while waiting, and raises to give up.

        Raises NotFound for an unknown model, PromptTooLong, InvalidRequest for what the model cannot do, Unavailable, or
        what `poll` raises; then nothing is left open.
        """
        question = ask.question
        deadline = Deadline(poll, self._max_seconds)
        poll = deadline.poll
        with ExitStack() as stack:
            stack.enter_context(self.place())
            ticket = stack.enter_context(self._meter.enter(owner))
            stop = None
            if question.session_id is not None:
                key = SessionKey(owner, question.session_id)
                stop = stack.enter_context(self._stops.of(key))
                stack.enter_context(self._sessions.turn(key, poll))
            chosen = self._choose(owner, ask.model).changed(ask.load)
            model = stack.enter_context(self._lease(chosen))
            talk = _conversation(self._sessions, owner, ask, chosen.profile.memory_k)
            talk.check()
            window = talk.window()
            fitter = _fitter(chosen, model, ask, ticket)
            fitted = fitter.fit(window, question.prompt)
            most = ticket.hold(len(fitted.tokens), fitted.max_tokens)
            generation = model.submit(_request(chosen, replace(fitted, max_tokens=most), ask, talk))

            deadline.attach(generation)
            if stop:
                stop.attach(generation)

            def finished(text: str) -> dict[str, Any]:
                is_whole = finish_of(generation).reason != "cancelled"
                # What was stopped before its first word never happened.
                if (text or is_whole) and ask.stores(text, is_whole):
                    exchange = Exchange(question.prompt, text)
                    talk.store(exchange)
                    # When the answer is out and closed: the caller waits for nothing of it.
                    stack_of_answer.callback(_think_ahead, fitter, model, question, talk, [*window, exchange])
                return summary(text, question, chosen, generation)

            stack.callback(lambda: setattr(ticket, "spent", generation.spent))
            stack.callback(generation.cancel)
            stack_of_answer = stack.pop_all()

            return Answer(generation, poll, ask.trims, finished, stack_of_answer, chosen.name)

    def stop(self, key: SessionKey) -> bool:
        """End the session's answer that is under way, which keeps what it has said; False where there is none."""
        return self._stops.ask(key)

    @contextmanager
    def lease(self, owner: str, model: str | None) -> Iterator[Model]:
        """The model that a request names, loaded. Raises NotFound, NotPermitted, BadModelFile, Unavailable."""
        with self.place(), self._lease(self._choose(owner, model)) as leased:
            yield leased

    @contextmanager
    def lease_embedder(self, owner: str, model: str | None) -> Iterator[tuple[str, Embedder, Ticket]]:
        """The same, as one that makes embeddings, its name, and what the request is counted by."""
        chosen = self._choose(owner, model)
        settings = self._settings(chosen)
        with self.place(), self._meter.enter(owner) as ticket, self._backend.lease_embedder(settings) as embedder:
            yield chosen.name, embedder, ticket

    def forget(self, key: SessionKey, poll: Poll) -> None:
        """Delete a session, after the prompt that it may be answering. Raises NotFound."""
        with self.place(), self._sessions.turn(key, poll):
            # In this order: a kill in between costs what was computed, and leaves no trace of what was to be forgotten.
            self._backend.forget(key.owner, str(key.number))
            self._sessions.history(key).clear()

    def switch(self, owner: str, model: str, profile: str) -> None:
        """Set the profile's model and select it, once the model is loaded; where anything fails, nothing changes.

        Raises InvalidRequest for a name that leaves the models folder, NotPermitted, NotFound, BadModelFile, DamagedFile,
        StorageFailed.
        """
        self._check_profile(owner, profile)
        checked = self._files.check(model)
        chosen = self._profiles.config().named(profile).model_copy(update={"model": checked.name})
        settings = chosen.load_settings(self._files)
        with self.place(), self._backend.lease(settings):
            self._profiles.select(profile, checked.name)
            # The last model on lease stays loaded: let it be this one, whoever asked the old one meanwhile.
            with self._backend.lease(settings) as loaded:
                self._broken = None
                _read_head(chosen.template, loaded)

    def warm_up(self) -> HearthError | None:
        """Load the selected profile's model; return why that failed, where it did."""
        self._warming = True
        try:
            chosen = self._profiles.config().chosen
            with self._lease(chosen) as model:
                _read_head(chosen.profile.template, model)
                return None
        except HearthError as error:
            return error
        finally:
            self._warming = False

    def health(self) -> Health:
        """Whether an answer can be had: ready, loading or down."""
        try:
            if self._settings(self._profiles.config().chosen) == self._broken:
                return "down"
        except HearthError:
            return "down"
        health = self._backend.health()
        return "loading" if health == "down" and self._warming else health

    def status(self) -> Status:
        """How busy the backend is."""
        return self._backend.status()

    @property
    def n_open(self) -> int:
        """How many answers are open, those included that wait."""
        return self._n_open

    @contextmanager
    def needing_no_place(self) -> Iterator[None]:
        """What this thread opens meanwhile takes no place: whoever waits for it has taken one."""
        self._here.needs_no_place = True
        try:
            yield
        finally:
            self._here.needs_no_place = False

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of the places for open answers. Raises Unavailable where all are taken."""
        if getattr(self._here, "needs_no_place", False):
            yield
            return
        with self._turn:
            if self._n_open >= self._max_open:
                raise Unavailable("too many answers are under way; try again soon", code="too_busy", retry_after=2)
            self._n_open += 1
        try:
            yield
        finally:
            with self._turn:
                self._n_open -= 1

    def _choose(self, owner: str, model: str | None) -> Chosen:
        """What a request is for: what it names, else the selected profile, else the first that its key may use."""
        config, allowed = self._profiles.config(), self._meter.profiles(owner)
        if model is None and allowed is not None and config.selected not in allowed:
            model = next((name for name in allowed if name in config.profiles), config.selected)
        chosen = config.chosen if model is None else config.choose(model, self._files)
        self._check_profile(owner, chosen.name)
        return chosen

    def _check_profile(self, owner: str, name: str) -> None:
        allowed = self._meter.profiles(owner)
        if allowed is not None and name not in allowed:
            what = f'this key may not use "{name}": it may use {", ".join(allowed)}'
            raise NotPermitted(what, param="model", code="profile_not_permitted")

    @contextmanager
    def _lease(self, chosen: Chosen) -> Iterator[Model]:
        """A profile's model. Raises Unavailable, saying what to do, where it cannot be had."""
        settings = self._settings(chosen)
        with ExitStack() as stack:
            try:
                model = stack.enter_context(self._backend.lease(settings))
                self._broken = None
            except BadModelFile as error:
                self._broken = settings
                raise _no_model(chosen, error) from error
            yield model

    def _settings(self, chosen: Chosen) -> LoadSettings:
        try:
            return chosen.profile.load_settings(self._files)
        except HearthError as error:
            raise _no_model(chosen, error) from error


def _conversation(sessions: Sessions, owner: str, ask: Ask, usual: int) -> Conversation:
    memory_k = usual if ask.question.memory_k is None else ask.question.memory_k
    return Conversation(sessions, owner, ask.question.session_id, memory_k, usual, ask.system, ask.talk, ask.question.keep)


def _fitter(chosen: Chosen, model: Model, ask: Ask, ticket: Ticket) -> PromptFitter:
    form = ask.form(model.chat_format) if ask.form else TemplateForm(chosen.profile.template)
    longest = ticket.cap(ask.question.max_tokens or chosen.profile.max_tokens)
    return PromptFitter(form, model.tokenize, model.n_ctx, longest)


def _request(chosen: Chosen, fitted: FittedPrompt, ask: Ask, talk: Conversation) -> GenerationRequest:
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
        stop=tuple(chosen.profile.stop if question.stop is None else question.stop),
        owner=talk.owner,
        session=talk.name,
        n_head=fitted.n_head,
    )


def _think_ahead(
    fitter: PromptFitter, model: Model, question: Question, talk: Conversation, exchanges: list[Exchange]
) -> None:
    """Have the next prompt read up to the person's next words, if that prompt is to be expected."""
    if talk.name:
        window = exchanges[-talk.memory_k :] if talk.memory_k else []
        model.think(Thought(fitter.beginning(window, question.prompt), talk.owner, talk.name))


def _read_head(template: str, model: Model) -> None:
    """Have a template's beginning read, which every first prompt has."""
    model.think(Thought(PromptFitter(TemplateForm(template), model.tokenize, model.n_ctx).head(), EVERYBODY, ""))


def _no_model(chosen: Chosen, error: HearthError) -> Unavailable:
    fetch = f"Fetch it with: python3 main.py pull {chosen.name}. Or put" if chosen.profile.source else "Put"
    return Unavailable(
        f'the profile "{chosen.name}" has no working model: {error.message}. {fetch} a good file of that name into the '
        "models folder, change the profile in data/config.json, or switch with POST /models/model",
        code="no_model",
    )
