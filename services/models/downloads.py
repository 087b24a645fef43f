"""The downloads in flight: each on one thread, for all callers that follow it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from services.errors import EngineFailure, HearthError
from services.models.download import begun, fetch, received_of
from services.models.locate import locate
from services.models.remote import Remote
from services.models.sources import HubFile, Source

# Seconds between two log lines on a download's progress.
_LOG_EVERY = 5.0

log = logging.getLogger(__name__)


class Pull:
    """The download of one model. Any thread may follow it; its own thread sets its state."""

    def __init__(self, source: Source, target: str, folder: Path, hosts: Sequence[str]) -> None:
        self.source = source
        self._hosts = hosts
        self.error: HearthError | None = None
        self.path: Path | None = None
        self._target = target
        self._folder = folder
        self._remote: Remote | None = None
        self._changed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pull", daemon=True)

    def start(self) -> None:
        """Start the download's thread."""
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """True once it is complete, or has failed."""
        return self.path is not None or self.error is not None

    def progress(self, poll: Callable[[], None], every: float = 0.25) -> Generator[dict[str, Any]]:
        """Yield the progress every so many seconds: `file`, `source`, `size` and `received` in bytes, `state`.

        The first comes once the source has described the model; a size of 0 is unknown yet. The state is "arriving" and, at
        the end, "done". Raises the download's error, and whatever `poll` raises, which is called while waiting.
        """
        while not self.is_over:
            if self._remote:
                yield self._describe(self._remote, "arriving")
            self._changed.wait(every)
            poll()
        if self.error:
            raise self.error
        if self._remote:
            yield self._describe(self._remote, "done")

    def wait(self, poll: Callable[[], None]) -> Path:
        """Wait for the download, logging its progress; return the path of the model's first file.

        Raises the download's error, and whatever `poll` raises.
        """
        logged_at = time.monotonic()
        for at in self.progress(poll):
            if time.monotonic() - logged_at > _LOG_EVERY:
                logged_at = time.monotonic()
                of_all = f" of {at['size'] / 1e6:.0f} MB" if at["size"] else ""
                log.info("%s: %.0f MB%s", at["file"], at["received"] / 1e6, of_all)
        assert self.path
        return self.path

    def _describe(self, remote: Remote, state: str) -> dict[str, Any]:
        received = received_of(self._folder, [file.file for file in remote.files])
        size = received if state == "done" else remote.size
        return {"file": remote.file, "source": remote.source, "size": size, "received": received, "state": state}

    def _run(self) -> None:
        started = time.monotonic()
        try:
            if isinstance(self.source, HubFile):
                from services.models.hub_hosts import reach_only

                reach_only(self._hosts)
            self._remote = locate(self.source, self._target)
            log.info("fetching %s from %s", self._remote.file, self._remote.source)
            self.path = fetch(self._remote, self._folder)
            log.info("fetched %s in %.0f s", self._remote.file, time.monotonic() - started)
        except HearthError as error:
            log.info("%s", error.message)
            self.error = error
        except Exception as error:
            log.exception("fetching %s failed", self.source)
            self.error = EngineFailure(f"fetching {self.source} failed: {error}")
        finally:
            self._changed.set()


class Pulls:
    """The downloads into one models folder. Any thread may call it; `_lock` protects the table."""

    def __init__(self, folder: Path, hosts: Sequence[str]) -> None:
        """`hosts` are the hosts that models may be fetched from, as in `reach_only`."""
        self.folder = folder
        self._hosts = hosts
        self._lock = threading.Lock()
        self._in_flight: dict[tuple[Source, str], Pull] = {}

    def start(self, source: Source, target: str = "") -> Pull:
        """Start the download of a source's model, or return the one in flight. `target` is the name as in `locate`."""
        with self._lock:
            self._in_flight = {key: pull for key, pull in self._in_flight.items() if not pull.is_over}
            if (source, target) not in self._in_flight:
                pull = Pull(source, target, self.folder, self._hosts)
                pull.start()
                self._in_flight[source, target] = pull
            return self._in_flight[source, target]

    def arriving(self) -> list[dict[str, Any]]:
        """Return the incomplete downloads of the folder, of all processes, as `begun` does."""
        return begun(self.folder)
