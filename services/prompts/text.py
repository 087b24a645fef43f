"""A text, or token ids, that the model simply goes on with."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from services.backend.types import Prompt
from services.prompts.form import PROBE, Exchange, Form


@dataclass(frozen=True)
class TextForm(Form):
    """A text, or token ids, to go on with."""

    prompt: Prompt
    stop = ()
    slides = False

    def fill(self, window: Sequence[Exchange], words: str) -> Prompt:
        """See `Form.fill`: it is all there already."""
        return self.prompt

    def next(self, window: Sequence[Exchange], words: str) -> Prompt:
        """See `Form.next`: nothing is expected."""
        return Prompt(words)

    def bare(self) -> Prompt:
        """See `Form.bare`: all of it is the caller's."""
        return Prompt(PROBE)

    @property
    def key(self) -> Hashable:
        """See `Form.key`."""
        return None
