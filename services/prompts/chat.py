"""Chats: messages rendered by a chat template, the model's own or the profile's."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from typing_extensions import override

from services.backend.types import Prompt
from services.errors import BadModelFile, InvalidRequest
from services.prompts.abilities import Message
from services.prompts.borders import contents_of, message_borders
from services.prompts.calls import content_text
from services.prompts.chat_template import ChatTemplate
from services.prompts.form import FEWEST_MARKS, PROBE, Exchange, Form, Pause, least_tokens
from services.prompts.shaping import count_system

# The texts among a template's variables that tell no caller from another.
_WORDS = frozenset(
    {"none", "minimal", "low", "medium", "high", "xhigh", "max", "no_think", "enabled", "disabled", "adaptive"}
)


@dataclass(frozen=True)
class ChatForm(Form):
    """A chat to answer. `messages` are as the template takes them: `role`, `content` and so on.

    `system` is the profile's system prompt, used if the messages begin with none. It is the owner's text, so all keys may
    share its computed state. `kwargs` are the template's variables. If the chat `continues`, its last message, an
    assistant's, is gone on with; without `generation_prompt`, the prompt ends behind the last message.
    """

    template: ChatTemplate
    messages: tuple[Message, ...] = field(repr=False)
    tools: tuple[Message, ...] = field(default=(), repr=False)
    system: str = field(default="", repr=False)
    kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    continues: bool = False
    generation_prompt: bool = True
    passages: str = field(default="", repr=False)
    """Text before the words of this request, and of no other."""
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
            new[last]["content"] = f"{self.passages}{words}"
        elif self.passages:
            new.append({"role": "user", "content": self.passages.rstrip("\n")})
        return self._render([*_messages_of(window), *new])

    @override
    def next(self, window: Sequence[Exchange], words: str) -> Prompt:
        expected = [*_messages_of(window), {"role": "user", "content": words}]
        return replace(self, continues=False, generation_prompt=True)._render(expected)

    @override
    def bare(self) -> Prompt:
        # Before the first message comes the template's own text, or the caller's tools and variables.
        if self.tools or not all(_is_common(value) for value in self.kwargs.values()):
            return Prompt(PROBE)
        try:
            # Only the messages' roles: names and tool calls are the caller's too.
            roles = [{"role": message["role"], "content": PROBE} for message in self.messages]
            return self.template.render([*self._profile_system, *roles], pause=self.pause, variables=self.kwargs)
        except (BadModelFile, InvalidRequest):
            return Prompt(PROBE)

    @override
    def with_documents(self, text: str) -> ChatForm:
        n = self._n_system
        system = list(self._profile_system or self.messages[:n])
        before = f"{content_text(system.pop()['content'])}\n\n" if system else ""
        documents = {"role": "system", "content": f"{before}{text}"}
        # The profile's own prompt is among the messages now, since all keys may share what is computed of `system`.
        return replace(self, messages=(*system, documents, *self.messages[n:]), system="")

    @override
    def with_passages(self, text: str) -> ChatForm:
        return replace(self, passages=text)

    @override
    def pausing(self, pause: Pause) -> ChatForm:
        return replace(self, pause=pause)

    @override
    def least(self, longest_token: int) -> int:
        # Templates may leave out messages of other roles.
        texts = [str(each.get("content") or "") for each in self.messages if each["role"] == "user"]
        # Others join messages that follow each other.
        n_marked = len(texts) if self.template.abilities.runs else min(len(texts), 1)
        return FEWEST_MARKS * n_marked + least_tokens("".join(texts), longest_token)

    @property
    @override
    def key(self) -> Hashable:
        variables = json.dumps(self.kwargs, sort_keys=True, default=str)
        roles = tuple(message["role"] for message in self.messages[:8])
        return self.template, self.system, bool(self.tools), variables, roles

    def holding(self, window: Sequence[Exchange]) -> ChatForm:
        """Return the chat with these exchanges among its messages, so that no prompt leaves them out."""
        n = self._n_system
        return replace(self, messages=(*self.messages[:n], *_messages_of(window), *self.messages[n:]))

    @property
    def _n_system(self) -> int:
        return count_system(self.messages)

    @property
    def _profile_system(self) -> list[Message]:
        return [{"role": "system", "content": self.system}] if self.system and not self._n_system else []

    def _render(self, messages: Sequence[Message]) -> Prompt:
        messages = [*self._profile_system, *self.messages[: self._n_system], *messages]
        prompt = self.template.render(messages, self.tools, self.generation_prompt, self.pause, self.kwargs, self.continues)
        return replace(prompt, borders=message_borders(prompt.text, contents_of(messages)))


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
        if exchange.messages:
            messages += map(dict, exchange.messages)
            continue
        thought = {"reasoning_content": exchange.reasoning} if exchange.reasoning else {}
        messages += [
            {"role": "user", "content": exchange.human},
            {"role": "assistant", "content": exchange.ai, **thought},
        ]
    return messages


def _is_common(value: Any) -> bool:
    """Return whether a variable is no text of the caller's own, so that what it leads to may be shared between keys."""
    return value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and value in _WORDS)
