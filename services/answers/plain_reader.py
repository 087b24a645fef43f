"""The reader of a text that no chat template asked for: it has content alone."""

from __future__ import annotations

from typing_extensions import override

from services.backend.types import Mark
from services.replies.events import Content, Event
from services.replies.reader import Reader


class PlainReader(Reader):
    """Reads a text that has no parts."""

    @override
    def add(self, piece: str | Mark) -> list[Event]:
        return [] if isinstance(piece, Mark) else [Content(piece)]

    @override
    def end(self) -> list[Event]:
        return []
