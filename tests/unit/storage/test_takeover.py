"""Older servers kept usage, jobs, last uses and probes in four files: they are taken over into one database, once."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from auth.key_use import LocalLastUse
from auth.keys import KeyStore
from auth.usage import UsageRow, UsageStore, Used, today
from services.backend.types import Spent
from services.engine.process.probe import GoodProbes
from services.errors import DamagedFile, StorageFailed
from services.jobs.store import JobStore
from services.storage import takeover
from services.storage.database import NAME, open_database
from services.storage.sqlite_file import SqliteFile
from tests.support.older_files import NOON, OLD, older_files
from tests.support.serving import ROOT


def check_whole(folder: Path, key: str = "a", charged: int = 70, session: str = "3") -> None:
    usage, jobs, last_use = UsageStore(folder / NAME), JobStore(folder / NAME), LocalLastUse(folder / NAME)
    try:
        assert usage.rows() == [UsageRow(key, today(), Used(2, 30, 10, 40, 0.5))]
        assert usage.charged(key) == charged
        (job,) = jobs.unfinished()
        assert (job.key.id, job.request.body, job.request.session, job.created) == ("job:1", b"{}", session, 5.0)
        assert last_use.read() == {key: NOON}
        assert GoodProbes(folder / NAME).has("0f")
    finally:
        for each in (usage, jobs, last_use):
            each.close()
    assert (folder / NAME).stat().st_mode & 0o777 == 0o600
    assert {path.name for path in folder.iterdir()} <= {NAME, "api_keys.json", ".api_keys.json.lock", "usage.unkept.json"}


@pytest.mark.parametrize("session", [False, True])
def test_all_four_files_are_taken_over(tmp_path: Path, session: bool) -> None:
    older_files(tmp_path, session=session)
    for _ in range(2):
        check_whole(tmp_path, session="3" if session else "")


def test_what_was_used_before_accounts_were_charged_still_counts(tmp_path: Path) -> None:
    keys = KeyStore(tmp_path / "api_keys.json")
    key = keys.mint().id
    older_files(tmp_path, charged=False, key=key)
    for _ in range(2):
        usage = UsageStore(tmp_path / NAME)
        usage.begin_charges(keys.ancestors)
        assert usage.charged(key) == 70
        usage.close()


def test_what_is_charged_already_is_not_charged_twice(tmp_path: Path) -> None:
    keys = KeyStore(tmp_path / "api_keys.json")
    older_files(tmp_path, key=(key := keys.mint().id))
    usage = UsageStore(tmp_path / NAME)
    usage.begin_charges(keys.ancestors)
    assert usage.charged(key) == 70
    usage.close()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("name", OLD)
@pytest.mark.parametrize("step", ["copying", "copied", "removing"])
def test_a_kill_at_any_step_neither_loses_nor_doubles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, step: str
) -> None:
    older_files(tmp_path)
    copy, remove = takeover.copy_old, takeover.remove_old

    def killed_at_copy(file: SqliteFile, folder: Path, old: takeover.OldFile) -> None:
        if old.name == name and step == "copying":
            with file.transaction():
                old.copy(file, folder / name)
                raise Killed
        copy(file, folder, old)

    def killed_at_removal(file: SqliteFile, folder: Path, old: takeover.OldFile) -> None:
        if old.name == name and step == "copied":
            raise Killed
        if old.name == name and step == "removing":
            (folder / name).unlink()
            raise Killed
        remove(file, folder, old)

    with monkeypatch.context() as patched:
        patched.setattr(takeover, "copy_old", killed_at_copy)
        patched.setattr(takeover, "remove_old", killed_at_removal)
        with pytest.raises(Killed):
            open_database(tmp_path / NAME)
    check_whole(tmp_path)


def test_a_file_that_comes_back_is_added(tmp_path: Path) -> None:
    """An older server has run once more."""
    for _ in range(2):
        older_files(tmp_path)
        open_database(tmp_path / NAME).db.close()
    usage = UsageStore(tmp_path / NAME)
    assert usage.totals()["a"] == Used(4, 60, 20, 80, 1.0)
    assert usage.charged("a") == 140
    usage.close()


@pytest.mark.parametrize("name", ["usage.sqlite", "jobs.sqlite"])
def test_a_damaged_database_is_named_and_left(tmp_path: Path, name: str) -> None:
    older_files(tmp_path)
    for path in tmp_path.glob(f"{name}*"):
        path.unlink()
    (tmp_path / name).write_bytes(b"no table at all" * 100)
    for _ in range(2):
        with pytest.raises(DamagedFile, match=rf"{name}: is no table of (usage|jobs)"):
            UsageStore(tmp_path / NAME)
    assert (tmp_path / name).read_bytes() == b"no table at all" * 100
    (tmp_path / name).unlink()
    usage = UsageStore(tmp_path / NAME)
    assert usage.totals() == ({} if name == "usage.sqlite" else {"a": Used(2, 30, 10, 40, 0.5)})
    usage.close()


@pytest.mark.parametrize("text", ["{ broken", '{"a": "2026-01-01"}', '{"a": 3}', "[]"])
@pytest.mark.parametrize("name", ["key_use.json", "tried.json"])
def test_damaged_json_costs_only_what_is_in_it(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    table = LocalLastUse(tmp_path / NAME)
    assert table.read() == {}
    assert [path.name for path in tmp_path.iterdir()] == [name], "reading makes no database"
    open_database(tmp_path / NAME).db.close()
    assert table.read() == {}
    table.close()
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_an_older_server_that_runs_keeps_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "_PATIENCE", 0.1)
    older_files(tmp_path)
    running = sqlite3.connect(tmp_path / "usage.sqlite", isolation_level=None)
    running.execute("SELECT * FROM usage").fetchall()
    with pytest.raises(StorageFailed, match=r"usage\.sqlite cannot be used: database is locked"):
        UsageStore(tmp_path / NAME)
    assert all((tmp_path / name).exists() for name in OLD)
    running.execute("UPDATE usage SET requests = requests + 1")
    running.close()
    usage = UsageStore(tmp_path / NAME)
    assert usage.totals()["a"].requests == 3
    usage.close()


def test_empty_files_of_a_kill_at_the_first_start_are_no_damage(tmp_path: Path) -> None:
    for name in OLD[:2]:
        (tmp_path / name).touch()
    usage = UsageStore(tmp_path / NAME)
    assert usage.totals() == {}
    usage.close()
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_program_that_closes_the_database_leaves_the_log_of_others(tmp_path: Path) -> None:
    """The last connection that closes removes the WAL; this process's three are to be seen by other processes."""
    path = tmp_path / NAME
    usage, jobs, last_use = UsageStore(path), JobStore(path), LocalLastUse(path)
    last_use.read()
    usage.add("a", Spent(1, 0, 2, 0.1))
    other = "import sys; from auth.usage import UsageStore; from pathlib import Path; UsageStore(Path(sys.argv[1])).close()"
    subprocess.run([sys.executable, "-c", other, str(path)], cwd=ROOT, check=True)
    assert (tmp_path / f"{NAME}-wal").exists()
    usage.add("a", Spent(1, 0, 2, 0.1))
    for each in (usage, jobs, last_use):
        each.close()
    usage = UsageStore(path)
    assert usage.totals()["a"].requests == 2
    usage.close()
