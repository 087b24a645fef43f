"""The names that a request's `model` may have, as the APIs of others list them."""

from __future__ import annotations

from auth.identity import Identity
from services.models.config import Profiles
from services.models.files import AvailableModels, ModelFile


def served_models(files: AvailableModels, profiles: Profiles, identity: Identity) -> dict[str, ModelFile]:
    """Return the model file behind each name that a key may use.

    The profiles that have their file come first, the selected one before them, and then the files by their own names.
    """
    config = profiles.config()
    here = {file.name: file for file in files.list() if file.info and not file.info.adapter}
    usable = {name: here[profile.model] for name, profile in config.profiles.items() if profile.model in here}
    first = {config.selected: usable[config.selected]} if config.selected in usable else {}
    return {name: file for name, file in {**first, **usable, **here}.items() if identity.may_use(name)}
