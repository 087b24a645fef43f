from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Literal

import pytest

from services.errors import BadModelFile, HearthError, InvalidRequest, NotFound
from services.models.files import ModelFiles, same_name
from tests.support.tiny import GUIDE


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
    os.mkfifo(folder / "pipe.gguf")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.gguf").write_bytes(GUIDE.read_bytes())
    return folder


def test_the_files_are_listed_with_what_they_are(folder: Path) -> None:
    files = {file.name: file for file in ModelFiles(folder).list()}
    linked = ["away/secret.gguf", "dangling.gguf", "loop.gguf", "out.gguf"]
    assert sorted(files) == sorted(["cut.gguf", "guide.gguf", "more/guide.gguf", *linked])
    for name in ("more/guide.gguf", "out.gguf", "away/secret.gguf"):
        assert files[name].info == files["guide.gguf"].info
    assert files["dangling.gguf"].problem == "it is a link that leads to nothing"
    assert files["loop.gguf"].problem == "cannot be read: Too many levels of symbolic links"
    assert files["cut.gguf"].info is None
    assert "cut short" in (files["cut.gguf"].problem or "")


def test_a_changed_file_is_read_again(folder: Path) -> None:
    files = ModelFiles(folder)
    problems = {file.name: file.problem for file in files.list()}
    assert problems["cut.gguf"]
    (folder / "cut.gguf").write_bytes(GUIDE.read_bytes())
    assert {**problems, "cut.gguf": None} == {file.name: file.problem for file in files.list()}


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("../secret.gguf", InvalidRequest),
        ("more/../../secret.gguf", InvalidRequest),
        ("/etc/passwd", InvalidRequest),
        ("", InvalidRequest),
        ("  ", InvalidRequest),
        ("a\0b", InvalidRequest),
        ("nothing.gguf", NotFound),
        ("more", NotFound),
        ("loop.gguf", BadModelFile),
        ("dangling.gguf", BadModelFile),
        ("away/nothing.gguf", NotFound),
        ("away/../secret.gguf", InvalidRequest),
        ("pipe.gguf", NotFound),
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
    for name in ("guide.gguf", "./guide.gguf", "guide.gguf/"):
        assert ModelFiles(folder).check(name).name == "guide.gguf"


def test_a_good_name_is_found(folder: Path) -> None:
    for name in ("more/guide.gguf", "out.gguf", "away/secret.gguf"):
        assert ModelFiles(folder).check(name).path.read_bytes()[:4] == b"GGUF"


def test_links_in_a_circle_end(folder: Path) -> None:
    (folder / "more" / "back").symlink_to(folder)
    (folder / "more" / "self").symlink_to(folder / "more")
    (folder / "away").unlink()
    names = [file.name for file in ModelFiles(folder).list()]
    assert len(names) == len(set(names)) == 6
    assert ModelFiles(folder).check("more/back/more/self/guide.gguf").name == "more/back/more/self/guide.gguf"


def test_what_the_process_may_not_read_is_listed_or_left_out(folder: Path) -> None:
    (folder / "private").mkdir()
    (folder / "private" / "x.gguf").write_bytes(GUIDE.read_bytes())
    (folder / "to_private.gguf").symlink_to(folder / "private" / "x.gguf")
    (folder / "private").chmod(0)
    try:
        files = {file.name: file.problem for file in ModelFiles(folder).list()}
    finally:
        (folder / "private").chmod(0o755)
    if os.geteuid():
        assert files["to_private.gguf"] == "cannot be read: Permission denied"
    else:
        assert files["to_private.gguf"] is None


def test_a_model_in_capitals_is_a_model(folder: Path) -> None:
    (folder / "UPPER.GGUF").write_bytes(GUIDE.read_bytes())
    files = ModelFiles(folder)
    assert "UPPER.GGUF" in [file.name for file in files.list()]
    assert files.check("UPPER.GGUF").name == "UPPER.GGUF"


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_a_name_is_found_however_its_accents_are_encoded(folder: Path, stored: Literal["NFC", "NFD"]) -> None:
    asked: Literal["NFC", "NFD"] = "NFD" if stored == "NFC" else "NFC"
    name = "modèles/génial-é.gguf"
    path = folder / unicodedata.normalize(stored, name)
    path.parent.mkdir()
    path.write_bytes(GUIDE.read_bytes())
    found = ModelFiles(folder).check(unicodedata.normalize(asked, name))
    assert found.path == path
    assert found.name in [file.name for file in ModelFiles(folder).list()]
    assert same_name(found.name, name)
    assert not same_name(found.name, "modeles/genial-e.gguf")
