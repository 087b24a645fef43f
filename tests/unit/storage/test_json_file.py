from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.errors import DamagedFile, StorageFailed, Unavailable
from services.models.config import Profiles
from services.prompts.form import Exchange
from services.sessions.history import MASTER, SessionKey
from services.sessions.service import Sessions
from services.storage.json_file import JsonFile, JsonObject, SchemaError
from services.storage.sqlite_file import SqliteFile
from tests.support.serving import ROOT


def test_a_missing_file_reads_as_empty(tmp_path: Path) -> None:
    assert JsonFile(tmp_path / "a.json").read() == {}


def test_an_edit_is_on_disk_and_in_memory(tmp_path: Path) -> None:
    file = JsonFile(tmp_path / "a.json", private=True)
    with file.edit() as data:
        data["ä"] = [1]
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"ä": [1]} == file.read()
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o600


def test_a_block_that_raises_changes_nothing(tmp_path: Path) -> None:
    file = JsonFile(tmp_path / "a.json")
    with file.edit() as data:
        data["a"] = 1
    with pytest.raises(KeyError), file.edit() as data:
        data["a"] = 2
        raise KeyError
    assert file.read() == {"a": 1} == json.loads((tmp_path / "a.json").read_text())


def test_what_another_hand_writes_is_seen(tmp_path: Path) -> None:
    file = JsonFile(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert file.read() == {"a": 1}
    (tmp_path / "a.json").write_text('{"a": 1, "b": 2}')
    with file.edit() as data:
        data["c"] = 3
    assert file.read() == {"a": 1, "b": 2, "c": 3}


def refuse_bad(data: JsonObject) -> None:
    for name, value in data.items():
        if isinstance(value, list) and "bad" in value:
            raise SchemaError((name, value.index("bad")), f'"{name}" holds bad')
        if value == "bad":
            raise SchemaError((name,), f'"{name}" is bad')


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{\n "a": 1,\n "b" 2\n}', "line 3, column 6"),
        ("", "line 1"),
        ("[1]", "one JSON object"),
        ('{"x": {"x": 1},\n"b": {"x": 1,\n "x": 2}}', 'line 3, column 2: "x" stands there twice'),
        ('{"a": "NaN",\n"b": NaN}', "line 2, column 6: NaN is not a JSON number"),
        ('{"a": ["{", 1,\n  2,\n  "bad"]}', 'line 3, column 3: "a" holds bad'),
        ('{"a": {"c": "}"}, "s": "\\"bad",\n\n"b": "bad"}', 'line 3, column 1: "b" is bad'),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": "\\ud83d\\ude00",\n"b": "\\ud800"}', "line 2, column 6: A \\u escape is half a character"),
        ('{"a": 1,\n\n"b": ' + "9" * 5000 + "}", "line 3, column 6: A number has too many digits"),
    ],
)
def test_a_damaged_file_is_named_with_the_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    file = JsonFile(path, check=refuse_bad)
    with pytest.raises(DamagedFile) as caught:
        file.read()
    assert says in caught.value.message
    assert caught.value.message.startswith(f"{tmp_path.name}/a.json")
    with pytest.raises(DamagedFile), file.edit() as data:
        data["c"] = 1
    assert path.read_text() == text


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(DamagedFile, match="line 1: a byte there is not UTF-8"):
        JsonFile(tmp_path / "a.json").read()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = JsonFile(tmp_path / "a.json")
    with file.edit() as data:
        data["a"] = 1
    (tmp_path / ".a.json.new").mkdir()
    with pytest.raises(StorageFailed, match=r"a\.json cannot be written: Is a directory"), file.edit() as data:
        data["a"] = 2
    assert file.read() == {"a": 1}


@pytest.mark.parametrize("target", ["there", "dangling", "elsewhere"])
def test_a_link_stays_a_link(tmp_path: Path, target: str) -> None:
    folder = Path("/dev/shm") if target == "elsewhere" and os.access("/dev/shm", os.W_OK) else tmp_path / "etc"
    folder.mkdir(exist_ok=True)
    real = folder / f"{tmp_path.name}.json"
    if target != "dangling":
        real.write_text('{"a": 1}')
        real.chmod(0o640)
    path = tmp_path / "a.json"
    # By two links, of which one is relative.
    (tmp_path / "b.json").symlink_to(real)
    path.symlink_to("b.json")
    try:
        file = JsonFile(path)
        for n in range(2):
            with file.edit() as data:
                data["b"] = n
        assert (path.readlink(), path.is_symlink(), real.is_symlink()) == (Path("b.json"), True, False)
        assert json.loads(real.read_text())["b"] == 1 == JsonFile(real).read()["b"] == file.read()["b"]
        assert target == "dangling" or real.stat().st_mode & 0o777 == 0o640
        assert not list(folder.glob(f".{real.name}.new")) + list(tmp_path.glob(".*.new"))
        file.clear()
        assert path.is_symlink()
        assert not real.exists()
    finally:
        for left in folder.glob(f"*{real.name}*"):
            left.unlink()


def test_a_link_to_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.json").symlink_to(tmp_path / "nowhere" / "a.json")
    file = JsonFile(tmp_path / "a.json")
    assert file.read() == {}
    with pytest.raises(StorageFailed, match=r"a\.json cannot be written: No such file"), file.edit() as data:
        data["a"] = 1


@pytest.mark.parametrize(("private", "had", "has"), [(False, 0o664, 0o664), (True, 0o640, 0o640), (True, 0o644, 0o600)])
def test_permissions_stay_unless_they_let_everybody_in(tmp_path: Path, private: bool, had: int, has: int) -> None:
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "a.json").chmod(had)
    with JsonFile(tmp_path / "a.json", private=private).edit() as data:
        data["a"] = 1
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == has


@contextmanager
def no_file_can_be_opened() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_many_open_files_are_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "sessions.json"
    path.write_text("{}")
    sessions, profiles = Sessions(path), Profiles(tmp_path / "config.json")
    jobs = SqliteFile(tmp_path / "hearth.sqlite", "database", ["PRAGMA journal_mode=WAL"])
    history = sessions.history(SessionKey(MASTER, 1))
    exchange = Exchange("Hi", "Hello")
    # Another hand has changed all of them, so that they are to be read again.
    Sessions(path).history(SessionKey(MASTER, 2)).add_exchange(exchange)
    for name in ("sessions.json", "config.json"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + " ")
    with no_file_can_be_opened():
        for fail in (
            lambda: JsonFile(path).read(),
            lambda: sessions.names(MASTER),
            lambda: history.add_exchange(exchange),
            lambda: SqliteFile(path, "database"),
            lambda: open_another(jobs, tmp_path / "another.sqlite"),
        ):
            with pytest.raises(Unavailable, match="Too many open files") as told:
                fail()
            assert (told.value.code, told.value.retry_after) == ("no_resources", 2)
        assert profiles.config().selected
    assert profiles.problem is None
    history.add_exchange(exchange)
    assert set(sessions.names(MASTER)) == {"1", "2"}
    jobs.db.close()


def open_another(file: SqliteFile, path: Path) -> None:
    with file.explained():
        file.db.execute("ATTACH DATABASE ? AS another", (str(path),))


def test_threads_lose_nothing(tmp_path: Path) -> None:
    file = JsonFile(tmp_path / "a.json")

    def add(worker: int) -> None:
        for number in range(20):
            with file.edit() as data:
                data[f"{worker}.{number}"] = 1

    threads = [threading.Thread(target=add, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(JsonFile(tmp_path / "a.json").read()) == 80


def test_processes_lose_nothing(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from services.storage.json_file import JsonFile\n"
        "file = JsonFile(Path(sys.argv[1]))\n"
        "for number in range(20):\n"
        "    with file.edit() as data: data[f'{sys.argv[2]}.{number}'] = 1\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a.json")]
    processes = [subprocess.Popen([*command, str(worker)], cwd=ROOT) for worker in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert len(JsonFile(tmp_path / "a.json").read()) == 80
