"""The chat template of a model file: Jinja text from a stranger, rendered in a sandbox."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any

import jinja2

from services.backend.special_text import special_pattern
from services.backend.types import ChatFormat, Prompt
from services.errors import BadModelFile, InvalidRequest, TemplateTooSlow
from services.prompts.marks import SAID, THOUGHT, Marks
from services.prompts.sandbox import FAILURES, LONGEST, Sandbox, SandboxViolation, Slow

# For models that have no template of their own, and what ends their answers.
PLAIN_STOP = ("\nUser:",)
PLAIN = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% else %}{{ 'User' if message.role == 'user' else 'Assistant' }}: {{ message.content }}\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)

Message = Mapping[str, Any]


@dataclass(frozen=True)
class ChatTemplate:
    """One model's way of writing a conversation. Any thread may call it."""

    template: jinja2.Template
    format: ChatFormat

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer, where no token of the model's does."""
        return () if self.format.template else PLAIN_STOP

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] = (),
        reply: bool = True,
        pause: Callable[[], None] = lambda: None,
    ) -> Prompt:
        """The conversation as the model reads it, up to the beginning of its reply where there is to be one.

        What looks like a special token in `messages` or `tools` is plain text there. `pause` is called now and then, and
        raises to give up.
        Raises InvalidRequest with the template's own words where it refuses the messages, BadModelFile where it fails.
        """
        messages = messages if self._knows_system else _merged(messages)
        marks = Marks(self._special, self._firsts, [self.format.template, messages, tools])
        environment = self.template.environment
        assert isinstance(environment, Sandbox)
        with environment.clock.pausing(pause):
            return self._safely_written(messages, tools, reply, marks)

    def _safely_written(self, messages: Sequence[Message], tools: Sequence[Message], reply: bool, marks: Marks) -> Prompt:
        prompt = self._write(messages, tools, reply, marks)
        if marks.may_be_joined(messages, tools) and self._is_joined(prompt, messages, tools, reply, marks):
            # The template has put a special token together out of what somebody wrote around what it takes out.
            marks.is_strict = True
            prompt = self._write(messages, tools, reply, marks)
        return prompt

    def _is_joined(
        self, prompt: Prompt, messages: Sequence[Message], tools: Sequence[Message], reply: bool, marks: Marks
    ) -> bool:
        """Whether the prompt has more special tokens of the template's own than if nobody had written any part of one."""
        harmless = self._write(marks.harmless(messages), marks.harmless(tools), reply, marks)
        return marks.joined(prompt) > marks.joined(harmless)

    def _write(self, messages: Sequence[Message], tools: Sequence[Message], reply: bool, marks: Marks) -> Prompt:
        try:
            text = self._run(
                messages=[_marked(message, marks) for message in messages],
                add_generation_prompt=reply,
                # Left out where there are none, as llama.cpp does: templates for tools then still write a chat.
                **({"tools": marks.put(tools)} if tools else {}),
            )
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
        """Whether the template writes a system prompt; Gemma 2's refuses one, and others leave it out."""
        probe = "\uf8ffsystem"
        messages = [{"role": "system", "content": probe}, {"role": "user", "content": "A"}]
        try:
            return probe in self._run(messages=messages, add_generation_prompt=True)
        except (SandboxViolation, Slow, RecursionError, *FAILURES):
            return False

    def _run(self, **values: Any) -> str:
        environment = self.template.environment
        assert isinstance(environment, Sandbox)
        environment.clock.start(len(values["messages"]))
        pieces, length = [], 0
        known = {**_usual(), "bos_token": self.format.bos, "eos_token": self.format.eos}
        for piece in self.template.generate({**known, **values}):
            environment.clock.check()
            length += len(piece)
            if length > LONGEST:
                raise jinja2.TemplateRuntimeError("it makes too long a text")
            pieces.append(piece)
        return "".join(pieces)


@lru_cache(maxsize=32)
def chat_template(chat_format: ChatFormat) -> ChatTemplate:
    """The template of a model. Raises BadModelFile where it is no Jinja."""
    try:
        return ChatTemplate(Sandbox().from_string(chat_format.template or PLAIN), chat_format)
    except (jinja2.TemplateError, RecursionError, ValueError, SyntaxError) as error:
        raise BadModelFile(
            f"the model's chat template cannot be read: {error}", param="model", code="bad_template"
        ) from None


def _marked(message: Message, marks: Marks) -> Any:
    """A message with marks in what was said. A model's own earlier thoughts stay such as the template knows them."""
    by_model = message.get("role") == "assistant"
    return {
        name: value if name == "role" else marks.put(value, THOUGHT if by_model and name in SAID else None)
        for name, value in message.items()
    }


def count_system(messages: Sequence[Message]) -> int:
    """How many messages of the system a conversation begins with."""
    return next((n for n, each in enumerate(messages) if each["role"] != "system"), len(messages))


def _merged(messages: Sequence[Message]) -> Sequence[Message]:
    """The system's messages at the head of the first one behind them, as llama.cpp writes them too."""
    n_system = count_system(messages)
    if not n_system or n_system == len(messages):
        return messages
    said = [str(message["content"]) for message in messages[: n_system + 1]]
    return [{**messages[n_system], "content": "\n".join(said)}, *messages[n_system + 1 :]]


def _usual() -> dict[str, Any]:
    """What templates find beside the conversation; the names are llama.cpp's and transformers'."""
    now = datetime.now().astimezone()
    return {"enable_thinking": True, "date_string": now.strftime("%d %b %Y"), "datetime": now.strftime("%b %d %Y")}
