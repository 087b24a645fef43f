"""The models that are being fetched: each by one thread, for however many callers follow it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from services.answers.admission import Poll
from services.errors import EngineFailure, HearthError
from services.models.download import begun, fetch, locate, received_of
from services.models.remote import Remote
from services.models.sources import HubFile, Source

# Seconds between two lines in the log of how much has arrived.
_TELL_EVERY = 5.0

log = logging.getLogger(__name__)


class Pull:
    """One model that is being fetched. Any thread may follow it; its own thread sets what it is at."""

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
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether it has arrived, or will not."""
        return self.path is not None or self.error is not None

    def progress(self, poll: Poll, every: float = 0.25) -> Generator[dict[str, Any]]:
        """What has arrived, now and every so many seconds: `file`, `source`, `size` and `received` in bytes, `state`.

        The size is 0 where it is not known yet. The state is "arriving" and, at the end, "done". The first comes once the
        source has said what it has. Raises what went wrong, and what `poll` raises, which is called while waiting.
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

    def wait(self, poll: Poll) -> Path:
        """Give the path of the model's first file once it is there; the log tells the progress.

        Raises what went wrong, and what `poll` raises.
        """
        told = time.monotonic()
        for at in self.progress(poll):
            if time.monotonic() - told > _TELL_EVERY:
                told = time.monotonic()
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
                from services.models.hub import reach_only

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
    """What is being fetched into one models folder. Any thread may call it; `_lock` protects the table."""

    def __init__(self, folder: Path, hosts: Sequence[str]) -> None:
        """`hosts` are those that models may be fetched from; see `reach_only`."""
        self.folder = folder
        self._hosts = hosts
        self._lock = threading.Lock()
        self._under_way: dict[tuple[Source, str], Pull] = {}

    def start(self, source: Source, target: str = "") -> Pull:
        """Begin to fetch what `source` has, or follow whoever has begun. `target`: see `locate`."""
        with self._lock:
            self._under_way = {key: pull for key, pull in self._under_way.items() if not pull.is_over}
            if (source, target) not in self._under_way:
                self._under_way[source, target] = Pull(source, target, self.folder, self._hosts)
            return self._under_way[source, target]

    def arriving(self) -> list[dict[str, Any]]:
        """See `begun`."""
        return begun(self.folder)
