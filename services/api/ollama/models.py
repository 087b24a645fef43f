"""/api/tags, /api/show, /api/ps and /api/version: the models, as Ollama's clients list them."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone
from typing import Any

from flask_restful import Resource

from auth.authentication import caller
from services.api.http.schemas import replies, spec
from services.api.model_facts import abilities_of, template_of
from services.api.ollama.replies import OllamaError, OllamaLoaded, OllamaShown, OllamaTags, OllamaVersion
from services.api.ollama.schemas import NamedModel
from services.api.served_models import served_models, served_name
from services.backend.protocols import Backend
from services.models.config import Profiles
from services.models.files import AvailableModels, ModelFile
from services.models.profile import Profile

# The version of Ollama whose API this is: clients ask for one that has what they need (VS Code for 0.6.4).
VERSION = "0.12.0"
# Models stay in memory while it suffices; Ollama tells a time as far as this for such a model.
NEVER = "2318-01-01T00:00:00Z"
# Abilities that Ollama calls otherwise.
_NAMES = {"embeddings": "embedding"}


class ShowBody(NamedModel):
    """The body of POST /api/show."""

    verbose: bool | None = None


class _OfModels(Resource):
    def __init__(self, files: AvailableModels, profiles: Profiles, backend: Backend) -> None:
        self.files = files
        self.profiles = profiles
        self.backend = backend

    def served(self) -> dict[str, ModelFile]:
        """Return the model file behind each name that the key may use."""
        return served_models(self.files, self.profiles, caller())


class TagsResource(_OfModels):
    """The models that are here."""

    @spec.validate(resp=replies(OllamaTags, error=OllamaError))
    def get(self) -> Any:
        """List the profiles that have their model file, the selected one first, and the files."""
        return {"models": [{**_entry(name, file), "modified_at": _time(file)} for name, file in self.served().items()]}


class LoadedResource(_OfModels):
    """The models in memory."""

    @spec.validate(resp=replies(OllamaLoaded, error=OllamaError))
    def get(self) -> Any:
        """List the models that are loaded, by all their names."""
        loaded = set(self.backend.loaded())
        here = {name: file for name, file in self.served().items() if self.files.folder / file.name in loaded}
        return {"models": [{**_entry(name, file), "expires_at": NEVER, "size_vram": 0} for name, file in here.items()]}


class ShowResource(_OfModels):
    """A model."""

    @spec.validate(json=ShowBody, resp=replies(OllamaShown, 400, 404, 413, error=OllamaError))
    def post(self, json: ShowBody) -> Any:
        """Describe a model: its template, its sampling, the facts of its file, and what it can."""
        served = self.served()
        name = served_name(served, json.wanted)
        file, profile = served[name], self.profiles.config().profiles.get(name)
        template = template_of(self.files, file, profile)
        info = file.info
        assert info is not None
        return {
            "license": str(info.metadata.get("general.license", "")),
            "modelfile": f"# {file.name}, served by Hearth\nFROM {name}\n",
            "parameters": _parameters(profile) if profile else "",
            "template": template,
            "details": _details(file),
            "model_info": {
                **info.metadata,
                "general.architecture": info.architecture,
                "general.parameter_count": info.weights,
                **({f"{info.architecture}.context_length": info.context_length} if info.context_length else {}),
            },
            "capabilities": [_NAMES.get(each, each) for each in abilities_of(self.files, file, profile)],
            "modified_at": _time(file),
        }


class VersionResource(Resource):
    """The API's version."""

    @spec.validate(resp=replies(OllamaVersion, error=OllamaError))
    def get(self) -> Any:
        """Tell the version of Ollama whose API this is."""
        return {"version": VERSION}


def _entry(name: str, file: ModelFile) -> dict[str, Any]:
    tagged = name if ":" in name else f"{name}:latest"
    assert file.info is not None
    digest = hashlib.sha256(f"{file.name} {file.stamp}".encode()).hexdigest()
    return {"name": tagged, "model": tagged, "size": file.info.size, "digest": digest, "details": _details(file)}


def _details(file: ModelFile) -> dict[str, Any]:
    info = file.info
    assert info is not None
    weights = f"{info.weights / 1e9:.1f}B" if info.weights >= 10**9 else f"{info.weights / 1e6:.0f}M"
    return {
        "parent_model": "",
        "format": "gguf",
        "family": info.architecture,
        "families": [info.architecture],
        "parameter_size": weights,
        "quantization_level": info.quantization,
    }


def _time(file: ModelFile) -> str:
    return datetime.fromtimestamp(file.stamp[0] / 10**9, timezone.utc).isoformat().replace("+00:00", "Z")


def _parameters(profile: Profile) -> str:
    """Return a profile's sampling as a Modelfile writes it."""
    names = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty", "seed")
    told = [(name, getattr(profile, name, None)) for name in names]
    return "\n".join(f"{name:30} {value}" for name, value in told if value is not None)
