from __future__ import annotations

from pathlib import Path

import pytest

from services.errors import BadModelFile, HearthError, InvalidRequest, NotFound
from services.models.files import ModelFiles
from tests.tiny import GUIDE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    (folder / "more").mkdir(parents=True)
    (folder / "guide.gguf").write_bytes(GUIDE.read_bytes())
    (folder / "more" / "guide.gguf").symlink_to(folder / "guide.gguf")
    (folder / "cut.gguf").write_bytes(GUIDE.read_bytes()[:-1])
    (folder / "notes.txt").write_text("no model")
    (tmp_path / "secret.gguf").write_bytes(GUIDE.read_bytes())
    (folder / "out.gguf").symlink_to(tmp_path / "secret.gguf")
    (folder / "loop.gguf").symlink_to("loop.gguf")
    (folder / "dangling.gguf").symlink_to(tmp_path / "nothing.gguf")
    (folder / "away").symlink_to(tmp_path)
    return folder


def test_the_files_are_listed_with_what_they_are(folder: Path) -> None:
    files = {file.name: file for file in ModelFiles(folder).list()}
    assert list(files) == ["cut.gguf", "guide.gguf", "more/guide.gguf"]
    assert files["guide.gguf"].info == files["more/guide.gguf"].info
    assert files["cut.gguf"].info is None
    assert "cut short" in (files["cut.gguf"].problem or "")


def test_a_changed_file_is_read_again(folder: Path) -> None:
    files = ModelFiles(folder)
    assert files.list()[0].problem
    (folder / "cut.gguf").write_bytes(GUIDE.read_bytes())
    assert files.list()[0].problem is None


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("../secret.gguf", InvalidRequest),
        ("more/../../secret.gguf", InvalidRequest),
        ("/etc/passwd", InvalidRequest),
        ("out.gguf", InvalidRequest),
        ("away/secret.gguf", InvalidRequest),
        ("", InvalidRequest),
        ("  ", InvalidRequest),
        ("a\0b", InvalidRequest),
        ("nothing.gguf", NotFound),
        ("more", NotFound),
        ("loop.gguf", NotFound),
        ("dangling.gguf", InvalidRequest),
        ("away/nothing.gguf", InvalidRequest),
        ("x" * 5000, NotFound),
        ("cut.gguf", BadModelFile),
        ("notes.txt", BadModelFile),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(folder: Path, name: str, error: type[HearthError]) -> None:
    with pytest.raises(error) as caught:
        ModelFiles(folder).check(name)
    assert type(caught.value) is error
    assert caught.value.param == "model"


def test_a_name_is_what_the_list_calls_the_file(folder: Path) -> None:
    for name in ("guide.gguf", "./guide.gguf", "guide.gguf/", "more/../guide.gguf"[8:]):
        assert ModelFiles(folder).check(name).name == "guide.gguf"


def test_a_good_name_is_found(folder: Path) -> None:
    assert ModelFiles(folder).check("more/guide.gguf").path.read_bytes()[:4] == b"GGUF"
