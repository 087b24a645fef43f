"""/models: the model files, and switching between them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import asdict
from typing import Any

from flask import g
from flask_restful import Resource

from auth.authentication import caller
from services.answers import Answers
from services.api import sse
from services.api.hangup import poll_of_caller
from services.api.schemas import ModelList, ModelPull, ModelStatus, ModelSwitch, ProfileDetails, PullProgress, replies, spec
from services.backend import Backend
from services.models.config import Profiles
from services.models.downloads import Pulls
from services.models.files import ModelFile, ModelFiles

_TOLD = set(ProfileDetails.model_fields)


class ModelsResource(Resource):
    """The models folder."""

    def __init__(self, files: ModelFiles, profiles: Profiles, backend: Backend, pulls: Pulls) -> None:
        self._files = files
        self._pulls = pulls
        self._profiles = profiles
        self._backend = backend

    @spec.validate(resp=replies(ModelList))
    def get(self) -> Any:
        """List the GGUF files, what each is, which are loaded, which are still arriving, and the key's profiles."""
        files = self._files.list()
        config, loaded, me = self._profiles.config(), self._backend.loaded(), caller()
        profiles = {name: profile for name, profile in config.profiles.items() if me.may_use(name)}
        return {
            "models": [file.name for file in files],
            "details": {file.name: _details(file) for file in files},
            "loaded": [file.name for file in files if self._files.folder / file.name in loaded],
            "arriving": self._pulls.arriving(),
            "selected": config.selected,
            "profiles": list(profiles),
            "profile_details": {name: profile.model_dump(include=_TOLD) for name, profile in profiles.items()},
            **({"config_problem": self._profiles.problem} if self._profiles.problem else {}),
        }


class ModelResource(Resource):
    """The model in use."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(json=ModelSwitch, resp=replies(ModelStatus, 400, 404, 413, 422, 500, 503))
    def post(self, json: ModelSwitch) -> Any:
        """Set a profile's model and select the profile.

        Answers in flight finish on the old model, later ones use the new. Where the new one cannot be loaded, nothing
        changes.
        """
        self._answers.switch(caller().id, json.model, json.model_config_)
        g.audited = {"model": json.model, "profile": json.model_config_}
        return {"model_status": True}


class PullResource(Resource):
    """Models from elsewhere."""

    def __init__(self, profiles: Profiles, pulls: Pulls) -> None:
        self._profiles = profiles
        self._pulls = pulls

    @spec.validate(json=ModelPull, resp=replies(PullProgress, 400, 403, 404, 413, 500, 502, 503))
    def post(self, json: ModelPull) -> Any:
        """Fetch a model file into the models folder.

        `source` is hf:REPO/FILE.gguf, hf:REPO, ollama:NAME, or a profile that has a source. The reply is text/event-stream:
        events of how much has arrived, the last of which has the state "done", then `data: [DONE]`; an error on the way is
        an event of its own, and the last. Whoever hangs up leaves it going on, and can follow it again.
        """
        poll = poll_of_caller()
        g.audited = {"source": json.source}
        progress = self._pulls.start(*self._profiles.config().source(json.source)).progress(poll)
        # What goes wrong before anything arrives has a status of its own.
        first = next(progress)
        return sse.stream(_events(first, progress), progress.close)


def _events(first: dict[str, Any], progress: Generator[dict[str, Any]]) -> Iterator[str]:
    told = first
    yield sse.event(first)
    for at in progress:
        if at != told:
            yield sse.event(at)
        told = at
    yield sse.DONE


def _details(file: ModelFile) -> dict[str, Any]:
    return asdict(file.info) if file.info else {"problem": file.problem}
