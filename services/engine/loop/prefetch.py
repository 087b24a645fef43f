"""The prompts that are likely to come, which the engine begins to read while nobody waits. Pure Python."""

from __future__ import annotations

from collections import OrderedDict

from services.backend.types import PrefetchRequest

# More than these come from people who have long gone: the oldest is dropped.
MAX_THOUGHTS = 256


class PrefetchQueue:
    """One request a conversation, oldest first, since whose answer is oldest is likely to write next.

    Owned by the engine's thread.
    """

    def __init__(self) -> None:
        self._requests: OrderedDict[tuple[str, str], PrefetchRequest] = OrderedDict()

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: PrefetchRequest) -> None:
        """Add a request, in the place of an earlier one of the same conversation."""
        self.drop(request.owner, request.session)
        self._requests[request.owner, request.session] = request
        if len(self._requests) > MAX_THOUGHTS:
            self._requests.popitem(last=False)

    def first(self) -> PrefetchRequest | None:
        """The one to go on with."""
        return next(iter(self._requests.values()), None)

    def drop(self, owner: str, session: str) -> None:
        """Forget what was expected of a conversation."""
        self._requests.pop((owner, session), None)

    def clear(self) -> None:
        """Forget all."""
        self._requests.clear()
