"""The form of a request's prompt: its own text, the profile's template, or a chat template."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from services.answers.request import AnswerRequest
from services.backend.types import ChatFormat
from services.models.profile import Profile
from services.prompts.abilities import Message
from services.prompts.chat import ChatForm
from services.prompts.chat_formats import named_format
from services.prompts.chat_template import chat_template
from services.prompts.form import Form
from services.prompts.template import TemplateForm
from services.prompts.text import InfillForm, TextForm


def form_of(request: AnswerRequest, profile: Profile, own: ChatFormat, folder: Path, system: str | None = None) -> Form:
    """Return the form of a request's prompt. `own` is the model file's chat format, `system` the session's system prompt.

    A text is continued as it stands. A prompt fills the profile's template if there is one; everything else is a chat,
    written by the chat template that the request names, else the profile's, else the model's own. Its system prompt is the
    request's, else the session's, else the profile's.

    `folder` is the models folder, which may hold the profile's chat template. Raises BadModelFile, naming `chat_template`,
    if that cannot be used.
    """
    if request.infill is not None:
        return InfillForm(request.infill)
    if request.text is not None:
        return TextForm(request.text)
    if profile.template is not None:
        if not request.messages:
            return TemplateForm(profile.template)
        if request.goes_on and request.messages[0]["role"] == "user":
            return TemplateForm(profile.template, request.begun)
    messages = _with_system(request.messages or ({"role": "user", "content": request.prompt},), system)
    chat_format = _format_of(request, profile, own, folder)
    return ChatForm(
        chat_template(chat_format),
        messages,
        request.tools,
        profile.system_prompt or "",
        request.template_kwargs,
        request.continues,
        request.generation_prompt,
    )


def _format_of(request: AnswerRequest, profile: Profile, own: ChatFormat, folder: Path) -> ChatFormat:
    """The chat template: the one that the request names, else the profile's, else the one in the file."""
    if request.chat_format:
        return named_format(request.chat_format, own)
    if profile.chat_template is not None:
        return replace(own, template=profile.chat_template_text(folder))
    # A file may have a separate template for conversations with tools.
    has_tools = bool(request.tools) or any(each.get("tool_calls") or each["role"] == "tool" for each in request.messages)
    return replace(own, template=own.tool_template) if has_tools and own.tool_template else own


def _with_system(messages: tuple[Message, ...], system: str | None) -> tuple[Message, ...]:
    """The messages behind this system prompt, unless they begin with one of their own."""
    has_own = messages[0]["role"] in ("system", "developer")
    return messages if not system or has_own else ({"role": "system", "content": system}, *messages)
