"""The reading of an answer: its constraint, the model's thoughts, and the reader that parses its text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from services.answers.plain_reader import PlainReader
from services.answers.request import AnswerRequest
from services.answers.thinking import check_wish, thoughts_of, wish_of
from services.backend.protocols import Model
from services.backend.types import Constraint, Thoughts
from services.errors import InvalidRequest
from services.models.profile import Profile
from services.prompts.chat import ChatForm
from services.prompts.form import Form
from services.replies.format import ReplyFormat
from services.replies.formats import format_of
from services.replies.reader import Reader

Tools = tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Reading:
    """The constraint and the thoughts with which one answer is generated, and what makes its reader."""

    reader: Callable[[], Reader]
    constraint: Constraint | None = None
    thoughts: Thoughts | None = None
    marks: bool = False


def reading_of(asked: AnswerRequest, profile: Profile, form: Form, model: Model, tail: str) -> Reading:
    """Return the reading of the answer to a prompt of this form; `tail` is the end of the prompt's text.

    Only what a chat template asks for has parts: a text that is continued, or a profile's template, has text alone. Raises
    InvalidRequest where the model cannot think or call tools as the request wants.
    """
    if not isinstance(form, ChatForm):
        check_wish(asked.thinking, None)
        return Reading(PlainReader, asked.constraint)
    reply_format = format_of(form.template.format)
    check_wish(asked.thinking, reply_format)
    wish = wish_of(asked.thinking, asked.template_kwargs, profile)
    # The engine takes what a grammar lets begin for no thought, and would not end it.
    constraint, tools = _constraint(asked, replace(reply_format, thoughts=None) if wish.is_off else reply_format)
    if asked.constraint and tools and asked.tool_choice == "auto":
        # JSON that the request has asked for is an answer, however much it looks like a call.
        reply_format = _without_bare(reply_format)
    is_thinking = reply_format.is_thinking(tail)
    return Reading(
        reader=lambda: reply_format.reader(tools, is_thinking, asked.continues),
        constraint=constraint,
        thoughts=thoughts_of(wish, form.template, reply_format, tools, is_thinking),
        marks=True,
    )


def _constraint(asked: AnswerRequest, reply_format: ReplyFormat) -> tuple[Constraint | None, Tools]:
    """Return what the answer keeps to, the form of the calls or the request's own, and the tools that may be called.

    Raises InvalidRequest where `tool_choice` is none of the tools.
    """
    names = [tool["function"]["name"] for tool in asked.tools]
    choice = asked.tool_choice
    if choice not in ("none", "auto", "required", *names):
        raise InvalidRequest(f'tool_choice: there is no tool "{choice}"', param="tool_choice")
    own = reply_format.framed(asked.constraint) if asked.constraint else None
    if choice == "none" or not names:
        return own, ()
    if own and choice == "auto":
        forced = _without_bare(reply_format).constraint(asked.tools, "required", asked.parallel_tool_calls)
        if forced is None or (asked.constraint and asked.constraint.kind != "json_schema"):
            return own, ()
        return _either(forced, own), asked.tools
    # "Call exactly one specific function", as OpenAI's guide says of a name: weak models repeat the call until cut.
    is_parallel = asked.parallel_tool_calls and choice not in names
    found = reply_format.constraint(asked.tools, choice, is_parallel)
    if found is None and choice != "auto":
        raise InvalidRequest("tool_choice: this model cannot be held to a call", param="tool_choice")
    return found, asked.tools


def _without_bare(reply_format: ReplyFormat) -> ReplyFormat:
    """Return the format without the syntaxes in which a call is JSON and nothing else."""
    return replace(reply_format, syntaxes=tuple(each for each in reply_format.syntaxes if not each.only_first))


def _either(calls: Constraint, answer: Constraint) -> Constraint:
    """Return the constraint to calls, whose grammar is Lark, or to an answer by a JSON schema or Lark around one."""
    rules = calls.source.replace("start:", "calls:", 1)
    if answer.kind == "lark":
        return Constraint("lark", f"start: calls | answer\n{answer.source.replace('start:', 'answer:', 1)}{rules}")
    return Constraint("lark", f"start: calls | answer\nanswer: %json {answer.source}\n{rules}")
