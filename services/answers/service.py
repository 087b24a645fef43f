"""The service behind every endpoint that generates: session + profile + prompt → one request, and the exchange stored."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from auth.rate_limits import Meter, Ticket
from services.answers.admission import Admission, Poll, Slot, Turns
from services.answers.cancellation import Cancellations
from services.answers.places import Places
from services.answers.prepare import PreparedAnswer, conversation_of
from services.answers.replay import stored_answer
from services.answers.request import AnswerRequest, Question
from services.answers.stream import Answer, Deadline
from services.backend.protocols import Backend, Embedder, Model
from services.backend.status import Status
from services.backend.types import EVERYBODY, Finish, Health, LoadSettings, PrefetchRequest
from services.errors import BadModelFile, HearthError, NotPermitted, Unavailable
from services.models.config import Profiles, not_permitted, profile_entry
from services.models.files import ModelFiles
from services.models.profile import Chosen, Profile
from services.prompts.choose import form_of
from services.prompts.fit import fitter_of
from services.prompts.form import Form
from services.sessions.conversation import Conversation
from services.sessions.history import SessionKey
from services.sessions.service import Sessions

# A prompt of more characters is written and tokenized in its key's turn; a message counts as some more than it holds.
_QUICK, _PER_MESSAGE = 20_000, 100
# Seconds that reading a long prompt ahead may take: whoever gets the answer whole waits for that too.
_PATIENCE = 1.0


class Answers:
    """Opens answers. Any thread may call it."""

    def __init__(
        self,
        profiles: Profiles,
        files: ModelFiles,
        sessions: Sessions,
        backend: Backend,
        meter: Meter,
        max_open: int,
        max_seconds: float = 600,
        room: Callable[[SessionKey, int], AbstractContextManager[None]] = lambda *_: nullcontext(),
        max_waiting: int = 4,
    ) -> None:
        """`room` keeps room in a session for so many bytes; see `Quotas.session`.

        `max_open` requests are answered at once, and `max_waiting` may wait for one of these to end (see Admission)."""
        self._room = room
        self.places = Places(meter, Admission(max_open, max_waiting), max_seconds)
        self._turns = Turns()
        self._meter = meter
        self._profiles = profiles
        self._files = files
        self._sessions = sessions
        self._backend = backend
        self.on_finish: Callable[[Finish], None] = lambda _finish: None
        """Called with each answer that came to its end."""
        self._stops = Cancellations()
        self._warming = False
        # One at a time finds a name for a profile, and makes it.
        self._naming = threading.Lock()
        self._broken: LoadSettings | None = None
        """What could not be loaded when last tried."""

    def open(self, owner: str, ask: AnswerRequest, poll: Poll) -> Answer:
        """Start to answer. `poll` is called while waiting, and raises to give up.

        Raises NotFound for an unknown model, PromptTooLong, InvalidRequest for what the model cannot do, Unavailable, or
        what `poll` raises; then nothing is left open.
        """
        return self.open_all(owner, [ask], poll)[0]

    def open_all(self, owner: str, asks: Sequence[AnswerRequest], poll: Poll) -> list[Answer]:
        """The same for several asks of one model, which are computed together. Raises as `open` does, for any of them."""
        if answered := stored_answer(self._sessions, owner, asks, self.places.deadline(owner, poll).poll):
            return [answered]
        with self.places.place(owner, poll, len(asks)) as deadline, ExitStack() as stack:
            openings = []
            for ask in asks:
                openings.append(self._prepare(owner, ask, deadline.anew()))
                stack.callback(openings[-1].end.close)
            generations = openings[0].model.submit_all([opening.request for opening in openings])
            stack.pop_all()
        return [
            opening.answer(generation, self.on_finish) for opening, generation in zip(openings, generations, strict=True)
        ]

    def _prepare(self, owner: str, ask: AnswerRequest, deadline: Deadline) -> PreparedAnswer:
        """Everything that an answer needs before it is computed."""
        slot = deadline.slot
        with ExitStack() as stack:
            slot.join()
            stack.callback(slot.leave)
            ticket = stack.enter_context(self._meter.enter(owner))
            deadline.watch(ticket.check)
            stop = None
            if ask.question.session_id is not None:
                key = SessionKey(owner, ask.question.session_id)
                stop = stack.enter_context(self._stops.of(key))
                stack.enter_context(self._sessions.lock(key, deadline.poll))
                stack.enter_context(self._room(key, len(ask.question.prompt.encode())))
            chosen = self._choose(ticket.profiles, ask.model)
            model = stack.enter_context(self._lease(chosen, deadline.poll))
            talk = conversation_of(self._sessions, owner, ask, chosen)
            form = form_of(ask, chosen.profile, model.chat_format, self._files.templates, talk.system)
            size = _size(ask, talk)
            with self.working(deadline, size) as pause:
                opening = PreparedAnswer(ask, chosen, model, form, talk, ticket, pause)
            opening.request = replace(opening.request, background=self.places.is_background, account=slot.account)
            opening.deadline, opening.stop = deadline, stop
            opening.working = lambda: self._working_ahead(slot.account, size)
            opening.end = stack.pop_all()
            return opening

    def stop(self, key: SessionKey) -> bool:
        """End the session's answer that is under way, which keeps what it has said; False where there is none."""
        return self._stops.ask(key) or self._backend.stop(key.owner, str(key.number))

    @contextmanager
    def lease(self, owner: str, model: str | None, size: int, poll: Poll) -> Iterator[tuple[Model, Poll]]:
        """The model that a request names, loaded, for work on `size` characters, and what is to be called meanwhile.

        It counts against the key's requests, and has to give way and wait for its turn as answers do. Raises NotFound,
        NotPermitted, BadModelFile, RateLimitExceeded, Unavailable, and what `poll` raises, which is called while waiting.
        """
        with self.places.metered(owner, poll) as deadline:
            chosen = self._choose(self._meter.profiles(owner), model)
            with self._lease(chosen, deadline.poll) as leased, self.working(deadline, size) as pause:
                yield leased, pause

    @contextmanager
    def lease_embedder(self, owner: str, model: str | None, poll: Poll) -> Iterator[tuple[str, Embedder, Ticket, Deadline]]:
        """The same, as one that makes embeddings, its name, what the request is counted by, and what it waits by."""
        with self.places.place(owner, poll) as deadline, self._meter.enter(owner) as ticket:
            deadline.watch(ticket.check)
            chosen = self._choose(ticket.profiles, model)
            with self._backend.lease_embedder(self._settings(chosen), deadline.poll) as embedder:
                yield chosen.name, embedder, ticket, deadline

    def working(self, deadline: Deadline, size: int) -> AbstractContextManager[Poll]:
        """The turn of a request for work on so many characters; at once for what takes no time. See `Turns.turn`."""
        if size <= _QUICK:
            return nullcontext(deadline.poll)
        return self._turns.turn(deadline.slot.account, deadline.poll)

    def _working_ahead(self, account: str, size: int) -> AbstractContextManager[Poll]:
        """The same for what nobody may wait for: it is not done where others are at work, or where it takes long."""
        patience = Deadline(_never, _PATIENCE, Slot(account))
        return nullcontext(_never) if size <= _QUICK else self._turns.spare(account, patience.poll)

    def preview(self, owner: str, ask: AnswerRequest, poll: Poll) -> dict[str, Any]:
        """The prompt that the model would read for `ask`, as text and as tokens. Nothing is computed or stored.

        Raises as `open` does.
        """
        with self.written(owner, ask, poll) as (chosen, model, form, talk, pause):
            longest = ask.question.max_tokens or chosen.profile.max_tokens
            fitter = fitter_of(form, model, model.n_ctx, longest, pause)
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
    def written(
        self, owner: str, ask: AnswerRequest, poll: Poll
    ) -> Iterator[tuple[Chosen, Model, Form, Conversation, Poll]]:
        """A request's profile, its model, the form of its prompt, its conversation, and what is to be called meanwhile.

        See `lease`, which it raises as.
        """
        with self.places.metered(owner, poll) as deadline:
            chosen = self._choose(self._meter.profiles(owner), ask.model)
            with self._lease(chosen, deadline.poll) as model:
                talk = conversation_of(self._sessions, owner, ask, chosen)
                form = form_of(ask, chosen.profile, model.chat_format, self._files.templates, talk.system)
                with self.working(deadline, _size(ask, talk)) as pause:
                    yield chosen, model, form.pausing(pause), talk, pause

    def forget(self, key: SessionKey, poll: Poll, by: str | None = None) -> None:
        """Delete a session for the key `by` (None: its owner), after the prompt that it may be answering.

        Raises NotFound.
        """
        with self.places.place(by or key.owner, poll) as deadline, self._sessions.lock(key, deadline.poll):
            # In this order: a kill in between costs what was computed, and leaves no trace of what was to be forgotten.
            self._backend.forget(key.owner, str(key.number))
            self._sessions.history(key).clear()

    def switch(self, owner: str, model: str, profile: str | None, poll: Poll) -> str:
        """Set the profile's model and select it, once the model is loaded; where anything fails, nothing changes.

        None: a profile of that model, or a new one named after it. Returns the profile's name. It counts against the key's
        requests.

        Raises InvalidRequest for a name that leaves the models folder, NotPermitted, NotFound, BadModelFile, DamagedFile,
        StorageFailed, RateLimitExceeded, Unavailable, and what `poll` raises.
        """
        with self.places.metered(owner, poll) as deadline:
            return self._switch(owner, model, profile, deadline.poll)

    def _switch(self, owner: str, model: str, profile: str | None, poll: Poll) -> str:
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
        with self._backend.lease(settings, poll) as loaded:
            # It also waits for a model that was leased before and has left memory.
            self._read_head(chosen, loaded)
            with self._naming:
                # Somebody else may have made one while it was loaded.
                name = name or self._profiles.config().profile_of(checked.name)
                if name is None:
                    name = self._profiles.config().free_name(checked.name)
                    self._profiles.add(name, entry)
                else:
                    self._profiles.select(name, checked.name)
            # The last model on lease stays loaded: let it be this one, whoever asked the old one meanwhile.
            with self._backend.lease(settings, poll):
                self._broken = None
            return name

    def warm_up(self) -> HearthError | None:
        """Load the selected profile's model; return why that failed, where it did."""
        self._warming = True
        try:
            chosen = self._profiles.config().chosen
            with self._lease(chosen, _never) as model:
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

    def files_of(self, allowed: Sequence[str] | None) -> set[str] | None:
        """The model files that a key knows of which may use the profiles `allowed`; None: all of them."""
        return None if allowed is None else self._profiles.config().files_of(allowed)

    @property
    def n_open(self) -> int:
        """How many requests are being answered, those included that wait."""
        return self.places.admission.n_open

    def _choose(self, allowed: Sequence[str] | None, model: str | None) -> Chosen:
        """What a request is for: what it names, else the selected profile, else the first that its key may use."""
        config = self._profiles.config()
        if model is not None:
            return config.choose(model, self._files, allowed)
        mine = config.only(allowed)
        if mine.selected:
            return mine.chosen
        what = f"none of the profiles that this key may use is there: {', '.join(allowed or ())}"
        raise NotPermitted(what, param="model", code="profile_not_permitted")

    def _read_head(self, profile: Profile, model: Model) -> None:
        """Have the beginning read that every first prompt of a profile has."""
        form = form_of(AnswerRequest(Question(prompt="")), profile, model.chat_format, self._files.templates)
        model.prefetch(PrefetchRequest(fitter_of(form, model, model.n_ctx).head(), EVERYBODY, ""))

    @contextmanager
    def _lease(self, chosen: Chosen, poll: Poll) -> Iterator[Model]:
        """A profile's model. Raises Unavailable, saying what to do, where it cannot be had, and what `poll` raises."""
        settings = self._settings(chosen)
        with ExitStack() as stack:
            try:
                model = stack.enter_context(self._backend.lease(settings, poll))
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


def _never() -> None:
    """Nobody leaves."""


def _size(ask: AnswerRequest, talk: Conversation) -> int:
    """About how many characters a prompt may be made of."""
    texts = [ask.question.prompt, ask.messages, ask.tools]
    exchanges = sum(len(each.human) + len(each.ai) + 2 * _PER_MESSAGE for each in talk.exchanges)
    return exchanges + sum(map(_length, texts)) + (len(ask.text.text) if ask.text else 0)


def _length(value: Any) -> int:
    """The characters in a value of JSON, with some for each of its parts."""
    if isinstance(value, str):
        return len(value)
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return _PER_MESSAGE + sum(map(_length, parts))


def _check_profile(allowed: Sequence[str] | None, name: str) -> None:
    if allowed is not None and name not in allowed:
        raise not_permitted(name, allowed)


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
