"""The names that a request's `model` may have, as the APIs of others list them."""

from __future__ import annotations

from collections.abc import Mapping

from auth.identity import Identity
from services.errors import NotFound
from services.models.config import Profiles
from services.models.files import AvailableModels, ModelFile, nfc


def served_models(files: AvailableModels, profiles: Profiles, identity: Identity) -> dict[str, ModelFile]:
    """Return the model file behind each name that a key may use.

    The profiles that have their file come first, the selected one before them, and then the files by their own names.
    """
    config = profiles.config()
    here = {file.name: file for file in files.list() if file.info and not file.info.adapter}
    known = {nfc(name): file for name, file in here.items()}
    usable = {name: known[nfc(each.model)] for name, each in config.profiles.items() if nfc(each.model) in known}
    first = {config.selected: usable[config.selected]} if config.selected in usable else {}
    return {name: file for name, file in {**first, **usable, **here}.items() if identity.may_use(name)}


def served_name(served: Mapping[str, ModelFile], name: str) -> str:
    """Return the name under which a model is served: a file's ending may be left out. Raises NotFound."""
    known = next((each for each in (name, f"{name}.gguf") if each in served), None)
    if known is None:
        raise NotFound(f'there is no model "{name}"', param="model", code="model_not_found")
    return known
