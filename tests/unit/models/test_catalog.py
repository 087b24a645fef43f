from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from services.models.catalog import CatalogEntry, catalog, find, fits, proposals
from services.models.gguf import read_gguf
from services.models.kv_shape import kv_shape
from services.models.profile import Profile
from services.models.sources import file_name, parse_source
from tests.support.real_models import smollm2

MACHINES = (4, 8, 16, 32)
SMOLLM2 = "SmolLM2-135M-Instruct"
# Bytes of the KV cache for one token in f16, worked out by hand: layers of a kind, (key + value) length, KV heads, 2 bytes.
BYTES_A_TOKEN = {
    SMOLLM2: 30 * (64 + 64) * 3 * 2,
    "LFM2.5-1.2B-Instruct": 6 * (64 + 64) * 8 * 2,
    "Qwen3.5-2B": 6 * (256 + 256) * 2 * 2,
    "granite-4.2-3b": 40 * (64 + 64) * 8 * 2,
    "Qwen3-4B-Instruct-2507": 36 * (128 + 128) * 8 * 2,
    "gemma-4-E2B-it": 12 * (256 + 256) * 1 * 2 + 3 * (512 + 512) * 1 * 2,
    "gemma-4-E4B-it": 20 * (256 + 256) * 2 * 2 + 4 * (512 + 512) * 2 * 2,
    "Qwen3.5-9B": 8 * (256 + 256) * 4 * 2,
    "gpt-oss-20b": 24 * (64 + 64) * 8 * 2,
    "gemma-4-26B-A4B-it": 25 * (256 + 256) * 8 * 2 + 5 * (512 + 512) * 2 * 2,
    "Qwen3.6-35B-A3B": 10 * (256 + 256) * 2 * 2,
}

every_entry = pytest.mark.parametrize("entry", catalog(), ids=lambda entry: entry.name)


def left_for_models(machine_gb: int) -> int:
    """The bytes that a machine has for a model: two thirds, as the system and other programs need the rest."""
    return machine_gb * 2**30 * 2 // 3


def test_there_are_ten_models_beside_a_tiny_one() -> None:
    assert len(catalog()) == 11
    assert catalog()[0].name == SMOLLM2
    assert catalog()[0].about.startswith("A tiny model for a first look")
    assert [entry.size for entry in catalog()] == sorted(entry.size for entry in catalog())


def test_names_and_files_are_unique() -> None:
    assert len({entry.name.casefold() for entry in catalog()}) == len(catalog())
    assert len({entry.file.casefold() for entry in catalog()}) == len(catalog())


def test_an_entry_is_found_by_its_name_however_it_is_written() -> None:
    assert find("qwen3-4b-instruct-2507") is find("Qwen3-4B-Instruct-2507")
    assert find("QWEN3-4B-INSTRUCT-2507") in catalog()
    assert find("Qwen3-4B") is None


@every_entry
def test_a_source_can_be_pulled_and_names_the_file(entry: CatalogEntry) -> None:
    assert file_name(parse_source(entry.source)) == entry.file
    assert entry.file.endswith(".gguf")


@every_entry
def test_a_profile_can_be_made_of_it(entry: CatalogEntry) -> None:
    values = entry.profile_values()
    assert "template" not in values
    profile = Profile.model_validate(values)
    assert (profile.model, profile.source, profile.n_ctx) == (entry.file, entry.source, "auto")
    assert profile.temperature == entry.profile.temperature


@every_entry
def test_its_file_is_as_large_as_its_quantization_makes_it(entry: CatalogEntry) -> None:
    """4-bit files have four to six bits a weight: a size or a count with a wrong digit has others."""
    assert 4 < 8 * entry.size / entry.weights < 6


@every_entry
def test_its_machine_is_the_smallest_on_which_it_is_comfortable(entry: CatalogEntry) -> None:
    assert entry.machine_gb == next(gb for gb in MACHINES if fits(entry, left_for_models(gb)))


def test_there_is_a_model_for_every_machine() -> None:
    assert {entry.machine_gb for entry in catalog()} == set(MACHINES)


@every_entry
def test_its_kv_cache_takes_what_its_layers_do(entry: CatalogEntry) -> None:
    shape = kv_shape(entry.info())
    assert shape.bytes(512) - shape.bytes(256) == 256 * BYTES_A_TOKEN[entry.name]


def test_what_recurrent_layers_keep_is_counted() -> None:
    """Gated DeltaNet keeps a matrix of 128 by 128 numbers for each of 32 heads, and three columns of its convolution."""
    entry = find("Qwen3.6-35B-A3B")
    assert entry is not None
    assert kv_shape(entry.info()).recurrent_bytes == 30 * 4 * (32 * 128 * 128 + 3 * 8192)


def test_what_does_not_fit_says_so() -> None:
    entry = find("gpt-oss-20b")
    assert entry is not None
    assert not fits(entry, 8 * 2**30)
    assert "12.1 GB" in entry.fit(8 * 2**30).problem


def test_what_fits_with_a_short_context_alone_is_not_comfortable() -> None:
    entry = find("Qwen3-4B-Instruct-2507")
    assert entry is not None
    free = entry.size + 2**30
    assert not entry.fit(free).problem
    assert 512 <= entry.fit(free).n_ctx < 8192
    assert not fits(entry, free)


def test_the_first_entry_is_as_its_file_says() -> None:
    entry = catalog()[0]
    path = smollm2()
    info = read_gguf(path)
    assert entry.file == path.name
    assert (entry.size, entry.weights) == (info.size, info.weights)
    assert (entry.architecture, entry.context) == (info.architecture, info.context_length)
    assert kv_shape(entry.info()) == kv_shape(info)


@pytest.mark.parametrize(
    "change",
    [
        {"size": "98362432"},
        {"machine_gb": 12},
        {"can": ["see"]},
        {"profile": {"temprature": 0.2}},
        {"profile": {"temperature": 3}},
        {"kv": {"block_count": "30"}},
        {"colour": "red"},
    ],
)
def test_a_wrong_entry_is_refused(change: dict[str, object]) -> None:
    good = catalog()[0].model_dump(mode="json", exclude_unset=True)
    assert CatalogEntry.model_validate_json(json.dumps(good)) == catalog()[0]
    with pytest.raises(ValidationError, match=next(iter(change))):
        CatalogEntry.model_validate_json(json.dumps(good | change))


@every_entry
def test_what_it_needs_is_the_memory_from_which_on_loading_finds_it_comfortable(entry: CatalogEntry) -> None:
    usual = min(8192, entry.context)
    assert fits(entry, entry.needs)
    assert entry.fit(entry.needs).n_ctx >= usual
    assert not fits(entry, entry.needs - 2)
    assert entry.fit(entry.needs - 2).n_ctx < usual


def test_the_largest_that_fits_is_the_best() -> None:
    told = proposals({catalog()[0].file}, catalog()[3].needs)
    assert [each["here"] for each in told] == [True] + [False] * 10
    fitting = [each["name"] for each in told if each["fits"]]
    assert [each["name"] for each in told if each["best"]] == [fitting[-1]]
    assert not any(each["fits"] or each["best"] for each in proposals((), 0))
