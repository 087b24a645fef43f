"""Drafts: what a person has written so far is read ahead, as the beginning of the prompt that it becomes."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from auth.rate_limits import Meter, Ticket
from services.answers.admission import Poll, Slot
from services.answers.client import Client
from services.answers.deadline import Deadline
from services.answers.models import Models
from services.answers.prepare import conversation_of
from services.answers.request import AnswerRequest
from services.backend.protocols import Backend
from services.backend.types import PrefetchRequest, Spent, draft_of
from services.errors import PromptTooLong, Unavailable
from services.prompts.fit import common_beginning, fitter_of
from services.sessions.conversation import Conversation
from services.sessions.history import SessionKey
from services.sessions.service import Sessions

# Seconds that a draft may wait for anything: the next one comes soon.
_MOST_SECONDS = 1.0
# The sessions whose last drafts are known.
_KEPT = 128

Spare = Callable[[str, AnswerRequest, Conversation], AbstractContextManager[Poll]]
"""From an account, a request and its conversation to the context of work that others go before. Raises Unavailable."""


class NotDrafted(Exception):
    """Raised where a draft cannot be read ahead now, which is no fault of its request."""


@dataclass(frozen=True)
class Draft:
    """The tokens of the prompt's beginning that are read ahead, and how many of them the key is charged for."""

    tokens: int
    charged_tokens: int


class Drafts:
    """The drafts of sessions. Any thread may call it; `_lock` protects the last drafts.

    A draft waits for nobody and loads no model. Its state belongs to a temporary conversation: nothing of it is stored, and
    the session's own state stays as it is.
    """

    def __init__(self, models: Models, sessions: Sessions, backend: Backend, meter: Meter, spare: Spare) -> None:
        self._models = models
        self._sessions = sessions
        self._backend = backend
        self._meter = meter
        self._spare = spare
        self._lock = threading.Lock()
        self._last: OrderedDict[SessionKey, array[int]] = OrderedDict()
        """The tokens of each session's last draft, without those before the person's words."""

    def read(self, client: Client, request: AnswerRequest) -> Draft:
        """Read a draft ahead, instead of the session's last one; one without words only forgets that.

        Raises NotDrafted with the reason where it is not read ahead, else as `Answers.open` does.
        """
        assert request.session_id is not None
        key = SessionKey(client.identity.id, request.session_id)
        with self._meter.enter_draft(key.owner) as ticket:
            if not request.prompt.strip():
                self._forget(key)
                raise NotDrafted("the prompt is empty")
            try:
                return self._read(client, request, key, ticket)
            except PromptTooLong as error:
                raise NotDrafted(error.message) from error
            except Unavailable as error:
                # It had to give way, or to wait.
                if error.code in ("too_busy", "timeout"):
                    raise NotDrafted(error.message) from error
                raise

    def forget(self, client: Client, key: SessionKey) -> None:
        """Forget a session's draft, and what was computed of it. It counts as a draft. Raises RateLimitExceeded."""
        with self._meter.enter_draft(client.identity.id):
            self._forget(key)

    def drop(self, key: SessionKey) -> None:
        """Drop a session's last draft, since its prompt has come: the engine drops the rest."""
        with self._lock:
            self._last.pop(key, None)

    def _forget(self, key: SessionKey) -> None:
        self.drop(key)
        self._backend.forget(key.owner, draft_of(str(key.number)))

    def _read(self, client: Client, request: AnswerRequest, key: SessionKey, ticket: Ticket) -> Draft:
        chosen = self._models.choose(ticket.profiles, request.model)
        if request.files or request.collections:
            raise NotDrafted("it is answered from files: what is read of them depends on the whole prompt")
        if self._is_answering(key):
            raise NotDrafted("the session is being answered: its next prompt is not known yet")
        if not self._models.is_loaded(chosen):
            raise NotDrafted("the model is not loaded")
        account = self._meter.account(client.identity)
        deadline = Deadline(client.poll, _MOST_SECONDS, Slot(account))
        with self._models.lease(chosen, deadline.poll) as model:
            conversation = conversation_of(self._sessions, client, request, chosen)
            form = self._models.form(request, chosen, model, conversation.system)
            longest = ticket.cap(request.longest(chosen.profile))
            with self._spare(account, request, conversation) as pause:
                fitter = fitter_of(form, model, model.n_ctx, longest, pause)
                tokens, n_before = fitter.draft(conversation.exchanges, request.prompt, conversation.start)
            if not tokens:
                raise NotDrafted("the prompt's template does not show where the words are")
            words = array("i", tokens[n_before:])
            n_new = len(words) - self._n_known(key, words)
            ticket.check_room(n_new)
            if not model.prefetch(PrefetchRequest(tokens, key.owner, conversation.name, account, is_draft=True)):
                raise NotDrafted("nothing reads ahead here: it is switched off, or no worker has the conversation yet")
        ticket.add(Spent(prompt_tokens=n_new))
        self._keep(key, words)
        return Draft(len(tokens), n_new)

    def _is_answering(self, key: SessionKey) -> bool:
        """Return whether a prompt of the session is being answered, by any server."""
        try:
            with self._sessions.lock(key, _give_up):
                return False
        except NotDrafted:
            return True

    def _n_known(self, key: SessionKey, words: array[int]) -> int:
        """Return how many tokens the session's last draft begins with too."""
        with self._lock:
            last = self._last.get(key, ())
        return len(common_beginning([last, words]))

    def _keep(self, key: SessionKey, words: array[int]) -> None:
        with self._lock:
            self._last[key] = words
            self._last.move_to_end(key)
            if len(self._last) > _KEPT:
                self._last.popitem(last=False)


def _give_up() -> None:
    raise NotDrafted("the session is being answered")
