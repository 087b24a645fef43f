"""The models that Hearth proposes: each one's source, needs, and its makers' advice on sampling.

catalog.json is a list of entries, the smallest model first. An entry's `kv` holds the model file's GGUF metadata on its
layers (the keys without the architecture), so that the fit is computed alike before and after a download.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from services.models.best_file import quantization_of
from services.models.fast_types import fast_on
from services.models.gguf import GgufInfo
from services.models.kv_shape import kv_shape
from services.models.memory import Fit, fit, keeps_windows, longest_chunk
from services.validation import AnswerPenalty, RepeatPenalty, Share, Strict, Temperature, TopK

_FILE = Path(__file__).with_name("catalog.json")
# A model is comfortable in a memory that has room for a conversation of so many tokens.
COMFORTABLE_CONTEXT = 8192

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]


class CatalogSampling(Strict):
    """The sampling values that a model's makers advise; None: no advice."""

    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: TopK | None = None
    min_p: Share | None = None
    repeat_penalty: RepeatPenalty | None = None
    presence_penalty: AnswerPenalty | None = None


class CatalogEntry(Strict):
    """One model. `size` is in bytes, `context` in tokens (the training context), `weights` is the number of parameters.

    `machine_gb` is the memory in GB of the smallest machine on which it is comfortable: two thirds of that hold the model
    and a conversation of COMFORTABLE_CONTEXT tokens.
    """

    name: Text
    source: Text
    size: Count
    licence: Text
    """The SPDX identifier, or the licence's own name."""
    context: Count
    machine_gb: Literal[4, 8, 16, 32]
    weights: Count
    architecture: Text
    """llama.cpp's name of the architecture (general.architecture)."""
    can: tuple[Literal["think", "tools"], ...]
    profile: CatalogSampling
    about: Text
    """One sentence of description."""
    kv: Mapping[str, int | list[int] | list[bool]]

    @property
    def file(self) -> str:
        """The model file's name."""
        return self.source.rpartition("/")[2]

    @property
    def quantization(self) -> str:
        """The type of its weights, as the file's name has it: Q4_K_M."""
        return quantization_of(self.file).removeprefix("UD-")

    def profile_values(self) -> dict[str, Any]:
        """The values of a new profile, by the config file's keys; the chat template stays the model file's own."""
        sampling = self.profile.model_dump(exclude_unset=True)
        return {"model": self.file, "source": self.source, "n_ctx": "auto", **sampling}

    def info(self) -> GgufInfo:
        """The model file's header before it is downloaded, as far as it matters for memory."""
        return GgufInfo(
            name=self.name,
            architecture=self.architecture,
            weights=self.weights,
            quantization="",
            context_length=self.context,
            vocabulary=None,
            size=self.size,
            chat_template=True,
            metadata={f"{self.architecture}.{key}": value for key, value in self.kv.items()},
        )

    @property
    def needs(self) -> int:
        """The bytes of free memory in which it is comfortable: half of those beside its weights are for conversations."""
        shape = kv_shape(self.info())
        usual = min(COMFORTABLE_CONTEXT, self.context)
        n_ubatch = longest_chunk(None, shape)
        return self.size + 2 * shape.bytes(usual, swa_full=keeps_windows(shape, self.context), n_ubatch=n_ubatch)

    def fit(self, free: int) -> Fit:
        """Fit the model into `free` bytes of memory, by the rule that loading follows."""
        return fit(self.info(), free, n_ubatch=longest_chunk(None, kv_shape(self.info())))


@cache
def catalog() -> tuple[CatalogEntry, ...]:
    """The entries, in the file's order; the first is a tiny model."""
    return TypeAdapter(tuple[CatalogEntry, ...]).validate_json(_FILE.read_bytes())


def find(name: str) -> CatalogEntry | None:
    """Return the entry called `name`, regardless of case, or None."""
    return next((entry for entry in catalog() if entry.name.casefold() == name.casefold()), None)


def fits(entry: CatalogEntry, free: int) -> bool:
    """Return whether the model is comfortable in `free` bytes of memory."""
    return entry.needs <= free


def proposals(here: Collection[str], free: int) -> list[dict[str, Any]]:
    """The catalog as GET /models lists it, for a machine with `free` bytes of memory and the model files `here`.

    `needs_bytes` is the memory in which an entry is comfortable. The last that `fits` is the `best`. `fast_on` names the
    instruction sets on which llama.cpp has fast kernels for its `quantization`.
    """
    best = next((entry for entry in reversed(catalog()) if fits(entry, free)), None)
    shown = {"name", "source", "size", "licence", "context", "machine_gb", "can", "about"}
    return [
        {
            **entry.model_dump(mode="json", include=shown),
            "file": entry.file,
            "quantization": entry.quantization,
            "fast_on": fast_on(entry.quantization),
            "needs_bytes": entry.needs,
            "fits": fits(entry, free),
            "best": entry is best,
            "here": entry.file in here,
        }
        for entry in catalog()
    ]
