"""Models in several files: listed as one, refused where a part is missing or damaged, and loaded by llama.cpp."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from services.errors import BadModelFile
from services.models.files import ModelFiles
from services.models.gguf import read_gguf, vocabulary_of
from services.models.split import part_names, part_paths
from tests.support.serving import Server
from tests.support.splitting import split_model
from tests.support.tiny import GUIDE

FIRST = "guide-00001-of-00003.gguf"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("n_tensors", [(20, 20, 0), (0, 30, 0)])
def test_a_model_in_several_files_is_one(folder: Path, n_tensors: tuple[int, ...]) -> None:
    parts = split_model(GUIDE, folder, "guide", n_tensors)
    (model,) = ModelFiles(folder).list()
    whole = read_gguf(GUIDE)
    assert (model.name, model.problem) == (FIRST, None)
    assert model.info
    assert model.info.parts == 3
    assert model.info.size == sum(part.stat().st_size for part in parts)
    assert (model.info.weights, model.info.quantization) == (whole.weights, whole.quantization)
    assert (model.info.vocabulary, model.info.chat_template) == (whole.vocabulary, True)
    checked = ModelFiles(folder).check(FIRST)
    assert (checked.name, checked.path) == (FIRST, parts[0])
    assert part_paths(parts[0]) == parts


def test_a_change_of_any_part_changes_the_stamp(folder: Path) -> None:
    files = ModelFiles(folder)
    stamps = set()
    for part in (None, *split_model(GUIDE, folder, "guide", (20, 20, 0))):
        if part:
            part.touch()
        stamps.add(files.check(FIRST).stamp)
    assert len(stamps) == 4


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_missing_part_is_named(folder: Path, number: int) -> None:
    files = ModelFiles(folder)
    parts = split_model(GUIDE, folder, "guide", (20, 20, 0))
    data = parts[number].read_bytes()
    assert files.list()[0].info
    parts[number].unlink()
    (model,) = files.list()
    assert (model.name, model.problem) == (FIRST, f"its part {parts[number].name} is missing")
    parts[number].write_bytes(data)
    assert files.list()[0].info


def test_a_damaged_part_is_named(folder: Path) -> None:
    parts = split_model(GUIDE, folder, "guide", (20, 20, 0))
    parts[1].write_bytes(parts[1].read_bytes()[:-100])
    with pytest.raises(BadModelFile, match=r"its part guide-00002-of-00003.gguf: it is cut short"):
        ModelFiles(folder).check(FIRST)
    parts[1].write_bytes(parts[2].read_bytes())
    with pytest.raises(BadModelFile, match="does not say that it is part 2 of 3"):
        ModelFiles(folder).check(FIRST)


def test_a_later_part_is_refused_with_the_name_to_use(folder: Path) -> None:
    (folder / "more").mkdir()
    split_model(GUIDE, folder / "more", "guide", (20, 20, 0))
    with pytest.raises(BadModelFile, match=f"its first part: more/{FIRST}") as caught:
        ModelFiles(folder).check("more/guide-00002-of-00003.gguf")
    assert caught.value.param == "model"


def test_a_part_under_another_name_is_refused(folder: Path) -> None:
    """llama.cpp finds the other parts by the name."""
    parts = split_model(GUIDE, folder, "guide", (20, 20, 0))
    parts[0].rename(folder / "mine.gguf")
    with pytest.raises(BadModelFile, match=r"part 1 of 3 of a model, .* should end with -00001-of-00003.gguf"):
        ModelFiles(folder).check("mine.gguf")


@pytest.mark.parametrize("name", ["guide-00001-of-00001.gguf", "guide-00001-of-00002.gguf", "guide-00003-of-00002.gguf"])
def test_a_whole_model_may_have_such_a_name(folder: Path, name: str) -> None:
    (folder / name).write_bytes(GUIDE.read_bytes())
    (model,) = ModelFiles(folder).list()
    assert model.info == read_gguf(GUIDE)
    assert ModelFiles(folder).check(name).name == name


def test_odd_metadata_of_parts_is_refused(folder: Path) -> None:
    parts = split_model(GUIDE, folder, "guide", (20, 20, 0))
    data = parts[0].read_bytes()
    key = b"split.count" + struct.pack("<I", 2)
    parts[0].write_bytes(data.replace(key + struct.pack("<H", 3), key + struct.pack("<H", 4)))
    with pytest.raises(BadModelFile, match=r"should end with -00001-of-00004\.gguf"):
        ModelFiles(folder).check(FIRST)


def test_the_vocabulary_of_the_first_part_stands_alone(folder: Path) -> None:
    parts = split_model(GUIDE, folder, "guide", (0, 20, 0))
    assert vocabulary_of(parts[0]) == vocabulary_of(GUIDE)


def test_names_of_parts() -> None:
    assert part_names("a-00002-of-00002.gguf") == ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"]
    for name in ("a.gguf", "a-1-of-2.gguf", "a-00000-of-00002.gguf", "a-00001-of-00002.GGUF", "-00001-of-00002.gguf"):
        assert part_names(name) == [name]


def test_llama_cpp_answers_from_parts_as_from_the_whole(folder: Path, serve: Callable[..., Server]) -> None:
    (folder / GUIDE.name).write_bytes(GUIDE.read_bytes())
    split_model(GUIDE, folder, "two", (25, 0))
    split_model(GUIDE, folder, "three", (0, 25, 0))
    server = serve(models=folder)
    answers = set()
    for name in (GUIDE.name, "two-00001-of-00002.gguf", "three-00001-of-00003.gguf"):
        reply = server.post("/models/model", {"model": name, "model_config": "Guide"})
        assert reply.status_code == 200, reply.text
        answer = server.ask("What is the capital of France?", memory_k=0, temperature=0)
        assert answer["model"] == name
        answers.add(answer["result"])
    assert len(answers) == 1
    assert "Paris" in answers.pop()
