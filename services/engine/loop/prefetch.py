"""The prompts that are likely to come, which the engine reads while no request is in flight. Pure Python."""

from __future__ import annotations

from collections import Counter, OrderedDict

from services.backend.types import PrefetchRequest, draft_of

# Beyond these the oldest is dropped: its person has long left.
MAX_PREFETCHES = 256


class PrefetchQueue:
    """One request a conversation, and one draft.

    Drafts go first, the newest before the others: its person is still writing. Then comes the oldest request: the person
    whose answer is oldest is likely to write next. An account whose drafts have been read gives way to the accounts that
    had fewer, so that no flood of drafts keeps the others' requests waiting. Owned by the engine's thread.
    """

    def __init__(self) -> None:
        self._requests: OrderedDict[tuple[str, str], PrefetchRequest] = OrderedDict()
        self._n_drafts: Counter[str] = Counter()
        """The drafts read of each account, since the queue was last empty."""

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: PrefetchRequest) -> None:
        """Add a request, replacing an earlier one of the same conversation."""
        self._remove(request.owner, request.conversation)
        self._requests[request.owner, request.conversation] = request
        if len(self._requests) > MAX_PREFETCHES:
            self._requests.popitem(last=False)

    def first(self) -> PrefetchRequest | None:
        """Return the request to read next."""

        def rank(numbered: tuple[int, PrefetchRequest]) -> tuple[int, bool, int]:
            at, request = numbered
            return self._n_drafts[_account(request)], not request.is_draft, -at if request.is_draft else at

        _, first = min(enumerate(self._requests.values()), key=rank, default=(0, None))
        return first

    def complete(self, request: PrefetchRequest) -> None:
        """Drop a request that is read, or cannot be."""
        self._n_drafts[_account(request)] += request.is_draft
        self._remove(request.owner, request.conversation)

    def drop(self, owner: str, session: str) -> None:
        """Drop the request of a conversation, and its draft."""
        self._remove(owner, session)
        self._remove(owner, draft_of(session))

    def clear(self) -> None:
        """Drop all requests."""
        self._requests.clear()
        self._n_drafts.clear()

    def _remove(self, owner: str, conversation: str) -> None:
        self._requests.pop((owner, conversation), None)
        if not self._requests:
            self._n_drafts.clear()


def _account(request: PrefetchRequest) -> str:
    return request.account or request.owner
