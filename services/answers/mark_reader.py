"""The reader of a text in which special tokens are wanted as text."""

from __future__ import annotations

from typing_extensions import override

from services.backend.types import Mark
from services.replies.events import Content, Event
from services.replies.reader import Reader


class MarkReader(Reader):
    """Reads a text that has no parts, and keeps the special tokens in it."""

    @override
    def add(self, piece: str | Mark) -> list[Event]:
        return [Content(str(piece))]

    @override
    def cut(self) -> None:
        """Do nothing: a text is whole wherever it ends."""

    @override
    def end(self) -> list[Event]:
        return []
