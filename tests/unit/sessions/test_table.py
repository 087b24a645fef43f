"""The journal beside sessions.json: what it promises over kills, other processes and other hands."""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from pathlib import Path

import pytest

from services.errors import DamagedFile, StorageFailed
from services.prompts.form import Exchange
from services.sessions import file_table
from services.sessions.file_table import FOLD_AFTER, SessionTable
from services.sessions.history import MASTER, SessionKey
from services.sessions.service import Sessions
from services.sessions.table import Answered, RequestName
from services.storage.json_text import readable


def opened(path: Path, fold_after: float = 3600.0) -> Sessions:
    """The sessions; their thread waits long, so that a test decides what is folded."""
    return Sessions(path, SessionTable(path, fold_after))


def fold(sessions: Sessions) -> None:
    assert isinstance(sessions._table, SessionTable)
    sessions._table.fold()


def said(n: int) -> Exchange:
    return Exchange(f"question {n}", f"answer {n}")


def add(sessions: Sessions, number: int, n: int) -> None:
    sessions.history(SessionKey(MASTER, number)).add_exchange(said(n))


def stored(path: Path, number: int) -> list[Exchange]:
    return opened(path).history(SessionKey(MASTER, number)).window(1000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.json"


@pytest.fixture
def journal(path: Path) -> Path:
    return path.with_suffix(".journal")


def test_a_turn_is_in_the_journal_at_once_and_in_the_file_after_folding(path: Path, journal: Path) -> None:
    sessions = opened(path)
    add(sessions, 1, 0)
    assert not path.exists()
    assert journal.stat().st_mode & 0o777 == 0o600
    assert json.loads(journal.read_text())["messages"][1]["content"] == "answer 0"
    fold(sessions)
    assert not journal.exists()
    assert [m["content"] for m in json.loads(path.read_text())["1"]["messages"]] == ["question 0", "answer 0"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_is_folded_in_the_background_within_a_second(path: Path) -> None:
    sessions = opened(path, FOLD_AFTER)
    add(sessions, 1, 0)
    deadline = time.monotonic() + 10
    while not path.exists() or "answer 0" not in path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("killed_after", ["nothing", "file", "some", "torn", "all"])
def test_a_kill_anywhere_in_folding_loses_and_doubles_nothing(path: Path, journal: Path, killed_after: str) -> None:
    sessions = opened(path)
    for n in range(3):
        add(sessions, 1, n)
    sessions.history(SessionKey(MASTER, 1)).clear()
    add(sessions, 1, 3)
    add(sessions, 1, 3)
    add(sessions, 2, 4)
    before = journal.read_bytes()
    if killed_after == "torn":
        journal.write_bytes(before + b'{"session": "2", "at": 2, "mess')
    elif killed_after != "nothing":
        fold(sessions)
        # The file was put in place, and the journal not cut yet, or cut to what came meanwhile.
        if killed_after == "file":
            journal.write_bytes(before)
        elif killed_after == "some":
            journal.write_bytes(before[before.rindex(b'{"session": "2"') :])
    for _ in range(2):
        assert stored(path, 1) == [said(3), said(3)]
        assert stored(path, 2) == [said(4)]
        assert not journal.exists() or killed_after == "torn"


def test_a_torn_line_is_written_over(path: Path, journal: Path) -> None:
    add(opened(path), 1, 0)
    journal.write_bytes(journal.read_bytes() + b"\0" * 5000)
    sessions = opened(path)
    add(sessions, 1, 1)
    assert sessions.history(SessionKey(MASTER, 1)).window(9) == [said(0), said(1)]
    assert stored(path, 1) == [said(0), said(1)]


def test_a_broken_record_is_named_and_nothing_is_thrown_away(path: Path, journal: Path) -> None:
    sessions = opened(path)
    for n in range(3):
        add(sessions, 1, n)
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text(lines[0] + "{broken\n" + lines[2])
    with pytest.raises(DamagedFile, match=r"sessions\.journal.*line 2"):
        opened(path)
    journal.write_text(lines[0] + '{"session": "1"}\n')
    with pytest.raises(DamagedFile, match=r"sessions\.journal, line 2: .*should be"):
        opened(path)
    assert lines[0] in journal.read_text()


@pytest.mark.parametrize("folds", [False, True])
def test_what_is_said_anew_takes_the_place_of_what_came_later(path: Path, journal: Path, folds: bool) -> None:
    sessions = opened(path)
    history = sessions.history(SessionKey(MASTER, 1))
    for n in range(3):
        add(sessions, 1, n)
    history.add_exchange(said(9), keep=2)
    add(sessions, 1, 10)
    left = journal.read_bytes()
    if folds:
        # A kill between folding and cutting the journal leaves both.
        fold(sessions)
        journal.write_bytes(left)
    assert stored(path, 1) == [said(0), said(9), said(10)]
    sessions = opened(path)
    sessions.history(SessionKey(MASTER, 1)).add_exchange(said(11), keep=0)
    assert stored(path, 1) == [said(11)]
    assert opened(path).history(SessionKey(MASTER, 1)).describe()["name"] == "question 11"


def test_a_name_that_is_given_is_kept(path: Path) -> None:
    sessions = opened(path)
    add(sessions, 1, 0)
    history = sessions.history(SessionKey(MASTER, 1))
    history.set({"name": "Mine"})
    add(sessions, 1, 1)
    assert opened(path).history(SessionKey(MASTER, 1)).describe()["name"] == "Mine"
    fold(sessions)
    assert json.loads(path.read_text())["1"]["name"] == "Mine"


def test_two_servers_on_one_folder_see_each_others_turns(path: Path) -> None:
    one, two = opened(path), opened(path)
    for n in range(12):
        add((one, two)[n % 2], 1, n)
        if n % 3 == 0:
            fold((two, one)[n % 2])
        for each in (one, two):
            assert each.history(SessionKey(MASTER, 1)).window(99) == [said(i) for i in range(n + 1)]


def test_what_a_person_edits_while_it_runs_is_kept(path: Path) -> None:
    sessions = opened(path)
    add(sessions, 1, 0)
    fold(sessions)
    add(sessions, 1, 1)
    data = json.loads(path.read_text())
    data["1"]["name"] = "Renamed"
    data["1"]["note"] = "mine"
    path.write_text(json.dumps(data))
    add(sessions, 1, 2)
    sessions.close()
    data = json.loads(path.read_text())
    assert (data["1"]["name"], data["1"]["note"]) == ("Renamed", "mine")
    assert stored(path, 1) == [said(0), said(1), said(2)]


def test_an_edit_during_a_fold_is_not_overwritten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = opened(path)
    add(sessions, 1, 0)
    real = readable

    def edit_meanwhile(data: dict[str, object]) -> list[str]:
        path.write_text('{"7": {"name": "by hand", "messages": []}}')
        return list(real(data))

    monkeypatch.setattr(file_table, "readable", edit_meanwhile)
    fold(sessions)
    assert sessions.names(MASTER) == {"1": "question 0", "7": "by hand"}
    monkeypatch.setattr(file_table, "readable", real)
    fold(sessions)
    assert set(json.loads(path.read_text())) == {"1", "7"}


def test_a_turn_that_comes_while_it_folds_stays_in_the_journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = opened(path)
    add(sessions, 1, 0)
    real = readable

    def add_meanwhile(data: dict[str, object]) -> list[str]:
        pieces = list(real(data))
        monkeypatch.setattr(file_table, "readable", real)
        add(sessions, 1, 1)
        return pieces

    monkeypatch.setattr(file_table, "readable", add_meanwhile)
    fold(sessions)
    assert "answer 1" not in path.read_text()
    assert sessions.history(SessionKey(MASTER, 1)).window(9) == [said(0), said(1)]
    assert stored(path, 1) == [said(0), said(1)]


def test_a_journal_that_cannot_be_written_is_an_error_and_changes_nothing(
    path: Path, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = opened(path)
    add(sessions, 1, 0)
    whole = journal.read_bytes()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fdatasync", full)
    with pytest.raises(StorageFailed, match=r"sessions\.journal cannot be written: No space left"):
        add(sessions, 1, 1)
    monkeypatch.undo()
    assert journal.read_bytes() == whole
    add(sessions, 1, 2)
    assert stored(path, 1) == [said(0), said(2)]


def test_random_changes_folds_and_restarts_agree_with_a_plain_dict(path: Path) -> None:
    rng = random.Random(0)
    expected: dict[int, list[Exchange]] = {}
    sessions = opened(path)
    for n in range(400):
        number = rng.randrange(3)
        what = rng.random()
        if what < 0.6:
            add(sessions, number, n % 4)
            expected.setdefault(number, []).append(said(n % 4))
        elif what < 0.65 and number in expected:
            keep = rng.randrange(len(expected[number]) + 1)
            sessions.history(SessionKey(MASTER, number)).add_exchange(said(n % 4), keep=2 * keep)
            expected[number] = [*expected[number][:keep], said(n % 4)]
        elif what < 0.7 and number in expected:
            sessions.history(SessionKey(MASTER, number)).clear()
            del expected[number]
        elif what < 0.85:
            fold(sessions)
        else:
            sessions = opened(path)
        for key in range(3):
            assert sessions.history(SessionKey(MASTER, key)).window(1000) == expected.get(key, [])


def test_what_another_process_does_while_this_one_folds_is_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = opened(path), opened(path)
    add(one, 1, 0)
    add(one, 3, 3)

    def change_meanwhile(data: dict[str, object]) -> list[str]:
        add(two, 2, 2)
        two.history(SessionKey(MASTER, 1)).clear()
        return list(readable(data))

    monkeypatch.setattr(file_table, "readable", change_meanwhile)
    fold(one)
    monkeypatch.undo()
    for each in (one, two, opened(path)):
        assert set(each.names(MASTER)) == {"2", "3"}


def test_listing_goes_on_while_sessions_come_and_go(path: Path) -> None:
    sessions = opened(path)
    stop = threading.Event()

    def churn() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            add(sessions, n % 50, n)
            if n % 3 == 0:
                sessions.history(SessionKey(MASTER, n % 50)).clear()

    thread = threading.Thread(target=churn)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        for _ in range(300):
            sessions.names(MASTER)
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    "record",
    [
        {"session": "foo", "at": 0, "time": "t", "name": "n", "messages": [{"type": "human", "content": "a secret"}]},
        {"session": "1", "messages": [{"type": "human", "content": "a secret"}]},
        {"session": "1", "at": 0, "time": "t", "name": "a secret", "messages": [{"type": "robot", "content": "a secret"}]},
        {"session": 7, "removed": True, "name": "a secret"},
        {},
    ],
)
def test_a_record_that_is_none_is_named_by_its_line_without_its_words(path: Path, journal: Path, record: object) -> None:
    add(opened(path), 1, 0)
    with journal.open("a") as file:
        file.write(json.dumps(record) + "\n")
    before = journal.read_bytes()
    with pytest.raises(DamagedFile, match=r"sessions\.journal, line 2: a record is not what it should be") as damage:
        opened(path)
    assert "secret" not in damage.value.message
    assert journal.read_bytes() == before


def test_a_full_disk_does_not_keep_the_server_from_starting(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(opened(path), 1, 0)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert opened(path).history(SessionKey(MASTER, 1)).window(9) == [said(0)]
    monkeypatch.undo()
    assert stored(path, 1) == [said(0)]


def test_what_a_kill_left_half_written_is_removed(path: Path) -> None:
    for name in (".sessions.json.new", ".sessions.journal.new"):
        path.with_name(name).write_text("a secret")
    opened(path)
    assert "a secret" not in "".join(file.read_text() for file in path.parent.iterdir())


def test_a_kill_after_folding_gives_no_request_another_answer(path: Path, journal: Path) -> None:
    sessions, name = opened(path), RequestName("key:a", "digest")
    history = sessions.history(SessionKey(MASTER, 1))
    history.add_exchange(said(0))
    history.add_exchange(said(1), request=Answered(name, {}))
    left = journal.read_bytes()
    fold(sessions)
    # The file was written between the messages and the request's name.
    data = json.loads(path.read_text())
    del data["1"]["requests"]
    path.write_text(json.dumps(data))
    journal.write_bytes(left)
    assert opened(path).history(SessionKey(MASTER, 1)).answered(name) == ("answer 1", {})
    # An answer that was edited is nobody's reply, also if the journal is read once more.
    sessions = opened(path)
    history = sessions.history(SessionKey(MASTER, 1))
    history.add_exchange(said(2), request=Answered(RequestName("key:b", "digest"), {}))
    history.edit(5, "edited")
    left = journal.read_bytes()
    fold(sessions)
    journal.write_bytes(left)
    history = opened(path).history(SessionKey(MASTER, 1))
    assert history.answered(RequestName("key:b", "digest")) is None
    assert history.messages[5]["content"] == "edited"
