"""/api/pull and /api/delete: models come and go, as Ollama's clients ask for it."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from flask import Response, g
from flask_restful import Resource
from pydantic import model_validator

from auth.authentication import caller
from services.answers.service import Answers
from services.api.http import sse
from services.api.http.client import current_client
from services.api.http.schemas import replies, spec
from services.api.ollama.errors import ollama_shape
from services.api.ollama.replies import OllamaError, OllamaPull
from services.api.ollama.schemas import NamedModel
from services.api.served_models import served_models, served_name
from services.backend.protocols import Backend
from services.errors import InvalidRequest, NotFound, StorageFailed
from services.models.config import Profiles, profile_entry
from services.models.downloads import Pulls
from services.models.files import AvailableModels, remove_model
from services.models.profile import Profile
from services.models.sources import Source

_HUBS = ("hf.co/", "huggingface.co/")
_OTHERS = ("hf:", "pypi:", "ollama:")


class PullBody(NamedModel):
    """The body of POST /api/pull. Connections are always secure."""

    insecure: bool | None = None
    stream: bool | None = None

    @model_validator(mode="after")
    def _is_secure(self) -> PullBody:
        if self.insecure:
            raise ValueError("insecure: models are fetched by HTTPS alone")
        return self


class OllamaPullResource(Resource):
    """Downloads of models."""

    def __init__(self, answers: Answers, profiles: Profiles, pulls: Pulls) -> None:
        self._answers = answers
        self._profiles = profiles
        self._pulls = pulls

    @spec.validate(json=PullBody, resp=replies(OllamaPull, 400, 403, 404, 413, 500, 502, 503, error=OllamaError))
    def post(self, json: PullBody) -> Any:
        """Fetch a model, and have it answer by the name under which it was fetched.

        `model` is a name of the catalog, a profile that has a source, hf.co/USER/REPO with or without :QUANTIZATION, or the
        name of a model that Ollama has fetched on this machine. The reply is lines of JSON unless `stream` is false.
        """
        g.audited = {"source": json.wanted}
        with ExitStack() as stack:
            deadline = stack.enter_context(self._answers.admit_metered(current_client()))
            deadline.slot.begin()
            source, target = self._source(json.wanted)
            progress = self._pulls.start(source, target).progress(deadline.check)
            stack.callback(progress.close)
            # A key for certain profiles could not use another one.
            name = json.wanted if caller().profiles is None else ""
            # An error before anything arrives has a status of its own.
            events = self._events(next(progress), progress, name, source)
            if json.stream is False:
                return list(events)[-1]
            lines = (sse.line(event) for event in events)
            return sse.respond(sse.EventStream(lines, stack.pop_all().close, sse.LINES, ollama_shape))

    def _source(self, name: str) -> tuple[Source, str]:
        config = self._profiles.config().only(caller().profiles)
        if hub := next((hub for hub in _HUBS if name.startswith(hub)), None):
            return config.source(f"hf:{name.removeprefix(hub)}")
        try:
            return config.source(name)
        except (NotFound, InvalidRequest):
            if name in config.profiles or name.startswith(_OTHERS):
                raise
        return config.source(f"ollama:{name}")

    def _events(
        self, first: dict[str, Any], progress: Generator[dict[str, Any]], name: str, source: Source
    ) -> Iterator[dict[str, Any]]:
        yield {"status": "pulling manifest"}
        digest = f"sha256:{hashlib.sha256(str(source).encode()).hexdigest()}"
        told = first
        yield _arrived(first, digest)
        for at in progress:
            if at != told:
                yield _arrived(at, digest)
            told = at
        yield {"status": "verifying sha256 digest"}
        self._name(name, str(told["file"]), source)
        yield {"status": "writing manifest"}
        yield {"status": "success"}

    def _name(self, name: str, file: str, source: Source) -> None:
        """Add a profile under the name by which a file was fetched, unless that name is taken."""
        if name in ("", *self._profiles.config().profiles, file, Path(file).stem):
            return
        # Where a cluster keeps the profiles, their owner writes them.
        with suppress(InvalidRequest):
            self._profiles.add(name, {**profile_entry(file), "source": str(source)}, selects=False)


class OllamaDeleteResource(Resource):
    """Models that are no longer wanted."""

    def __init__(self, answers: Answers, files: AvailableModels, profiles: Profiles, backend: Backend) -> None:
        self._answers = answers
        self._files = files
        self._profiles = profiles
        self._backend = backend

    @spec.validate(json=NamedModel, resp=replies(None, 400, 404, 413, 500, 503, error=OllamaError))
    def delete(self, json: NamedModel) -> Any:
        """Remove a model's file from the models folder, and from memory.

        One that another profile uses, or the selected one, is needed; one that answers just now stays (503). A profile that
        fetching the model has made goes with it.
        """
        g.audited = {"model": json.wanted}
        with self._answers.admit_metered(current_client()):
            served = served_models(self._files, self._profiles, caller())
            known = served_name(served, json.wanted)
            self._remove(known, served[known].name)
        return Response(status=200)

    def _remove(self, name: str, file: str) -> None:
        """Remove a file, and a profile that fetching it made. Raises InvalidRequest, Unavailable, StorageFailed."""
        config = self._profiles.config()
        if others := [each for each in config.users(file) if each != name or each == config.selected]:
            shown = [each for each in others if caller().may_use(each)]
            who = ", ".join(shown) if shown else "another profile"
            what = f"{file} is needed: by {who}; choose another model there first"
            raise InvalidRequest(what, param="model", code="model_in_use")
        if self._files.folder == Path():
            raise InvalidRequest("the workers of a cluster keep the model files: delete them there", param="model")
        self._backend.unload(self._files.folder / file)
        try:
            remove_model(self._files.folder, file)
        except OSError as error:
            raise StorageFailed(f"{file} cannot be removed: {error.strerror}") from error
        profile = config.profiles.get(name)
        if profile and profile == Profile.model_validate({**profile_entry(file), "source": profile.source}):
            # It has no settings of its own: fetching the model made it.
            self._profiles.remove(name)


def _arrived(at: dict[str, Any], digest: str) -> dict[str, Any]:
    """Return a download's progress in Ollama's shape."""
    return {"status": f"pulling {at['file']}", "digest": digest, "total": at["size"], "completed": at["received"]}
