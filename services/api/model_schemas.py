"""The bodies of requests and replies about models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from services.models.profile import ThinkingLevel
from services.validation import Strict


class ModelDetails(BaseModel):
    """A GGUF file's header (`context_length` in tokens, `size` in bytes), or the `problem` for which it cannot be used.

    A file without a `chat_template`, as of a base model, continues a text; `note` says so. `parts` counts its files.
    `capabilities` are as in GET /v1/models: completion with tools and thinking, or embeddings, or rerank.
    """

    name: str | None = None
    architecture: str | None = None
    weights: int | None = None
    quantization: str | None = None
    context_length: int | None = None
    vocabulary: int | None = None
    size: int | None = None
    adapter: bool | None = None
    chat_template: bool | None = None
    capabilities: list[str] | None = None
    parts: int | None = None
    note: str | None = None
    problem: str | None = None


class PullProgress(BaseModel):
    """A download's progress, in bytes. The state is arriving, done, or interrupted (nobody fetches the rest)."""

    file: str
    source: str
    size: int
    received: int
    state: str


class ModelPull(Strict):
    """The body of POST /models/pull: a name of the catalog, a profile that has a source, or a source."""

    source: Annotated[str, Field(min_length=1, max_length=512)]


class ProfileDetails(BaseModel):
    """A profile's settings for its answers; its model can be fetched from `source`.

    `memory_k` null: as many exchanges as fit into the context. `thinking` says whether or how much the model thinks, null:
    as it does by itself; `thinking_budget` limits its thoughts, in tokens, and `chat_template_kwargs` are variables for its
    chat template. `capabilities` are as in GET /v1/models; null: its model's file is not here, so that they are not known.
    """

    model: str
    source: str | None
    capabilities: list[str] | None
    prompted_by: Literal["template", "chat template"]
    system_prompt: str | None
    n_ctx: int | Literal["auto"]
    memory_k: int | None
    temperature: float
    top_p: float
    max_tokens: int
    thinking: bool | ThinkingLevel | None
    thinking_budget: int | None
    chat_template_kwargs: dict[str, Any]


class CatalogModel(BaseModel):
    """A model that can be fetched: `size` in bytes, `context` in tokens, and the abilities that it has beside chatting.

    `machine_gb` is the memory of the smallest machine on which it is comfortable, in GB, and `needs_bytes` the free memory:
    where this machine has that, it `fits`, and the largest such is the `best`. `here`: its file is in the
    models folder. `fast_on`: the instruction sets on which llama.cpp has fast kernels for its type (DOTPROD is ARM's).
    """

    name: str
    source: str
    file: str
    size: int
    licence: str
    context: int
    machine_gb: int
    can: list[Literal["think", "tools"]]
    about: str
    quantization: str
    fast_on: list[str]
    needs_bytes: int
    fits: bool
    best: bool
    here: bool


class ModelList(BaseModel):
    """The files of the models folder, the profiles, and the models that can be fetched.

    `config_problem` is the error in an edited config.json, which the master key alone is told.
    """

    models: list[str]
    details: dict[str, ModelDetails]
    loaded: list[str]
    arriving: list[PullProgress]
    selected: str
    profiles: list[str]
    profile_details: dict[str, ProfileDetails]
    catalog: list[CatalogModel]
    config_problem: str | None = None


class ModelSwitch(Strict):
    """The body of POST /models/model: a file of the models folder, and the profile that is to use it.

    Without `model_config` a profile of that file is selected, or one is made that is named after it.
    """

    model: Annotated[str, Field(min_length=1, max_length=1024)]
    model_config_: Annotated[Annotated[str, Field(min_length=1, max_length=256)] | None, Field(alias="model_config")] = None


class ModelStatus(BaseModel):
    """The model is loaded and selected, with this profile."""

    model_status: bool
    profile: str


class ModelUnload(Strict):
    """The body of POST /models/unload: a file of the models folder, or a profile."""

    model: Annotated[str, Field(min_length=1, max_length=1024)]


class ModelFreed(BaseModel):
    """The model's file is no longer loaded."""

    unloaded: Literal[True]
    model: str
