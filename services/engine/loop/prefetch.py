"""The prompts that are likely to come, which the engine begins to read while nobody waits. Pure Python."""

from __future__ import annotations

from collections import OrderedDict

from services.backend.types import Thought

# More than these come from people who have long gone: the oldest is dropped.
MAX_THOUGHTS = 256


class Thoughts:
    """One thought a conversation, oldest first, since whose answer is oldest is likely to write next.

    Owned by the engine's thread.
    """

    def __init__(self) -> None:
        self._thoughts: OrderedDict[tuple[str, str], Thought] = OrderedDict()

    def __len__(self) -> int:
        return len(self._thoughts)

    def add(self, thought: Thought) -> None:
        """Take a thought, in the place of an earlier one of the same conversation."""
        self.drop(thought.owner, thought.session)
        self._thoughts[thought.owner, thought.session] = thought
        if len(self._thoughts) > MAX_THOUGHTS:
            self._thoughts.popitem(last=False)

    def first(self) -> Thought | None:
        """The one to go on with."""
        return next(iter(self._thoughts.values()), None)

    def drop(self, owner: str, session: str) -> None:
        """Forget what was expected of a conversation."""
        self._thoughts.pop((owner, session), None)

    def clear(self) -> None:
        """Forget all."""
        self._thoughts.clear()
