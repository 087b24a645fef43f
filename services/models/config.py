"""The profiles of data/config.json.

The file is `{"SelectedModel": NAME, NAME: {profile}, …}`. People may edit it while the server runs: each request reads it
anew if it has changed, and while an edit is broken the last valid version stays in use.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from services.errors import DamagedFile, InvalidRequest, NotFound, NotPermitted, Unavailable
from services.models.catalog import catalog, find
from services.models.files import AvailableModels, same_name
from services.models.profile import Chosen, Profile
from services.models.sources import FORMS, Source, parse_source
from services.storage.json_file import JsonFile, JsonObject, SchemaError
from services.validation import explain

log = logging.getLogger(__name__)

SELECTED = "SelectedModel"
# The config file of a first start.
EXAMPLE = Path(__file__).resolve().parent.parent.parent / "data" / "config.example.json"


@dataclass(frozen=True)
class Config:
    """A version of data/config.json."""

    selected: str
    profiles: Mapping[str, Profile]

    @property
    def profile(self) -> Profile:
        """The selected profile."""
        return self.profiles[self.selected]

    @property
    def chosen(self) -> Chosen:
        """The selected profile with its name."""
        return Chosen(self.selected, self.profile)

    def choose(self, name: str, files: AvailableModels, allowed: Sequence[str] | None = None) -> Chosen:
        """Return the profile called `name`, or a profile of the model file `name`: the selected one, else the first.

        For a file without a profile, that is a new default profile. Only `allowed` profiles and files are considered, so
        that a refusal reveals no others; None: all. Raises NotFound, NotPermitted, and BadModelFile for a damaged file
        that no profile uses.
        """
        mine = self.only(allowed)
        if name in mine.profiles:
            return Chosen(name, mine.profiles[name])
        if known := mine.profile_of(name) or mine.profile_of(f"{name}.gguf"):
            return Chosen(known, mine.profiles[known])
        for file_name in (name, f"{name}.gguf"):
            if allowed is None or file_name in allowed:
                with suppress(NotFound, InvalidRequest):
                    model = files.check(file_name).name
                    return Chosen(model, Profile(model=model))
        if allowed is not None and name not in allowed:
            raise not_permitted(name, allowed)
        what = f'there is no model "{name}": neither a profile nor a file of the models folder'
        public = f'there is no model "{name}" on this server'
        raise NotFound(what, param="model", code="model_not_found", public=public)

    def only(self, allowed: Sequence[str] | None) -> Config:
        """Return the config as seen by a key that may use the profiles `allowed`; None: all.

        If the selected profile is not among them, the first is selected; "" if there is none.
        """
        if allowed is None:
            return self
        profiles = {name: self.profiles[name] for name in allowed if name in self.profiles}
        return Config(self.selected if self.selected in profiles else next(iter(profiles), ""), profiles)

    def files_of(self, allowed: Sequence[str]) -> set[str]:
        """Return the model files that a key may see which may use `allowed`, profiles or files."""
        return {profile.model for profile in self.only(allowed).profiles.values()} | set(allowed)

    def source(self, what: str, local: bool = False) -> tuple[Source, str]:
        """Return the source of a model, and the name for its file ("": the source's own).

        `what` names a profile, a catalog entry or a source; `local`: or a file of this machine. Raises NotFound for a
        profile without a source, InvalidRequest.
        """
        if what not in self.profiles and (entry := find(what)):
            return parse_source(entry.source), ""
        if what not in self.profiles and (":" in what or "/" in what or (local and what.endswith(".gguf"))):
            return parse_source(what, local=local), ""
        if what not in self.profiles:
            reason = f'there is no profile "{what}", no such model in the catalog, and a source is {FORMS}'
            raise NotFound(reason, param="source", code="profile_not_found")
        profile = self.profiles[what]
        if profile.source is None:
            public = f'the profile "{what}" does not say where its model comes from'
            what = f'{public}: give it a "source", {FORMS}'
            raise NotFound(what, param="source", code="no_source", public=public)
        return parse_source(profile.source), profile.model

    def profile_of(self, file: str, allowed: Sequence[str] | None = None) -> str | None:
        """Return the name of a profile of the model `file`: an allowed one, else the selected, else the first, or None."""
        names = [name for name in (self.selected, *self.profiles) if self._uses(name, file)]
        return next((name for name in names if allowed is None or name in allowed), names[0] if names else None)

    def users(self, file: str) -> list[str]:
        """Return the profiles whose model, or one of whose adapters, is this file."""
        used = {name: (profile.model, *(lora.file for lora in profile.lora)) for name, profile in self.profiles.items()}
        return [name for name, files in used.items() if any(same_name(each, file) for each in files)]

    def _uses(self, name: str, file: str) -> bool:
        return name in self.profiles and same_name(self.profiles[name].model, file)

    def check_file(self, file: str, allowed: Sequence[str] | None) -> None:
        """Raise NotPermitted if none of the profiles `allowed` has this model file; None: all are allowed."""
        if allowed is not None and file not in {self.profiles[name].model for name in allowed if name in self.profiles}:
            what = f"this key may not use {file}: none of its profiles does"
            raise NotPermitted(what, param="model", code="profile_not_permitted")

    def free_name(self, file: str) -> str:
        """Return a free name for a new profile of a model file: the file's, with a number if that is taken."""
        stem = re.sub(r"\.gguf$", "", file.rpartition("/")[2], flags=re.IGNORECASE)
        names = (stem, *(f"{stem} {number}" for number in range(2, len(self.profiles) + 3)))
        return next(name for name in names if name not in (*self.profiles, SELECTED))

    def named(self, name: str) -> Profile:
        """Return the profile called `name`. Raises NotFound."""
        if name not in self.profiles:
            raise unknown_profile(name)
        return self.profiles[name]


class Profiles:
    """The config file, read again whenever it has changed.

    Any thread may call it. `_lock` protects the last valid version and the last problem that was logged.
    """

    def __init__(self, path: Path, preferred: Chosen | None = None) -> None:
        """Read the file, or copy the example there. `preferred` is selected in this process, until another is.

        Raises DamagedFile if the file cannot be used: without a valid version the server should not start.
        """
        self._preferred = preferred
        if not path.exists():
            _copy_example(path)
        self._file = JsonFile(path, check=_check)
        self._lock = threading.Lock()
        self._source = self._file.read()
        self._config = self._load(self._source)
        self.problem: str | None = None
        """The fault in the current file, or None."""

    def config(self) -> Config:
        """Return the file's current version, or the last valid one."""
        with self._lock:
            try:
                source = self._file.read()
                if source is not self._source:
                    self._config, self._source = self._load(source), source
                if self.problem:
                    log.info("data/config.json is good again")
                self.problem = None
            except DamagedFile as error:
                if self.problem != error.message:
                    log.error("%s; the last good state serves on", error.message)
                self.problem = error.message
            except Unavailable as error:
                # Not the file's fault; the next request reads it again.
                log.warning("%s; the last good state serves on", error.message)
            if self._preferred is None:
                return self._config
            return Config(self._preferred.name, {**self._config.profiles, self._preferred.name: self._preferred.profile})

    def add(self, name: str, entry: Mapping[str, Any], selects: bool = True) -> None:
        """Add a profile called `name` to the file, and select it if it `selects`.

        Raises InvalidRequest if the name is taken, DamagedFile while the file is broken, StorageFailed.
        """
        with self._file.edit() as data:
            if name == SELECTED or name in data:
                public = f'there is a profile "{name}" already'
                what = f'there is a profile "{name}" in data/config.json already'
                raise InvalidRequest(what, param="model_config", public=public)
            _check_profile(name, dict(entry))
            data.update({**({SELECTED: name} if selects else {}), name: dict(entry)})
        if selects:
            self._preferred = None

    def remove(self, name: str) -> None:
        """Remove profile `name`, which is not the selected one, from the file.

        Raises NotFound for an unknown profile, DamagedFile while the file is broken, StorageFailed.
        """
        with self._file.edit() as data:
            if name == SELECTED or name not in data:
                raise unknown_profile(name)
            del data[name]

    def select(self, name: str, model: str) -> None:
        """Set profile `name`'s model, and select it, in the file.

        Raises NotFound for an unknown profile, DamagedFile while the file is broken, StorageFailed.
        """
        self._edit(name, {"model": model}, {SELECTED: name})
        self._preferred = None

    def change(self, name: str, values: Mapping[str, Any]) -> None:
        """Set some of profile `name`'s keys in the file.

        Raises NotFound for an unknown profile, DamagedFile while the file is broken, StorageFailed.
        """
        self._edit(name, values, {})

    def _edit(self, name: str, values: Mapping[str, Any], beside: Mapping[str, Any]) -> None:
        with self._file.edit() as data:
            if name == SELECTED or name not in data:
                raise unknown_profile(name)
            data.update({name: {**data[name], **values}, **beside})

    def _load(self, data: JsonObject) -> Config:
        if not data:
            raise DamagedFile(self._file.path, "is missing or empty; it should hold the profiles")
        return Config(
            data[SELECTED], {name: Profile.model_validate(entry) for name, entry in data.items() if name != SELECTED}
        )


def _copy_example(path: Path) -> None:
    """Create the config file from the shipped example. Raises StorageFailed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with JsonFile(path).edit() as data:
        # Another process may have created it meanwhile.
        if not data:
            data.update(JsonFile(EXAMPLE).load())


def profile_entry(file: str) -> dict[str, Any]:
    """The values of a new profile of a model file: those of the catalog if the file is in it, else the file alone."""
    entry = next((entry for entry in catalog() if entry.file == file), None)
    return dict(entry.profile_values()) if entry else {"model": file}


def not_permitted(name: str, allowed: Sequence[str]) -> NotPermitted:
    """The error for a key that asks for another profile or file than those `allowed`."""
    what = f'this key may not use "{name}": it may use {", ".join(allowed)}'
    return NotPermitted(what, param="model", code="profile_not_permitted")


def unknown_profile(name: str) -> NotFound:
    """The error for a profile that does not exist."""
    public = f'there is no profile "{name}"'
    return NotFound(f"{public} in data/config.json", param="model_config", code="profile_not_found", public=public)


def _check(data: JsonObject) -> None:
    """Raise SchemaError, naming the entry, if `data` is not a config."""
    if SELECTED not in data:
        raise SchemaError((SELECTED,), f'"{SELECTED}" is missing: it names the profile to use')
    for name, entry in data.items():
        if name != SELECTED:
            _check_profile(name, entry)
    if not isinstance(data[SELECTED], str) or data[SELECTED] == SELECTED or data[SELECTED] not in data:
        raise SchemaError((SELECTED,), f'"{SELECTED}" should name one of the profiles, and {data[SELECTED]!r} is none')


def _check_profile(name: str, entry: Any) -> None:
    if not isinstance(entry, dict):
        raise SchemaError((name,), f'profile "{name}" should be an object: {{ … }}')
    try:
        Profile.model_validate(entry)
    except ValidationError as error:
        fault = explain(error, Profile.model_fields)
        raise SchemaError((name, *fault.path), f'profile "{name}": {fault.message}') from None
