"""The model that a command names: a profile's, a file's, or one to fetch; and the introduction of the selected one."""

from __future__ import annotations

import logging

from services.errors import HearthError, InvalidRequest, NotFound
from services.models import catalog
from services.models.config import EXAMPLE, Config, Profiles, profile_entry
from services.models.downloads import Pulls
from services.models.files import AvailableModels, ModelFiles
from services.models.sources import Source, parse_source
from services.settings import Settings

# Weights (parameters) below which a model is good for a first look only.
TINY = 500_000_000
# The guide's file name.
GUIDE = "guide.gguf"


def select_model(settings: Settings, what: str) -> str:
    """Fetch the named model if need be, and select its profile, a new one where it has none; return the profile's name.

    `what` is a profile, a file of the models folder, a name of the catalog, a source, or a file's path. Raises
    HearthError where there is no such model, or where it cannot be fetched.
    """
    path, files = settings.data / "config.json", ModelFiles(settings.models)
    # A first start that is cut short in its download makes no config, so the next start is a first start again.
    config = Profiles(path if path.exists() else EXAMPLE).config()
    if what in config.profiles:
        profile = config.profiles[what]
        if profile.source and not _is_here(files, profile.model):
            _fetch(settings, parse_source(profile.source), profile.model)
        Profiles(path).select(what, files.check(profile.model).name)
        return what
    entry = catalog.find(what)
    name, file = (entry.name, entry.file) if entry else ("", what)
    if not _is_here(files, file) and _is_here(files, f"{file}.gguf"):
        file = f"{file}.gguf"
    if not _is_here(files, file):
        file = _fetch(settings, _source_of(what), "")
    file = files.check(file).name
    if known := config.profile_of(file):
        Profiles(path).select(known, file)
        return known
    name = name if name and name not in config.profiles else config.free_name(file)
    Profiles(path).add(name, profile_entry(file))
    return name


def fetch_first(settings: Settings) -> str:
    """At the first start, fetch and select the model of the settings; return a message where that fails, else ""."""
    if settings.model in ("", "none") or (settings.data / "config.json").exists():
        return ""
    settings.data.mkdir(parents=True, exist_ok=True)
    try:
        select_model(settings, settings.model)
    except HearthError as error:
        later = f"To fetch one later: python3 main.py run {settings.model}"
        return f"No model was fetched ({error.message}), so the guide answers. {later}"
    return ""


def introduction(config: Config, files: AvailableModels) -> str:
    """Return a line that introduces the selected model where it is only good for a first look; else ""."""
    try:
        model = files.check(config.profile.model)
    except HearthError:
        return ""
    if model.info.weights >= TINY:
        return ""
    what = "a tiny model that knows this server and little else" if model.name == GUIDE else "a tiny model for a first look"
    return f"{config.selected} answers, {what}. For real work fetch a larger one: python3 main.py models catalog"


def _is_here(files: AvailableModels, name: str) -> bool:
    try:
        files.check(name)
    except (NotFound, InvalidRequest):
        return False
    return True


def _source_of(what: str) -> Source:
    if entry := catalog.find(what):
        return parse_source(entry.source)
    try:
        return parse_source(what, local=True)
    except InvalidRequest:
        reason = f'there is no "{what}": it is no profile, no model file, none of the catalog, and no source'
        raise NotFound(f"{reason} such as hf:USER/REPO", param="model") from None


def _fetch(settings: Settings, source: Source, target: str) -> str:
    """Fetch a model file, with a progress bar; return its name in the models folder."""
    from services.cli.progress import show

    # The progress bar shows what the log would.
    log = logging.getLogger("services.models.downloads")
    level = log.level
    log.setLevel(logging.ERROR)
    arriving = Pulls(settings.models, settings.pull_hosts).start(source, target)
    try:
        show(arriving)
    finally:
        log.setLevel(level)
    assert arriving.path
    return arriving.path.relative_to(settings.models).as_posix()
