"""Tuning: the real measuring with the guide model, and what is kept of made-up figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.backend.types import LoadSettings
from services.engine import tuning
from services.engine.tuning import Speed, measure, n_trials, tune
from services.errors import BadModelFile, EngineFailure
from tests.support.serving import ROOT
from tests.support.tiny import GUIDE, write_random_model


def command(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "main.py", "tune", *arguments, "--data", str(data), "--models", str(data)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=240)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder whose profiles have a tiny model and short contexts, so that each trial is short."""
    config = json.loads((ROOT / "data" / "config.example.json").read_text())
    model = write_random_model(tmp_path / "tiny.gguf", dim=64, layers=2, ffn=64)
    for name in ("Guide", "Pirate"):
        config[name] |= {"n_ctx": 256, "n_parallel": 2, "model": model.name}
        # Threads of a tiny model wait for each other most of the time.
        config[name] |= {"n_threads": 1, "n_threads_batch": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_it_shows_a_table_and_changes_nothing_unless_told(data: Path) -> None:
    before = (data / "config.json").read_text()
    done = command(data, "Pirate")
    assert done.returncode == 0, done.stderr
    for part in ("Pirate", "as the profile is", "flash_attn False", "cache_type_k q8_0", "n_batch 256"):
        assert part in done.stdout
    assert (data / "config.json").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["Nobody"], 'Hearth cannot tune: there is no model "Nobody"'), (["Qwen"], "qwen2.5-1.5b")],
)
def test_what_cannot_be_tuned_is_named(data: Path, arguments: list[str], says: str) -> None:
    done = command(data, *arguments)
    assert done.returncode == 1
    assert says in done.stderr


def test_a_measurement_is_of_the_real_model() -> None:
    speed = measure(LoadSettings(GUIDE, 512, n_parallel=3))
    assert speed.n_parallel == 3
    assert min(speed.read, speed.decode, speed.together, speed.turn_seconds) > 0
    with pytest.raises(BadModelFile):
        measure(LoadSettings(GUIDE.with_name("none.gguf"), 512))


def test_what_is_faster_is_kept_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[LoadSettings] = []

    def made_up(settings: LoadSettings) -> Speed:
        seen.append(settings)
        if settings.cache_type_k == "q8_0":
            raise EngineFailure("not with this model")
        factor = 1.0 + (settings.n_batch == 256) - 0.5 * (not settings.flash_attn) + 0.01 * (settings.n_batch == 512)
        return Speed(100 * factor, 10 * factor, 20 * factor, 8)

    monkeypatch.setattr(tuning, "measure", made_up)
    base = LoadSettings(GUIDE, 512)
    trials = list(tune(base))
    assert len(trials) == len(seen) == n_trials(base)
    kept: dict[str, Any] = {}
    for trial in trials:
        kept |= trial.change if trial.kept else {}
    assert kept == {"n_batch": 256, "n_ubatch": 256}
    assert seen[-1].n_batch == 256, "what is kept is part of all later trials"
    assert trials[-1].problem == "not with this model"


def test_saving_writes_the_profile_and_keeps_the_rest(data: Path) -> None:
    before = json.loads((data / "config.json").read_text())
    done = command(data, "--save")
    assert done.returncode == 0, done.stderr
    after = json.loads((data / "config.json").read_text())
    assert after["Pirate"] == before["Pirate"]
    changed = {name: value for name, value in after["Guide"].items() if before["Guide"].get(name) != value}
    assert ("Written into" in done.stdout) == bool(changed)
    tunable = {"n_threads", "n_threads_batch", "n_batch", "n_ubatch", "flash_attn", "cache_type_k", "cache_type_v"}
    assert set(changed) <= tunable
