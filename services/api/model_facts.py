"""The abilities and the context of a model, as the APIs of others tell them."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from services.backend.types import ChatFormat
from services.errors import BadModelFile, HearthError
from services.models.files import AvailableModels, ModelFile
from services.models.fitting import fit_of
from services.models.gguf import BadGguf, chat_template_of
from services.models.memory import LONGEST_TEXT
from services.models.profile import Profile
from services.prompts.chat_template import chat_template
from services.replies.formats import format_of

_SPECIAL = re.compile(r"<[|｜]?[^<>\s]{1,40}?[|｜]?>|\[[A-Z_/]{2,20}\]")


def abilities_of(files: AvailableModels, file: ModelFile, profile: Profile | None) -> list[str]:
    """Return a model's abilities: `embeddings` or `rerank` alone, or `completion` with `tools` and `thinking`."""
    info = file.info
    assert info is not None
    if info.makes_vectors:
        return ["rerank" if info.ranks else "embeddings"]
    return ["completion", *_of_template(template_of(files, file, profile))]


def template_of(files: AvailableModels, file: ModelFile, profile: Profile | None) -> str:
    """Return the chat template of a profile, or else of the file; "" if there is none, or it is on another machine."""
    try:
        if profile and profile.chat_template:
            return profile.chat_template_text(files.templates)
        if not (file.info and file.info.chat_template):
            return ""
        checked = files.check(file.name)
        return _template_in(checked.path, checked.stamp)
    except (HearthError, BadGguf, OSError):
        return ""


def context_of(profile: Profile | None, file: ModelFile, free: int) -> int:
    """Return the tokens of a model's context: the profile's, or what is chosen by the model and `free` bytes of memory."""
    info = file.info
    assert info is not None
    if info.makes_vectors:
        longest = (profile.context if profile else 0) or LONGEST_TEXT
        return min(longest, info.context_length or longest)
    return fit_of(info, profile or Profile(model=file.name), free).n_ctx


@lru_cache(maxsize=256)
def _template_in(path: Path, _stamp: object) -> str:
    # A header of a large vocabulary takes a tenth of a second.
    return chat_template_of(path)


@lru_cache(maxsize=256)
def _of_template(template: str) -> tuple[str, ...]:
    """Return what a chat template is made for, beside chats."""
    if not template:
        return ()
    chat_format = ChatFormat(template, "", "", tuple(sorted(set(_SPECIAL.findall(template)), key=len, reverse=True)))
    try:
        tools = bool(chat_template(chat_format).abilities.tools)
        return ("tools",) * tools + ("thinking",) * (format_of(chat_format).thoughts is not None)
    except BadModelFile:
        return ()
