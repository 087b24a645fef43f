"""Chats: messages written by a chat template, the model's own or the profile's."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from services.backend.types import Prompt
from services.errors import BadModelFile, InvalidRequest
from services.prompts.chat_template import ChatTemplate, Message, count_system
from services.prompts.form import FEWEST_MARKS, PROBE, Exchange, Form, Pause, least_tokens


@dataclass(frozen=True)
class ChatForm(Form):
    """A chat that is to be answered. `messages` are as the template takes them: `role`, `content` and so on.

    `system` is the profile's system prompt, used where the messages begin with none: it is the owner's, so that all keys
    may share what is computed of it.
    """

    template: ChatTemplate
    messages: tuple[Message, ...] = field(repr=False)
    tools: tuple[Message, ...] = field(default=(), repr=False)
    system: str = field(default="", repr=False)
    pause: Pause = field(default=lambda: None, repr=False, compare=False)
    slides = True

    @property
    def stop(self) -> tuple[str, ...]:
        """See `Form.stop`."""
        return self.template.stop

    def fill(self, window: Sequence[Exchange], words: str) -> Prompt:
        """See `Form.fill`: the stored exchanges come after the system's messages, and `words` are the last user's."""
        new = [dict(message) for message in self.messages[self._n_system :]]
        if (last := last_user(new)) is not None:
            new[last]["content"] = words
        return self._render([*_messages_of(window), *new])

    def next(self, window: Sequence[Exchange], words: str) -> Prompt:
        """See `Form.next`."""
        return self._render([*_messages_of(window), {"role": "user", "content": words}])

    def bare(self) -> Prompt:
        """See `Form.bare`. What stands before the first message is the template's own, unless tools do."""
        if self.tools:
            return Prompt(PROBE)
        try:
            # Of each message its role alone: names and calls are the caller's too.
            roles = [{"role": message["role"], "content": PROBE} for message in self.messages]
            return self.template.render([*self._owners, *roles], pause=self.pause)
        except (BadModelFile, InvalidRequest):
            return Prompt(PROBE)

    def pausing(self, pause: Pause) -> ChatForm:
        """See `Form.pausing`."""
        return replace(self, pause=pause)

    def least(self, longest_token: int) -> int:
        """See `Form.least`: templates may leave out what others than the user said."""
        said = [str(each.get("content") or "") for each in self.messages if each["role"] == "user"]
        return FEWEST_MARKS * len(said) + least_tokens("".join(said), longest_token)

    @property
    def key(self) -> Hashable:
        """See `Form.key`."""
        return self.template, self.system, bool(self.tools), tuple(message["role"] for message in self.messages[:8])

    @property
    def _n_system(self) -> int:
        return count_system(self.messages)

    @property
    def _owners(self) -> list[Message]:
        return [{"role": "system", "content": self.system}] if self.system and not self._n_system else []

    def _render(self, messages: Sequence[Message]) -> Prompt:
        messages = [*self._owners, *self.messages[: self._n_system], *messages]
        return self.template.render(messages, self.tools, pause=self.pause)


def words_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """What the person said last: the last user's message, or where there is none the last of all."""
    last = last_user(messages)
    return str(messages[-1 if last is None else last]["content"])


def last_user(messages: Sequence[Mapping[str, Any]]) -> int | None:
    """Which message is the user's last; None where the user has said nothing."""
    return next((n for n in range(len(messages) - 1, -1, -1) if messages[n]["role"] == "user"), None)


def _messages_of(window: Sequence[Exchange]) -> list[Message]:
    messages: list[Message] = []
    for exchange in window:
        messages += [{"role": "user", "content": exchange.human}, {"role": "assistant", "content": exchange.ai}]
    return messages
