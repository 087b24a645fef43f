"""The prompts that are likely to come, which the engine reads while no request is in flight. Pure Python."""

from __future__ import annotations

from collections import OrderedDict

from services.backend.types import PrefetchRequest

# Beyond these the oldest is dropped: its person has long left.
MAX_PREFETCHES = 256


class PrefetchQueue:
    """One request a conversation, oldest first: the person whose answer is oldest is likely to write next.

    Owned by the engine's thread.
    """

    def __init__(self) -> None:
        self._requests: OrderedDict[tuple[str, str], PrefetchRequest] = OrderedDict()

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: PrefetchRequest) -> None:
        """Add a request, replacing an earlier one of the same conversation."""
        self.drop(request.owner, request.session)
        self._requests[request.owner, request.session] = request
        if len(self._requests) > MAX_PREFETCHES:
            self._requests.popitem(last=False)

    def first(self) -> PrefetchRequest | None:
        """Return the oldest request."""
        return next(iter(self._requests.values()), None)

    def drop(self, owner: str, session: str) -> None:
        """Drop the request of a conversation."""
        self._requests.pop((owner, session), None)

    def clear(self) -> None:
        """Drop all requests."""
        self._requests.clear()
