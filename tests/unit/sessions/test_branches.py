"""The branches of a conversation: nothing said is lost, and each branch keeps its number."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.sessions.branches import Branch, counts, enter, leave, numbers, size_of_session, without
from services.sessions.table import Message


def said(*words: str) -> list[Message]:
    return [{"type": ("human", "ai")[n % 2], "content": word} for n, word in enumerate(words)]


def all_words(messages: list[Message], branches: list[Branch]) -> list[str]:
    return sorted(
        [message["content"] for message in messages]
        + [word for branch in branches for word in all_words(branch["messages"], branch.get("branches", []))]
    )


def paths(messages: list[Message], branches: list[Branch]) -> set[tuple[str, ...]]:
    """Every conversation that the tree holds."""
    found = {tuple(message["content"] for message in messages)}
    for branch in branches:
        found |= paths([*messages[: branch["at"]], *branch["messages"]], branch.get("branches", []))
    return found


def test_a_branch_is_left_and_entered_again() -> None:
    messages, branches = leave(said("a", "b", "c", "d"), [], 2)
    messages += said("e", "f")
    assert branches == [{"at": 2, "number": 1, "messages": said("c", "d")}]
    assert counts(branches) == {2: (2, 2)}
    back = enter(messages, branches, 2, 1)
    assert back
    assert [message["content"] for message in back[0]] == ["a", "b", "c", "d"]
    assert counts(back[1]) == {2: (1, 2)}
    assert enter(*back, 2, 2) == (messages, branches)
    assert enter(*back, 2, 3) is None
    assert enter(*back, 0, 2) is None


def test_branches_of_a_branch_go_with_it() -> None:
    messages, branches = leave(said("a", "b", "c", "d"), [], 3)
    messages, branches = leave([*messages, *said("d2")], branches, 0)
    messages += said("x", "y")
    assert counts(branches) == {0: (2, 2)}
    assert branches[0]["branches"][0]["messages"] == [{"type": "ai", "content": "d"}]
    back = enter(messages, branches, 0, 1)
    assert back
    assert counts(back[1]) == {0: (1, 2), 3: (2, 2)}


def test_deleting_the_last_message_opens_the_branch_beside_it() -> None:
    messages, branches = leave(said("a", "b"), [], 1)
    messages = [*messages, {"type": "ai", "content": "c"}]
    assert without(messages, branches, 1) == (said("a", "b"), [])


@given(st.data())
def test_nothing_is_lost_and_every_branch_can_be_opened(data: st.DataObject) -> None:
    messages: list[Message] = []
    branches: list[Branch] = []
    words, deleted = 0, []
    for _ in range(data.draw(st.integers(1, 12))):
        act = data.draw(st.sampled_from(["say", "leave", "enter", "delete"]))
        if act == "leave" and messages:
            messages, branches = leave(messages, branches, data.draw(st.integers(0, len(messages) - 1)))
            act = "say"
        if act == "enter" and branches:
            at = data.draw(st.sampled_from([branch["at"] for branch in branches]))
            opened = enter(messages, branches, at, number := data.draw(st.sampled_from(numbers(branches, at))))
            assert opened
            messages, branches = opened
            assert counts(branches).get(at, (1, 1))[0] == number
        if act == "delete" and messages:
            at = data.draw(st.integers(0, len(messages) - 1))
            deleted.append(messages[at]["content"])
            messages, branches = without(messages, branches, at)
        if act == "say" or not messages:
            messages = [*messages, *said(f"h{words}", f"a{words}")]
            words += 1
        check(branches, len(messages))
    there = [word for n in range(words) for word in (f"h{n}", f"a{n}")]
    assert all_words(messages, branches) == sorted(set(there) - set(deleted))


def check(branches: list[Branch], end: int, above: int = -1) -> None:
    groups: dict[int, list[int]] = {}
    for branch in branches:
        assert above < branch["at"] < end
        assert branch["messages"]
        groups.setdefault(branch["at"], []).append(branch["number"])
        check(branch.get("branches", []), branch["at"] + len(branch["messages"]), branch["at"])
    for found in groups.values():
        # The open one's is the only number that is missing.
        assert len(set(found)) == len(found)
        assert max(found) <= len(found) + 1


def test_the_size_counts_every_branch() -> None:
    messages, branches = leave(said("aé", "b", "c"), [], 1)
    session: dict[str, Any] = {"messages": messages, "branches": branches}
    assert size_of_session(session) == 5
