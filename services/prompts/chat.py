"""Chats: messages instead of a template with places, written by the model's own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.backend import Prompt
from services.errors import HearthError
from services.prompts.chat_template import ChatTemplate, Message
from services.prompts.fit import Exchange


@dataclass(frozen=True)
class ChatForm:
    """A chat that is to be answered. `messages` are as the template takes them: `role`, `content` and so on."""

    template: ChatTemplate
    messages: tuple[Message, ...] = field(repr=False)
    tools: tuple[Message, ...] = ()

    def fill(self, window: Sequence[Exchange], words: str) -> Prompt:
        """See `Form.fill`: the stored exchanges come after the system's messages, and `words` are the last user's."""
        n_system = next((n for n, message in enumerate(self.messages) if message["role"] != "system"), len(self.messages))
        stored: list[Message] = []
        for exchange in window:
            stored += [{"role": "user", "content": exchange.human}, {"role": "assistant", "content": exchange.ai}]
        new = list(self.messages[n_system:])
        if (last := _last_user(new)) is not None:
            new[last] = {**new[last], "content": words}
        return self.template.render([*self.messages[:n_system], *stored, *new], self.tools)

    def bare(self, probe: str) -> Prompt:
        """See `Form.bare`. What stands before the first message is the template's own, unless tools do."""
        if self.tools:
            return Prompt(probe)
        try:
            # Of each message its role alone: names and calls are the caller's too.
            return self.template.render([{"role": message["role"], "content": probe} for message in self.messages])
        except HearthError:
            return Prompt(probe)


def words_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """What the person said last: the last user's message, or where there is none the last of all."""
    last = _last_user(messages)
    return str(messages[-1 if last is None else last]["content"])


def _last_user(messages: Sequence[Mapping[str, Any]]) -> int | None:
    return next((n for n in range(len(messages) - 1, -1, -1) if messages[n]["role"] == "user"), None)
