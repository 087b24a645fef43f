"""A profile's template: {chat_history} and {input} filled in as text."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from typing_extensions import override

from services.backend.types import Prompt
from services.prompts.borders import message_borders
from services.prompts.form import PROBE, Exchange, Form

_FIELD = re.compile(r"\{(input|chat_history)\}")


@dataclass(frozen=True)
class TemplateForm(Form):
    """A profile's template, to be filled."""

    template: str
    stop = ()
    slides = False

    @override
    def fill(self, window: Sequence[Exchange], words: str) -> Prompt:
        return fill_template(self.template, window, words)

    @override
    def next(self, window: Sequence[Exchange], words: str) -> Prompt:
        return fill_template(self.template, window, words)

    @override
    def bare(self) -> Prompt:
        return fill_template(self.template, (), PROBE)

    @property
    @override
    def key(self) -> Hashable:
        # Filling it costs next to nothing.
        return None


def fill_template(template: str, window: Sequence[Exchange], words: str) -> Prompt:
    """Fill {input} with the words and {chat_history} with the window, in one pass: {…} in either stays as it is."""
    history = "\n".join(f"Human: {exchange.human}\nAI: {exchange.ai}" for exchange in window)
    pieces: list[str] = []
    typed: list[tuple[int, int]] = []
    at = length = 0
    for found in _FIELD.finditer(template):
        literal = template[at : found.start()]
        value = words if found[1] == "input" else history
        pieces += [literal, value]
        length += len(literal)
        typed.append((length, length + len(value)))
        length += len(value)
        at = found.end()
    pieces.append(template[at:])
    text = "".join(pieces)
    contents = [content for exchange in window for content in (exchange.human, exchange.ai)]
    borders = message_borders(text, [*contents, words])
    return Prompt(text, tuple(span for span in typed if span[0] < span[1]), borders=borders)
