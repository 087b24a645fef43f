"""The service behind every endpoint that generates: session + profile + prompt → one request, and the exchange stored."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from auth.rate_limits import Meter, Ticket
from services.answers.admission import Admission, Poll, Slot
from services.answers.cancellation import Cancellations
from services.answers.client import Client
from services.answers.deadline import Deadline, while_key_is_good
from services.answers.draft import Drafts
from services.answers.going_on import gone_on
from services.answers.models import Models
from services.answers.own_files import OwnFiles
from services.answers.prepare import PreparedAnswer, conversation_of, fitted_prompt, generation_request
from services.answers.reading import reading_of
from services.answers.replay import stored_answer
from services.answers.request import AnswerRequest
from services.answers.stream import Answer
from services.answers.turns import Turns
from services.backend.protocols import Backend, Embedder, Model
from services.backend.types import Finish
from services.documents.files import StoredFile
from services.documents.library import Library, Passage
from services.models.profile import Chosen, EmbeddingPrefix
from services.prompts.fit import fitter_of
from services.prompts.form import Form
from services.sessions.branches import size_of_session
from services.sessions.conversation import Conversation
from services.sessions.history import SessionHistory, SessionKey
from services.sessions.service import Sessions

# A prompt of more characters is written and tokenized in its account's turn; a message counts as some more than it holds.
_QUICK, _PER_MESSAGE = 20_000, 100
# Characters of files that are read for one prompt, about: of larger ones only passages.
_MOST_READ = 100_000
# Seconds that writing the next prompt may take: a client that gets the answer whole waits for that too.
_PREFETCH_SECONDS = 1.0


@dataclass(frozen=True)
class WrittenRequest:
    """A request's profile, its model, its conversation and the form of its prompt."""

    chosen: Chosen
    model: Model
    conversation: Conversation
    form: Form
    pause: Poll
    """To be called before each piece of work; raises to give up."""


@dataclass(frozen=True)
class LeasedEmbedder:
    """A model that makes embeddings, its name, and what the request is counted and waits by."""

    name: str
    prefixes: EmbeddingPrefix | None
    """The profile's prefixes of texts."""
    embedder: Embedder
    ticket: Ticket
    deadline: Deadline


class Answers:
    """Opens answers. Any thread may call it; its parts protect themselves, and `_counting` how many are in flight."""

    def __init__(
        self,
        models: Models,
        sessions: Sessions,
        backend: Backend,
        meter: Meter,
        admission: Admission,
        max_seconds: float = 600,
        room: Callable[[SessionKey, int], AbstractContextManager[None]] = lambda *_: nullcontext(),
        on_finish: Callable[[Finish], None] = lambda _: None,
        library: Library | None = None,
    ) -> None:
        """A request may wait `max_seconds` to be admitted, and as long for what it asks for.

        `room` keeps room in a session for so many bytes, as `Quotas.session` does; `on_finish` is called with each answer
        that came to its end. `library` has the keys' own files; None: they keep none here.
        """
        self.models = models
        self.admission = admission
        self._sessions = sessions
        self._backend = backend
        self._meter = meter
        self._max_seconds = max_seconds
        self._room = room
        self._on_finish = on_finish
        self._turns, self._uploads = Turns(), Turns()
        self._cancellations = Cancellations()
        self._counting, self._n_in_flight = threading.Lock(), 0
        self.drafts = Drafts(models, sessions, backend, meter, self._drafting)
        self.files = OwnFiles(models, meter, library, self._prefetching)

    def open(self, client: Client, request: AnswerRequest) -> Answer:
        """Start to answer.

        Raises NotFound for an unknown model, PromptTooLong, InvalidRequest for what the model cannot do, Unavailable, or
        what the client's `poll` raises; then nothing is left open.
        """
        return self.open_all(client, [request])[0]

    def open_all(self, client: Client, requests: Sequence[AnswerRequest]) -> list[Answer]:
        """Start to answer several requests to one model, which are computed together. Raises as `open` does, for any."""
        stored = stored_answer(self._sessions, client, requests[0].session_id, self._deadline(client).poll)
        if stored:
            return [stored]
        with self.admit(client, len(requests)) as deadline, ExitStack() as stack:
            prepared: list[PreparedAnswer] = []
            for request in requests:
                prepared.append(self._prepare(client, request, deadline.anew()))
                stack.callback(prepared[-1].end.close)
            generations = prepared[0].model.submit_all([each.request for each in prepared])
            for each, generation in zip(prepared, generations, strict=True):
                each.end.callback(generation.cancel)
            opened = [each.answer(generation) for each, generation in zip(prepared, generations, strict=True)]
            # From here on, each answer releases at its end what it holds.
            stack.pop_all()
        return opened

    def _prepare(self, client: Client, request: AnswerRequest, deadline: Deadline) -> PreparedAnswer:
        """Reserve and load everything that an answer needs before it is computed."""
        slot = deadline.slot
        files = self.files.named(client.identity.id, request)
        with ExitStack() as stack:
            stack.enter_context(self._counted())
            slot.join()
            stack.callback(slot.leave)
            ticket = stack.enter_context(self._meter.enter(client.identity.id))
            deadline.watch(ticket.check)
            token = None
            if request.session_id is not None:
                key = SessionKey(client.identity.id, request.session_id)
                token = stack.enter_context(self._cancellations.token(key))
                stack.enter_context(self._sessions.lock(key, deadline.poll))
                stack.enter_context(self._room(key, len(request.prompt.encode())))
                self.drafts.drop(key)
                if request.goes_on:
                    request = gone_on(request, self._sessions.history(key))
            chosen = self.models.choose(ticket.profiles, request.model)
            conversation = conversation_of(self._sessions, client, request, chosen)
            # Before the model is leased: others may have to be loaded for it.
            grounding = self.files.grounding(request, files, conversation, chosen, deadline.poll)
            model = stack.enter_context(self.models.lease(chosen, deadline.poll))
            form = self.models.form(request, chosen, model, conversation.system)
            size = _size(request, conversation, files)
            with self.working(deadline, size) as pause:
                longest = ticket.cap(request.longest(chosen.profile))
                fitting = fitted_prompt(request, chosen, model, form, conversation, longest, pause, grounding)
                fitted = fitting.fitted
                fitted = replace(fitted, max_tokens=ticket.reserve(len(fitted.tokens), fitted.max_tokens))
            state = conversation.name or request.state
            if fitting.given and state:
                self.files.note_reading(fitting.given, conversation.owner, state)
            reading = reading_of(request, chosen.profile, form, model, fitted.tail)
            return PreparedAnswer(
                asked=request,
                chosen=chosen,
                model=model,
                conversation=conversation,
                fitter=fitting.fitter,
                given=fitting.given,
                start=fitted.start,
                request=generation_request(
                    request, chosen, fitted, conversation, reading, form.stop, slot.account, client.background
                ),
                reading=reading,
                ticket=ticket,
                deadline=deadline,
                cancel_token=token,
                prefetching=lambda: self._prefetching(slot.account, size),
                on_finish=self._on_finish,
                end=stack.pop_all(),
            )

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count an answer as in flight."""
        with self._counting:
            self._n_in_flight += 1
        try:
            yield
        finally:
            with self._counting:
                self._n_in_flight -= 1

    def is_answering(self) -> bool:
        """Return whether answers are in flight, waiting ones included."""
        return self._n_in_flight > 0

    def search(self, client: Client, question: str, files: Sequence[StoredFile], k: int) -> list[Passage]:
        """Return the `k` passages of these files that match a question best, by the models that the profile names for it.

        It counts against the key's requests. Raises as `Retriever.find`, and RateLimitExceeded.
        """
        with self.admit_metered(client) as deadline:
            profile = self.models.search_profile(self._meter.profiles(client.identity.id))
            return self.files.search(profile, question, files, k, deadline.poll)

    def stop(self, key: SessionKey, thinking: bool = False) -> bool:
        """End the session's answer in flight, which keeps its text so far; return whether there was one.

        `thinking`: end the model's thoughts alone, so that it answers now.
        """
        return self._cancellations.cancel(key, thinking) or self._backend.stop(key.owner, str(key.number), thinking)

    @contextmanager
    def admit(self, client: Client, n_answers: int = 1) -> Iterator[Deadline]:
        """Hold a slot for a request of so many answers; whatever the request waits for calls the deadline's `poll`.

        Raises as `Admission.slot` does, what the client's `poll` raises, and NotAuthenticated for a revoked key.
        """
        waiting = self._deadline(client)
        if client.slot:
            yield waiting
            return
        with self.admission.slot(waiting.slot.account, waiting.poll, n_answers) as slot:
            yield waiting.anew(slot)

    @contextmanager
    def admit_metered(self, client: Client) -> Iterator[Deadline]:
        """Hold a slot for work that is no answer, counted against the key's requests. Raises RateLimitExceeded too."""
        self._meter.charge_request(client.identity.id)
        with self.admit(client) as deadline:
            yield deadline

    def _deadline(self, client: Client) -> Deadline:
        poll = while_key_is_good(self._meter, client.identity.id, client.poll)
        return Deadline(poll, self._max_seconds, client.slot or Slot(self._meter.account(client.identity)))

    @contextmanager
    def lease(self, client: Client, model: str | None, size: int) -> Iterator[tuple[Model, Poll]]:
        """Lease the model that a request names for work on `size` characters, before each piece of which `Poll` is called.

        It counts against the key's requests, and has to give way and wait for its turn as answers do. Raises NotFound,
        NotPermitted, BadModelFile, RateLimitExceeded, Unavailable, and what the client's `poll` raises.
        """
        with self.admit_metered(client) as deadline:
            chosen = self.models.choose(self._meter.profiles(client.identity.id), model)
            with self.models.lease(chosen, deadline.poll) as leased, self.working(deadline, size) as pause:
                yield leased, pause

    @contextmanager
    def lease_embedder(self, client: Client, model: str | None) -> Iterator[LeasedEmbedder]:
        """Lease the model that a request names as one that makes embeddings. Raises as `lease` does."""
        with self.admit(client) as deadline, self._meter.enter(client.identity.id) as ticket:
            deadline.watch(ticket.check)
            chosen = self.models.choose(ticket.profiles, model)
            with self.models.lease_embedder(chosen, deadline.poll) as embedder:
                yield LeasedEmbedder(chosen.name, chosen.profile.embedding_prefix, embedder, ticket, deadline)

    def working(self, deadline: Deadline, size: int) -> AbstractContextManager[Poll]:
        """Take the account's turn for work on so many characters; at once where it is quick. Raises as `Turns.turn`."""
        if size <= _QUICK:
            return nullcontext(deadline.poll)
        return self._turns.turn(deadline.slot.account, deadline.poll)

    def reading(self, deadline: Deadline) -> AbstractContextManager[Poll]:
        """Take the account's turn for reading an uploaded file. Raises as `Turns.turn`."""
        return self._uploads.turn(deadline.slot.account, deadline.poll)

    def _prefetching(self, account: str, size: int) -> AbstractContextManager[Poll]:
        """Work on what nobody may wait for: it is not done where others are at work, or where it takes long."""
        patience = Deadline(_never, _PREFETCH_SECONDS, Slot(account))
        return nullcontext(_never) if size <= _QUICK else self._turns.spare(account, patience.poll)

    def _drafting(self, account: str, request: AnswerRequest, conversation: Conversation) -> AbstractContextManager[Poll]:
        return self._prefetching(account, _size(request, conversation))

    def preview(self, client: Client, request: AnswerRequest) -> dict[str, Any]:
        """Return the prompt that the model would read, as text and as tokens. Nothing is computed or stored.

        Raises as `open` does.
        """
        with self.written(client, request) as written:
            profile, model, conversation = written.chosen.profile, written.model, written.conversation
            longest = request.longest(profile)
            fitter = fitter_of(written.form, model, model.n_ctx, longest, written.pause)
            fitted = fitter.fit(conversation.exchanges, request.prompt, conversation.start)
            return {
                "prompt": b"".join(model.pieces(fitted.tokens)).decode("utf-8", "replace"),
                "tokens": list(fitted.tokens),
                "stop": [*profile.stop, *written.form.stop],
                "model": profile.model,
                "profile": written.chosen.name,
                "n_ctx": model.n_ctx,
                **conversation.counts(fitted.start),
            }

    @contextmanager
    def written(self, client: Client, request: AnswerRequest) -> Iterator[WrittenRequest]:
        """Lease the model of a request, and put its prompt into its form. Raises as `lease` does."""
        with self.admit_metered(client) as deadline:
            chosen = self.models.choose(self._meter.profiles(client.identity.id), request.model)
            files = self.files.named(client.identity.id, request)
            conversation = conversation_of(self._sessions, client, request, chosen)
            grounding = self.files.grounding(request, files, conversation, chosen, deadline.poll)
            with self.models.lease(chosen, deadline.poll) as model:
                form = self.models.form(request, chosen, model, conversation.system)
                with self.working(deadline, _size(request, conversation, files)) as pause:
                    if grounding:
                        longest = request.longest(chosen.profile)
                        fitting = fitted_prompt(request, chosen, model, form, conversation, longest, pause, grounding)
                        form = fitting.fitter.form
                    yield WrittenRequest(chosen, model, conversation, form.pausing(pause), pause)

    def profile_name(self, client: Client, model: str | None) -> str:
        """Return the profile's name, or the file's, that a request for `model` uses. Raises NotFound, NotPermitted."""
        return self.models.choose(self._meter.profiles(client.identity.id), model).name

    def forget(self, client: Client, key: SessionKey) -> None:
        """Delete a session, after the prompt that it may be answering. Raises NotFound."""
        with self.admit(client) as deadline, self._sessions.lock(key, deadline.poll):
            # The key may have been revoked while the request waited.
            self._meter.accounts(client.identity.id)
            # In this order: a kill in between costs what was computed, and leaves no trace of what was to be forgotten.
            self.drafts.drop(key)
            self._backend.forget(key.owner, str(key.number))
            self._sessions.history(key).clear()

    @contextmanager
    def changing(self, client: Client, key: SessionKey, n_bytes: int = 0) -> Iterator[SessionHistory]:
        """Hold a session's lock while its messages are changed, which takes `n_bytes` more, after the prompt in flight.

        Raises NotPermitted where its owner may not keep so much.
        """
        with self.admit(client) as deadline, self._sessions.lock(key, deadline.poll):
            # The key may have been revoked while the request waited.
            self._meter.accounts(client.identity.id)
            self.drafts.drop(key)
            with self._room(key, n_bytes) if n_bytes else nullcontext():
                yield self._sessions.history(key)

    def store_session(self, owner: str, session: Mapping[str, Any], poll: Poll) -> None:
        """Store a session of an export as a new one. Raises NotPermitted where its owner may not keep it."""
        key = self._sessions.new_key(owner)
        with self._sessions.lock(key, poll), self._room(key, size_of_session(session)):
            self._sessions.history(key).restore(session)

    def forget_state(self, owner: str, name: str) -> None:
        """Forget what was computed under a name that is no session's. Raises Unavailable."""
        self._backend.forget(owner, name)

    def switch(self, client: Client, model: str, profile: str | None) -> str:
        """Switch the model as `Models.switch` does, and raise as it does; it counts against the key's requests."""
        with self.admit_metered(client) as deadline:
            return self.models.switch(self._meter.profiles(client.identity.id), model, profile, deadline.poll)

    @property
    def n_open(self) -> int:
        """The number of requests that are being answered, or wait for that."""
        return self.admission.n_open


def _never() -> None:
    """Poll for work that no client waits for."""


def _size(request: AnswerRequest, conversation: Conversation, files: Sequence[StoredFile] | None = None) -> int:
    """Return about how many characters a prompt may be made of."""
    texts = [request.prompt, request.messages, request.tools]
    read = min(sum(file.n_characters for file in files or ()), _MOST_READ)
    exchanges = sum(
        len(each.human) + len(each.ai) + 2 * _PER_MESSAGE for each in (*conversation.exchanges, *request.history)
    )
    return exchanges + read + sum(map(_length, texts)) + _continued(request)


def _continued(request: AnswerRequest) -> int:
    """Return the characters of a text that is continued, or of those around a gap."""
    gap = len(request.infill.before) + len(request.infill.behind) if request.infill else 0
    return gap + (len(request.text.text) if request.text else 0)


def _length(value: Any) -> int:
    """Return the number of characters in a JSON value, with some for each of its parts."""
    if isinstance(value, str):
        return len(value)
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return _PER_MESSAGE + sum(map(_length, parts))
