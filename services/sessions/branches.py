"""The branches of a conversation: what was said otherwise from one message on, kept beside what is said now.

A session's messages are the open branch. The others stand in its `branches`, each as `{"at", "number", "messages"}`:
the index of its first message in the conversation, its number among those that begin there, and its messages from there.
`"branches"` within one are those that leave it further on. Branches that begin at one message are numbered from 1 without a
gap; the number that is missing is that of the open one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from services.sessions.table import BRANCHES, Message, size_of

# The most levels of branches within branches.
MOST_LEVELS = 30

Branch = dict[str, Any]
Tree = tuple[list[Message], list[Branch]]
"""The messages of the open branch, and the other branches."""


def leave(messages: Sequence[Message], branches: Sequence[Branch], at: int) -> Tree:
    """Return the tree with the open branch closed from message `at` on, so that another may begin there.

    The new one has the last number. `at` is an index of `messages`.
    """
    tail, others = list(messages[at:]), [branch for branch in branches if branch["at"] <= at]
    closed = {"at": at, "number": open_number(others, at), "messages": tail}
    if further := [branch for branch in branches if branch["at"] > at]:
        closed["branches"] = further
    flat = [closed] if _levels([closed]) <= MOST_LEVELS else _flattened(closed, len(numbers(others, at)) + 1)
    return list(messages[:at]), [*others, *flat]


def enter(messages: Sequence[Message], branches: Sequence[Branch], at: int, number: int) -> Tree | None:
    """Return the tree with the branch of this number open from message `at` on; None if there is none.

    The one that is open now is kept, unless it has no message from there on.
    """
    if number == open_number(branches, at):
        return list(messages), list(branches)
    wanted = next((branch for branch in branches if (branch["at"], branch["number"]) == (at, number)), None)
    if wanted is None:
        return None
    if at < len(messages):
        messages, branches = leave(messages, branches, at)
    else:
        branches = _renumbered(branches, at, open_number(branches, at))
    # Another number may have been given to it meanwhile.
    rest = [branch for branch in branches if branch["messages"] is not wanted["messages"]]
    return [*messages[:at], *wanted["messages"]], [*rest, *wanted.get("branches", ())]


def without(messages: Sequence[Message], branches: Sequence[Branch], at: int) -> Tree:
    """Return the tree without the message `at` of the open branch. What follows stays.

    If nothing follows, and other branches begin there, the last of these is opened.
    """
    left, here = [*messages[:at], *messages[at + 1 :]], numbers(branches, at)
    moved: list[Branch] = []
    for branch in branches:
        if branch["at"] <= at:
            moved.append(branch)
            continue
        shifted = _shifted(branch)
        if branch["at"] == at + 1 and here:
            # Behind those that begin here already, and the open one.
            shifted["number"] = max([len(here) + 1, *numbers(moved, at)]) + 1
        moved.append(shifted)
    if at == len(left) and (others := numbers(moved, at)):
        return enter(left, moved, at, max(others)) or (left, moved)
    return left, moved


def open_number(branches: Sequence[Branch], at: int) -> int:
    """Return the number of the open branch among those that begin at message `at`."""
    taken = set(numbers(branches, at))
    return next(n for n in range(1, len(taken) + 2) if n not in taken)


def numbers(branches: Sequence[Branch], at: int) -> list[int]:
    """Return the numbers of the closed branches that begin at message `at`."""
    return [branch["number"] for branch in branches if branch["at"] == at]


def counts(branches: Sequence[Branch]) -> dict[int, tuple[int, int]]:
    """Return, for each message at which several branches begin, the open one's number and how many there are."""
    closed = Counter(branch["at"] for branch in branches)
    return {at: (open_number(branches, at), count + 1) for at, count in closed.items()}


def check_tree(n_messages: int, branches: Sequence[Branch]) -> None:
    """Raise ValueError where branches, each with its fields, do not fit a conversation of so many messages."""
    if _levels(branches) > MOST_LEVELS:
        raise ValueError(f"it has more than {MOST_LEVELS} levels of branches within branches")
    _check_places(branches, -1, n_messages)


def _check_places(branches: Sequence[Branch], above: int, end: int) -> None:
    for branch in branches:
        at = branch["at"]
        if not above < at < end:
            raise ValueError(f"a branch begins at message {at}, where its conversation has none")
        found = sorted(numbers(branches, at))
        if len(set(found)) < len(found) or found[-1] > len(found) + 1:
            raise ValueError(
                f"the branches at message {at} are not numbered from 1 on, with one number left for the open one"
            )
        _check_places(branch.get("branches", ()), at, at + len(branch["messages"]))


def _levels(branches: Sequence[Branch]) -> int:
    """Return the number of levels of branches within branches, counted up to one more than there may be."""
    level, count = list(branches), 0
    while level and count <= MOST_LEVELS:
        level, count = [each for branch in level for each in branch.get("branches", ())], count + 1
    return count


def _flattened(closed: Branch, taken: int) -> list[Branch]:
    """Return a branch, and those within it as others beside it, which repeat the messages that they share with it.

    `taken` is how many numbers are taken at its message, its own included.
    """
    flat = [{name: value for name, value in closed.items() if name != "branches"}]
    waiting = [(closed["messages"], branch) for branch in closed.get("branches", ())]
    while waiting:
        shared, branch = waiting.pop(0)
        messages = [*shared[: branch["at"] - closed["at"]], *branch["messages"]]
        flat.append({"at": closed["at"], "number": taken + len(flat), "messages": messages})
        waiting += [(messages, each) for each in branch.get("branches", ())]
    return flat


def size_of_branches(branches: Sequence[Mapping[str, Any]]) -> int:
    """Return the bytes of the texts in branches, as `size_of` counts them."""
    return sum(size_of(branch["messages"]) + size_of_branches(branch.get("branches", ())) for branch in branches)


def size_of_session(session: Mapping[str, Any]) -> int:
    """Return the bytes of the texts in a session that has its messages as such, those of its branches included."""
    return size_of(session["messages"]) + size_of_branches(session.get(BRANCHES) or ())


def _renumbered(branches: Sequence[Branch], at: int, gone: int) -> list[Branch]:
    """Return branches of which no number is missing at message `at`, where the open one of the number `gone` is no more."""
    return [
        {**branch, "number": branch["number"] - 1} if branch["at"] == at and branch["number"] > gone else branch
        for branch in branches
    ]


def _shifted(branch: Branch) -> Branch:
    """Return a branch that begins one message earlier."""
    moved = {**branch, "at": branch["at"] - 1}
    if further := branch.get("branches"):
        moved["branches"] = [_shifted(each) for each in further]
    return moved
