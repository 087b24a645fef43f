"""A text, or token ids, that the model continues as it stands."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from typing_extensions import override

from services.backend.types import Prompt
from services.prompts.form import PROBE, Exchange, Form


@dataclass(frozen=True)
class TextForm(Form):
    """A text, or token ids, to continue. It belongs to no conversation."""

    prompt: Prompt
    stop = ()
    slides = False

    @override
    def fill(self, window: Sequence[Exchange], words: str) -> Prompt:
        return self.prompt

    @override
    def next(self, window: Sequence[Exchange], words: str) -> Prompt:
        return Prompt(words)

    @override
    def bare(self) -> Prompt:
        return Prompt(PROBE)

    @property
    @override
    def key(self) -> Hashable:
        return None
