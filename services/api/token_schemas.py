"""The bodies of /tokenize and /detokenize."""

from __future__ import annotations

from pydantic import model_validator

from services.api.openai.schemas import ChatMessages, Lenient, Name, Tools


class TokenizeRequest(Lenient):
    """The body of POST /tokenize: a text or messages; the fields and their defaults are llama-server's.

    `add_special`: the model's own beginning comes first. `parse_special`: the text of a special token is that token.
    `with_pieces`: each token with its text, or its bytes where these are no text by themselves.
    """

    content: str | None = None
    messages: ChatMessages | None = None
    tools: Tools | None = None
    model: Name | None = None
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None

    @model_validator(mode="after")
    def _is_of_a_text(self) -> TokenizeRequest:
        for name in ("add_special", "parse_special"):
            if self.messages is not None and getattr(self, name) is not None:
                raise ValueError(f"{name} goes with content: the chat template says where messages have special tokens")
        if self.tools and self.messages is None:
            raise ValueError("tools goes with messages")
        return self


class DetokenizeRequest(Lenient):
    """The body of POST /detokenize."""

    tokens: list[int]
    model: Name | None = None
