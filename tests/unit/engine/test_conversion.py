"""Model files of other types: how they are written beside the old one, compared with it, and refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.backend.types import LoadSettings
from services.engine import type_trials
from services.engine.conversion import target_of, type_named, write_beside
from services.engine.llama import quantizer
from services.engine.llama.features import cpu_features
from services.engine.quality import Quality, Reference
from services.engine.tuning import Speed
from services.engine.type_trials import LIMIT, TypeTrial, TypeTrials, best_of, candidates, faster_but_worse
from services.engine.workspace import workspace
from services.errors import BadModelFile, InvalidRequest, StorageFailed
from services.models import disk
from services.models.fast_types import is_slow
from services.models.gguf import metadata_digests
from services.models.split import read_model
from tests.support.serving import ROOT
from tests.support.tiny import GUIDE, write_hybrid_model, write_random_model

# Threads of a small model wait for each other most of the time.
THREADS: dict[str, Any] = {"n_threads": 1, "n_threads_batch": 1}


def settings_of(model: Path, n_ctx: int, n_parallel: int = 1) -> LoadSettings:
    return LoadSettings(model, n_ctx, n_parallel=n_parallel, **THREADS)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return Path(shutil.copy(GUIDE, folder / "guide.Q8_0.gguf"))


def test_the_new_file_is_the_same_model_in_another_type(model: Path) -> None:
    with workspace(model) as folder:
        made = write_beside(model, "Q4_0", folder)
    assert made == model.with_name("guide-q4_0.gguf")
    assert sorted(path.name for path in model.parent.iterdir()) == sorted([model.name, made.name])
    old, new = read_model(model), read_model(made)
    assert new.quantization == "Q4_0"
    assert new.size < old.size
    before, after = metadata_digests(model), metadata_digests(made)
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert changed <= {"general.file_type", "general.quantization_version"}
    reference = Reference(settings_of(model, 512), model.parent)
    assert reference.compare(settings_of(model, 512)).divergence < 1e-4
    quality = reference.compare(settings_of(made, 512))
    assert 0.001 < quality.divergence < 1
    assert 0.5 < quality.agreement < 1


def test_what_loses_more_diverges_more(model: Path) -> None:
    reference, divergences = Reference(settings_of(model, 512), model.parent), []
    for kind in ("Q5_K_M", "Q4_0"):
        target = model.with_name(kind)
        quantizer.convert(model, target, kind, 2)
        divergences.append(reference.compare(settings_of(target, 512)).divergence)
    assert 0 < divergences[0] < divergences[1] / 2


def test_no_file_is_overwritten(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = model.with_name("guide-q4_0.gguf")
    taken.write_text("mine")
    with workspace(model) as folder, pytest.raises(InvalidRequest, match=r"guide-q4_0\.gguf is there already"):
        write_beside(model, "Q4_0", folder)
    taken.unlink()
    # One that appears during the conversion is kept too.
    monkeypatch.setattr("services.engine.conversion.convert", lambda *_: _convert_while(taken, *_))
    with workspace(model) as folder, pytest.raises(InvalidRequest, match="is there already"):
        write_beside(model, "Q4_0", folder)
    assert taken.read_text() == "mine"
    assert len(list(model.parent.iterdir())) == 2


def _convert_while(taken: Path, source: Path, target: Path, kind: str, n_threads: int) -> None:
    quantizer.convert(source, target, kind, n_threads)
    taken.write_text("mine")


def test_a_full_disk_is_noticed_before(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(model)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=disk.MARGIN + 1000))
    with workspace(model) as folder, pytest.raises(StorageFailed, match=r"guide-q4_0\.gguf needs .* more"):
        write_beside(model, "Q4_0", folder)
    assert list(model.parent.iterdir()) == [model]


def test_damaged_files_and_unknown_types_are_refused(model: Path) -> None:
    with pytest.raises(InvalidRequest, match=r'"Q9" is no type .*Q4_0, Q8_0'):
        type_named("Q9")
    model.write_bytes(model.read_bytes()[:-1000])
    with workspace(model) as folder:
        with pytest.raises(BadModelFile, match="cut short"):
            write_beside(model, "Q4_0", folder)
        with pytest.raises(BadModelFile, match=r"guide\.Q8_0\.gguf cannot become Q4_0: .+"):
            quantizer.convert(model, folder / "x.gguf", "Q4_0", 2)
    assert list(model.parent.iterdir()) == [model]


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct-q8_0.gguf"),
        ("Qwen3-4B-Q4_K_M-00001-of-00003.gguf", "Qwen3-4B-q8_0.gguf"),
        ("model.gguf", "model-q8_0.gguf"),
        ("gemma-3-270m.gguf", "gemma-3-270m-q8_0.gguf"),
    ],
)
def test_the_new_name_says_the_new_type(tmp_path: Path, name: str, target: str) -> None:
    assert target_of(tmp_path / name, "Q8_0") == tmp_path / target


def test_of_a_large_file_a_sample_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_random_model(tmp_path / "large.gguf", dim=256, layers=8, ffn=256)
    monkeypatch.setattr(type_trials, "WHOLE", 1000)
    with workspace(model) as folder:
        made = TypeTrials(settings_of(model, 256, n_parallel=2), read_model(model), folder, ("Q8_0",))
        own, q8 = list(made.run())
        assert made.sampled == "4 of its 8 layers"
        assert made.drift > 0
        assert list(folder.glob("*.gguf")) == []
    assert own.speed
    assert q8.speed
    # The quality is the whole file's.
    assert q8.quality
    assert 0.4 < q8.size / own.size < 0.7


def test_an_architecture_that_cannot_be_sampled_is_measured_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_hybrid_model(tmp_path / "hybrid.gguf")
    monkeypatch.setattr(type_trials, "WHOLE", 1000)
    monkeypatch.setattr(type_trials, "_LEAST_LAYERS", 2)
    with workspace(model) as folder:
        made = TypeTrials(settings_of(model, 256, n_parallel=2), read_model(model), folder, ("Q8_0",))
        own, q8 = list(made.run())
    assert made.sampled == ""
    assert own.speed
    assert q8.quality, q8.problem


def test_a_failed_conversion_is_a_row_of_the_table(model: Path) -> None:
    with workspace(model) as folder:
        trials = list(TypeTrials(settings_of(model, 256, n_parallel=1), read_model(model), folder, ("Q9", "Q4_0")).run())
    assert "cannot become Q9" in trials[1].problem
    assert trials[1].speed is None
    assert trials[2].quality


def test_the_fastest_of_those_that_stay_close_is_the_best() -> None:
    def trial(kind: str, factor: float, divergence: float | None) -> TypeTrial:
        quality = None if divergence is None else Quality(divergence, 0.9)
        return TypeTrial(kind, Speed(100 * factor, 10 * factor, 20 * factor, 8), 10, quality)

    own, q8, q4 = trial("", 1, 0), trial("Q8_0", 1.5, LIMIT / 2), trial("Q4_0", 2, LIMIT * 2)
    unknown, slow = trial("Q6_K", 1.7, None), trial("Q5_K_M", 1.01, 0.001)
    trials = [own, slow, q8, q4, unknown, TypeTrial("IQ4_NL", None, problem="no")]
    assert best_of(trials) is q8
    assert faster_but_worse(trials) == [q4, unknown]
    assert best_of([own, slow, q4]) is None


@pytest.mark.parametrize(
    ("kind", "slow_on"),
    [
        ("Q4_1", {"AVX2", "NEON"}),
        ("Q5_1", {"AVX2", "NEON"}),
        ("Q6_K", {"AVX2"}),
        ("Q2_K", {"AVX2", "NEON"}),
        ("IQ4_XS", {"AVX2", "AVX512", "NEON"}),
        ("Q4_0", set()),
        ("Q4_K_M", set()),
        ("F16", set()),
        ("", set()),
    ],
)
def test_types_without_a_fast_kernel(kind: str, slow_on: set[str]) -> None:
    cpus = {"AVX2": {"AVX", "AVX2"}, "NEON": {"NEON", "DOTPROD"}, "AVX512": {"AVX2", "AVX512"}}
    slow = {name for name, features in cpus.items() if is_slow(kind, features)}
    assert slow - {"AVX512"} == slow_on - {"AVX512"}
    assert ("AVX512" in slow) == (kind in ("Q4_1", "Q5_1", "Q6_K", "IQ4_XS"))
    assert not is_slow(kind, {"RISCV_V"}), "it is not known"


def test_the_library_names_its_features() -> None:
    assert cpu_features() & {"AVX", "AVX2", "NEON", "REPACK"}
    assert "=" not in "".join(cpu_features())


def test_candidates_are_other_types_and_not_far_larger(model: Path) -> None:
    info = read_model(model)
    assert "Q8_0" not in candidates(info), "its own"
    assert {"Q4_0", "Q4_K_M"} <= set(candidates(info))
    assert "Q8_0" in candidates(replace(info, quantization="Q4_1", size=info.weights * 5 // 8))
    assert "Q8_0" not in candidates(replace(info, quantization="Q3_K_M", size=info.weights * 3 // 8))


def command(model: Path, data: Path, *arguments: str) -> list[str]:
    return [sys.executable, "main.py", "tune", *arguments, "--data", str(data), "--models", str(model.parent)]


def test_converting_sets_the_profile_which_then_answers(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    profiles: dict[str, Any] = {
        "SelectedModel": "Mine",
        "Mine": {"model": model.name, "n_ctx": 128, "n_parallel": 1, "source": "pypi:x==1/x.gguf", **THREADS},
    }
    (data / "config.json").write_text(json.dumps(profiles))
    line, wide = command(model, data, "--convert", "q4_0"), {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(line, cwd=ROOT, env=wide, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    for part in ("Q4_0", "Q8_0, as it is", "Written: guide-q4_0.gguf", "Mine uses it now", "as the profile is"):
        assert part in done.stdout
    after = json.loads((data / "config.json").read_text())
    assert after["Mine"] == {**profiles["Mine"], "model": "guide-q4_0.gguf", "source": None}
    again = subprocess.run(
        command(model, data, model.name, "--convert", "q4_0"), cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert again.returncode == 1
    assert "guide-q4_0.gguf is there already" in again.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ending_it_leaves_nothing_behind(model: Path, tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"SelectedModel": "Mine", "Mine": {"model": model.name, "n_ctx": 128, **THREADS}})
    )
    before = (tmp_path / "config.json").read_text()
    process = subprocess.Popen(
        command(model, tmp_path, "--convert"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not list(model.parent.glob(".tune-*/*.gguf")) and time.monotonic() < deadline:
            time.sleep(0.005)
        assert list(model.parent.glob(".tune-*/*.gguf")), "it converts"
        os.kill(process.pid, number)
        process.wait(30)
    finally:
        process.kill()
        process.wait()
    if number == signal.SIGKILL:
        # The next run removes it.
        with workspace(model):
            pass
    assert list(model.parent.iterdir()) == [model]
    assert (tmp_path / "config.json").read_text() == before
