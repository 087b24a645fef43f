"""Chats: messages rendered by a chat template, the model's own or the profile's."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from typing_extensions import override

from services.backend.types import Prompt
from services.errors import BadModelFile, InvalidRequest
from services.prompts.chat_template import ChatTemplate, Message, count_system
from services.prompts.form import FEWEST_MARKS, PROBE, Exchange, Form, Pause, least_tokens


@dataclass(frozen=True)
class ChatForm(Form):
    """A chat to answer. `messages` are as the template takes them: `role`, `content` and so on.

    `system` is the profile's system prompt, used if the messages begin with none. It is the owner's text, so all keys may
    share its computed state.
    """

    template: ChatTemplate
    messages: tuple[Message, ...] = field(repr=False)
    tools: tuple[Message, ...] = field(default=(), repr=False)
    system: str = field(default="", repr=False)
    pause: Pause = field(default=lambda: None, repr=False, compare=False)
    slides = True

    @property
    @override
    def stop(self) -> tuple[str, ...]:
        return self.template.stop

    @override
    def fill(self, window: Sequence[Exchange], words: str) -> Prompt:
        # The window comes after the system messages; `words` become the last user message.
        new = [dict(message) for message in self.messages[self._n_system :]]
        if (last := last_user(new)) is not None:
            new[last]["content"] = words
        return self._render([*_messages_of(window), *new])

    @override
    def next(self, window: Sequence[Exchange], words: str) -> Prompt:
        return self._render([*_messages_of(window), {"role": "user", "content": words}])

    @override
    def bare(self) -> Prompt:
        # Before the first message comes the template's own text, or the caller's tools.
        if self.tools:
            return Prompt(PROBE)
        try:
            # Only the messages' roles: names and tool calls are the caller's too.
            roles = [{"role": message["role"], "content": PROBE} for message in self.messages]
            return self.template.render([*self._profile_system, *roles], pause=self.pause)
        except (BadModelFile, InvalidRequest):
            return Prompt(PROBE)

    @override
    def pausing(self, pause: Pause) -> ChatForm:
        return replace(self, pause=pause)

    @override
    def least(self, longest_token: int) -> int:
        # Templates may leave out messages of other roles.
        texts = [str(each.get("content") or "") for each in self.messages if each["role"] == "user"]
        return FEWEST_MARKS * len(texts) + least_tokens("".join(texts), longest_token)

    @property
    @override
    def key(self) -> Hashable:
        return self.template, self.system, bool(self.tools), tuple(message["role"] for message in self.messages[:8])

    @property
    def _n_system(self) -> int:
        return count_system(self.messages)

    @property
    def _profile_system(self) -> list[Message]:
        return [{"role": "system", "content": self.system}] if self.system and not self._n_system else []

    def _render(self, messages: Sequence[Message]) -> Prompt:
        messages = [*self._profile_system, *self.messages[: self._n_system], *messages]
        return self.template.render(messages, self.tools, pause=self.pause)


def words_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """The person's last words: the last user message, or if there is none the last message."""
    last = last_user(messages)
    return str(messages[-1 if last is None else last]["content"])


def last_user(messages: Sequence[Mapping[str, Any]]) -> int | None:
    """The index of the last user message; None if there is none."""
    return next((n for n in range(len(messages) - 1, -1, -1) if messages[n]["role"] == "user"), None)


def _messages_of(window: Sequence[Exchange]) -> list[Message]:
    messages: list[Message] = []
    for exchange in window:
        messages += [{"role": "user", "content": exchange.human}, {"role": "assistant", "content": exchange.ai}]
    return messages
