"""A profile's template: {chat_history} and {input} filled in as text."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from services.backend.types import Prompt
from services.prompts.form import PROBE, Exchange, Form

_PLACE = re.compile(r"\{(input|chat_history)\}")


@dataclass(frozen=True)
class TemplateForm(Form):
    """A profile's template."""

    template: str
    stop = ()
    slides = False

    def fill(self, window: Sequence[Exchange], words: str) -> Prompt:
        """See `Form.fill`."""
        return fill_template(self.template, window, words)

    def next(self, window: Sequence[Exchange], words: str) -> Prompt:
        """See `Form.next`."""
        return fill_template(self.template, window, words)

    def bare(self) -> Prompt:
        """See `Form.bare`."""
        return fill_template(self.template, (), PROBE)

    @property
    def key(self) -> Hashable:
        """See `Form.key`: it costs nothing to make."""
        return None


def fill_template(template: str, window: Sequence[Exchange], words: str) -> Prompt:
    """Put the words at {input} and the window at {chat_history}, in one pass: what is put in is never read again."""
    history = "\n".join(f"Human: {exchange.human}\nAI: {exchange.ai}" for exchange in window)
    pieces: list[str] = []
    typed: list[tuple[int, int]] = []
    at = length = 0
    for place in _PLACE.finditer(template):
        literal = template[at : place.start()]
        value = words if place[1] == "input" else history
        pieces += [literal, value]
        length += len(literal)
        typed.append((length, length + len(value)))
        length += len(value)
        at = place.end()
    pieces.append(template[at:])
    return Prompt("".join(pieces), tuple(span for span in typed if span[0] < span[1]))
