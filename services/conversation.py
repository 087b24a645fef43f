"""Where an exchange belongs: to a session, to the caller's unsaved conversation, or nowhere."""

from __future__ import annotations

from dataclasses import dataclass

from services.backend import PASSING
from services.prompts import Exchange
from services.sessions import SessionKey, Sessions

# However large a request's memory_k, what is kept in memory only stays small.
MAX_UNSAVED = 100
UNSAVED = f"{PASSING}unsaved"


@dataclass(frozen=True)
class Conversation:
    """What came before a prompt, and where the answer goes. `memory_k` and `kept` count exchanges."""

    sessions: Sessions
    owner: str
    session_id: int | None
    memory_k: int
    kept: int
    """How many exchanges the unsaved conversation keeps."""

    @property
    def name(self) -> str:
        """What its computed state goes by; "" where there will be no next prompt."""
        if self.session_id is not None:
            return str(self.session_id)
        return UNSAVED if self.memory_k else ""

    def window(self) -> list[Exchange]:
        """The last `memory_k` exchanges, oldest first."""
        if self.session_id is not None:
            return self.sessions.history(SessionKey(self.owner, self.session_id)).window(self.memory_k)
        return self.sessions.unsaved(self.owner)[-self.memory_k :] if self.memory_k else []

    def store(self, exchange: Exchange) -> None:
        """Add the prompt and its answer, durably where it is a session. Raises StorageFailed."""
        if self.session_id is not None:
            self.sessions.history(SessionKey(self.owner, self.session_id)).add_exchange(exchange)
        elif self.memory_k:
            self.sessions.keep_unsaved(self.owner, exchange, min(max(self.kept, self.memory_k), MAX_UNSAVED))
