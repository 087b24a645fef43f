"""All conversations: the sessions in their table, and the callers' unsaved ones."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from services.sessions.file_table import SessionTable
from services.sessions.history import MASTER, SessionHistory, SessionKey, count_of, described, stored_messages
from services.sessions.locks import LocalSessionLocks, SessionLocks
from services.sessions.records import key_of, parse_number
from services.sessions.table import Kept, Table
from services.sessions.unsaved import LocalUnsavedConversations, UnsavedConversations

# Characters of a message that a search shows before and behind what it has found.
_BEFORE, _BEHIND = 40, 80
# JavaScript's numbers are exact up to this.
_MOST_NUMBER = 2**53 - 1


class Sessions:
    """All conversations. Any thread may call it; its parts protect themselves."""

    def __init__(
        self,
        path: Path,
        table: Table | None = None,
        locks: SessionLocks | None = None,
        unsaved: UnsavedConversations | None = None,
    ) -> None:
        """`table`, `locks` and `unsaved` are a cluster's; a single server has the file `path`, and the others in memory.

        Raises DamagedFile where the file holds no sessions.
        """
        self._table = table or SessionTable(path)
        self._locks = locks or LocalSessionLocks()
        self.unsaved = unsaved or LocalUnsavedConversations()
        """The conversations that no session keeps."""

    def close(self) -> None:
        """Fold everything into the file, for people who read it while no server runs."""
        self._table.close()

    def history(self, key: SessionKey) -> SessionHistory:
        """Return the history of a session, which the first message makes."""
        return SessionHistory(self._table, key)

    def names(self, owner: str) -> dict[str, str]:
        """Return the names of the owner's sessions, by their numbers; the master gets all sessions, by their entries."""
        data = self._table.entries(None if owner == MASTER else owner)
        keys = sorted((key, entry) for entry in data if (key := key_of(entry)))
        return {
            entry if owner == MASTER else str(key.number): str(data[entry].get("name") or "")
            for key, entry in keys
            if owner in (MASTER, key.owner)
        }

    def listed(self, owner: str, words: str = "", pause: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
        """Return the owner's own sessions, the latest first: number, name, times, and number of messages.

        `words`: only sessions with these in their name or in a message, in either case. `pause` is called before each one
        is searched, and gives up by raising.
        """
        data = self._table.entries(owner)
        own = [(key, data[entry]) for entry in data if (key := key_of(entry)) and key.owner == owner]
        wanted = words.strip().casefold()
        if wanted:
            own = [each for each in own if _says(each[1], wanted, pause)]
        own.sort(key=lambda each: (str(each[1].get("updated") or ""), each[0].number), reverse=True)
        return [
            {"session_id": key.number, **described(session), "messages": count_of(session), **_snippet(session, wanted)}
            for key, session in own
        ]

    def stored(self, owner: str) -> Iterator[Any]:
        """Yield an owner's own sessions as they are stored, by their numbers. Not to be changed."""
        keys = sorted(key for entry in self._table.entries(owner) if (key := key_of(entry)) and key.owner == owner)
        for key in keys:
            if session := self._table.get(key.entry):
                yield session

    def new_key(self, owner: str) -> SessionKey:
        """Return the key of a session that an owner does not have yet."""
        numbers = {key.number for entry in self._table.entries(owner) if (key := key_of(entry)) and key.owner == owner}
        while True:
            number = secrets.randbelow(_MOST_NUMBER) + 1
            if number not in numbers:
                return SessionKey(owner, number)

    def names_of_all(self) -> set[tuple[str, str]]:
        """Return the owner and number of all sessions."""
        return {(key.owner, str(key.number)) for entry in self._table.entries() if (key := key_of(entry))}

    def kept(self, owner: str) -> Kept:
        """Return the number of an owner's sessions, and their bytes of text. Raises Unavailable where Redis is away."""
        return self._table.kept("" if owner == MASTER else owner)

    def settle(self, owner: str, session: str, request: str) -> None:
        """Forget the name of a request to a session, whose reply is stored elsewhere now. Raises Unavailable."""
        if (number := parse_number(session)) is not None:
            self._table.settle(SessionKey(owner, number).entry, request)

    def lock(self, key: SessionKey, poll: Callable[[], None]) -> AbstractContextManager[None]:
        """Lock the session while one prompt is answered, as `SessionLocks.lock` does."""
        return self._locks.lock(key.entry, poll)


def _snippet(session: Any, words: str) -> dict[str, str]:
    """Return the snippet of a session that was searched for words, which are casefolded: those around the first hit."""
    if not words:
        return {}
    for message in stored_messages(session):
        text = " ".join(message["content"].split())
        if (at := text.casefold().find(words)) >= 0:
            start, end = max(at - _BEFORE, 0), at + len(words) + _BEHIND
            return {"snippet": f"{'…' * (start > 0)}{text[start:end]}{'…' * (end < len(text))}"}
    return {"snippet": ""}


def _says(session: Any, words: str, pause: Callable[[], None]) -> bool:
    """Return whether a session's name or one of its messages has these words, which are casefolded."""
    pause()
    texts = (session.get("name") or "", *(message["content"] for message in stored_messages(session)))
    return any(words in text.casefold() for text in texts)
