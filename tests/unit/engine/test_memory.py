"""What a model takes in memory, as its file's header says, against what llama.cpp itself counts when it is loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from services.backend.types import ChatFormat, LoadSettings, Prompt
from services.cluster.node.backend import ClusterModel
from services.cluster.registry import ServedModel
from services.engine.kv.state import FILE_PART
from services.engine.llama import log as native_log
from services.engine.llama import runner as runner_module
from services.engine.llama.embedder import LlamaEmbedder
from services.engine.llama.loading import context_params, fingerprint, load_model
from services.engine.llama.runner import Runner
from services.engine.machine import used_memory
from services.errors import BadModelFile
from services.models.gguf import GgufInfo, read_gguf
from services.models.kv_shape import KvShape, kv_shape
from services.models.memory import LONGEST_TEXT, Fit, fit, ubatch
from tests.support.real_models import gemma3, smollm2
from tests.support.tiny import (
    GUIDE,
    write_embedding_model,
    write_hybrid_model,
    write_recurrent_model,
    write_sharing_model,
    write_window_model,
)

GB = 10**9
MODELS: dict[str, Callable[[Path], Path]] = {
    "guide": lambda _: GUIDE,
    "smollm2": lambda _: smollm2(),
    "gemma3": lambda _: gemma3(),
    "window": write_window_model,
    "sharing": write_sharing_model,
    "recurrent": write_recurrent_model,
    "hybrid": write_hybrid_model,
}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"swa_full": False},
    {"swa_full": False, "n_batch": 512, "n_ubatch": 200},
    {"cache_type_k": "q8_0", "cache_type_v": "q4_0"},
    {"flash_attn": False},
    {"n_ctx": 700, "n_parallel": 3},
]


@pytest.fixture(scope="module", params=MODELS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each of the models."""
    return MODELS[request.param](tmp_path_factory.mktemp(request.param) / f"{request.param}.gguf")


@pytest.mark.parametrize("changed", SETTINGS, ids=str)
def test_the_cache_is_counted_as_llama_cpp_counts_it(
    file: Path, changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[tuple[int, int]] = []

    def check(_: str, counted: int, actual: int) -> int:
        counts.append((counted, actual))
        return counted

    monkeypatch.setattr(runner_module, "_checked", check)
    Runner(replace(LoadSettings(file, 2048, n_parallel=2), **changed)).close()
    [(counted, actual)] = counts
    assert actual > 0
    assert counted == pytest.approx(actual, rel=0.01)


def test_a_count_that_is_wrong_is_told_and_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = KvShape.bytes
    right = Runner(LoadSettings(GUIDE, 2048))
    monkeypatch.setattr(KvShape, "bytes", lambda *args, **named: whole(*args, **named) * 103 // 100)
    with caplog.at_level(logging.WARNING):
        wrong = Runner(LoadSettings(GUIDE, 2048))
    assert wrong.n_bytes == right.n_bytes
    assert "the KV cache takes 73.4 MB, and not 75.6 MB" in caplog.text
    right.close()
    wrong.close()


def info(**numbers: Any) -> GgufInfo:
    """A model of 10 GB whose KV cache takes 1 MB for each 8 tokens, unless `numbers` say otherwise."""
    metadata = {"block_count": 32, "embedding_length": 4096, "attention.head_count": 32, "attention.head_count_kv": 8}
    architecture = numbers.pop("architecture", "llama")
    metadata |= {name.replace("__", "."): value for name, value in numbers.items()}
    named = {f"{architecture}.{name}": value for name, value in metadata.items()}
    return GgufInfo("x", architecture, 7 * GB, "Q8_0", 131072, 32000, 10 * GB, metadata=named)


def test_windows_are_kept_whole_in_contexts_of_a_few_of_them() -> None:
    window = info(architecture="gemma3", attention__sliding_window=1024)
    shape = kv_shape(window)
    assert shape.window == 1024
    for n_ctx, is_full in ((4096, True), (8192, False), (0, False)):
        made = fit(window, 1000 * GB, n_ctx=n_ctx)
        assert made.swa_full is is_full
        assert made.kv == made.n_slots * shape.bytes(made.n_ctx, swa_full=is_full)
        for told in (True, False):
            assert fit(window, 1000 * GB, n_ctx=n_ctx, swa_full=told).swa_full is told
    assert fit(info(), 1000 * GB).swa_full


def test_a_context_is_what_the_model_was_trained_on_as_far_as_memory_holds_it() -> None:
    each = kv_shape(info()).bytes(256) // 256
    assert each == 2 * 32 * 8 * 128 * 2
    assert fit(info(), 1000 * GB) == Fit(131072, 8, 10 * GB, 8 * 131072 * each)
    # Of 20 GB that the weights leave a half is for the context: 17.2 GB would be all of it.
    less = fit(info(), 30 * GB)
    assert less.n_ctx % 256 == 0
    assert less.n_ctx * each <= 10 * GB < (less.n_ctx + 256) * each
    assert (less.n_slots, less.problem) == (1, "")
    assert fit(replace(info(), context_length=300), 1000 * GB).n_ctx == 300


def test_what_models_may_take_costs_slots_and_then_tokens_that_nobody_asked_for() -> None:
    each = 8192 * 2 * 32 * 8 * 128 * 2
    budget = 10 * GB + 3 * each
    assert fit(info(), 1000 * GB, n_ctx=8192, budget=budget) == Fit(8192, 3, 10 * GB, 3 * each)
    assert fit(info(), 1000 * GB, n_ctx=8192, budget=0).n_slots == 1, "one is always there"
    chosen = fit(info(), 1000 * GB, budget=10 * GB + each)
    assert (chosen.n_ctx, chosen.n_slots, chosen.problem) == (8192, 1, "")


def test_a_loaded_model_keeps_to_what_models_may_take(caplog: pytest.LogCaptureFixture) -> None:
    whole = Runner(LoadSettings(GUIDE, 2048))
    part = Runner(LoadSettings(GUIDE, 2048), whole.n_weights + (whole.n_bytes - whole.n_weights) // 2)
    assert (whole.n_slots, part.n_slots) == (8, 4)
    assert part.n_bytes - part.n_weights == (whole.n_bytes - whole.n_weights) // 2
    with caplog.at_level(logging.WARNING):
        tight = Runner(LoadSettings(GUIDE, 2048), 1)
    assert tight.n_slots == 1
    assert "--model-ram" in caplog.text
    for runner in (whole, part, tight):
        runner.close()


def test_an_embedders_memory_is_counted_and_small(tmp_path: Path) -> None:
    for file in (GUIDE, write_embedding_model(tmp_path / "bert.gguf")):
        embedder = LlamaEmbedder(LoadSettings(file, 0))
        assert embedder.n_weights < embedder.n_bytes or file != GUIDE
        before = used_memory()
        embedder.embed(embedder.tokenize_all([Prompt("w1 w2 " * 25)]))
        assert used_memory() - before < embedder.n_bytes + 20e6
        embedder.close()


def test_as_many_answers_at_once_as_half_of_the_rest_holds() -> None:
    each = 8192 * 2 * 32 * 8 * 128 * 2
    free = 10 * GB + 2 * (3 * each + 1)
    assert fit(info(), free, n_ctx=8192) == Fit(8192, 3, 10 * GB, 3 * each)
    assert fit(info(), free, n_ctx=8192, n_parallel=2).n_slots == 2
    assert fit(info(), free, n_ctx=10**6, n_parallel=2).n_ctx == 131072, "never more than it was trained on"
    assert fit(info(), free, n_ctx=8192, weights=free - 4 * each).n_slots == 2, "with adapters"


def test_what_does_not_fit_says_why_and_what_to_change() -> None:
    heavy = fit(info(), 9 * GB)
    assert heavy.problem == (
        "it takes 10.0 GB of memory, and 9.0 GB are free; a smaller model, or a smaller quantization of it, would fit"
    )
    assert heavy.param == "model"
    long = fit(info(), 11 * GB, n_ctx=131072)
    assert long.problem.startswith("a context of 131072 tokens takes 17180 MB, and 11000 MB are free")
    assert long.param == "n_ctx"
    # What it can choose itself is never too long, down to 512 tokens.
    assert fit(info(), 10 * GB + 1) == Fit(512, 1, 10 * GB, 512 * 2 * 32 * 8 * 128 * 2)


def test_windows_heads_and_shared_layers_of_known_architectures() -> None:
    def shape(**numbers: Any) -> list[tuple[int, int]]:
        made = kv_shape(info(attention__key_length=10, attention__value_length=10, **numbers))
        return [(layer.key // 10, layer.window) for layer in made.layers]

    four: dict[str, Any] = {"block_count": 4, "attention__head_count_kv": 1}
    assert shape(architecture="gemma2", **four) == [(1, 4096), (1, 0), (1, 4096), (1, 0)]
    assert shape(architecture="gemma3", **four) == [(1, 0)] * 4, "without a window in its file"
    oss = shape(architecture="gpt-oss", attention__sliding_window=128, **four)
    assert oss == [(1, 128), (1, 0), (1, 128), (1, 0)]
    assert shape(architecture="cohere2", attention__sliding_window=9, **four) == [(1, 9), (1, 9), (1, 9), (1, 0)]
    first = shape(architecture="cohere2moe", attention__sliding_window=9, **four)
    assert first == [(1, 0), (1, 9), (1, 9), (1, 9)]
    listed = shape(
        architecture="gemma4",
        attention__sliding_window=9,
        attention__sliding_window_pattern=[True, True, False, True],
        attention__key_length_swa=20,
        attention__shared_kv_layers=1,
        block_count=4,
        attention__head_count_kv=[1, 2, 3, 4],
    )
    assert listed == [(2, 9), (4, 9), (3, 0)]
    numbered = shape(architecture="gemma3", attention__sliding_window=9, attention__sliding_window_pattern=2, **four)
    assert numbered == [(1, 9), (1, 0), (1, 9), (1, 0)]
    assert shape(block_count=4, attention__head_count_kv=[0, 1, 0, 2]) == [(1, 0), (2, 0)], "layers without a cache"
    assert shape(block_count=4, nextn_predict_layers=1, attention__head_count_kv=1) == [(1, 0)] * 3
    chunked = kv_shape(info(architecture="llama4", **four))
    assert (chunked.window, chunked.chunked) == (8192, True)


def test_latent_attention_keeps_keys_alone() -> None:
    latent = info(
        architecture="deepseek2",
        block_count=2,
        attention__head_count_kv=1,
        attention__key_length=576,
        attention__value_length=512,
        attention__key_length_mla=192,
        attention__value_length_mla=128,
    )
    assert kv_shape(latent).bytes(256) == 2 * 256 * 576 * 2


@pytest.mark.parametrize("odd", [-1, 2**40, "4", 1.5, [], [-3, "x"], True, None])
def test_a_header_that_says_odd_things_is_counted_all_the_same(odd: Any) -> None:
    names = "block_count embedding_length attention__head_count attention__head_count_kv attention__key_length"
    names += " attention__sliding_window attention__sliding_window_pattern ssm__conv_kernel full_attention_interval"
    for name in f"{names} attention__recurrent_layers".split():
        for architecture in ("llama", "gemma3", "gemma4", "mamba", "qwen35", "lfm2", "nemotron_h"):
            made = kv_shape(info(architecture=architecture, **{name: odd}))
            assert made.bytes(512, "q8_0", swa_full=False) >= 0


def test_the_start_says_what_the_model_got(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for n_ctx in (0, 512, 10**6):
            Runner(LoadSettings(GUIDE, n_ctx, n_parallel=2)).close()
    lines = [record.message for record in caplog.records if "at once" in record.message]
    assert lines == [
        "guide.gguf: a context of 2048 tokens (all it was trained on), 2 answers at once, KV cache 18 MB",
        "guide.gguf: a context of 512 tokens, 2 answers at once, KV cache 5 MB",
        "guide.gguf: a context of 2048 tokens (all it was trained on), 2 answers at once, KV cache 18 MB",
    ]
    assert "so n_ctx is 2048 and not 1000000" in caplog.text


def test_a_chosen_context_is_smaller_where_memory_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    weights = 3_800_000
    each = kv_shape(read_gguf(GUIDE)).bytes(1024)
    monkeypatch.setattr(runner_module, "free_memory", lambda: weights + 2 * each + 2**17)
    with caplog.at_level(logging.INFO):
        runner = Runner(LoadSettings(GUIDE, 0, n_parallel=4))
    assert (runner.n_ctx, runner.n_slots) == (1024, 1)
    assert "a context of 1024 tokens (what memory holds), 1 answer at once" in caplog.text
    runner.close()
    with pytest.raises(BadModelFile, match=r"a context of 2048 tokens takes .* a smaller n_ctx takes less") as refused:
        monkeypatch.setattr(runner_module, "free_memory", lambda: each)
        Runner(LoadSettings(GUIDE, 2048))
    assert refused.value.param == "n_ctx"


def test_an_embedder_chooses_a_context_too(tmp_path: Path) -> None:
    embedder = LlamaEmbedder(LoadSettings(write_embedding_model(tmp_path / "bert.gguf"), 0))
    assert embedder.n_ctx == 64
    assert len(embedder.embed(embedder.tokenize_all([Prompt("w1 w2")]))[0][0]) == 64
    embedder.close()
    guide = LlamaEmbedder(LoadSettings(GUIDE, 0))
    assert guide.n_ctx == 2048 < LONGEST_TEXT
    guide.close()


def test_a_node_chooses_one_context_for_all_workers() -> None:
    """It has no memory of its own to go by, and workers have different ones."""

    class Tokenizer:
        chat_format = ChatFormat("", "", "", ())

    def chosen(n_ctx: int, trained: int | None) -> tuple[int, int]:
        served = ServedModel("x.gguf", "0" * 64, 0, replace(info(), context_length=trained))
        model = ClusterModel(cast(Any, None), LoadSettings(GUIDE, n_ctx), served, cast(Any, Tokenizer()), embeds=False)
        return model.n_ctx, model._settings.n_ctx

    assert chosen(0, 131072) == chosen(0, None) == (8192, 8192)
    assert chosen(0, 2048) == (2048, 2048)
    assert chosen(16384, 131072) == (16384, 16384)


def test_states_with_and_without_whole_windows_are_not_mixed() -> None:
    settings = LoadSettings(GUIDE, 2048)
    whole, windows = fingerprint(settings, 2048), fingerprint(replace(settings, swa_full=False), 2048)
    assert whole != windows
    assert whole[:FILE_PART] == windows[:FILE_PART] != fingerprint(replace(settings, stamp=(1, 2, 3)), 2048)[:FILE_PART]
    params = context_params(replace(settings, swa_full=False), 2048, 1, 137)
    assert not params.swa_full
    assert params.n_ubatch == ubatch(settings.n_ubatch, 137) == 137


def test_nothing_that_llama_cpp_counts_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    native_log.take_cache_bytes()
    Runner(LoadSettings(GUIDE, 512)).close()
    assert native_log.take_cache_bytes() == 0, "the runner takes its own"
    model = load_model(LoadSettings(GUIDE, 512))
    assert model
    assert capfd.readouterr() == ("", "")
