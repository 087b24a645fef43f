"""A profile's template: {chat_history} and {input} filled in as text."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

from typing_extensions import override

from services.backend.types import Prompt
from services.prompts.borders import message_borders
from services.prompts.form import PROBE, Exchange, Form

_FIELD = re.compile(r"\{(input|chat_history)\}")


@dataclass(frozen=True)
class TemplateForm(Form):
    """A profile's template, to be filled."""

    template: str
    begun: str = field(default="", repr=False)
    """The beginning of the answer to this request, which is continued."""
    documents: str = field(default="", repr=False)
    passages: str = field(default="", repr=False)
    stop = ()
    slides = False

    @override
    def fill(self, window: Sequence[Exchange], words: str) -> Prompt:
        prompt = fill_template(self.template, window, f"{self.passages}{words}", self.documents)
        if not self.begun:
            return prompt
        start = len(prompt.text) + 1
        # As the model writes it: a blank parts the answer from what stands before it.
        text = f"{prompt.text} {self.begun}"
        return replace(prompt, text=text, typed=(*prompt.typed, (start, len(text))))

    @override
    def next(self, window: Sequence[Exchange], words: str) -> Prompt:
        return fill_template(self.template, window, words, self.documents)

    @override
    def bare(self) -> Prompt:
        # Documents are the caller's own text.
        return fill_template(self.template, (), PROBE, PROBE if self.documents else "")

    @override
    def with_documents(self, text: str) -> TemplateForm:
        return replace(self, documents=text)

    @override
    def with_passages(self, text: str) -> TemplateForm:
        return replace(self, passages=text)

    @property
    @override
    def key(self) -> Hashable:
        # Filling it costs next to nothing.
        return None


def fill_template(template: str, window: Sequence[Exchange], words: str, documents: str = "") -> Prompt:
    """Fill {input} with the words and {chat_history} with the window, in one pass: {…} in either stays as it is.

    Documents come first in the history; where the template has none, before the words.
    """
    said = [f"Human: {exchange.human}\nAI: {exchange.ai}" for exchange in window]
    if documents and "{chat_history}" not in template:
        words = f"{documents}{words}"
    elif documents:
        said.insert(0, documents.rstrip("\n"))
    history = "\n".join(said)
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
