"""A tokenizer for models of an upstream server, whose own tokens are not known here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from typing_extensions import override

from services.backend.types import ChatFormat, Prompt
from services.errors import InvalidRequest


class Tokenizer(Protocol):
    """Texts to token ids and back."""

    chat_format: ChatFormat

    def tokenize(self, prompt: Prompt) -> list[int]:
        """Tokenize as `Model.tokenize`."""
        ...

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """Return the bytes of each token, as `Model.pieces`."""
        ...


class TextTokenizer(Tokenizer):
    """Makes each character a token, by its number in Unicode."""

    def __init__(self) -> None:
        self.chat_format = ChatFormat("", "", "", ())

    @override
    def tokenize(self, prompt: Prompt) -> list[int]:
        self.text(prompt.ids)
        if prompt.infill:
            what = f"{prompt.infill.param}: an upstream server's models fill in no gaps"
            raise InvalidRequest(what, param=prompt.infill.param, code="no_infill")
        return list(prompt.ids) or [ord(character) for character in prompt.text]

    @override
    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        return [character.encode() for character in self.text(tokens)]

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens. Raises InvalidRequest where one of them is no character."""
        try:
            return "".join(map(chr, tokens))
        except (ValueError, OverflowError):
            raise InvalidRequest("prompt: one of the tokens is no character", param="prompt") from None

    def tokenize_all(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Tokenize several prompts."""
        return [self.tokenize(prompt) for prompt in prompts]
