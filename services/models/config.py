"""The profiles of data/config.json: which model, which template, which numbers.

The file is `{"SelectedModel": NAME, NAME: {profile}, …}`. A person may edit it while the server runs: each request reads
it as it stands, and while an edit is broken the last good state serves on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from services.backend import Adapter, CacheType, LoadSettings, Sampling
from services.errors import DamagedFile, InvalidRequest, NotFound
from services.json_file import JsonFile, JsonObject, Misfit
from services.models.files import ModelFiles
from services.models.sources import FORMS, Source, parse_source
from services.validation import (
    MaxTokens,
    MemoryK,
    NCtx,
    RepeatPenalty,
    Seed,
    Share,
    StopStrings,
    Strict,
    Temperature,
    TopK,
    explain,
)

log = logging.getLogger(__name__)

SELECTED = "SelectedModel"
# The context, in tokens, for a file that no profile uses; less where the model was trained on less.
FILE_N_CTX = 4096
Threads = Annotated[int, Field(ge=1, le=512)]
BatchSize = Annotated[int, Field(ge=1, le=2**16)]


class Lora(Strict):
    """A LoRA adapter: a file of the models folder, and how strongly it is applied (1: as it was trained)."""

    file: Annotated[str, Field(min_length=1)]
    scale: Annotated[float, Field(ge=-100, le=100)] = 1.0


class Profile(Strict):
    """One profile: a model, the template around the prompt, and how to generate.

    `n_ctx`, `max_tokens` and the batch sizes count tokens; `memory_k` counts exchanges.
    """

    model: Annotated[str, Field(min_length=1)]
    template: str
    n_ctx: NCtx = 2048
    temperature: Temperature = 0.8
    max_tokens: MaxTokens = 512
    top_p: Share = 0.95
    top_k: TopK = 40
    repeat_penalty: RepeatPenalty = 1.0
    verbose: bool = False
    memory_k: MemoryK = 5
    n_parallel: Annotated[int, Field(ge=1, le=64)] = 8
    stop: StopStrings = []
    seed: Seed | None = None
    min_p: Share = 0.0
    n_threads: Threads | None = None
    n_threads_batch: Threads | None = None
    n_batch: BatchSize | None = None
    n_ubatch: BatchSize | None = None
    flash_attn: bool = True
    cache_type_k: CacheType = "f16"
    cache_type_v: CacheType = "f16"
    n_gpu_layers: Annotated[int, Field(ge=-1, le=10_000)] = 0
    use_mmap: bool = True
    use_mlock: bool = False
    lora: Annotated[list[Lora], Field(max_length=16)] = []
    source: str | None = None

    @field_validator("source")
    @classmethod
    def _is_source(cls, source: str | None) -> str | None:
        if source is not None:
            try:
                parse_source(source)
            except InvalidRequest as error:
                raise ValueError(error.message.removeprefix("source: ")) from None
        return source

    @field_validator("template")
    @classmethod
    def _holds_input(cls, template: str) -> str:
        if "{input}" not in template:
            raise ValueError("the template must contain {input}, which becomes the prompt")
        return template

    def load_settings(self, files: ModelFiles) -> LoadSettings:
        """What the engine needs to load this profile.

        Raises InvalidRequest, NotFound or BadModelFile where one of its files cannot be used.
        """
        model = files.check(self.model)
        adapters = [(files.check_adapter(lora.file), lora.scale) for lora in self.lora]
        return LoadSettings(
            file=model.path,
            stamp=model.stamp,
            lora=tuple(Adapter(adapter.path, adapter.stamp, scale) for adapter, scale in adapters),
            n_ctx=self.n_ctx,
            n_parallel=self.n_parallel,
            n_threads=self.n_threads,
            n_threads_batch=self.n_threads_batch,
            n_batch=self.n_batch,
            n_ubatch=self.n_ubatch,
            flash_attn=self.flash_attn,
            cache_type_k=self.cache_type_k,
            cache_type_v=self.cache_type_v,
            n_gpu_layers=self.n_gpu_layers,
            use_mmap=self.use_mmap,
            use_mlock=self.use_mlock,
            verbose=self.verbose,
        )

    def sampling(self) -> Sampling:
        """How this profile chooses tokens, before a request changes any of it."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repeat_penalty=self.repeat_penalty,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Chosen:
    """The profile that a request is for. `name` is the file's where the profile was made for it."""

    name: str
    profile: Profile

    def changed(self, values: Mapping[str, Any]) -> Chosen:
        """The same, with other values of some of the profile's keys, which are good."""
        return replace(self, profile=self.profile.model_copy(update=values)) if values else self


@dataclass(frozen=True)
class Config:
    """data/config.json at one moment."""

    selected: str
    profiles: Mapping[str, Profile]

    @property
    def profile(self) -> Profile:
        """The selected profile."""
        return self.profiles[self.selected]

    @property
    def chosen(self) -> Chosen:
        """The selected profile, and its name."""
        return Chosen(self.selected, self.profile)

    def choose(self, name: str, files: ModelFiles) -> Chosen:
        """The profile called `name`, or one for the model file called so: the selected one or the first that uses it.

        Raises NotFound, and BadModelFile for a damaged file that no profile uses.
        """
        if name in self.profiles:
            return Chosen(name, self.profiles[name])
        for profile_name in (self.selected, *self.profiles):
            if self.profiles[profile_name].model in (name, f"{name}.gguf"):
                return Chosen(profile_name, self.profiles[profile_name])
        for file_name in (name, f"{name}.gguf"):
            with suppress(NotFound, InvalidRequest):
                model = files.check(file_name).name
                return Chosen(model, Profile(model=model, template="{input}", n_ctx=FILE_N_CTX))
        what = f'there is no model "{name}": neither a profile nor a file of the models folder'
        raise NotFound(what, param="model", code="model_not_found")

    def source(self, what: str) -> tuple[Source, str]:
        """Where to fetch a model from, and what to call its file ("": as it is called there).

        `what` is a profile's name or a source. Raises NotFound for a profile that does not say, InvalidRequest.
        """
        if what not in self.profiles and ":" in what:
            return parse_source(what), ""
        if what not in self.profiles:
            reason = f'there is no profile "{what}", and a source is {FORMS}'
            raise NotFound(reason, param="source", code="profile_not_found")
        profile = self.profiles[what]
        if profile.source is None:
            what = f'the profile "{what}" does not say where its model comes from: give it a "source", {FORMS}'
            raise NotFound(what, param="source", code="no_source")
        return parse_source(profile.source), profile.model

    def named(self, name: str) -> Profile:
        """The profile called `name`. Raises NotFound."""
        if name not in self.profiles:
            raise unknown_profile(name)
        return self.profiles[name]


class Profiles:
    """The config file, read afresh whenever it has changed.

    Any thread may call it. `_turn` protects the last good state and what was last said of a broken edit.
    """

    def __init__(self, path: Path, preferred: Chosen | None = None) -> None:
        """`preferred` is selected in this process, until another is.

        Raises DamagedFile where the file cannot be used: with nothing good to serve on, the server should not start.
        """
        self._preferred = preferred
        self._file = JsonFile(path, check=_check)
        self._turn = threading.Lock()
        self._source = self._file.read()
        self._config = self._load(self._source)
        self.problem: str | None = None
        """What is wrong with the file now, or None."""

    def config(self) -> Config:
        """The file as it stands, or as it last was good."""
        with self._turn:
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
            if self._preferred is None:
                return self._config
            return Config(self._preferred.name, {**self._config.profiles, self._preferred.name: self._preferred.profile})

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


def unknown_profile(name: str) -> NotFound:
    """What to raise where there is no such profile."""
    return NotFound(f'there is no profile "{name}" in data/config.json', param="model_config", code="profile_not_found")


def _check(data: JsonObject) -> None:
    """Raise Misfit, naming the entry, where `data` is not a config."""
    if SELECTED not in data:
        raise Misfit((SELECTED,), f'"{SELECTED}" is missing: it names the profile to use')
    for name, entry in data.items():
        if name != SELECTED:
            _check_profile(name, entry)
    if not isinstance(data[SELECTED], str) or data[SELECTED] == SELECTED or data[SELECTED] not in data:
        raise Misfit((SELECTED,), f'"{SELECTED}" should name one of the profiles, and {data[SELECTED]!r} is none')


def _check_profile(name: str, entry: Any) -> None:
    if not isinstance(entry, dict):
        raise Misfit((name,), f'profile "{name}" should be an object: {{ … }}')
    try:
        Profile.model_validate(entry)
    except ValidationError as error:
        fault = explain(error, Profile.model_fields)
        raise Misfit((name, *fault.path), f'profile "{name}": {fault.message}') from None
