"""The vectors of chunks, as they are kept and compared."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from services.documents.library import Library
from services.documents.parsing.document import Chunk, ParsedDocument

DIM = 8


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path)


def store(library: Library, *texts: str) -> int:
    starts = [sum(map(len, texts[:n])) for n in range(len(texts))]
    chunks = tuple(Chunk(at, at + len(text), None, "") for at, text in zip(starts, texts, strict=True))
    arrived = library.files.new_path()
    arrived.write_bytes(b".")
    return library.files.add("1", "a.txt", arrived, "", ParsedDocument("".join(texts), "text", chunks=chunks)).number


def axis(n: int) -> list[float]:
    return [float(each == n) for each in range(DIM)]


def test_the_nearest_come_first(library: Library) -> None:
    one, two = store(library, "first", "second"), store(library, "third")
    library.vectors.add(one, "m", [axis(0), axis(1)])
    library.vectors.add(two, "m", [axis(2)])
    asked = [0.1, 0.9, 0.4, 0, 0, 0, 0, 0]
    length = math.hypot(*asked)
    found = library.vectors.nearest(asked, [one, two], "m", 3)
    assert [each.chunk for each in found] == [2, 3, 1]
    assert [each.cosine for each in found] == pytest.approx([0.9 / length, 0.4 / length, 0.1 / length], abs=0.01)
    assert found[0].distance > 0 > found[-1].distance
    assert [each.chunk for each in library.vectors.nearest(asked, [two], "m", 3)] == [3]


def test_a_byte_a_number_is_near_enough(library: Library) -> None:
    vector = [math.sin(n * n) for n in range(384)]
    file = store(library, "text")
    library.vectors.add(file, "m", [vector])
    (found,) = library.vectors.nearest(vector, [file], "m", 1)
    assert found.cosine == pytest.approx(1, abs=0.001)


def test_files_without_vectors_are_known_by_model(library: Library) -> None:
    one, two = store(library, "first"), store(library, "second")
    library.vectors.add(one, "m", [axis(0)])
    assert library.vectors.missing("m") == [two]
    assert library.vectors.missing("other") == [two, one]
    library.files.remove("1", library.files.numbered([one])[one].id)
    assert library.vectors.nearest(axis(0), [one, two], "m", 3) == []
    # One that is gone by now gets none.
    library.vectors.add(one, "m", [axis(0)])
    assert library.vectors.nearest(axis(0), [one], "m", 3) == []


def test_only_wanted_models_stay(library: Library) -> None:
    file = store(library, "text")
    for model in ("new", "old"):
        library.vectors.add(file, model, [axis(0)])
    library.vectors.keep_only(["new"])
    assert library.vectors.missing("new") == []
    assert library.vectors.missing("old") == [file]
