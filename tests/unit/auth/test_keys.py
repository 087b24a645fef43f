from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path

import pytest

from auth import guesses
from auth.identity import MASTER, Identity, Terms
from auth.keys import KeyStore
from services.errors import DamagedFile, InvalidRequest, NotFound


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api_keys.json"


def test_a_minted_key_is_good_and_only_its_hash_is_stored(path: Path) -> None:
    store = KeyStore(path)
    minted = store.mint(Terms(name="Ana"))
    assert re.fullmatch(r"hearth-[\w-]{43}", minted.key)
    assert minted.key not in repr(minted)
    assert minted.key not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert store.check(minted.key) == Identity(minted.id, "Ana") == KeyStore(path).check(minted.key)


@pytest.mark.parametrize("wrong", ["", "hearth-", "x", "0", "\udcff".encode("utf-8", "replace").decode()])
def test_a_wrong_key_is_nobodys(path: Path, wrong: str) -> None:
    store = KeyStore(path)
    key = store.mint().key
    for near in (wrong, key[:-1], key + "A", key.upper(), f" {key}"):
        assert store.check(near) is None


def test_there_is_one_master_key(path: Path) -> None:
    store = KeyStore(path)
    master = store.mint_master()
    assert master
    assert store.mint_master() is None
    assert KeyStore(path).mint_master() is None
    identity = store.check(master.key)
    assert identity
    assert identity.is_master
    with pytest.raises(InvalidRequest):
        store.revoke(MASTER)


def test_a_revoked_key_stops_working_at_once_and_everywhere(path: Path) -> None:
    store, other = KeyStore(path), KeyStore(path)
    minted = store.mint(Terms(name="Ana"))
    assert other.check(minted.key)
    store.revoke(minted.id)
    assert store.check(minted.key) is None
    assert other.check(minted.key) is None
    assert store.list() == []
    with pytest.raises(NotFound):
        store.revoke(minted.id)


@pytest.mark.parametrize("typed", ["my secret", "schlüssel", " spaced "])
def test_a_typed_key_is_stretched_and_then_quick(path: Path, typed: str) -> None:
    path.write_text(json.dumps({"0": typed}))
    store = KeyStore(path)
    stored = json.loads(path.read_text())["0"]["hash"]
    assert stored.startswith("scrypt:")
    assert typed not in path.read_text()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        assert store.check(typed.strip()) == Identity(MASTER, "master")
        times.append(time.perf_counter() - start)
    assert min(times[1:]) < times[0] / 5
    assert store.check("another") is None
    with pytest.MonkeyPatch.context() as patch:
        begun, ends = threading.Event(), threading.Event()

        def stretch(key: str, salt: bytes) -> str:
            begun.set()
            ends.wait(10)
            return "another hash"

        patch.setattr(guesses, "stretch", stretch)
        path.write_text(json.dumps({**json.loads(path.read_text()), "a": "of another"}))
        store.names()
        guess = threading.Thread(target=store.check, args=("a guess",))
        guess.start()
        assert begun.wait(10)
        # A guess is being stretched: the proven key does not wait.
        assert store.check(typed.strip())
        ends.set()
        guess.join()
    assert KeyStore(path).check(typed.strip())


def test_a_key_typed_while_the_store_is_open_replaces_the_old_one(path: Path) -> None:
    store = KeyStore(path)
    old = store.mint_master()
    assert old
    path.write_text('{"0": "new"}')
    assert store.check(old.key) is None
    assert store.check("new") == Identity(MASTER, "master")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "line 1, column 2"),
        ('{\n "0": ""}', 'line 2, column \\d+: key "0" is empty'),
        ('{"0": 5}', 'key "0" should be a key'),
        ('{"": "x"}', '"" is no id of a key'),
        ('{"a/b": "x"}', '"a/b" is no id of a key'),
        ('{"0": {"hash": "md5:00"}}', 'key "0" should be a key'),
        ('{"0": {"hash": "sha256:zz"}}', 'key "0" should be a key'),
        ('{"a": {"name": "x"}}', 'key "a" should be a key'),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(path: Path, text: str, says: str) -> None:
    path.write_text(text)
    with pytest.raises(DamagedFile, match=says):
        KeyStore(path)
    assert path.read_text() == text
