"""The states that lie on no slot: their tables, and their files on a real disk."""

from __future__ import annotations

import hashlib
import random
import struct
import time
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.engine.kv import store as store_module
from services.engine.kv.checkpoints import Checkpoint
from services.engine.kv.file import DamagedState, Header, read_saved, read_state, write_state
from services.engine.kv.state import State, StateKey, common_prefix, pack
from services.engine.kv.store import StateStore

MB = 10**6


def state(session: str = "1", n_tokens: int = 50, owner: str = "a", model: str = "m", used: float = 0.0) -> State:
    """One whose data tells whose it is, with two checkpoints."""
    tokens = list(range(n_tokens))
    checkpoints = tuple(Checkpoint(n, bytearray(f"{owner} {session} {n}".encode())) for n in (n_tokens // 2, n_tokens))
    data = bytearray(f"{owner} {session}".encode() * 100)
    return State(StateKey(model, owner, session), pack(tokens), data, used, checkpoints)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.state"))


def test_common_prefixes() -> None:
    rng = random.Random(0)
    for _ in range(300):
        a = [rng.randrange(3) for _ in range(rng.randrange(40))]
        b = a[: rng.randrange(41)] + [rng.randrange(3) for _ in range(rng.randrange(9))]
        expected = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        beyond = rng.randrange(-1, 30)
        assert common_prefix(pack(a), pack(b), beyond) == (expected if expected > beyond else 0)


def test_memory_keeps_what_was_used_last_within_its_cap() -> None:
    store = StateStore(ram_bytes=3 * state().n_bytes)
    for session in "1234":
        store.put(state(session, owner=session))
    assert store.find("m", "1", pack(range(60)))[0] is None
    assert store.find("m", "2", pack(range(60)))[1] == 50
    store.put(state("5", owner="5"))
    assert store.find("m", "2", pack(range(60)))[1] == 50, "since it was just used"
    assert store.find("m", "3", pack(range(60)))[0] is None


def test_what_memory_lets_go_of_goes_to_disk(tmp_path: Path) -> None:
    """With no room in memory at all, and a disk that is slower than what comes."""
    store = StateStore(tmp_path, 0, MB).start()
    with store._lock:
        # The writer waits meanwhile.
        for session in ("1", "2", "~passing", "3"):
            store.put(state(session, used=time.monotonic()))
        assert store.find("m", "a", pack(range(60)))[1] == 50
    deadline = time.monotonic() + 10
    while {read_saved(path).header.session for path in files(tmp_path)} != {"1", "2", "3"}:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    while store.rooms()[0].used > state("3").n_bytes:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    store.close()


def test_memory_is_never_much_over_its_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "OVER", 2 * state().n_bytes)
    for store in (StateStore(ram_bytes=0), StateStore(tmp_path, 0, MB).start()):
        with store._lock:
            for session in "12345":
                store.put(state(session, used=time.monotonic()))
                assert store.rooms()[0].used <= 2 * state().n_bytes
            # A large one would not even be kept for the moment.
            store.put(state("~large", n_tokens=5000))
            assert store.rooms()[0].used <= 2 * state().n_bytes
        store.close()


def test_a_state_on_disk_serves_a_request_whatever_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "OVER", 0)
    store = StateStore(tmp_path, 0, MB).start()
    store.save(state("1"))
    store.fetch("m", "a", pack(range(60)))
    assert store.find("m", "a", pack(range(60)))[1] == 50
    store.close()


def test_weights_that_are_mapped_are_no_room_for_states() -> None:
    store = StateStore()
    whole = store.rooms()[0].limit
    store.set_weights(4 * whole)
    assert store.rooms()[0].limit < whole // 10


def test_a_state_comes_back_from_disk_after_a_restart(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "states", MB, MB).start()
    store.put(state("1"))
    store.put(state("~passing", n_tokens=60))
    store.close()
    [file] = files(tmp_path / "states")
    assert file.stat().st_mode & 0o777 == 0o600
    again = StateStore(tmp_path / "states", MB, MB).start()
    again.fetch("m", "a", pack([*range(50), 99]))
    found, shared = again.find("m", "a", pack([*range(50), 99]))
    assert found
    assert (shared, bytes(found.data)) == (50, bytes(state("1").data))
    told = [(each.n_tokens, each.data) for each in found.checkpoints]
    assert told == [(each.n_tokens, each.data) for each in state("1").checkpoints]
    assert found.n_bytes == state("1").n_bytes
    for model, owner in (("other", "a"), ("m", "b")):
        again.fetch(model, owner, pack(range(50)))
        assert again.find(model, owner, pack(range(50)))[0] is None
    again.close()


def test_files_from_before_checkpoints_are_read(tmp_path: Path) -> None:
    old = replace(state("1"), checkpoints=())
    path = write_state(tmp_path, old, "file").path
    content = path.read_bytes().replace(b',"checkpoints":[]', b"")[:-32]
    content = content[:10] + struct.pack("<I", len(content[14:].partition(b"}")[0]) + 1) + content[14:]
    path.write_bytes(content + hashlib.sha256(content).digest())
    again = read_state(read_saved(path), 0)
    assert (again.data, again.checkpoints) == (old.data, ())


@pytest.mark.parametrize("wrong", [((30, 8), (20, 8)), ((20, 8), (20, 8)), ((0, 8),), ((51, 8),), ((20, -1),)])
def test_checkpoints_that_cannot_be_are_refused(wrong: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValidationError):
        Header(model="m", file="f", owner="a", session="1", n_tokens=50, n_bytes=9, checkpoints=wrong)


def test_checkpoints_on_slots_leave_less_room_in_memory() -> None:
    each = state()
    store = StateStore(ram_bytes=3 * each.n_bytes)
    for session in "12":
        store.put(state(session, owner=session))
    slot = StateKey("m", "c", "3")
    store.mark_on_slot(slot)
    store.count_checkpoints(slot, each.n_bytes)
    assert store.rooms()[0].used == 3 * each.n_bytes
    store.count_checkpoints(slot, 2 * each.n_bytes)
    assert store.find("m", "1", pack(range(60)))[0] is None
    assert store.find("m", "2", pack(range(60)))[1] == 50
    store.mark_off_slot(slot)
    assert store.rooms()[0].used == each.n_bytes


def test_the_slots_share_half_of_memory_for_checkpoints() -> None:
    store = StateStore(ram_bytes=8000)
    one, other = StateKey("m", "a", "1"), StateKey("m", "a", "2")
    assert store.checkpoint_room(one, 4, 100) == 1000
    assert store.checkpoint_room(one, 4, 900) == 1800, "two of them"
    store.mark_on_slot(other, 3000)
    assert store.checkpoint_room(one, 4, 900) == 1000
    assert store.checkpoint_room(other, 4, 1900) == 3800


def test_what_has_rested_is_written_in_the_background(tmp_path: Path) -> None:
    store = StateStore(tmp_path, MB, MB).start()
    store.put(state("fresh", used=time.monotonic() + 1000))
    store.put(state("rested", used=time.monotonic() - 1000))
    deadline = time.monotonic() + 20
    while not files(tmp_path):
        # The fresh one is before it in the queue; only when it is on a slot does the other's turn come.
        store.mark_on_slot(state("fresh").key)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert read_saved(files(tmp_path)[0]).header.session == "rested"
    store.close()


def test_the_disk_keeps_what_was_used_last_within_its_cap(tmp_path: Path) -> None:
    size = write_state(tmp_path, state("0"), "file").size
    store = StateStore(tmp_path, 0, 3 * size + 100).start()
    for session in "1234":
        store.save(state(session))
    assert {read_saved(path).header.session for path in files(tmp_path)} <= {"2", "3", "4"}
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 3 * size + 100
    store.close()


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "empty", "foreign", "header"])
def test_a_file_that_is_not_whole_is_refused_and_removed(tmp_path: Path, damage: str) -> None:
    path = write_state(tmp_path, state(), "file").path
    rng = random.Random(damage)
    whole = path.read_bytes()
    for _ in range(40):
        content = bytearray(whole)
        if damage == "flip":
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        elif damage == "cut":
            del content[rng.randrange(len(content)) :]
        elif damage == "longer":
            content += b"x"
        elif damage == "empty":
            content.clear()
        elif damage == "foreign":
            content = bytearray(rng.randbytes(len(content)))
        else:
            content[10:14] = rng.randbytes(4)
        path.write_bytes(content)
        store = StateStore(tmp_path, MB, MB).start()
        for tokens in (pack(range(60)), state().tokens):
            store.fetch("m", "a", tokens)
            found, _ = store.find("m", "a", tokens)
            assert found is None
        store.close()
        # A flipped bit in the tokens or the owner makes a state that nobody asks for; all others are gone.
        assert damage == "flip" or not files(tmp_path)


def test_a_file_that_changes_after_it_was_listed_is_refused(tmp_path: Path) -> None:
    saved = write_state(tmp_path, state(), "file")
    store = StateStore(tmp_path, MB, MB).start()
    content = bytearray(saved.path.read_bytes())
    content[-100] ^= 1
    saved.path.write_bytes(content)
    with pytest.raises(DamagedState, match="checksum"):
        read_state(saved, 0)
    store.fetch("m", "a", pack(range(60)))
    assert store.find("m", "a", pack(range(60)))[0] is None
    assert not files(tmp_path)
    store.close()


def test_states_of_what_a_model_file_was_before_are_removed(tmp_path: Path) -> None:
    new, longer, old = ("new " * 4 + "ctx 2048", "new " * 4 + "ctx 4096", "old " * 4 + "ctx 2048")
    for model, file in ((old, "/x.gguf"), (new, "/x.gguf"), (longer, "/x.gguf"), ("other", "/y.gguf")):
        write_state(tmp_path, state(model=model), file)
    store = StateStore(tmp_path, MB, MB).start()
    store.bind(new, Path("/x.gguf"))
    assert {read_saved(path).header.model for path in files(tmp_path)} == {new, longer, "other"}
    store.close()


def test_a_forgotten_conversation_leaves_memory_and_disk(tmp_path: Path) -> None:
    store = StateStore(tmp_path, MB, MB).start()
    store.save(state("1"))
    store.save(state("1", model="other"))
    store.save(state("2"))
    store.put(state("1"))
    store.forget("a", "1")
    assert [read_saved(path).header.session for path in files(tmp_path)] == ["2"]
    assert store.find("m", "a", state("1").tokens)[0] is None
    store.close()
    assert len(files(tmp_path)) == 1


def test_a_folder_that_cannot_be_written_costs_only_the_states(tmp_path: Path) -> None:
    (tmp_path / "states").write_text("a file, not a folder")
    store = StateStore(tmp_path / "states", MB, MB).start()
    store.put(state())
    store.save(state())
    assert store.find("m", "a", state().tokens)[1] == 50
    store.close()


def test_with_no_room_on_disk_nothing_stays_there(tmp_path: Path) -> None:
    write_state(tmp_path, state(), "file")
    store = StateStore(tmp_path, MB, 0).start()
    store.save(state())
    assert not files(tmp_path)
    store.close()


def test_files_of_sessions_that_are_no_more_are_removed(tmp_path: Path) -> None:
    for session in "12":
        write_state(tmp_path, state(session), "file")
    store = StateStore(tmp_path, MB, MB).start()
    store.retain({("a", "2"), ("b", "1")})
    assert [read_saved(path).header.session for path in files(tmp_path)] == ["2"]
    store.close()


def test_a_shared_folder_has_what_others_have_written(tmp_path: Path) -> None:
    one, two = (StateStore(tmp_path, MB, MB, shared=True).start() for _ in range(2))
    asked = pack(range(60))

    def found(store: StateStore) -> int:
        store.fetch("m", "a", asked)
        return store.find("m", "a", asked)[1]

    assert found(two) == 0
    one.put(state("1", n_tokens=40))
    one.close()
    assert found(two) == 40
    # Of what is newer there is no older copy in the way, and what is half written does no harm.
    (tmp_path / "odd.state").write_bytes(b"half")
    third = StateStore(tmp_path, MB, MB, shared=True).start()
    write_state(tmp_path, state("1", n_tokens=50), "m.gguf")
    assert found(third) == 50
    assert (tmp_path / "odd.state").exists()
    for file in files(tmp_path):
        file.unlink()
    assert found(StateStore(tmp_path, MB, MB, shared=True).start()) == 0
    two.close()
    third.close()
