"""Followed folders, look by look: what is new, changed, renamed, deleted, unreadable, unmounted, or cut off by a kill."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.documents import uploads as uploads_module
from services.documents import walk as walk_module
from services.documents.files import Files, StoredFile
from services.documents.folders import FollowedFolder
from services.documents.follower import Follower, Stopping
from services.documents.library import Library
from services.documents.parsing import failures
from services.documents.parsing.document import Chunk, ParsedDocument
from services.documents.uploads import Upload, Uploads
from services.errors import NotFound, NotPermitted, Unavailable, Unprocessable

OWNER, NAME = "ana", "papers"
MOST_BYTES = 1000


class Killed(BaseException):
    """The process is killed."""


class World:
    """A folder, the library that follows it, and what the server would say of keys and of room."""

    def __init__(self, root: Path) -> None:
        self.data = root / "data"
        self.folder = root / "folder"
        self.data.mkdir()
        self.folder.mkdir()
        self.room = 10**6
        self.owner_problem: str | None = None
        self.now = 0.0
        self.parsed: list[str] = []
        """The names of the files that were parsed."""
        self.on_parse: Callable[[], None] = lambda: None
        self.forgotten: list[tuple[str, str]] = []
        self.open()
        self.library.folders.follow(self.library.collections.add(OWNER, NAME, []), self.folder)

    def open(self) -> None:
        """Open everything anew, as a start of the server does."""
        self.library = Library(self.data)
        self.uploads = Uploads(self.library, self._check_room, lambda _: None, MOST_BYTES)
        self.follower = Follower(
            self.library,
            self.uploads,
            lambda _: self.owner_problem,
            lambda owner, name: self.forgotten.append((owner, name)),
            lambda: self.now,
        )

    def restart(self) -> None:
        self.library.close()
        self.open()

    def _check_room(self, owner: str, n_bytes: int) -> None:
        if self.library.files.kept(owner).n_bytes + n_bytes > self.room:
            raise NotPermitted("no room is left")

    def parse(self, path: Path, name: str, **options: Any) -> ParsedDocument:
        """Parse as a process of its own would, at once."""
        self.on_parse()
        if options["is_cancelled"]():
            raise Unavailable("nobody waits for it any more", code="cancelled")
        self.parsed.append(name)
        text = path.read_text()
        if text.startswith("slow"):
            raise failures.too_slow(300)
        if text.startswith("damaged"):
            raise failures.damaged("the file is damaged")
        return ParsedDocument(text, "text", (), (), (Chunk(0, len(text), None, ""),), 1)

    def write(self, path: str, text: str) -> Path:
        """Write a file of the folder, a second later than the last."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        self.touch(file)
        return file

    def touch(self, file: Path) -> None:
        self.now += 1
        os.utime(file, (self.now, self.now))

    def look(self, times: int = 2) -> None:
        for _ in range(times):
            self.follower.look()

    @property
    def followed(self) -> FollowedFolder:
        folder = self.library.folders.of(self.library.collections.get(OWNER, NAME))
        assert folder
        return folder

    @property
    def files(self) -> dict[str, str]:
        """The texts of the collection's files, by their names; each is there once, and so are its content and its row."""
        numbers = self.library.collections.files(self.library.collections.get(OWNER, NAME))
        files = self.library.files.numbered(numbers).values()
        assert len({file.name for file in files}) == len(files)
        assert len(self.library.files.of_owner(OWNER)) == len(files)
        assert sorted(path.name for path in (self.data / "documents").iterdir()) == sorted(file.id for file in files)
        kept = self.library.files.kept(OWNER)
        assert (kept.count, kept.n_bytes) == (len(files), sum(file.n_bytes for file in files))
        return {file.name: self.library.files.text(file) for file in files}

    @property
    def problems(self) -> dict[str, str]:
        return {each.name: each.reason for each in self.library.folders.problems(self.followed)}

    def found(self, question: str) -> list[str]:
        files = self.library.scope(OWNER, names=[NAME])
        return [passage.text for passage in self.library.search(question, files, 5)]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path)
    monkeypatch.setattr(uploads_module, "parse", made.parse)
    yield made
    made.follower.close()
    made.library.close()


def test_new_changed_and_deleted_files_are_followed(world: World) -> None:
    world.write("lamp.txt", "the lamp is lit at dusk")
    world.write("reports/2026.txt", "a report of whales")
    world.look(1)
    assert world.files == {}
    world.look(1)
    assert world.files == {"lamp.txt": "the lamp is lit at dusk", "reports/2026.txt": "a report of whales"}
    assert world.found("Who saw whales?") == ["a report of whales"]
    world.write("lamp.txt", "the lamp is broken")
    (world.folder / "reports/2026.txt").unlink()
    world.look()
    assert world.files == {"lamp.txt": "the lamp is broken"}
    assert world.found("whales") == []
    assert len(world.forgotten) == 2
    world.look()
    assert world.parsed == ["lamp.txt", "reports/2026.txt", "lamp.txt"]
    assert world.problems == {}


def test_a_changed_file_is_found_all_the_time(world: World) -> None:
    world.write("lamp.txt", "the old lamp")
    world.look()
    seen: list[list[str]] = []
    world.on_parse = lambda: seen.append(world.found("lamp"))
    world.write("lamp.txt", "the new lamp")
    world.follower.look()
    seen.append(world.found("lamp"))
    world.follower.look()
    assert seen == [["the old lamp"]] * 2
    assert world.found("lamp") == ["the new lamp"]


def test_a_file_that_still_changes_is_left_for_later(world: World) -> None:
    for n in range(4):
        world.write("growing.txt", "words " * n)
        world.look(1)
    assert world.parsed == []
    world.look(1)
    assert world.files == {"growing.txt": "words " * 3}


def test_a_file_that_changes_while_it_is_read_is_left_for_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write("a.txt", "one")
    world.look(1)
    opened = os.open

    def slow(path: Any, *arguments: Any, **options: Any) -> int:
        descriptor: int = opened(path, *arguments, **options)
        if path == "a.txt":
            monkeypatch.undo()
            monkeypatch.setattr(uploads_module, "parse", world.parse)
            world.write("a.txt", "two and more")
        return descriptor

    monkeypatch.setattr(os, "open", slow)
    world.look(1)
    assert world.files == {}
    world.look()
    assert world.files == {"a.txt": "two and more"}


def test_the_same_content_under_another_time_stores_nothing(world: World) -> None:
    file = world.write("a.txt", "one")
    world.look()
    (before,) = world.library.files.of_owner(OWNER)
    world.touch(file)
    world.look()
    assert world.library.files.of_owner(OWNER) == [before]
    assert world.parsed == ["a.txt"]
    # Nor is it read again.
    (row,) = world.library.folders.files(world.followed).values()
    assert row.mtime_ns == file.stat().st_mtime_ns


def test_a_renamed_file_is_under_its_new_name_alone(world: World) -> None:
    file = world.write("a.txt", "one lamp")
    world.look()
    file.rename(world.folder / "b.txt")
    world.look(1)
    assert world.found("lamp") == ["one lamp"]
    world.look(1)
    assert world.files == {"b.txt": "one lamp"}
    world.look()
    assert world.files == {"b.txt": "one lamp"}
    assert list(world.library.folders.files(world.followed)) == ["b.txt"]


def test_an_editor_may_delete_a_file_and_write_it_anew(world: World) -> None:
    file = world.write("a.txt", "one lamp")
    world.look()
    file.unlink()
    world.look(1)
    world.write("a.txt", "two lamps")
    world.look(1)
    assert world.found("lamps") == ["one lamp"]
    world.look(1)
    assert world.files == {"a.txt": "two lamps"}


def test_what_is_no_file_of_the_folder_is_passed_over(world: World, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/a.txt").write_text("outside")
    for name in (".hidden.txt", ".git/config.txt", "draft.txt~", "~$letter.docx"):
        world.write(name, "unseen")
    world.write("real.txt", "seen")
    links = {"out.txt": "../secret.txt", "away": "../outside", "loop": ".", "gone.txt": "nothing", "same.txt": "real.txt"}
    for name, target in links.items():
        (world.folder / name).symlink_to(target)
    os.mkfifo(world.folder / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(world.folder / "socket.txt"))
        world.look()
    assert world.files == {"real.txt": "seen", "same.txt": "seen"}
    assert world.problems == {}


def test_a_link_that_takes_the_place_of_a_file_is_not_followed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    world.write("sub/a.txt", "one")
    (world.folder / "elsewhere").mkdir()
    (world.folder / "elsewhere/a.txt").symlink_to("../../secret.txt")
    world.look(1)
    resolved = os.path.realpath(world.folder / "sub/a.txt")
    # Both are as they were when the name was looked up, and other ones when it is opened.
    monkeypatch.setattr(os.path, "realpath", lambda path: resolved if str(path).endswith("a.txt") else str(path))
    (world.folder / "sub").rename(world.folder / "was")
    (world.folder / "sub").symlink_to("elsewhere")
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        walk_module.open_steady(world.folder, walk_module.FoundFile("sub/a.txt", 3, 0))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_in_it_that_cannot_be_read_forgets_nothing(world: World) -> None:
    world.write("private/a.txt", "one")
    world.look()
    (world.folder / "private").chmod(0)
    world.look(3)
    assert world.files == {"private/a.txt": "one"}
    assert world.problems == {"private": "it cannot be read: Permission denied"}
    (world.folder / "private").chmod(0o700)
    world.look()
    assert (world.problems, world.parsed) == ({}, ["private/a.txt"])


def test_an_unreadable_place_is_a_problem_until_it_can_be_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write("private/a.txt", "one")
    world.look()
    scandir = os.scandir

    def scan(path: Path) -> Any:
        if path.name == "private":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    with monkeypatch.context() as changed:
        changed.setattr(os, "scandir", scan)
        world.look(3)
        assert world.files == {"private/a.txt": "one"}
        assert world.problems == {"private": "it cannot be read: Permission denied"}
    world.look()
    assert (world.problems, world.parsed) == ({}, ["private/a.txt"])


def test_what_cannot_be_read_is_a_problem_until_it_changes(world: World) -> None:
    world.write("a.txt", "damaged")
    world.write("image.png", "pixels")
    world.write("large.txt", "x" * (MOST_BYTES + 1))
    world.write("empty.txt", "")
    world.look(6)
    assert world.parsed == ["a.txt"]
    problems = world.problems
    assert problems.keys() == {"a.txt", "empty.txt", "image.png", "large.txt"}
    assert problems["a.txt"] == "the file is damaged"
    assert problems["empty.txt"] == "it is empty"
    assert problems["image.png"].startswith("files of the type .png cannot be read; these types of files work: PDF")
    assert problems["large.txt"].startswith("it is larger than 0 MiB")
    world.restart()
    world.look()
    assert world.parsed == ["a.txt"]
    world.touch(world.folder / "a.txt")
    world.look()
    assert world.parsed == ["a.txt"]
    for name in problems:
        world.write(name, "whole")
    (world.folder / "image.png").unlink()
    world.look()
    assert world.files.keys() == {"a.txt", "empty.txt", "large.txt"}
    assert world.problems == {}


def test_a_file_that_becomes_unreadable_is_not_found_any_more(world: World) -> None:
    world.write("a.txt", "one lamp")
    world.look()
    world.write("a.txt", "damaged")
    world.look()
    assert world.files == {}
    assert world.problems == {"a.txt": "the file is damaged"}
    world.write("a.txt", "one lamp")
    world.look()
    assert world.files == {"a.txt": "one lamp"}


def test_what_took_too_long_stays_and_is_tried_again(world: World) -> None:
    world.write("a.txt", "one lamp")
    world.look()
    world.write("a.txt", "slow")
    world.look(3)
    assert world.files == {"a.txt": "one lamp"}
    assert world.problems == {"a.txt": "reading the file took longer than 300 seconds"}
    world.now += 3601
    world.look()
    assert world.parsed == ["a.txt"] * 3


def test_names_that_are_not_utf8_are_a_problem(world: World) -> None:
    (world.folder / os.fsdecode(b"caf\xe9.txt")).write_text("coffee")
    world.look()
    assert world.files == {}
    assert world.problems == {"caf\\xe9.txt": "its name is not UTF-8: rename it"}


def test_the_room_of_the_owner_holds_and_is_asked_for_again(world: World) -> None:
    world.write("a.txt", "one lamp")
    world.look()
    world.room = 20
    world.write("a.txt", "two lamps and more")
    world.write("b.txt", "three lamps")
    world.look(3)
    # What is there stays, while there is no room for what it has become.
    assert world.files == {"a.txt": "one lamp"}
    assert world.problems == {"a.txt": "no room is left", "b.txt": "no room is left"}
    world.room = 10**6
    world.look()
    assert world.problems
    world.now += 61
    world.look()
    assert world.files == {"a.txt": "two lamps and more", "b.txt": "three lamps"}
    assert world.problems == {}


def test_a_folder_that_is_not_there_deletes_nothing(world: World, tmp_path: Path) -> None:
    world.write("a.txt", "one")
    world.look()
    world.folder.rename(tmp_path / "away")
    world.look(3)
    assert world.files == {"a.txt": "one"}
    assert world.problems == {str(world.folder): "it is not there now: nothing of it is forgotten"}
    # The folder on which a disk is mounted is there without the disk too.
    world.folder.mkdir()
    world.look(3)
    world.restart()
    world.look(3)
    assert world.files == {"a.txt": "one"}
    assert "not mounted" in world.problems[str(world.folder)]
    world.folder.rmdir()
    (tmp_path / "away").rename(world.folder)
    world.look()
    assert (world.files, world.problems, world.parsed) == ({"a.txt": "one"}, {}, ["a.txt"])
    # What is emptied is not what is gone.
    (world.folder / "a.txt").unlink()
    world.look()
    assert world.files == {}


def test_a_disk_in_the_folder_that_is_not_mounted_deletes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write("disk/a.txt", "one")
    status = (world.folder / "disk").stat()
    stat_ = Path.stat

    def mounted(path: Path, **options: Any) -> os.stat_result:
        found = stat_(path, **options)
        return os.stat_result((*found[:2], found[2] + 1, *found[3:])) if path.name == "disk" else found

    with monkeypatch.context() as changed:
        changed.setattr(Path, "stat", mounted)
        world.look()
        assert world.followed.disks["disk"] == f"{status.st_dev + 1}:{status.st_ino}"
    (world.folder / "disk/a.txt").rename(world.folder.parent / "a.txt")
    world.look(3)
    assert world.files == {"disk/a.txt": "one"}
    assert "not mounted" in world.problems["disk"]
    (world.folder / "disk").rmdir()
    world.look(3)
    assert world.files == {"disk/a.txt": "one"}
    (world.folder / "disk").mkdir()
    (world.folder.parent / "a.txt").rename(world.folder / "disk/a.txt")
    world.look()
    assert (world.problems, list(world.followed.disks)) == ({}, [""])
    (world.folder / "disk/a.txt").unlink()
    world.look()
    assert world.files == {}


def test_a_revoked_key_has_no_folder_followed(world: World) -> None:
    world.write("a.txt", "one")
    world.look()
    world.owner_problem = "its key was revoked"
    world.write("b.txt", "two")
    (world.folder / "a.txt").unlink()
    world.look(3)
    assert world.files == {"a.txt": "one"}
    assert world.problems == {str(world.folder): "its key was revoked"}


@pytest.mark.parametrize("kept", [False, True], ids=["new", "changed"])
@pytest.mark.parametrize("step", ["parsed", "stored", "noted"])
def test_a_kill_doubles_and_loses_nothing(world: World, monkeypatch: pytest.MonkeyPatch, step: str, kept: bool) -> None:
    if kept:
        world.write("a.txt", "one lamp")
        world.look()
    world.write("a.txt", "two lamps")
    world.look(1)

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as changed:
        if step == "parsed":
            world.on_parse = killed
        elif step == "stored":
            # In the transaction.
            changed.setattr("services.documents.folders._note", killed)
        else:
            add = Files.add

            def killed_behind(*given: Any, **named: Any) -> None:
                add(*given, **named)
                raise Killed

            changed.setattr(Files, "add", killed_behind)
        with pytest.raises(Killed):
            world.look(1)
    world.on_parse = lambda: None
    world.restart()
    assert world.files == ({"a.txt": "two lamps"} if step == "noted" else {"a.txt": "one lamp"} if kept else {})
    world.look()
    assert world.files == {"a.txt": "two lamps"}


def test_a_kill_between_deleting_and_forgetting_is_made_up_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write("a.txt", "one").unlink()
    world.write("b.txt", "two")
    world.look()
    (world.folder / "b.txt").unlink()
    world.look(1)

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as changed:
        changed.setattr(type(world.library.folders), "forget", killed)
        with pytest.raises(Killed):
            world.look(1)
    world.restart()
    world.look()
    assert (world.files, world.library.folders.files(world.followed)) == ({}, {})


def test_a_stop_cancels_the_file_that_is_read(world: World) -> None:
    world.write("a.txt", "one")
    world.look(1)
    world.on_parse = world.follower.close
    with pytest.raises(Stopping):
        world.look(1)
    assert (world.files, world.parsed) == ({}, [])


def test_the_thread_ends_at_once(world: World) -> None:
    world.follower.start()
    world.follower.close()


def test_a_folder_that_is_followed_again_stores_nothing_twice(world: World) -> None:
    world.write("a.txt", "one")
    world.write("b.txt", "two")
    world.look()
    world.library.folders.remove(world.followed)
    world.write("b.txt", "three")
    world.look()
    collection = world.library.collections.get(OWNER, NAME)
    world.library.folders.follow(collection, world.folder)
    world.library.files.remove(OWNER, next(each.id for each in world.library.files.of_owner(OWNER) if each.name == "b.txt"))
    world.look()
    assert world.files == {"a.txt": "one", "b.txt": "three"}
    assert world.parsed == ["a.txt", "b.txt", "b.txt"]


def test_a_file_that_its_owner_deletes_comes_back_when_it_changes(world: World) -> None:
    world.write("a.txt", "one")
    world.look()
    (file,) = world.library.files.of_owner(OWNER)
    world.library.files.remove(OWNER, file.id)
    world.look()
    assert world.files == {}
    world.write("a.txt", "two")
    world.look()
    assert world.files == {"a.txt": "two"}


def test_the_number_of_a_deleted_file_is_not_used_again(world: World) -> None:
    world.write("a.txt", "one")
    world.look()
    (file,) = world.library.files.of_owner(OWNER)
    world.library.files.remove(OWNER, file.id)
    other = store(world, "bob", "b.txt", b"two")
    assert other.number > file.number
    world.library.files.remove_all([file])
    assert world.library.files.of_owner("bob") == [other]
    store(world, OWNER, "c.txt", b"three", replaces=file)
    assert world.library.files.of_owner("bob") == [other]
    assert world.library.files.kept(OWNER).count == 1


def test_a_collection_that_is_deleted_meanwhile_is_not_made_again(world: World) -> None:
    world.write("a.txt", "one")
    world.look(1)
    world.on_parse = lambda: world.library.collections.remove(world.library.collections.get(OWNER, NAME))
    world.look()
    with pytest.raises(NotFound):
        world.library.collections.get(OWNER, NAME)
    assert world.library.files.of_owner(OWNER) == []


def test_a_folder_that_is_left_loses_its_files_alone(world: World) -> None:
    world.write("a.txt", "one")
    world.look()
    store(world, OWNER, "own.txt", b"mine")
    world.library.folders.leave(world.followed)
    with pytest.raises(Unprocessable, match="still being deleted"):
        world.library.folders.follow(world.library.collections.get(OWNER, NAME), world.folder)
    world.look(1)
    assert world.files == {"own.txt": "mine"}
    assert world.library.folders.all() == []
    assert len(world.forgotten) == 1


def test_a_collection_follows_one_folder(world: World, tmp_path: Path) -> None:
    with pytest.raises(Unprocessable, match=str(world.folder)):
        world.library.folders.follow(world.library.collections.get(OWNER, NAME), tmp_path)
    world.library.folders.follow(world.library.collections.get(OWNER, NAME), world.folder)


def test_folders_take_turns(world: World, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "z.txt").write_text("other")
    world.library.folders.follow(world.library.collections.add("bob", "z", []), other)
    for n in range(3):
        world.write(f"{n}.txt", f"text {n}")
    world.look(1)

    def slow() -> None:
        world.now += 11

    world.on_parse = slow
    assert world.follower.look()
    assert world.parsed == ["0.txt", "z.txt"]
    assert world.follower.look()
    assert not world.follower.look()
    assert world.parsed == ["0.txt", "z.txt", "1.txt", "2.txt"]


def test_many_rows_are_read_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.documents.folders._ROWS", 2)
    for n in range(5):
        world.write(f"{n}.png", "x")
    world.look(1)
    assert list(world.library.folders.files(world.followed)) == [f"{n}.png" for n in range(5)]
    assert len(world.problems) == 5


def store(world: World, owner: str, name: str, content: bytes, replaces: StoredFile | None = None) -> StoredFile:
    upload = Upload(owner, name, collection=NAME)
    return world.uploads.add(upload, io.BytesIO(content), replaces=replaces)
