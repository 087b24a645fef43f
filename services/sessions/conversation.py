"""The conversation of a request: a session, one of the caller's unsaved conversations, or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from services.backend.types import TEMPORARY
from services.errors import InvalidRequest
from services.prompts.form import Exchange
from services.sessions.history import SessionHistory, SessionKey
from services.sessions.service import Sessions
from services.sessions.table import Answered, RequestName
from services.sessions.unsaved import UnsavedConversation

# Exchanges of an unsaved conversation: at most, and after the oldest are forgotten.
MAX_UNSAVED, LAST_UNSAVED = 100, 60


@dataclass(frozen=True)
class Conversation:
    """The exchanges before a prompt, and where its answer goes. `memory_k` and `kept` count exchanges; None: all that fit.

    It may have a system prompt: another one begins it anew, unless it never had any.
    """

    sessions: Sessions
    owner: str
    session_id: int | None
    memory_k: int | None
    kept: int | None
    """The number of exchanges that an unsaved conversation keeps; None: as many as prompts may hold."""
    wanted: str | None = None
    """The system prompt that the caller wants; None: the conversation's own."""
    unsaved: str = "unsaved"
    """The name of the unsaved conversation, where it is no session."""
    keep: int | None = None
    """The number of the session's messages that stay before this prompt; None: all."""
    request: RequestName | None = None
    """The caller's name of this request, so that it is computed once; None: it has none."""

    def check(self) -> None:
        """Raise InvalidRequest where more messages are to stay than there are."""
        if self.keep is None:
            return
        if self.session_id is None:
            raise InvalidRequest("keep: only a session has messages to keep; session_id is missing", param="keep")
        if self.keep > (count := self._history.count()):
            raise InvalidRequest(f"keep: the session has {count} messages", param="keep")

    @property
    def name(self) -> str:
        """The name of its computed state; "" where there will be no next prompt."""
        if self.session_id is not None:
            return str(self.session_id)
        return "" if self.memory_k == 0 else f"{TEMPORARY}{self.unsaved}"

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
        """The number of first `exchanges` that prompts leave out, since these no longer fit."""
        if self.memory_k == 0 or self._begins_anew:
            return 0
        start = self._unsaved.start if self.session_id is None else self._history.window_start
        return max(start - self._beyond, 0) if start else 0

    def keep_start(self, start: int) -> None:
        """Store how many of the first `exchanges` prompts leave out from now on. Raises StorageFailed."""
        if self.session_id is not None and start != self.start:
            self._history.keep_window(self._beyond + start)

    def counts(self, start: int) -> dict[str, int]:
        """Count the messages, the new one included, of a prompt that leaves out `start` exchanges; no system prompts."""
        count = 0
        if not self._begins_anew:
            unsaved, session = self.memory_k != 0, self.session_id is not None
            n_unsaved = len(self._unsaved.exchanges) + self._unsaved.forgotten if unsaved and not session else 0
            count = self._history.count_said(self.keep) if session else 2 * n_unsaved
        n_in_prompt = 2 * (len(self.exchanges) - start) + 1
        return {"messages_in_prompt": n_in_prompt, "messages_left_out": count + 1 - n_in_prompt}

    @property
    def system(self) -> str | None:
        """The session's own system prompt; None where it has none, or the caller wants one."""
        return self._had if self.wanted is None else None

    def store(
        self,
        exchange: Exchange,
        start: int = 0,
        summary: Mapping[str, Any] | None = None,
        is_cut: bool = False,
        goes_on: bool = False,
    ) -> int:
        """Add the prompt and its answer, durably where it is a session; prompts leave out `start` of `exchanges` so far.

        `is_cut`: the answer is not whole. `goes_on`: it takes the place of the one that it continues. `summary` holds the
        reply's fields beside the answer, which a session keeps in case the same request comes again. Returns how many of
        `exchanges` an unsaved conversation has forgotten for it. Raises StorageFailed.
        """
        if self.session_id is not None:
            is_new = self.wanted is not None and self.wanted != self._had
            keep = 0 if self._begins_anew else self.keep
            request = Answered(self.request, summary or {}) if self.request else None
            system, branches = self.wanted if is_new else None, not self._begins_anew
            self._history.add_exchange(exchange, system, keep, request, is_cut=is_cut, goes_on=goes_on, branches=branches)
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
        """The conversation's system prompt so far; None where it never had one."""
        if self.session_id is not None:
            return self._history.system(self.keep)
        return self._unsaved.system

    @cached_property
    def _beyond(self) -> int:
        """The number of the conversation's exchanges before `exchanges`."""
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
