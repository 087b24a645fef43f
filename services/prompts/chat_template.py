"""The chat template of a model file: untrusted Jinja, rendered in a sandbox."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from types import CodeType
from typing import Any

import jinja2

from services.backend.special_text import special_pattern
from services.backend.types import ChatFormat, Prompt
from services.errors import BadModelFile, InvalidRequest, TemplateTooSlow
from services.prompts.abilities import Abilities, Message
from services.prompts.continuing import cut_at, marked_end
from services.prompts.marks import SAID, THOUGHT, Marks, unused_letter
from services.prompts.meter import Excessive, Meter
from services.prompts.sandbox import (
    FAILURES,
    LONGEST,
    SandboxViolation,
    compiled,
    global_names,
    local_time,
    rendered,
    shortened,
)
from services.prompts.shaping import completed, shaped
from services.prompts.trial import abilities_of

# The template of models that have none, and the text that ends their answers.
PLAIN_STOP = ("\nUser:",)
PLAIN = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% else %}{{ 'User' if message.role == 'user' else 'Assistant' }}: {{ message.content }}\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
# Variables of a template that no request sets: the conversation has its own fields, and the tokens are the model's.
RESERVED = frozenset({"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"})
# The CPU seconds and bytes of one attempt at finding out what a template can do.
_TRIAL_SECONDS, _TRIAL_BYTES = 0.3, 2**22


@dataclass(frozen=True)
class ChatTemplate:
    """A model's compiled chat template. Any thread may call it."""

    code: CodeType = field(repr=False, compare=False)
    format: ChatFormat
    variables: frozenset[str] = field(default=frozenset(), repr=False, compare=False)
    """The names of the variables that it reads."""

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
        variables: Mapping[str, Any] | None = None,
        continues: bool = False,
    ) -> Prompt:
        """The conversation as the model reads it, up to the beginning of its reply if `reply`.

        If it `continues`, it ends with the text of the last message, an assistant's. `variables` are the template's. Text
        in them, in `messages` or in `tools` that looks like a special token stays plain text. `pause` is called now and
        then, and raises to give up.

        Raises InvalidRequest with the template's own words if it refuses the messages, and naming the field if a variable
        is not the request's to set or the last message cannot be continued; BadModelFile if the template fails.
        """
        variables = check_variables(variables or {})
        if tools and "functions" in variables and self.abilities.tools == "text":
            what = "chat_template_kwargs: functions holds the request's tools in this model's chat template"
            raise InvalidRequest(what, param="chat_template_kwargs")
        end = ""
        if continues:
            end = unused_letter([self.format.template, messages, tools, variables])
            messages, reply = marked_end(messages, end, self.abilities), False
        job = _Job(tools, reply, variables, pause, end)
        errors: list[InvalidRequest | BadModelFile] = []
        for abilities, offered in self._attempts(tools):
            try:
                return self._marked(shaped(messages, offered, abilities, reply), job)
            except TemplateTooSlow:
                raise
            except (InvalidRequest, BadModelFile) as error:
                errors.append(error)
        raise self._blamed(errors[0], messages, job)

    def _attempts(self, tools: Sequence[Message]) -> Iterator[tuple[Abilities, Sequence[Message]]]:
        """The template's abilities, and lesser ones in case it fails or refuses a conversation even so."""
        own = self.abilities
        yield own, tools
        if not own.works:
            return
        if tools:
            # Some templates want fields of tools that are optional in the API.
            yield own, completed(tools)
        plain = replace(
            own, calls=None, results=False, runs=False, systems=False, late_system=False, assistant_first=False, thoughts=""
        )
        yield plain, completed(tools)
        yield replace(plain, system=False, tools=""), tools

    def _marked(self, conversation: tuple[list[dict[str, Any]], dict[str, Any]], job: _Job) -> Prompt:
        """The prompt of shaped messages, and of the variables that hold the tools, with what people typed marked."""
        messages, values = conversation
        values = {**values, **job.variables}
        marks = Marks(self._special, self._firsts, [self.format.template, messages, values])
        prompt = self._write(messages, values, job, marks)
        if marks.may_be_joined(messages, values):
            harmless = self._write(marks.harmless(messages), marks.harmless(values), job, marks)
            if marks.joined(prompt) > marks.joined(harmless):
                # By removing text, the template has joined parts of a special token that somebody had written around it.
                prompt = self._write(messages, values, job, marks.strict())
        return cut_at(prompt, job.end, messages) if job.end else prompt

    def _write(self, messages: Sequence[Message], values: Mapping[str, Any], job: _Job, marks: Marks) -> Prompt:
        marked = [_marked(message, marks) for message in messages]
        known = {"documents": None, **{name: marks.put(value) for name, value in values.items()}}
        known |= {"messages": marked, "add_generation_prompt": job.reply}
        try:
            text = self._run(known, Meter(len(messages), job.pause))
        except Excessive as error:
            raise TemplateTooSlow(f"the model's chat template fails: it {error}", param="model") from None
        except SandboxViolation as error:
            raise InvalidRequest(
                f"the model's chat template refuses the messages: {error}", param="messages", code="bad_messages"
            ) from None
        except FAILURES as error:
            what = f"the model's chat template fails: {shortened(error)}"
            raise BadModelFile(what, param="model", code="bad_template") from None
        except RecursionError:
            raise BadModelFile("the model's chat template calls itself", param="model", code="bad_template") from None
        return marks.take(text)

    def _blamed(self, error: InvalidRequest | BadModelFile, messages: Sequence[Message], job: _Job) -> Exception:
        """The error of a rendering, as that of the request's variables if there is none without them."""
        if not job.variables:
            return error
        try:
            self._marked(shaped(messages, job.tools, self.abilities, job.reply), replace(job, variables={}))
        except (InvalidRequest, BadModelFile):
            return error
        names = ", ".join(job.variables)
        reason = error.message.removeprefix("the model's chat template ")
        return InvalidRequest(f"with {names}, the model's chat template {reason}", param="chat_template_kwargs")

    @cached_property
    def abilities(self) -> Abilities:
        """The template's abilities, tried out at the first use."""
        is_over = False

        def attempt(values: dict[str, Any]) -> str:
            nonlocal is_over
            if is_over:
                return ""
            try:
                return self._run({"documents": None, **values}, Meter(seconds=_TRIAL_SECONDS, n_bytes=_TRIAL_BYTES))
            except Excessive:
                is_over = True
            except (SandboxViolation, RecursionError, *FAILURES):
                pass
            return ""

        return abilities_of(attempt, self.format.template or PLAIN)

    @cached_property
    def _special(self) -> re.Pattern[str]:
        return special_pattern(self.format.specials)

    @cached_property
    def _firsts(self) -> re.Pattern[str]:
        """The characters with which special tokens begin."""
        return special_pattern({text[0] for text in self.format.specials})

    def _run(self, values: dict[str, Any], meter: Meter) -> str:
        pieces, length = [], 0
        known = {**self._defaults(), "bos_token": self.format.bos, "eos_token": self.format.eos}
        for piece in rendered(self.code, {**known, **values}, meter):
            length += len(piece)
            if length > LONGEST:
                raise Excessive("makes too long a text")
            pieces.append(piece)
        return "".join(pieces)

    def _defaults(self) -> dict[str, str]:
        """The variables that templates expect beside the conversation: the day, as in llama.cpp; FireFunction's tools."""
        now = local_time()
        dates = {"date_string": now.strftime("%d %b %Y"), "datetime": now.strftime("%b %d %Y")}
        return {**dates, "functions": "[]"} if "functions" in self.variables - {"tools"} else dates


@dataclass(frozen=True)
class _Job:
    """One rendering: what is the same however the messages are shaped. `end` marks where a continued message ends."""

    tools: Sequence[Message]
    reply: bool
    variables: Mapping[str, Any]
    pause: Callable[[], None]
    end: str


@lru_cache(maxsize=32)
def chat_template(chat_format: ChatFormat) -> ChatTemplate:
    """Compile a model's template. Raises BadModelFile if it is not valid Jinja."""
    try:
        code, variables = compiled(chat_format.template or PLAIN)
    except (jinja2.TemplateError, RecursionError, ValueError, SyntaxError) as error:
        # What Jinja adds of the line is of many lines.
        reason = f"line {error.lineno}: {error.message}" if isinstance(error, jinja2.TemplateSyntaxError) else error
        what = f"the model's chat template cannot be read: {shortened(reason)}"
        raise BadModelFile(what, param="model", code="bad_template") from None
    return ChatTemplate(code, chat_format, variables)


def check_variables(variables: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the variables that a request sets for a template. Raises InvalidRequest, naming those that it may not set."""
    if wrong := sorted(variables.keys() & (RESERVED | _globals())):
        names = ", ".join(wrong)
        what = f"chat_template_kwargs: {names} cannot be set there; the request's own fields and the model's file decide it"
        raise InvalidRequest(what, param="chat_template_kwargs")
    return variables


@lru_cache(maxsize=1)
def _globals() -> frozenset[str]:
    return global_names()


def _marked(message: Message, marks: Marks) -> Any:
    """A message with marks in its values, except on the tags around a model's own thoughts, which templates look for."""
    by_model = message.get("role") == "assistant"
    return {
        name: value if name == "role" else marks.put(value, THOUGHT if by_model and name in SAID else None)
        for name, value in message.items()
    }
