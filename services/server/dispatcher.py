"""The threads that answer requests, and the order in which they take them: one of each source, in turn."""

from __future__ import annotations

from collections import deque
from typing import Any

from waitress.task import ThreadedTaskDispatcher


class FairDispatcher(ThreadedTaskDispatcher):  # type: ignore[misc, unused-ignore]
    """waitress's threads. A source with many requests waits for its own, others do not."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue()


class FairQueue:
    """Channels whose request waits for a thread. The dispatcher calls it under its lock, as it would a deque."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Any]] = {}
        """The channels of each source that has any, the source whose turn is next first."""
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, channel: Any) -> None:
        """Let it wait behind those of its own source."""
        self._lines.setdefault(channel.source, deque()).append(channel)
        self._length += 1

    def popleft(self) -> Any:
        """The next one. Its source's next turn comes after everybody else's."""
        source = next(iter(self._lines))
        line = self._lines.pop(source)
        channel = line.popleft()
        if line:
            self._lines[source] = line
        self._length -= 1
        return channel
