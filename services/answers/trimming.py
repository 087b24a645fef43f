"""Trimming: the same text or events without white space at the beginning and the end of what is shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from services.replies.events import Content, Event, Reasoning


class Trimmer:
    """Leaves out white space at both ends of a text that comes in pieces. Owned by one thread."""

    def __init__(self, at_start: bool = True) -> None:
        """`at_start`: whether white space at the beginning is left out too."""
        self._begun = not at_start
        self._held = ""

    def add(self, piece: str) -> str:
        """Add a piece of the text; return what is no white space at an end for sure."""
        text = self._held + piece
        text = text if self._begun else text.lstrip()
        body = text.rstrip()
        self._held = text[len(body) :]
        self._begun = self._begun or bool(body)
        return body


def trimmed(events: Iterable[Event | None], at_start: bool = True) -> Iterator[Event | None]:
    """Yield the same events without white space at the ends of the thoughts and of the content; calls stay as they are.

    `at_start`: whether it is left out at the content's beginning too.
    """
    content, reasoning = Trimmer(at_start), Trimmer()
    for event in events:
        if isinstance(event, Content):
            text = content.add(event.text)
            yield Content(text) if text else None
        elif isinstance(event, Reasoning):
            text = reasoning.add(event.text)
            yield Reasoning(text) if text else None
        else:
            yield event
