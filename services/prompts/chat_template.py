"""The chat template of a model file: untrusted Jinja, rendered in a sandbox."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from types import CodeType
from typing import Any

import jinja2

from services.backend.special_text import special_pattern
from services.backend.types import ChatFormat, Prompt
from services.errors import BadModelFile, InvalidRequest, TemplateTooSlow
from services.prompts.marks import SAID, THOUGHT, Marks
from services.prompts.sandbox import FAILURES, LONGEST, Clock, SandboxViolation, Slow, compiled, rendered

# The template of models that have none, and the text that ends their answers.
PLAIN_STOP = ("\nUser:",)
PLAIN = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% else %}{{ 'User' if message.role == 'user' else 'Assistant' }}: {{ message.content }}\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)

Message = Mapping[str, Any]


@dataclass(frozen=True)
class ChatTemplate:
    """A model's compiled chat template. Any thread may call it."""

    code: CodeType = field(repr=False, compare=False)
    format: ChatFormat

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer, if the model has no token for that."""
        return () if self.format.template else PLAIN_STOP

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] = (),
        reply: bool = True,
        pause: Callable[[], None] = lambda: None,
    ) -> Prompt:
        """The conversation as the model reads it, up to the beginning of its reply if `reply`.

        Text in `messages` or `tools` that looks like a special token stays plain text. `pause` is called now and then, and
        raises to give up.
        Raises InvalidRequest with the template's own words if it refuses the messages, BadModelFile if it fails.
        """
        messages = messages if self._knows_system else _merged(messages)
        marks = Marks(self._special, self._firsts, [self.format.template, messages, tools])

        def write(messages: Sequence[Message], tools: Sequence[Message], marks: Marks) -> Prompt:
            return self._write(messages, tools, reply, marks, pause)

        prompt = write(messages, tools, marks)
        if marks.may_be_joined(messages, tools):
            harmless = write(marks.harmless(messages), marks.harmless(tools), marks)
            if marks.joined(prompt) > marks.joined(harmless):
                # By removing text, the template has joined parts of a special token that somebody had written around it.
                prompt = write(messages, tools, marks.strict())
        return prompt

    def _write(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message],
        reply: bool,
        marks: Marks,
        pause: Callable[[], None],
    ) -> Prompt:
        values = {"messages": [_marked(message, marks) for message in messages], "add_generation_prompt": reply}
        if tools:
            # Undefined if there are none, as in llama.cpp: templates that know tools then still write a chat.
            values["tools"] = marks.put(tools)
        try:
            text = self._run(values, pause)
        except Slow:
            raise TemplateTooSlow("the model's chat template fails: it takes too long", param="model") from None
        except SandboxViolation as error:
            raise InvalidRequest(
                f"the model's chat template refuses the messages: {error}", param="messages", code="bad_messages"
            ) from None
        except FAILURES as error:
            raise BadModelFile(f"the model's chat template fails: {error}", param="model", code="bad_template") from None
        except RecursionError:
            raise BadModelFile("the model's chat template calls itself", param="model", code="bad_template") from None
        return marks.take(text)

    @cached_property
    def _special(self) -> re.Pattern[str]:
        return special_pattern(self.format.specials)

    @cached_property
    def _firsts(self) -> re.Pattern[str]:
        """The characters with which special tokens begin."""
        return special_pattern({text[0] for text in self.format.specials})

    @cached_property
    def _knows_system(self) -> bool:
        """True if the template writes a system prompt; Gemma 2's refuses one, and others leave it out."""
        probe = "\uf8ffsystem"
        messages = [{"role": "system", "content": probe}, {"role": "user", "content": "A"}]
        try:
            return probe in self._run({"messages": messages, "add_generation_prompt": True})
        except (SandboxViolation, Slow, RecursionError, *FAILURES):
            return False

    def _run(self, values: dict[str, Any], pause: Callable[[], None] = lambda: None) -> str:
        pieces, length = [], 0
        known = {**_defaults(), "bos_token": self.format.bos, "eos_token": self.format.eos}
        for piece in rendered(self.code, {**known, **values}, Clock(len(values["messages"]), pause)):
            length += len(piece)
            if length > LONGEST:
                raise jinja2.TemplateRuntimeError("it makes too long a text")
            pieces.append(piece)
        return "".join(pieces)


@lru_cache(maxsize=32)
def chat_template(chat_format: ChatFormat) -> ChatTemplate:
    """Compile a model's template. Raises BadModelFile if it is not valid Jinja."""
    try:
        return ChatTemplate(compiled(chat_format.template or PLAIN), chat_format)
    except (jinja2.TemplateError, RecursionError, ValueError, SyntaxError) as error:
        raise BadModelFile(
            f"the model's chat template cannot be read: {error}", param="model", code="bad_template"
        ) from None


def _marked(message: Message, marks: Marks) -> Any:
    """A message with marks in its values, except on the tags around a model's own thoughts, which templates look for."""
    by_model = message.get("role") == "assistant"
    return {
        name: value if name == "role" else marks.put(value, THOUGHT if by_model and name in SAID else None)
        for name, value in message.items()
    }


def count_system(messages: Sequence[Message]) -> int:
    """The number of system messages that a conversation begins with."""
    return next((n for n, each in enumerate(messages) if each["role"] != "system"), len(messages))


def _merged(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages with the leading system messages prepended to the first other one, as llama.cpp does."""
    n_system = count_system(messages)
    if not n_system or n_system == len(messages):
        return messages
    said = [str(message["content"]) for message in messages[: n_system + 1]]
    return [{**messages[n_system], "content": "\n".join(said)}, *messages[n_system + 1 :]]


def _defaults() -> dict[str, Any]:
    """The variables that templates expect beside the conversation, as in llama.cpp and transformers."""
    now = datetime.now().astimezone()
    return {"enable_thinking": True, "date_string": now.strftime("%d %b %Y"), "datetime": now.strftime("%b %d %Y")}
