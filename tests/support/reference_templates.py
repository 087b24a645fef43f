"""The reference for chat templates: they as transformers renders them, in an environment after its documented settings.

Compared with transformers itself (`render_jinja_template`, with `continue_final_message` too) in version 5.24.0: for every
template and conversation of the tests, both make the same text or refuse. That version also copies a message's thoughts to
the names `reasoning_content` and `thinking`, which is left to the tests here.
https://huggingface.co/docs/transformers/chat_templating_writing
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

# The time that templates are told, as in the tests of ours.
NOW = datetime(2025, 3, 9, 14, 30, tzinfo=timezone.utc)
_END = "EndOfTheContinuedMessage"


class Refused(Exception):
    """The template fails, or refuses the conversation."""


class _Generation(Extension):
    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """The statements within the tags, as they are."""
        parser.stream.skip()
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def reference(
    template: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = (), **variables: Any
) -> str:
    """Render a conversation with the beginning of a reply. Raises Refused."""
    values = {"tools": list(tools) or None, "documents": None, "add_generation_prompt": True, **variables}
    try:
        return _compiled(template).render(messages=list(messages), **values)
    except (jinja2.TemplateError, TypeError, ValueError, AttributeError, LookupError) as error:
        raise Refused(str(error)) from None


def continued_reference(template: str, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
    """Render a conversation up to the end of its last message's text, which the model continues. Raises Refused."""
    last = {**messages[-1], "content": messages[-1]["content"] + _END}
    text = reference(template, [*messages[:-1], last], **{"add_generation_prompt": False, **variables})
    if _END not in text:
        raise Refused("the last message is not in the text")
    return text[: text.rindex(_END)]


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=100)
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = NOW.strftime
    return environment.from_string(template)
