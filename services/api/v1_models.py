"""/v1/models: the names that `model` may have, as OpenAI's clients read them, and as Anthropic's do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Annotated, Any

from flask_restful import Resource
from pydantic import BeforeValidator, Field, RootModel

from auth.authentication import caller
from services.api.anthropic.errors import is_anthropic
from services.api.anthropic.replies import AnthropicModel, AnthropicModels
from services.api.http.schemas import Query, replies, spec
from services.api.model_facts import abilities_of, context_of
from services.api.openai.replies import OpenAIModel, OpenAIModels
from services.api.served_models import served_models
from services.errors import InvalidRequest, NotFound
from services.models.config import Profiles
from services.models.files import AvailableModels, ModelFile
from services.models.profile import Profile

Limit = Annotated[int, Field(ge=1, le=1000), BeforeValidator(int)]


class AnyModel(RootModel[OpenAIModel | AnthropicModel]):
    """A profile, or a file of the models folder, in the client's own shape."""


class AnyModels(RootModel[OpenAIModels | AnthropicModels]):
    """All profiles and files that the key may use, or a page of them."""


class Page(Query):
    """The part of the list that Anthropic's clients ask for: `limit` models after or before the one of an id."""

    limit: Limit = 20
    after_id: str | None = None
    before_id: str | None = None


class V1ModelsResource(Resource):
    """The names that `model` may have."""

    def __init__(self, files: AvailableModels, profiles: Profiles, free: Callable[[], int]) -> None:
        """`free` returns how many bytes of this machine's memory are free."""
        self._files = files
        self._profiles = profiles
        self._free = free

    @spec.validate(query=Page, resp=replies(AnyModels))
    def get(self, query: Page) -> Any:
        """List the profiles that have their model file, the selected one first, and the files.

        With the header `anthropic-version` the list has Anthropic's shape, in pages.
        """
        served = self.served()
        if is_anthropic():
            return _page({name: _created(file) for name, file in served.items()}, query)
        free, profiles = self._free(), self._profiles.config().profiles
        data = [self.described(name, file, profiles.get(name), free) for name, file in served.items()]
        return {"object": "list", "data": data}

    def served(self) -> dict[str, ModelFile]:
        """Return the model file behind each name that the key may use."""
        return served_models(self._files, self._profiles, caller())

    def described(self, name: str, file: ModelFile, profile: Profile | None, free: int) -> dict[str, Any]:
        """Return a model as OpenAI's clients read it, with what those of llama-server, vLLM and OpenRouter look for."""
        info = file.info
        assert info is not None
        n_ctx = context_of(profile, file, free)
        meta = {"n_vocab": info.vocabulary, "n_ctx_train": info.context_length, "n_ctx": n_ctx}
        return {
            "id": name,
            "object": "model",
            "created": _created(file),
            "owned_by": "hearth",
            "context_length": n_ctx,
            "max_model_len": n_ctx,
            "capabilities": abilities_of(self._files, file, profile),
            "meta": {**meta, "n_params": info.weights, "size": info.size},
        }


class V1ModelResource(V1ModelsResource):
    """One name that `model` may have."""

    @spec.validate(resp=replies(AnyModel, 404))
    def get(self, name: str) -> Any:
        """Describe a model."""
        served = self.served()
        if name not in served:
            raise NotFound(f'there is no model "{name}"', param="model", code="model_not_found")
        file, profile = served[name], self._profiles.config().profiles.get(name)
        return _anthropic(name, _created(file)) if is_anthropic() else self.described(name, file, profile, self._free())


def _created(file: ModelFile) -> int:
    """Return when a file was written, in seconds since 1970."""
    return file.stamp[0] // 10**9


def _anthropic(name: str, created: int) -> dict[str, Any]:
    moment = datetime.fromtimestamp(created, timezone.utc).isoformat().replace("+00:00", "Z")
    return {"type": "model", "id": name, "display_name": name, "created_at": moment, "lifecycle": "active"}


def _page(names: dict[str, int], query: Page) -> dict[str, Any]:
    listed = list(names)
    start, end = 0, len(listed)
    for field in ("after_id", "before_id"):
        if (given := getattr(query, field)) is not None and given not in names:
            raise InvalidRequest(f'{field}: there is no model "{given}"', param=field)
    if query.after_id is not None:
        start = listed.index(query.after_id) + 1
    if query.before_id is not None:
        end = listed.index(query.before_id)
    # Backwards from its end where only that is given.
    backwards = query.before_id is not None and query.after_id is None
    shown = listed[start:end][-query.limit :] if backwards else listed[start:end][: query.limit]
    return {
        "data": [_anthropic(name, names[name]) for name in shown],
        "has_more": len(shown) < end - start,
        "first_id": shown[0] if shown else None,
        "last_id": shown[-1] if shown else None,
    }
