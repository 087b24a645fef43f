"""All conversations: the sessions in their table, and the callers' unsaved ones in memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from services.sessions.history import MASTER, SessionHistory, SessionKey, Table, count_of, stored_messages
from services.sessions.locks import LocalSessionLocks, SessionLocks
from services.sessions.records import check_sessions, key_of, parse_number
from services.sessions.table import Kept, SessionTable
from services.sessions.unsaved import LocalUnsavedConversations, UnsavedConversations


class Sessions:
    """All conversations.

    Any thread may call it; its parts protect themselves.
    """

    def __init__(
        self,
        path: Path,
        table: Table | None = None,
        locks: SessionLocks | None = None,
        unsaved: UnsavedConversations | None = None,
    ) -> None:
        """`table`, `locks` and `unsaved` are a cluster's; one server has the file `path`, and the other two in memory.

        Raises DamagedFile where the file exists and holds no sessions.
        """
        self._table = table or SessionTable(path, check_sessions, stored_messages)
        self._locks = locks or LocalSessionLocks()
        self.unsaved = unsaved or LocalUnsavedConversations()
        """The conversations that are no sessions."""

    def close(self) -> None:
        """Bring everything into the file, for whoever opens it while no server runs."""
        self._table.close()

    def history(self, key: SessionKey) -> SessionHistory:
        """The conversation `key`; it comes into being with its first message."""
        return SessionHistory(self._table, key)

    def names(self, owner: str) -> dict[str, str]:
        """The owner's sessions: entry → name. The master sees everybody's."""
        data = self._table.entries(None if owner == MASTER else owner)
        keys = sorted((key, entry) for entry in data if (key := key_of(entry)))
        return {
            entry if owner == MASTER else str(key.number): str(data[entry].get("name") or "")
            for key, entry in keys
            if owner in (MASTER, key.owner)
        }

    def listed(self, owner: str, words: str = "", pause: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
        """The owner's own sessions, the one that went on last first: number, name, times, and how many messages.

        `words`: only those that have them in their name or in a message, in whichever case. `pause` is called before each
        is searched, and raises to give up.
        """
        data = self._table.entries(owner)
        mine = [(key, data[entry]) for entry in data if (key := key_of(entry)) and key.owner == owner]
        wanted = words.strip().casefold()
        if wanted:
            mine = [each for each in mine if _says(each[1], wanted, pause)]
        mine.sort(key=lambda each: (str(each[1].get("updated") or ""), each[0].number), reverse=True)
        return [
            {
                "session_id": key.number,
                "name": session.get("name") or "",
                "created": session.get("created"),
                "updated": session.get("updated"),
                "messages": count_of(session),
            }
            for key, session in mine
        ]

    def names_of_all(self) -> set[tuple[str, str]]:
        """Whose sessions there are: owner and number."""
        return {(key.owner, str(key.number)) for entry in self._table.entries() if (key := key_of(entry))}

    def kept(self, owner: str) -> Kept:
        """How many sessions an owner has, and how many bytes of text. Raises Unavailable in a cluster without its Redis."""
        return self._table.kept("" if owner == MASTER else owner)

    def settle(self, owner: str, session: str, request: str) -> None:
        """The reply to a request of this name, which went on with a session, is kept elsewhere now. Raises Unavailable."""
        if (number := parse_number(session)) is not None:
            self._table.settle(SessionKey(owner, number).entry, request)

    def lock(self, key: SessionKey, poll: Callable[[], None]) -> AbstractContextManager[None]:
        """Hold the session while one prompt is answered; see `SessionLocks.lock`."""
        return self._locks.lock(key.entry, poll)


def _says(session: Any, words: str, pause: Callable[[], None]) -> bool:
    """Whether a session's name or one of its messages has these words, which are casefolded."""
    pause()
    texts = (session.get("name") or "", *(message["content"] for message in stored_messages(session)))
    return any(words in text.casefold() for text in texts)
