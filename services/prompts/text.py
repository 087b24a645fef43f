"""A text, or token ids, that the model continues as it stands; or a gap in a text, which it fills in."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from typing_extensions import override

from services.backend.types import Infill, Prompt
from services.prompts.form import PROBE, Exchange, Form


class _Unanswered(Form):
    """A form without a conversation: nothing is answered in it, and nothing comes next."""

    stop = ()
    slides = False

    @override
    def next(self, window: Sequence[Exchange], words: str) -> Prompt:
        return Prompt(words)

    @override
    def bare(self) -> Prompt:
        return Prompt(PROBE)

    @override
    def with_documents(self, text: str) -> Form:
        # No request that continues a text can name files.
        raise NotImplementedError

    @override
    def with_passages(self, text: str) -> Form:
        raise NotImplementedError

    @property
    @override
    def key(self) -> Hashable:
        return None


@dataclass(frozen=True)
class TextForm(_Unanswered):
    """A text, or token ids, to continue. It belongs to no conversation."""

    prompt: Prompt

    @override
    def fill(self, window: Sequence[Exchange], words: str) -> Prompt:
        return self.prompt


@dataclass(frozen=True)
class InfillForm(_Unanswered):
    """A gap to fill in. It belongs to no conversation; the exchanges of a window are other files: their names and texts."""

    infill: Infill

    @override
    def fill(self, window: Sequence[Exchange], words: str) -> Prompt:
        files = tuple((each.human, each.ai) for each in window)
        texts = [self.infill.before, self.infill.behind, *(text for file in files for text in file)]
        return Prompt("".join(texts), infill=replace(self.infill, files=files))
