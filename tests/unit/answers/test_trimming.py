"""White space at the ends of an answer is left out, wherever it comes among the events."""

from __future__ import annotations

import pytest

from services.answers.trimming import trimmed
from services.replies.events import CallArguments, CallBegun, Content, Event, Reasoning


def texts(pieces: list[str], at_start: bool = True) -> list[str | None]:
    events = trimmed([Content(piece) if piece else None for piece in pieces], at_start)
    return [event.text if isinstance(event, Content) else None for event in events]


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        ([" ", "\n a", " ", "b ", "\n", " c", " \n"], [None, "a", None, " b", None, " \n c", None]),
        ([" ", "\n"], [None, None]),
        (["", "a ", "", "b"], [None, "a", None, " b"]),
    ],
)
def test_white_space_at_the_ends_is_left_out(pieces: list[str], shown: list[str | None]) -> None:
    assert texts(pieces) == shown


def test_what_goes_on_with_a_text_keeps_its_beginning() -> None:
    assert texts([" ", " a", " "], at_start=False) == [None, "  a", None]


def test_thoughts_and_content_have_ends_of_their_own_and_arguments_none() -> None:
    given: list[Event] = [
        Reasoning("\na "),
        Reasoning("b\n"),
        Content("\n\n c "),
        CallBegun(0, "x", "f"),
        CallArguments(0, ' {"a": '),
        CallArguments(0, "1} "),
        Content("\nd "),
    ]
    assert [event for event in trimmed(given) if event] == [
        Reasoning("a"),
        Reasoning(" b"),
        Content("c"),
        *given[3:6],
        Content(" \nd"),
    ]
