"""/models: the model files, and switching between them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flask_restful import Resource

from services.answers import Answers
from services.api.schemas import ModelList, ModelStatus, ModelSwitch, replies, spec
from services.backend import Backend
from services.models import ModelFile, ModelFiles
from services.profiles import Profiles


class ModelsResource(Resource):
    """The models folder."""

    def __init__(self, files: ModelFiles, profiles: Profiles, backend: Backend) -> None:
        self._files = files
        self._profiles = profiles
        self._backend = backend

    @spec.validate(resp=replies(ModelList))
    def get(self) -> Any:
        """List the GGUF files, what each is, which are loaded, and the profiles."""
        files = self._files.list()
        config, loaded = self._profiles.config(), self._backend.loaded()
        return {
            "models": [file.name for file in files],
            "details": {file.name: _details(file) for file in files},
            "loaded": [file.name for file in files if self._files.folder / file.name in loaded],
            "selected": config.selected,
            "profiles": list(config.profiles),
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
        self._answers.switch(json.model, json.model_config_)
        return {"model_status": True}


def _details(file: ModelFile) -> dict[str, Any]:
    return asdict(file.info) if file.info else {"problem": file.problem}
