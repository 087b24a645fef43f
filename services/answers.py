"""The service behind every endpoint that generates: session + profile + prompt → one request, and the exchange stored."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from typing import Any

from services.backend import (
    EVERYBODY,
    Backend,
    Generation,
    GenerationRequest,
    Health,
    LoadSettings,
    Model,
    Thought,
)
from services.conversation import Conversation
from services.errors import BadModelFile, EngineFailure, HearthError, Unavailable
from services.models import ModelFiles
from services.profiles import Config, Profiles
from services.prompts import Exchange, FittedPrompt, PromptFitter, TemplateForm
from services.question import Question
from services.sessions import SessionKey, Sessions

Poll = Callable[[], None]


class Answer:
    """One answer under way. Owned by the thread that opened it, which must close it."""

    def __init__(
        self, generation: Generation, poll: Poll, finished: Callable[[str], dict[str, Any]], end: ExitStack
    ) -> None:
        self._generation = generation
        self._poll = poll
        self._finished = finished
        self._end = end
        self.summary: dict[str, Any] = {}
        """After the last chunk: the whole answer, and how it came about."""

    @property
    def place(self) -> int | None:
        """See `Generation.place`."""
        return self._generation.place

    def chunks(self) -> Iterator[str]:
        """The text as it comes, without white space at its ends, and "" while there is none to give.

        The exchange is stored before the iteration ends.

        Raises what `Generation.chunks` raises, and StorageFailed.
        """
        parts = []
        for chunk in trim(self._generation.chunks(self._poll)):
            parts.append(chunk)
            yield chunk
        self.summary = self._finished("".join(parts))

    def close(self) -> None:
        """Let go of the session and the model; cancel what is not finished. Calling it again does nothing."""
        self._end.close()


class Answers:
    """Opens answers. Any thread may call it; `_turn` protects the count of those that are open."""

    def __init__(self, profiles: Profiles, files: ModelFiles, sessions: Sessions, backend: Backend, max_open: int) -> None:
        self._profiles = profiles
        self._files = files
        self._sessions = sessions
        self._backend = backend
        self._max_open = max_open
        self._turn = threading.Lock()
        self._n_open = 0
        self._warming = False
        self._broken: LoadSettings | None = None
        """What could not be loaded when last tried."""

    def open(self, owner: str, question: Question, poll: Poll) -> Answer:
        """Start to answer. `poll` is called while waiting, and raises to give up.

        Raises PromptTooLong, Unavailable, or what `poll` raises; then nothing is left open.
        """
        with ExitStack() as stack:
            stack.enter_context(self._place())
            if question.session_id is not None:
                stack.enter_context(self._sessions.turn(SessionKey(owner, question.session_id), poll))
            config = self._profiles.config()
            model = stack.enter_context(self._lease(config))
            memory_k = config.profile.memory_k if question.memory_k is None else question.memory_k
            talk = Conversation(self._sessions, owner, question.session_id, memory_k, config.profile.memory_k)
            window = talk.window()
            fitted = _filled(config, model, question).fit(window, question.prompt)
            generation = model.submit(_request(config, fitted, question, talk))

            def finished(text: str) -> dict[str, Any]:
                exchange = Exchange(question.prompt, text)
                talk.store(exchange)
                # When the answer is out and closed: the caller waits for nothing of it.
                stack_of_answer.callback(_think_ahead, config, model, question, talk, [*window, exchange])
                return _summary(text, question, config, generation)

            stack.callback(generation.cancel)
            stack_of_answer = stack.pop_all()

            return Answer(generation, poll, finished, stack_of_answer)

    def forget(self, key: SessionKey, poll: Poll) -> None:
        """Delete a session, after the prompt that it may be answering. Raises NotFound."""
        with self._place(), self._sessions.turn(key, poll):
            # In this order: a kill in between costs what was computed, and leaves no trace of what was to be forgotten.
            self._backend.forget(key.owner, str(key.number))
            self._sessions.history(key).clear()

    def switch(self, model: str, profile: str) -> None:
        """Set the profile's model and select it, once the model is loaded; where anything fails, nothing changes.

        Raises InvalidRequest for a name that leaves the models folder, NotFound, BadModelFile, DamagedFile, StorageFailed.
        """
        chosen = self._profiles.config().named(profile)
        checked = self._files.check(model)
        settings = chosen.load_settings(checked)
        with self._place(), self._backend.lease(settings):
            self._profiles.select(profile, checked.name)
            # The last model on lease stays loaded: let it be this one, whoever asked the old one meanwhile.
            with self._backend.lease(settings) as loaded:
                self._broken = None
                _read_head(chosen.template, loaded)

    def warm_up(self) -> HearthError | None:
        """Load the selected profile's model; return why that failed, where it did."""
        self._warming = True
        try:
            config = self._profiles.config()
            with self._lease(config) as model:
                _read_head(config.profile.template, model)
                return None
        except HearthError as error:
            return error
        finally:
            self._warming = False

    def health(self) -> Health:
        """Whether an answer can be had: ready, loading or down."""
        try:
            if self._settings(self._profiles.config()) == self._broken:
                return "down"
        except HearthError:
            return "down"
        health = self._backend.health()
        return "loading" if health == "down" and self._warming else health

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of the places for open answers. Raises Unavailable where all are taken."""
        with self._turn:
            if self._n_open >= self._max_open:
                raise Unavailable("too many answers are under way; try again soon", code="too_busy", retry_after=2)
            self._n_open += 1
        try:
            yield
        finally:
            with self._turn:
                self._n_open -= 1

    @contextmanager
    def _lease(self, config: Config) -> Iterator[Model]:
        """The selected profile's model. Raises Unavailable, saying what to do, where it cannot be had."""
        settings = self._settings(config)
        with ExitStack() as stack:
            try:
                model = stack.enter_context(self._backend.lease(settings))
                self._broken = None
            except BadModelFile as error:
                self._broken = settings
                raise _no_model(config, error) from error
            yield model

    def _settings(self, config: Config) -> LoadSettings:
        try:
            return config.profile.load_settings(self._files.check(config.profile.model))
        except HearthError as error:
            raise _no_model(config, error) from error


def _filled(config: Config, model: Model, question: Question) -> PromptFitter:
    max_tokens = question.max_tokens or config.profile.max_tokens
    return PromptFitter(TemplateForm(config.profile.template), model.tokenize, model.n_ctx, max_tokens)


def _request(config: Config, fitted: FittedPrompt, question: Question, talk: Conversation) -> GenerationRequest:
    return GenerationRequest(
        tokens=fitted.tokens,
        max_tokens=fitted.max_tokens,
        sampling=replace(config.profile.sampling(), **question.sampling()),  # type: ignore[arg-type]
        stop=tuple(config.profile.stop if question.stop is None else question.stop),
        owner=talk.owner,
        session=talk.name,
        n_head=fitted.n_head,
    )


def _think_ahead(config: Config, model: Model, question: Question, talk: Conversation, exchanges: list[Exchange]) -> None:
    """Have the next prompt read up to the person's next words, if that prompt is to be expected."""
    if talk.name:
        window = exchanges[-talk.memory_k :] if talk.memory_k else []
        tokens = _filled(config, model, question).beginning(window, question.prompt)
        model.think(Thought(tokens, talk.owner, talk.name))


def _read_head(template: str, model: Model) -> None:
    """Have a template's beginning read, which every first prompt has."""
    model.think(Thought(PromptFitter(TemplateForm(template), model.tokenize, model.n_ctx).head(), EVERYBODY, ""))


def _summary(text: str, question: Question, config: Config, generation: Generation) -> dict[str, Any]:
    if generation.finish is None:
        raise EngineFailure("the engine ended the answer without saying why")
    finish = asdict(generation.finish)
    return {
        "result": text,
        "session_id": question.session_id,
        "model": config.profile.model,
        "profile": config.selected,
        "finish_reason": finish["reason"],
        "usage": {name: finish[name] for name in ("prompt_tokens", "cached_tokens", "completion_tokens")},
        "timings": finish["timings"],
    }


def _no_model(config: Config, error: HearthError) -> Unavailable:
    return Unavailable(
        f'the profile "{config.selected}" has no working model: {error.message}. Put a good file of that name into the '
        "models folder, change the profile in data/config.json, or switch with POST /models/model",
        code="no_model",
    )


def trim(chunks: Iterable[str]) -> Iterator[str]:
    """The same text without white space at its beginning and end. Only pieces that came empty are empty."""
    held, begun = "", False
    for chunk in chunks:
        if not chunk:
            yield ""
            continue
        text = held + chunk if begun else (held + chunk).lstrip()
        body = text.rstrip()
        held = text[len(body) :]
        if body:
            begun = True
            yield body
