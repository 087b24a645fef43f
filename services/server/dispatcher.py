"""The threads that answer requests, and the order in which they take them: round-robin over the clients' addresses."""

from __future__ import annotations

from collections import deque
from typing import Any

from typing_extensions import override

from services.server.waitress_internals import TaskQueue, WaitressDispatcher


class FairDispatcher(WaitressDispatcher):
    """waitress's threads, with a `FairQueue`: an address that has many requests waits for its own, others do not."""

    def __init__(self) -> None:
        super().__init__(FairQueue())


class FairQueue(TaskQueue):
    """Channels whose request waits for a thread. The dispatcher calls it under its lock."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Any]] = {}
        """The waiting channels of each source, the source whose turn is next first."""
        self._length = 0

    @override
    def __len__(self) -> int:
        return self._length

    @override
    def append(self, channel: Any) -> None:
        self._lines.setdefault(channel.source, deque()).append(channel)
        self._length += 1

    @override
    def popleft(self) -> Any:
        # The source's next turn comes after everybody else's.
        source = next(iter(self._lines))
        line = self._lines.pop(source)
        channel = line.popleft()
        if line:
            self._lines[source] = line
        self._length -= 1
        return channel
