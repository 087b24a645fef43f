"""The models that answer: chosen by a request or its profile, leased from the backend, switched and loaded ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any

from services.answers.admission import Poll
from services.answers.prompt_form import form_of
from services.answers.request import AnswerRequest
from services.answers.thinking import with_thinking
from services.backend.protocols import Backend, Embedder, Model
from services.backend.status import Status
from services.backend.types import EVERYBODY, Health, LoadSettings, PrefetchRequest
from services.errors import BadModelFile, HearthError, NotPermitted, Unavailable
from services.models.config import Profiles, not_permitted, profile_entry
from services.models.files import AvailableModels
from services.models.profile import Chosen, Profile
from services.prompts.fit import fitter_of
from services.prompts.form import Form

Allowed = Sequence[str] | None
"""The profiles that a key may use; None: every profile, and every file of the models folder."""


class Models:
    """The models of one server. Any thread may call it; `_naming` is held while a name for a profile is found and taken."""

    def __init__(self, profiles: Profiles, files: AvailableModels, backend: Backend) -> None:
        self._profiles = profiles
        self._files = files
        self._backend = backend
        self._naming = threading.Lock()
        self._is_warming_up = False
        self._broken: LoadSettings | None = None
        """The settings that could not be loaded when last tried."""

    def choose(self, allowed: Allowed, model: str | None) -> Chosen:
        """Return what a request names, else the selected profile, else the first that its key may use.

        Raises NotFound, NotPermitted.
        """
        config = self._profiles.config()
        if model is not None:
            return config.choose(model, self._files, allowed)
        mine = config.only(allowed)
        if mine.selected:
            return mine.chosen
        what = f"none of the profiles that this key may use is there: {', '.join(allowed or ())}"
        raise NotPermitted(what, param="model", code="profile_not_permitted")

    @contextmanager
    def lease(self, chosen: Chosen, poll: Poll) -> Iterator[Model]:
        """Lease a profile's model, loaded.

        Raises Unavailable, saying what to do, where it cannot be loaded, and what `poll` raises.
        """
        settings = self._settings(chosen)
        with ExitStack() as stack:
            try:
                model = stack.enter_context(self._backend.lease(settings, poll))
                self._broken = None
            except BadModelFile as error:
                self._broken = settings
                raise _no_model(chosen, error) from error
            yield model

    def is_loaded(self, chosen: Chosen) -> bool:
        """Return whether the file of a profile's model is in memory. Raises Unavailable where there is no such file."""
        return self._settings(chosen).file in self._backend.loaded()

    def lease_embedder(self, chosen: Chosen, poll: Poll) -> AbstractContextManager[Embedder]:
        """Lease a profile's model for embeddings. Raises BadModelFile, Unavailable, and what `poll` raises."""
        return self._backend.lease_embedder(self._settings(chosen), poll)

    def search_profile(self, allowed: Allowed) -> Profile:
        """Return the profile whose models a search uses; one without any where no profile can be chosen."""
        try:
            return self.choose(allowed, None).profile
        except HearthError:
            return Profile(model="none")

    def embedders(self) -> list[Chosen]:
        """Return the models that profiles name as their embedders, those that are there."""
        names = dict.fromkeys(profile.embedder for profile in self._profiles.config().profiles.values())
        found: list[Chosen] = []
        for name in filter(None, names):
            # Requests that need it tell what is wrong with it.
            with suppress(HearthError):
                found.append(self.choose(None, name))
        return found

    def vectors_key(self, chosen: Chosen) -> str:
        """Return the name under which a profile's vectors are kept: other files and prefixes make others."""
        settings, prefixes = self._settings(chosen), chosen.profile.embedding_prefix
        return f"{settings.file.name} {settings.stamp} {prefixes.document if prefixes else ''}"

    def form(self, asked: AnswerRequest, chosen: Chosen, model: Model, system: str | None) -> Form:
        """Return the form of a request's prompt; `system` is its session's own system prompt. Raises BadModelFile."""
        return self._form(asked, chosen.profile, model, system)

    def _form(self, asked: AnswerRequest, profile: Profile, model: Model, system: str | None = None) -> Form:
        form = form_of(asked, profile, model.chat_format, self._files.templates, system)
        return with_thinking(form, asked, profile)

    def switch(self, allowed: Allowed, model: str, profile: str | None, poll: Poll) -> str:
        """Set the profile's model and select it, once the model is loaded; where anything fails, nothing changes.

        `profile` None: a profile of that model, or a new one named after it. Returns the profile's name.

        Raises InvalidRequest for a name that leaves the models folder, NotPermitted, NotFound, BadModelFile, DamagedFile,
        StorageFailed, Unavailable, and what `poll` raises.
        """
        config = self._profiles.config()
        if profile is not None:
            _check_profile(allowed, profile)
        config.check_file(model, allowed)
        checked = self._files.check(model)
        name = profile or config.profile_of(checked.name, allowed)
        if profile is None and name:
            _check_profile(allowed, name)
        entry = profile_entry(checked.name)
        chosen = Profile.model_validate(entry) if name is None else config.named(name)
        chosen = chosen.model_copy(update={"model": checked.name})
        settings = chosen.load_settings(self._files)
        with self._backend.lease(settings, poll) as loaded:
            # It also waits for a model that was leased before and has left memory.
            self._prefetch_head(chosen, loaded)
            with self._naming:
                if profile is not None:
                    self._profiles.select(profile, checked.name)
                    name = profile
                else:
                    name = self._select_of(checked.name, allowed, entry)
            # The last model on lease stays loaded: let it be this one, whatever was asked of the old one meanwhile.
            with self._backend.lease(settings, poll):
                self._broken = None
            return name

    def _select_of(self, file: str, allowed: Allowed, entry: Mapping[str, Any]) -> str:
        """Select a profile of a model file, or add one of this `entry`; no other profile changes. Returns its name.

        `_naming` is held: while the model was loaded, a profile may have been made, or have got another model.
        """
        config = self._profiles.config()
        config.check_file(file, allowed)
        name = config.profile_of(file, allowed)
        if name is None:
            name = config.free_name(file)
            self._profiles.add(name, entry)
        else:
            _check_profile(allowed, name)
            self._profiles.select(name, config.profiles[name].model)
        return name

    def warm_up(self) -> HearthError | None:
        """Load the selected profile's model; return why that failed, where it did."""
        self._is_warming_up = True
        try:
            chosen = self._profiles.config().chosen
            with self.lease(chosen, lambda: None) as model:
                self._prefetch_head(chosen.profile, model)
                return None
        except HearthError as error:
            return error
        finally:
            self._is_warming_up = False

    def health(self) -> Health:
        """Return whether the selected profile can answer: ready, loading or down."""
        try:
            if self._settings(self._profiles.config().chosen) == self._broken:
                return "down"
        except HearthError:
            return "down"
        health = self._backend.health()
        return "loading" if health == "down" and self._is_warming_up else health

    def status(self) -> Status:
        """Return how busy the backend is."""
        return self._backend.status()

    def files_of(self, allowed: Allowed) -> set[str] | None:
        """Return the model files that a key with the profiles `allowed` may know of; None: all of them."""
        return None if allowed is None else self._profiles.config().files_of(allowed)

    def _prefetch_head(self, profile: Profile, model: Model) -> None:
        """Have the beginning read that every first prompt of a profile has."""
        form = self._form(AnswerRequest(""), profile, model)
        model.prefetch(PrefetchRequest(fitter_of(form, model, model.n_ctx).head(), EVERYBODY, ""))

    def _settings(self, chosen: Chosen) -> LoadSettings:
        try:
            return chosen.profile.load_settings(self._files)
        except Unavailable:
            raise
        except HearthError as error:
            raise _no_model(chosen, error) from error


def _check_profile(allowed: Allowed, name: str) -> None:
    if allowed is not None and name not in allowed:
        raise not_permitted(name, allowed)


def _no_model(chosen: Chosen, error: HearthError) -> Unavailable:
    """Return the error for a profile whose model cannot be loaded, saying what whoever runs the server can do."""
    if error.code == "no_worker":
        return Unavailable(error.message, param="model", code=error.code, retry_after=5)
    is_missing = error.code == "model_not_found"
    why = "this model's file is not on the server" if is_missing else "this model cannot be loaded on the server"
    fetch = f"Fetch it with: python3 main.py pull {chosen.name}. Or put" if chosen.profile.source else "Put"
    return Unavailable(
        f'the profile "{chosen.name}" has no working model: {error.message}. {fetch} a good file of that name into the '
        "models folder, change the profile in data/config.json, or switch with POST /models/model",
        code="no_model",
        public=f'the profile "{chosen.name}" has no working model: {why}. Ask whoever runs it',
    )
