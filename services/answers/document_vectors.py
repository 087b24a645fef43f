"""The vectors of own files, made in the background while nobody is answered, for each embedder that a profile names."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from services.answers.models import Models
from services.answers.retrieval import vectors_of
from services.documents.library import Library
from services.errors import ClientDisconnected, HearthError
from services.models.profile import Chosen

log = logging.getLogger(__name__)

# Seconds between two looks for files without vectors, and between two looks whether others compute.
_LOOK, _WAIT = 5.0, 0.2
# Seconds before a file that has failed is tried again.
_RETRY = 600.0
# Passages whose vectors are made before the next such look.
_AT_ONCE = 8


class DocumentVectors:
    """Makes vectors, on a thread of its own; any thread may call `start` and `close`."""

    def __init__(self, models: Models, library: Library, is_busy: Callable[[], bool]) -> None:
        """`is_busy` returns whether anybody is being answered, or waits for that."""
        self._models = models
        self._library = library
        self._is_busy = is_busy
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._again: dict[tuple[int, str], float] = {}
        """When a file whose vectors were begun may be tried again."""
        self._problem = ""
        """The last one that was logged."""

    def start(self) -> None:
        """Begin to look for files without vectors."""
        self._thread = threading.Thread(target=self._run, name="vectors", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, within the work on a few passages."""
        self._closing.set()
        if self._thread:
            self._thread.join(timeout=5)

    def step(self) -> bool:
        """Make the vectors of one file; return False if no file lacks them. Raises HearthError."""
        embedders = [(chosen, self._models.vectors_key(chosen)) for chosen in self._models.embedders()]
        if embedders:
            self._library.vectors.keep_only([key for _, key in embedders])
        for chosen, key in embedders:
            missing = [number for number in self._library.vectors.missing(key) if self._may_try(number, key)]
            for number in missing[:1]:
                # Should it fail, the others go first.
                self._again[number, key] = time.monotonic() + _RETRY
                self._embed(number, chosen, key)
                return True
        return False

    def _may_try(self, number: int, key: str) -> bool:
        return time.monotonic() >= self._again.get((number, key), 0.0)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                if self.step():
                    continue
                self._problem = ""
            except ClientDisconnected:
                return
            except HearthError as error:
                if error.message != self._problem:
                    log.warning("the vectors of files cannot be made: %s", error.message)
                self._problem = error.message
            except Exception:
                log.exception("the vectors of files cannot be made")
            self._closing.wait(_LOOK)

    def _embed(self, number: int, chosen: Chosen, key: str) -> None:
        texts = self._library.chunk_texts(number)
        prefixes = chosen.profile.embedding_prefix
        begins = prefixes.document if prefixes else ""
        vectors: list[list[float]] = []
        for at in range(0, len(texts), _AT_ONCE):
            self._wait_while_busy()
            # A lease for each few: the model may leave memory while others are answered.
            with self._models.lease_embedder(chosen, self._check) as embedder:
                vectors += vectors_of(embedder, [f"{begins}{text}" for text in texts[at : at + _AT_ONCE]], self._check)
        if vectors:
            self._library.vectors.add(number, key, vectors)

    def _wait_while_busy(self) -> None:
        while self._is_busy() and not self._closing.is_set():
            self._closing.wait(_WAIT)
        self._check()

    def _check(self) -> None:
        if self._closing.is_set():
            raise ClientDisconnected("the server stops")
