"""Two libraries that share a table and a folder, as the nodes of a cluster do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typing_extensions import override

from services.documents.files import StoredFile
from services.documents.library import Library
from services.documents.mirror import Mirror, states_of
from services.documents.parsing.document import Chunk, ParsedDocument
from services.errors import NotFound, StorageFailed, Unavailable, Unprocessable
from services.storage.json_file import JsonFile, JsonObject

Node = Callable[[str], Library]


class Table(JsonFile):
    """A table that can be away."""

    is_away = False

    @override
    def read(self) -> JsonObject:
        self._look()
        return super().read()

    @override
    @contextmanager
    def edit(self) -> Iterator[JsonObject]:
        self._look()
        with super().edit() as data:
            yield data
            self._look()

    def _look(self) -> None:
        if Table.is_away:
            raise Unavailable("away")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    (tmp_path / "shared").mkdir()

    def make(name: str) -> Library:
        (tmp_path / name).mkdir(exist_ok=True)
        table = Table(tmp_path / "documents.json")
        return Library(tmp_path / name, tmp_path / "shared", Mirror(table, tmp_path / "shared"))

    yield make
    Table.is_away = False


def store(library: Library, text: str, owner: str = "1", replaces: StoredFile | None = None) -> StoredFile:
    arrived = library.files.new_path()
    arrived.write_text(text)
    document = ParsedDocument(text, "text", (0,), (), (Chunk(0, len(text), 1, "Title"),), 3)
    return library.files.add(owner, f"{text}.txt", arrived, "digest", document, replaces=replaces)


def names(library: Library) -> list[str]:
    return [file.name for file in library.files.of_owner("1")]


def found(library: Library, words: str) -> list[str]:
    return [passage.text for passage in library.search(words, library.files.of_owner("1"), 5)]


def test_what_one_stores_the_other_finds(node: Node) -> None:
    one, other = node("a"), node("b")
    stored = store(one, "lighthouse")
    assert (names(other), found(other, "lighthouse")) == (["lighthouse.txt"], ["lighthouse"])
    same = other.files.get("1", stored.id)
    assert (same.created, same.n_bytes, same.digest) == (stored.created, stored.n_bytes, "digest")
    (chunk,) = other.files.chunks(same)
    assert (chunk.page, chunk.heading, other.files.text(same)) == (1, "Title", "lighthouse")
    assert other.files.path(same).read_text() == "lighthouse"
    assert other.files.kept("1") == one.files.kept("1")


def test_what_one_removes_is_gone_from_the_other(node: Node, tmp_path: Path) -> None:
    one, other = node("a"), node("b")
    stored = store(one, "lighthouse")
    assert found(other, "lighthouse")
    other.files.remove("1", stored.id)
    assert (names(one), found(one, "lighthouse"), list((tmp_path / "shared").iterdir())) == ([], [], [])
    with pytest.raises(NotFound):
        one.files.get("1", stored.id)


def test_a_replaced_file_is_replaced_everywhere(node: Node, tmp_path: Path) -> None:
    one, other = node("a"), node("b")
    old = store(one, "old")
    assert names(other) == ["old.txt"]
    new = store(other, "new", replaces=other.files.get("1", old.id))
    assert (names(one), found(one, "old"), found(one, "new")) == (["new.txt"], [], ["new"])
    assert {path.name for path in (tmp_path / "shared").iterdir()} == {new.id, f"{new.id}.parsed"}


def test_collections_are_shared(node: Node) -> None:
    one, other = node("a"), node("b")
    stored = store(one, "lighthouse")
    made = one.collections.add("1", "sea", ["2"], [stored])
    seen = other.collections.readable("2", "1/sea")
    assert (seen.owner, seen.readers, seen.created) == ("1", ["2"], made.created)
    assert [other.files.numbered([n])[n].id for n in other.collections.files(seen)] == [stored.id]
    with pytest.raises(Unprocessable):
        other.collections.add("1", "sea", [])
    other.collections.lend(other.collections.get("1", "sea"), "everybody")
    assert one.collections.readable("3", "1/sea").readers == "everybody"
    other.collections.exclude(seen, other.files.get("1", stored.id))
    assert one.collections.files(made) == []
    one.collections.include(made, [stored])
    assert len(other.collections.files(seen)) == 1
    one.collections.remove(made)
    assert other.collections.readable_by("1") == []


def test_a_new_node_takes_in_everything_and_an_old_one_what_it_missed(node: Node) -> None:
    one = node("a")
    for text in ("one", "two", "three"):
        store(one, text)
    other = node("b")
    assert found(other, "two") == ["two"]
    other.close()
    store(one, "four")
    one.files.remove("1", next(file.id for file in one.files.of_owner("1") if file.name == "two.txt"))
    again = node("b")
    assert sorted(names(again)) == ["four.txt", "one.txt", "three.txt"]


def test_what_cannot_be_shared_is_not_stored(node: Node, tmp_path: Path) -> None:
    one = node("a")
    store(one, "kept")
    Table.is_away = True
    with pytest.raises(Unavailable):
        store(one, "lost")
    Table.is_away = False
    assert names(one) == ["kept.txt"]
    assert len(list((tmp_path / "shared").iterdir())) == 2


def test_a_text_that_cannot_be_read_yet_is_taken_in_later(node: Node, tmp_path: Path) -> None:
    one = node("a")
    stored = store(one, "late")
    parsed = tmp_path / "shared" / f"{stored.id}.parsed"
    away = parsed.rename(tmp_path / "away")
    other = node("b")
    assert names(other) == []
    away.rename(parsed)
    assert names(other) == ["late.txt"]


def test_uploads_of_other_nodes_are_left_alone_at_a_start(node: Node, tmp_path: Path) -> None:
    arriving = node("a").files.new_path()
    node("b")
    assert arriving.exists()


def test_the_table_tells_the_computed_states(node: Node, tmp_path: Path) -> None:
    stored = store(node("a"), "one")
    assert states_of(JsonFile(tmp_path / "documents.json").read()) == {("1", stored.state)}


def test_a_node_that_cannot_read_the_folder_changes_nothing(node: Node, tmp_path: Path) -> None:
    one = node("a")
    stored = store(one, "kept")
    parsed = tmp_path / "shared" / f"{stored.id}.parsed"
    away = parsed.rename(tmp_path / "away")
    other = node("b")
    with pytest.raises(Unavailable):
        other.collections.add("1", "sea", [])
    assert names(one) == ["kept.txt"]
    away.rename(parsed)
    other.collections.add("1", "sea", [])
    assert (names(one), names(other)) == (["kept.txt"], ["kept.txt"])


def test_a_folder_that_is_not_there_is_named(node: Node, tmp_path: Path) -> None:
    (tmp_path / "shared").rmdir()
    with pytest.raises(StorageFailed, match="shared is no folder"):
        node("a")


def test_what_else_stands_in_the_folder_stays(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for name in ("thesis.docx", "file-notes.txt", "a.arriving.txt"):
        (folder / name).write_text("mine")
    for name in ("file-0123456789abcdef01234567", "0123456789ab.arriving"):
        (folder / name).write_text("left by a kill")
    Library(tmp_path, folder)
    assert {path.name for path in folder.iterdir()} == {"thesis.docx", "file-notes.txt", "a.arriving.txt"}
