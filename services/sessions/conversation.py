"""Where an exchange belongs: to a session, to one of the caller's unsaved conversations, or nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from services.backend.types import PASSING
from services.errors import InvalidRequest
from services.prompts.form import Exchange
from services.sessions.history import SessionHistory, SessionKey
from services.sessions.service import Sessions
from services.sessions.table import Answered, RequestName
from services.sessions.unsaved import UnsavedConversation

# However large a request's memory_k, what is kept in memory only stays small.
MAX_UNSAVED, LAST_UNSAVED = 100, 60


@dataclass(frozen=True)
class Conversation:
    """What came before a prompt, and where the answer goes. `memory_k` and `kept` count exchanges; None: all that fit.

    It may have a system prompt: to go on with another is to begin anew. One that never had any may be given one.
    """

    sessions: Sessions
    owner: str
    session_id: int | None
    memory_k: int | None
    kept: int | None
    """How many exchanges an unsaved conversation keeps; None: as many as prompts may hold."""
    wanted: str | None = None
    """The system prompt that the caller wants; None: there is none to speak of."""
    unsaved: str = "unsaved"
    """Which of the caller's conversations it is where it is no session."""
    keep: int | None = None
    """How many messages of the session stay before this prompt; None: all."""
    request: RequestName | None = None
    """What the caller calls this request, so that it is computed once; None: nothing."""

    def check(self) -> None:
        """Raises InvalidRequest where more messages are to stay than there are."""
        if self.keep is None:
            return
        if self.session_id is None:
            raise InvalidRequest("keep: only a session has messages to keep; session_id is missing", param="keep")
        if self.keep > (count := self._history.count()):
            raise InvalidRequest(f"keep: the session has {count} messages", param="keep")

    @property
    def name(self) -> str:
        """What its computed state goes by; "" where there will be no next prompt."""
        if self.session_id is not None:
            return str(self.session_id)
        return "" if self.memory_k == 0 else f"{PASSING}{self.unsaved}"

    @cached_property
    def exchanges(self) -> list[Exchange]:
        """The last `memory_k` exchanges, oldest first."""
        if self._begins_anew or self.memory_k == 0:
            return []
        if self.session_id is None:
            return list(self._unsaved.exchanges[-(self.memory_k or 0) :])
        if self.memory_k is None:
            return self._history.exchanges(self.keep)
        return self._history.window(self.memory_k, self.keep)

    @property
    def start(self) -> int:
        """How many of `exchanges` prompts leave out, since they have not fitted for a while."""
        if self.memory_k == 0 or self._begins_anew:
            return 0
        start = self._unsaved.start if self.session_id is None else self._history.window_start
        return max(start - self._beyond, 0) if start else 0

    def keep_start(self, start: int) -> None:
        """Keep that prompts leave out so many of `exchanges` from now on. Raises StorageFailed."""
        if self.session_id is not None and start != self.start:
            self._history.keep_window(self._beyond + start)

    def counts(self, start: int) -> dict[str, int]:
        """Counts of messages of people and models, the new one included, of a prompt that leaves out `start` exchanges."""
        count = 0
        if not self._begins_anew:
            unsaved, session = self.memory_k != 0, self.session_id is not None
            n_unsaved = len(self._unsaved.exchanges) + self._unsaved.forgotten if unsaved and not session else 0
            count = self._history.count_said(self.keep) if session else 2 * n_unsaved
        n_held = 2 * (len(self.exchanges) - start) + 1
        return {"messages_in_prompt": n_held, "messages_left_out": count + 1 - n_held}

    @property
    def system(self) -> str | None:
        """The session's own system prompt; None where it has none, or the caller wants one."""
        return self._had if self.wanted is None else None

    def store(self, exchange: Exchange, start: int = 0, told: Mapping[str, Any] | None = None) -> int:
        """Add the prompt and its answer, durably where it is a session; prompts leave out `start` of `exchanges` so far.

        `told` is what the reply tells beside the answer, which a session keeps for who sends the same request again.
        Returns how many of these an unsaved conversation has forgotten for it. Raises StorageFailed.
        """
        if self.session_id is not None:
            is_new = self.wanted is not None and self.wanted != self._had
            keep = 0 if self._begins_anew else self.keep
            request = Answered(self.request, told or {}) if self.request else None
            self._history.add_exchange(exchange, self.wanted if is_new else None, keep, request)
        elif self.memory_k != 0 or self.wanted is not None:
            if self.memory_k is None:
                # Many at once, so that the next many prompts begin alike.
                last = MAX_UNSAVED if len(self.exchanges) < MAX_UNSAVED else LAST_UNSAVED
            else:
                last = max(1, min(max(self.kept or 0, self.memory_k), MAX_UNSAVED))
            begins = self._beyond + start
            self.sessions.unsaved.add(self.owner, self.unsaved, exchange, self.wanted, last, begins)
            return max(len(self.exchanges) + 1 - last, 0)
        return 0

    @property
    def _begins_anew(self) -> bool:
        """Whether the caller wants another system prompt than the conversation has had so far."""
        return self.wanted is not None and self._had not in (None, self.wanted)

    @cached_property
    def _had(self) -> str | None:
        """The system prompt so far; None where it has not been said yet."""
        if self.session_id is not None:
            return self._history.system(self.keep)
        return self._unsaved.system

    @cached_property
    def _beyond(self) -> int:
        """How many exchanges of the session come before `exchanges`."""
        if not self.memory_k:
            return 0
        known = self._unsaved.exchanges if self.session_id is None else self._history.exchanges(self.keep)
        return len(known) - len(self.exchanges)

    @cached_property
    def _unsaved(self) -> UnsavedConversation:
        return self.sessions.unsaved.get(self.owner, self.unsaved)

    @property
    def _history(self) -> SessionHistory:
        assert self.session_id is not None
        return self.sessions.history(SessionKey(self.owner, self.session_id))
