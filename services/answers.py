"""The service behind every endpoint that generates: session + profile + prompt → one request, and the exchange stored."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from auth.metering import Meter, Ticket
from services.answer import Answer, Deadline, Poll
from services.backend import EVERYBODY, Backend, Embedder, Finish, Health, LoadSettings, Model, Thought
from services.conversation import Conversation
from services.errors import BadModelFile, HearthError, NotPermitted, Unavailable
from services.models.config import Profiles, profile_entry
from services.models.files import ModelFiles
from services.models.profile import Chosen, Profile
from services.opening import Opening, conversation_of
from services.prompts.choose import form_of
from services.prompts.fit import PromptFitter
from services.prompts.form import Form
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
        self.on_finish: Callable[[Finish], None] = lambda _finish: None
        """Called with each answer that came to its end."""
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
        return self.open_all(owner, [ask], poll)[0]

    def open_all(self, owner: str, asks: Sequence[Ask], poll: Poll) -> list[Answer]:
        """The same for several asks of one model, which are computed together. Raises as `open` does, for any of them."""
        with ExitStack() as stack:
            openings = []
            for ask in asks:
                openings.append(self._prepare(owner, ask, Deadline(poll, self._max_seconds)))
                stack.callback(openings[-1].end.close)
            generations = openings[0].model.submit_all([opening.request for opening in openings])
            stack.pop_all()
        return [
            opening.answer(generation, self.on_finish) for opening, generation in zip(openings, generations, strict=True)
        ]

    def _prepare(self, owner: str, ask: Ask, deadline: Deadline) -> Opening:
        """Everything that an answer needs before it is computed."""
        with ExitStack() as stack:
            stack.enter_context(self.place())
            ticket = stack.enter_context(self._meter.enter(owner))
            stop = None
            if ask.question.session_id is not None:
                key = SessionKey(owner, ask.question.session_id)
                stop = stack.enter_context(self._stops.of(key))
                stack.enter_context(self._sessions.turn(key, deadline.poll))
            chosen = self._choose(ticket.profiles, ask.model).changed(ask.load)
            model = stack.enter_context(self._lease(chosen))
            talk = conversation_of(self._sessions, owner, ask, chosen)
            form = form_of(ask, chosen.profile, model.chat_format, self._files.templates, talk.system)
            opening = Opening(ask, chosen, model, form, talk, ticket)
            opening.request = replace(opening.request, patient=getattr(self._here, "patient", False))
            opening.deadline, opening.stop = deadline, stop
            opening.end = stack.pop_all()
            return opening

    def stop(self, key: SessionKey) -> bool:
        """End the session's answer that is under way, which keeps what it has said; False where there is none."""
        return self._stops.ask(key) or self._backend.stop(key.owner, str(key.number))

    @contextmanager
    def lease(self, owner: str, model: str | None) -> Iterator[Model]:
        """The model that a request names, loaded. Raises NotFound, NotPermitted, BadModelFile, Unavailable."""
        with self.place(), self._lease(self._choose(self._meter.profiles(owner), model)) as leased:
            yield leased

    @contextmanager
    def lease_embedder(self, owner: str, model: str | None) -> Iterator[tuple[str, Embedder, Ticket]]:
        """The same, as one that makes embeddings, its name, and what the request is counted by."""
        chosen = self._choose(self._meter.profiles(owner), model)
        settings = self._settings(chosen)
        with self.place(), self._meter.enter(owner) as ticket, self._backend.lease_embedder(settings) as embedder:
            yield chosen.name, embedder, ticket

    def preview(self, owner: str, ask: Ask) -> dict[str, Any]:
        """The prompt that the model would read for `ask`, as text and as tokens. Nothing is computed or stored.

        Raises as `open` does.
        """
        with self.written(owner, ask) as (chosen, model, form, talk):
            longest = ask.question.max_tokens or chosen.profile.max_tokens
            fitter = PromptFitter(form, model.tokenize_all, model.n_ctx, longest)
            fitted = fitter.fit(talk.exchanges, ask.question.prompt, talk.start)
            return {
                "prompt": b"".join(model.pieces(fitted.tokens)).decode("utf-8", "replace"),
                "tokens": list(fitted.tokens),
                "stop": [*chosen.profile.stop, *form.stop],
                "model": chosen.profile.model,
                "profile": chosen.name,
                "n_ctx": model.n_ctx,
                **talk.counts(fitted.start),
            }

    @contextmanager
    def written(self, owner: str, ask: Ask) -> Iterator[tuple[Chosen, Model, Form, Conversation]]:
        """A request's profile, its model, the form of its prompt and its conversation. Raises as `lease` does."""
        chosen = self._choose(self._meter.profiles(owner), ask.model)
        with self.place(), self._lease(chosen) as model:
            talk = conversation_of(self._sessions, owner, ask, chosen)
            yield chosen, model, form_of(ask, chosen.profile, model.chat_format, self._files.templates, talk.system), talk

    def forget(self, key: SessionKey, poll: Poll) -> None:
        """Delete a session, after the prompt that it may be answering. Raises NotFound."""
        with self.place(), self._sessions.turn(key, poll):
            # In this order: a kill in between costs what was computed, and leaves no trace of what was to be forgotten.
            self._backend.forget(key.owner, str(key.number))
            self._sessions.history(key).clear()

    def switch(self, owner: str, model: str, profile: str | None) -> str:
        """Set the profile's model and select it, once the model is loaded; where anything fails, nothing changes.

        None: a profile of that model, or a new one named after it. Returns the profile's name.

        Raises InvalidRequest for a name that leaves the models folder, NotPermitted, NotFound, BadModelFile, DamagedFile,
        StorageFailed.
        """
        allowed, config = self._meter.profiles(owner), self._profiles.config()
        if profile is not None:
            _check_profile(allowed, profile)
        config.check_file(model, allowed)
        checked = self._files.check(model)
        name = profile or config.profile_of(checked.name, allowed)
        if profile is None and name:
            _check_profile(allowed, name)
        entry = profile_entry(checked.name)
        chosen = Profile.model_validate(entry) if name is None else config.named(name)
        chosen = chosen.model_copy(update={"model": checked.name})
        settings = chosen.load_settings(self._files)
        with self.place(), self._backend.lease(settings) as loaded:
            # It also waits for a model that was leased before and has left memory.
            self._read_head(chosen, loaded)
            # Somebody else may have made one while it was loaded.
            name = name or self._profiles.config().profile_of(checked.name)
            if name is None:
                name = self._profiles.config().free_name(checked.name)
                self._profiles.add(name, entry)
            else:
                self._profiles.select(name, checked.name)
            # The last model on lease stays loaded: let it be this one, whoever asked the old one meanwhile.
            with self._backend.lease(settings):
                self._broken = None
            return name

    def warm_up(self) -> HearthError | None:
        """Load the selected profile's model; return why that failed, where it did."""
        self._warming = True
        try:
            chosen = self._profiles.config().chosen
            with self._lease(chosen) as model:
                self._read_head(chosen.profile, model)
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
    def needing_no_place(self, patient: bool = False) -> Iterator[None]:
        """What this thread opens meanwhile takes no place: whoever waits for it has taken one, if it is not `patient`."""
        self._here.needs_no_place, self._here.patient = True, patient
        try:
            yield
        finally:
            self._here.needs_no_place = self._here.patient = False

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

    def _choose(self, allowed: Sequence[str] | None, model: str | None) -> Chosen:
        """What a request is for: what it names, else the selected profile, else the first that its key may use."""
        config = self._profiles.config()
        if model is None and allowed is not None and config.selected not in allowed:
            model = next((name for name in allowed if name in config.profiles), config.selected)
        chosen = config.chosen if model is None else config.choose(model, self._files, allowed)
        _check_profile(allowed, chosen.name)
        return chosen

    def _read_head(self, profile: Profile, model: Model) -> None:
        """Have the beginning read that every first prompt of a profile has."""
        form = form_of(Ask(Question(prompt="")), profile, model.chat_format, self._files.templates)
        model.think(Thought(PromptFitter(form, model.tokenize_all, model.n_ctx).head(), EVERYBODY, ""))

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


def _check_profile(allowed: Sequence[str] | None, name: str) -> None:
    if allowed is not None and name not in allowed:
        what = f'this key may not use "{name}": it may use {", ".join(allowed)}'
        raise NotPermitted(what, param="model", code="profile_not_permitted")


def _no_model(chosen: Chosen, error: HearthError) -> Unavailable:
    if isinstance(error, Unavailable):
        return error
    if error.code == "no_worker":
        return Unavailable(error.message, param="model", code=error.code, retry_after=5)
    fetch = f"Fetch it with: python3 main.py pull {chosen.name}. Or put" if chosen.profile.source else "Put"
    return Unavailable(
        f'the profile "{chosen.name}" has no working model: {error.message}. {fetch} a good file of that name into the '
        "models folder, change the profile in data/config.json, or switch with POST /models/model",
        code="no_model",
    )
