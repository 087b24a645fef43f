"""The chat template of a model file: Jinja text from a stranger, rendered in a sandbox.

The environment is the one that Hugging Face's templates are written for (transformers, "Chat templates"): blocks are
trimmed, `raise_exception`, `strftime_now` and `tojson` exist, and nothing else can be reached or changed.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from services.backend import ChatFormat, Prompt
from services.errors import BadModelFile, InvalidRequest, TemplateTooSlow
from services.special_text import special_pattern

# For models that have no template of their own, and what ends their answers.
PLAIN_STOP = ("\nUser:",)
PLAIN = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% else %}{{ 'User' if message.role == 'user' else 'Assistant' }}: {{ message.content }}\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
# How long, in seconds of this thread's own time, a template may run, and for each message beside (Gemma 4's looks through
# all earlier ones at each); how long a text it may make.
RUN_SECONDS, MESSAGE_SECONDS = 2.0, 0.01
LONGEST = 2**23
# Templates look for these in what a model said earlier, so as to leave its thoughts out.
_THOUGHT = re.compile(r"</?(?:\w+:)?think(?:ing)?>")

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

    def render(self, messages: Sequence[Message], tools: Sequence[Message] = (), reply: bool = True) -> Prompt:
        """The conversation as the model reads it, up to the beginning of its reply where there is to be one.

        What looks like a special token in `messages` or `tools` is plain text there.
        Raises InvalidRequest with the template's own words where it refuses the messages, BadModelFile where it fails.
        """
        messages = messages if self._knows_system else _merged(messages)
        marks = _Marks(self._special, [self.format.template, messages, tools])
        try:
            text = self._run(
                messages=[_marked(message, marks) for message in messages],
                add_generation_prompt=reply,
                # Left out where there are none, as llama.cpp does: templates for tools then still write a chat.
                **({"tools": marks.put(tools)} if tools else {}),
            )
        except _Slow:
            raise TemplateTooSlow("the model's chat template fails: it takes too long", param="model") from None
        except _Refused as error:
            raise InvalidRequest(
                f"the model's chat template refuses the messages: {error}", param="messages", code="bad_messages"
            ) from None
        except _FAILURES as error:
            raise BadModelFile(f"the model's chat template fails: {error}", param="model", code="bad_template") from None
        except RecursionError:
            raise BadModelFile("the model's chat template calls itself", param="model", code="bad_template") from None
        return marks.take(text)

    @cached_property
    def _special(self) -> re.Pattern[str]:
        return special_pattern(self.format.specials)

    @cached_property
    def _knows_system(self) -> bool:
        """Whether the template writes a system prompt; Gemma 2's refuses one, and others leave it out."""
        probe = "\uf8ffsystem"
        messages = [{"role": "system", "content": probe}, {"role": "user", "content": "A"}]
        try:
            return probe in self._run(messages=messages, add_generation_prompt=True)
        except (_Refused, _Slow, RecursionError, *_FAILURES):
            return False

    def _run(self, **values: Any) -> str:
        environment = self.template.environment
        assert isinstance(environment, _Sandbox)
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
        return ChatTemplate(_Sandbox().from_string(chat_format.template or PLAIN), chat_format)
    except (jinja2.TemplateError, RecursionError, ValueError, SyntaxError) as error:
        raise BadModelFile(
            f"the model's chat template cannot be read: {error}", param="model", code="bad_template"
        ) from None


class _Refused(Exception):
    """The template called raise_exception."""


class _Slow(Exception):
    """The template takes too long."""


_FAILURES = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)


class _Clock(threading.local):
    """How long the template runs on this thread."""

    ends = 0.0
    looks = 0

    def start(self, n_messages: int) -> None:
        self.ends = time.thread_time() + RUN_SECONDS + MESSAGE_SECONDS * n_messages

    def check(self) -> None:
        """Raises _Slow once it has run too long. The clock costs more than what is timed: it is not read each time."""
        self.looks += 1
        if self.looks % 64 == 0 and time.thread_time() > self.ends:
            raise _Slow


class _Generation(Extension):
    """`{% generation %}` marks, for training, what the model wrote; here its body is text like any other."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which lets a template reach nothing of Python's own; and here it cannot take for ever either."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        self.clock = _Clock()
        self.globals.update(raise_exception=_refuse, strftime_now=_now)
        # Jinja's own escapes what HTML would misread.
        self.filters["tojson"] = _to_json

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """A repetition or a power, unless it would make something huge."""
        self.clock.check()
        size = max((len(each) for each in (left, right) if hasattr(each, "__len__")), default=1)
        factor = max((abs(each) for each in (left, right) if isinstance(each, int | float)), default=0)
        if (operator == "*" and size * factor > LONGEST) or (operator == "**" and factor > 64):
            raise jinja2.TemplateRuntimeError("it makes too large a value")
        return super().call_binop(context, operator, left, right)

    def call(self, *arguments: Any, **named: Any) -> Any:
        """See Jinja."""
        self.clock.check()
        return super().call(*arguments, **named)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """See Jinja."""
        self.clock.check()
        return super().getattr(obj, attribute)


class _Marks:
    """Marks what looks like a special token in what people wrote, and finds it again in the rendered text.

    The mark is one character that occurs nowhere else, put behind the first letter of each special token's text: so the
    template's own trimming and splitting works as ever.
    """

    def __init__(self, special: re.Pattern[str], values: Sequence[Any]) -> None:
        self._special = special
        used = set("".join(_strings(values)))
        mark = next((letter for number in range(0xE000, 0xF900) if (letter := chr(number)) not in used), None)
        if mark is None:
            raise InvalidRequest("the messages hold every one of the 6,400 characters of private use", param="messages")
        self._mark = mark

    def put(self, value: Any, but: re.Pattern[str] | None = None) -> Any:
        """The same value with marks in all its strings, but for what matches `but`."""
        if isinstance(value, str):
            return self._special.sub(lambda found: self._put_in(found[0], but), value)
        if isinstance(value, Mapping):
            return {self.put(key): self.put(each, but) for key, each in value.items()}
        return [self.put(each, but) for each in value] if isinstance(value, list | tuple) else value

    def _put_in(self, text: str, but: re.Pattern[str] | None) -> str:
        return text if but and but.fullmatch(text) else text[0] + self._mark + text[1:]

    def take(self, text: str) -> Prompt:
        """The text without the marks, and as typed what was marked."""
        first, *rest = text.split(self._mark)
        pieces, typed, at = [first], [], len(first)
        for piece in rest:
            # A template that cut the text in its middle has left no special token.
            if found := self._special.match(pieces[-1][-1:] + piece):
                typed.append((at - 1, at - 1 + len(found[0])))
            pieces.append(piece)
            at += len(piece)
        return Prompt("".join(pieces), tuple(typed))


def _marked(message: Message, marks: _Marks) -> Any:
    """A message with marks in what was said. A model's own earlier thoughts stay such as the template knows them."""
    said_by_model = message.get("role") == "assistant"
    return {name: marks.put(value, _THOUGHT if said_by_model else None) for name, value in message.items()}


def _merged(messages: Sequence[Message]) -> Sequence[Message]:
    """The system's messages at the head of the first one behind them, as llama.cpp writes them too."""
    n_system = next((n for n, each in enumerate(messages) if each["role"] != "system"), len(messages))
    if not n_system or n_system == len(messages):
        return messages
    said = [str(message["content"]) for message in messages[: n_system + 1]]
    return [{**messages[n_system], "content": "\n".join(said)}, *messages[n_system + 1 :]]


def _usual() -> dict[str, Any]:
    """What templates find beside the conversation; the names are llama.cpp's and transformers'."""
    now = datetime.now().astimezone()
    return {"enable_thinking": True, "date_string": now.strftime("%d %b %Y"), "datetime": now.strftime("%b %d %Y")}


def _strings(value: Any) -> list[str]:
    """All strings in a value of JSON, names included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    return [text for each in value for text in _strings(each)] if isinstance(value, list | tuple) else []


def _refuse(message: object = "") -> NoReturn:
    raise _Refused(str(message))


def _now(layout: str) -> str:
    return datetime.now().astimezone().strftime(str(layout))


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
