"""Texts for a server elsewhere, whose tokens are not known here."""

from __future__ import annotations

from collections.abc import Sequence

from services.backend.types import ChatFormat, Prompt
from services.errors import InvalidRequest


class TextTokenizer:
    """Each character counts as a token, by its number in Unicode."""

    chat_format = ChatFormat("", "", "", ())

    def tokenize(self, prompt: Prompt) -> list[int]:
        """See `Model.tokenize`."""
        self.text(prompt.ids)
        return list(prompt.ids) or [ord(character) for character in prompt.text]

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """See `Model.pieces`."""
        return [character.encode() for character in self.text(tokens)]

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens. Raises InvalidRequest where one of them is no character."""
        try:
            return "".join(map(chr, tokens))
        except (ValueError, OverflowError):
            raise InvalidRequest("prompt: one of the tokens is no character", param="prompt") from None

    def tokenize_all(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """See `Model.tokenize_all`."""
        return [self.tokenize(prompt) for prompt in prompts]
