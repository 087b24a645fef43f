"""The line that introduces the selected model at a start."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.cli.first_model import introduction
from services.models.config import Profiles
from services.models.files import ModelFile, ModelFiles
from tests.support.serving import ROOT
from tests.support.tiny import GUIDE


def test_no_other_model_is_read_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder may have hundreds of them."""
    described: list[Path] = []
    describe = ModelFiles._describe

    def note(files: ModelFiles, path: Path) -> ModelFile:
        described.append(path)
        return describe(files, path)

    monkeypatch.setattr(ModelFiles, "_describe", note)
    (tmp_path / GUIDE.name).symlink_to(GUIDE)
    (tmp_path / "other.gguf").symlink_to(GUIDE)
    config = Profiles(ROOT / "data" / "config.example.json").config()
    assert "a tiny model that knows this server" in introduction(config, ModelFiles(tmp_path))
    assert described == [tmp_path / GUIDE.name]
    assert introduction(config, ModelFiles(tmp_path / "empty")) == ""
