"""Which form a request's prompt has: its own text, the profile's template, or a chat template."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from services.answers.request import AnswerRequest
from services.backend.types import ChatFormat
from services.models.profile import Profile
from services.prompts.chat import ChatForm
from services.prompts.chat_formats import named_format
from services.prompts.chat_template import Message, chat_template
from services.prompts.form import Form
from services.prompts.template import TemplateForm
from services.prompts.text import TextForm
from services.prompts.tools import explained


def form_of(ask: AnswerRequest, profile: Profile, own: ChatFormat, folder: Path, system: str | None = None) -> Form:
    """The form of a request's prompt. `own` is what the model's file says; `system` is the session's own system prompt.

    A text is gone on with as it stands. A prompt is put into the profile's template, where it has one; everything else
    is a chat, written by the chat template that the request names, else the profile's, else the model's own. Its system
    prompt is the request's, else the session's, else the profile's.

    `folder` is that of the model files, where the profile's chat template may be. Raises BadModelFile, naming
    `chat_template`, where that cannot be used.
    """
    if ask.text is not None:
        return TextForm(ask.text)
    if not ask.messages and profile.template is not None:
        return TemplateForm(profile.template)
    messages = _with_system(ask.messages or ({"role": "user", "content": ask.question.prompt},), system)
    chat_format = _format_of(ask, profile, own, folder)
    template = chat_template(chat_format)
    if ask.tools and "tools" not in chat_format.template:
        messages = tuple(explained(_with_system(messages, profile.system_prompt), ask.tools))
        return ChatForm(template, messages)
    return ChatForm(template, messages, ask.tools, profile.system_prompt or "")


def _format_of(ask: AnswerRequest, profile: Profile, own: ChatFormat, folder: Path) -> ChatFormat:
    """The chat template: the one that the request names, else the profile's, else the one in the file."""
    if ask.format:
        return named_format(ask.format, own)
    if profile.chat_template is not None:
        return replace(own, template=profile.chat_template_text(folder))
    # A file may have a template of its own for conversations with tools.
    return replace(own, template=own.tool_template) if ask.tools and own.tool_template else own


def _with_system(messages: tuple[Message, ...], system: str | None) -> tuple[Message, ...]:
    """The messages behind this system prompt, unless there is none or they begin with one of their own."""
    return messages if not system or messages[0]["role"] == "system" else ({"role": "system", "content": system}, *messages)
