from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from services.backend.types import EVERYBODY, TEMPORARY
from services.engine.kv.checkpoints import Buffer, data_bytes
from services.engine.kv.slots import Slots
from services.engine.kv.state import CutRule, pack
from services.engine.kv.store import StateStore

Cell = tuple[int, str]


class FakeKvCache:
    """A KV cache whose cells are tokens, each with the owner for whom it was computed.

    `partial` is the part of the state that cannot be cut anywhere: what it was computed from. Layers with a window begin to
    hold cells at `first`; as in llama.cpp a snapshot holds no more than its last token sees.
    """

    cut_rule = CutRule()

    def __init__(self, n_slots: int) -> None:
        self.cells: list[list[Cell]] = [[] for _ in range(n_slots)]
        self.partial: list[list[Cell]] = [[] for _ in range(n_slots)]
        self.first = [0] * n_slots
        self.n_restored = 0
        self.n_checkpoints = 0

    def can_keep(self, slot: int, n_tokens: int) -> bool:
        assert n_tokens <= len(self.cells[slot])
        if not self.cut_rule.anywhere and n_tokens < len(self.partial[slot]):
            return False
        return self.first[slot] <= self.cut_rule.first_needed(n_tokens)

    def keep(self, slot: int, n_tokens: int) -> int:
        if not self.can_keep(slot, n_tokens) or len(self.partial[slot]) < n_tokens:
            n_tokens = 0
        self.cells[slot] = self.cells[slot][:n_tokens]
        self.partial[slot] = self.partial[slot][:n_tokens]
        self.first[slot] *= n_tokens > 0
        assert self.partial[slot] == self.cells[slot], "the parts of a state are of different texts"
        return n_tokens

    def snapshot(self, slot: int, partial: bool = False) -> Buffer:
        window, n_tokens = self.cut_rule.window, len(self.partial[slot])
        first = max(self.first[slot], n_tokens - window if window else 0)
        self.n_checkpoints += partial
        return bytearray(repr((first, self.partial[slot])).encode())

    def restore(self, slot: int, data: Buffer, partial: bool = False) -> bool:
        self.first[slot], self.partial[slot] = eval(bytes(data))
        if not partial:
            self.cells[slot] = list(self.partial[slot])
            self.n_restored += 1
        return True

    def compute(self, slot: int, tokens: list[int], owner: str) -> None:
        """Add the tokens that are not there yet."""
        assert self.partial[slot] == self.cells[slot]
        self.cells[slot] = self.cells[slot] + [(token, owner) for token in tokens[len(self.cells[slot]) :]]
        self.partial[slot] = list(self.cells[slot])


class FakeEngine:
    """Slots over a fake KV cache, and the work that an engine does between `reserve` and `release`."""

    def __init__(self, n_slots: int, store: StateStore | None = None) -> None:
        self.kv = FakeKvCache(n_slots)
        self.store = store or StateStore(ram_bytes=10**6)
        self.slots = Slots(self.kv, self.store, "model", n_slots)

    def serve(
        self, tokens: list[int], owner: str = "a", session: str = "", checkpoints: tuple[int, ...] = ()
    ) -> tuple[int, int]:
        """Compute a prompt; return its slot, and how many tokens it found computed."""
        slot, n_cached = self.slots.reserve(tokens, owner, session)
        for n in checkpoints:
            self.kv.compute(slot, tokens[:n], owner)
            self.slots.checkpoint(slot, n)
        self.kv.compute(slot, tokens, owner)
        self.slots.release(slot, tokens)
        return slot, n_cached


LONG = list(range(100, 140))
OTHER = list(range(200, 240))


def test_the_longest_common_prefix_is_reused() -> None:
    engine = FakeEngine(1)
    assert engine.serve([1, 2, 3, 4]) == (0, 0)
    assert engine.serve([1, 2, 3, 9]) == (0, 3)


def test_the_last_token_is_computed_again_for_its_logits() -> None:
    engine = FakeEngine(1)
    engine.serve([1, 2, 3])
    assert engine.serve([1, 2, 3]) == (0, 2)
    assert engine.slots.reserve([1, 2, 3], "a", spare=0) == (0, 3)


def test_nothing_is_reused_between_owners() -> None:
    engine = FakeEngine(2)
    engine.serve(LONG, "a")
    assert engine.serve([*LONG, 1], "b")[1] == 0
    engine.serve(OTHER, "c", "1")
    assert engine.serve([*LONG, 1], "d")[1] == 0, "nor what went to RAM"


def test_a_session_goes_on_in_its_slot_and_others_take_the_one_longest_unused() -> None:
    engine = FakeEngine(2)
    assert engine.serve(LONG, session="1") == (0, 0)
    assert engine.serve(OTHER, session="2") == (1, 0)
    assert engine.serve([*LONG, 1], session="1") == (0, 40)
    assert engine.serve([7, 8], session="3") == (1, 0)
    for _ in range(2):
        engine.slots.reserve([9], "a")
    with pytest.raises(LookupError):
        engine.slots.reserve([1], "a")
    engine.slots.clear()
    assert engine.kv.cells == [[], []]


def test_what_had_to_leave_its_slot_comes_back_from_memory() -> None:
    engine = FakeEngine(1)
    engine.serve(LONG, session="1")
    engine.serve(OTHER, session="2")
    assert engine.serve([*LONG, 1], session="1") == (0, 40)
    assert engine.serve([*OTHER, 1], session="2") == (0, 40)


def test_another_sessions_state_is_copied_and_left() -> None:
    engine = FakeEngine(2)
    engine.serve(LONG, session="1")
    assert engine.serve([*LONG[:20], 1], session="2") == (1, 20)
    assert engine.serve([*LONG, 1], session="1") == (0, 40)


def test_nobodys_state_is_gone_on_with_where_half_of_it_is_kept() -> None:
    engine = FakeEngine(2)
    engine.serve(LONG)
    assert engine.serve([*LONG[:20], 1]) == (0, 20)
    assert engine.serve([*LONG[:5], 2]) == (1, 0)


def test_a_head_is_shared_with_everybody_and_nothing_more() -> None:
    engine = FakeEngine(2)
    slot, _ = engine.slots.reserve(LONG, "a", "1")
    engine.kv.compute(slot, LONG[:30], "a")
    assert not engine.slots.knows_head(LONG[:30])
    engine.slots.share_head(slot, LONG[:30])
    assert engine.slots.knows_head(LONG[:30])
    engine.kv.compute(slot, LONG, "a")
    engine.slots.release(slot, LONG)
    assert engine.serve([*LONG, 1], "b", "1") == (1, 30)


def test_a_forgotten_conversation_is_nowhere(tmp_path: Path) -> None:
    engine = FakeEngine(1, StateStore(tmp_path, 10**6, 10**6).start())
    engine.serve(LONG, session="1")
    engine.slots.save_all(5)
    engine.serve(OTHER, session="2")
    engine.slots.forget("a", "1")
    engine.store.forget("a", "1")
    assert not list(tmp_path.iterdir())
    engine.store.fetch("model", "a", pack(LONG))
    assert engine.serve([*LONG, 1], session="1")[1] == 0
    engine.store.close()


def test_a_state_that_is_refused_is_computed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(1)
    engine.serve(LONG, session="1")
    engine.serve(OTHER, session="2")
    monkeypatch.setattr(engine.kv, "restore", lambda slot, data: False)
    assert engine.serve([*LONG, 1], session="1") == (0, 0)
    assert engine.store.find("model", "a", pack(LONG))[0] is None, "nor is it tried again"


def test_a_state_that_cannot_be_cut_is_never_taken_for_its_beginning() -> None:
    engine = FakeEngine(2)
    engine.kv.cut_rule = CutRule(anywhere=False)
    engine.serve([*LONG, 9], session="1")
    for n in (10, 20, 30, 40):
        # A prompt that is read in chunks goes on with its own, however much another's has in common.
        slot, n_cached = engine.slots.reserve([*LONG, 7], "a", "2", spare=0)
        assert n_cached == n - 10
        engine.kv.compute(slot, LONG[:n], "a")
        engine.slots.release(slot, LONG[:n])


def windowed(n_slots: int, window: int = 8, store: StateStore | None = None) -> FakeEngine:
    engine = FakeEngine(n_slots, store)
    engine.kv.cut_rule = CutRule(window=window)
    return engine


def cuts(rule: CutRule, n_tokens: int) -> list[int]:
    """To what a state of `n_tokens` can be cut."""
    return [n for n in range(1, n_tokens + 1) if rule.cut(n_tokens, n) == n]


def test_a_rule_says_what_a_state_holds_and_what_the_next_token_needs() -> None:
    rule = CutRule(window=8)
    # A state of 40 tokens holds those from 32 on; the next token of 39 looks at 32 to 39.
    assert cuts(rule, 40) == [39, 40]
    assert cuts(rule, 8) == [*range(1, 9)], "a window that all of it fits into"
    assert cuts(rule, 9) == [8, 9]
    assert cuts(CutRule(window=8, chunked=True), 12) == [8, 9, 10, 11, 12]
    assert cuts(CutRule(anywhere=False), 4) == [4]
    assert cuts(CutRule(), 40) == [*range(1, 41)]


def test_a_rule_says_how_far_checkpoints_reach() -> None:
    recurrent, window = CutRule(anywhere=False), CutRule(window=8)
    assert [recurrent.reach(40, [10, 20], most) for most in (9, 10, 19, 20, 39, 40, 99)] == [0, 10, 10, 20, 20, 40, 40]
    # A window's state serves one token less too, and one of the window's length or less any number.
    assert [window.reach(40, [6, 20], most) for most in (3, 7, 18, 19, 38, 39)] == [3, 6, 6, 19, 20, 39]


def test_a_state_with_a_window_serves_only_what_goes_on_from_its_end() -> None:
    engine = windowed(1)
    engine.serve(LONG, session="1")
    engine.serve(OTHER, session="2")
    # An edit further back than the window: what the state left out would be taken for computed.
    assert engine.serve([*LONG[:30], 1], session="1") == (0, 0)
    assert engine.kv.n_restored == 0, "nor is it copied in vain"
    engine.serve(OTHER, session="2")
    assert engine.serve([*LONG[:30], 1, 2], session="1") == (0, 31), "and the end of one goes on"
    assert engine.serve([*LONG[:30], 1, 2, 3], session="1") == (0, 32)


def test_the_same_prompt_again_computes_one_token() -> None:
    engine = windowed(1)
    engine.serve(LONG, session="1")
    engine.serve(OTHER, session="2")
    assert engine.serve(LONG, session="1") == (0, 39)


def test_a_slot_with_all_its_cells_is_cut_anywhere_and_one_that_was_restored_is_not() -> None:
    engine = windowed(1)
    engine.serve(LONG, session="1")
    assert engine.serve([*LONG[:20], 1], session="1") == (0, 20)
    engine.serve(OTHER, session="2")
    assert engine.serve([*LONG[:20], 1, 2], session="1") == (0, 21)
    assert engine.serve([*LONG[:16], 3], session="1") == (0, 0), "its cells before 13 are gone"


def test_a_copy_of_another_slot_is_not_taken_where_it_would_lack_cells() -> None:
    engine = windowed(2)
    engine.serve(LONG, session="1")
    assert engine.serve([*LONG[:30], 1], session="2") == (1, 0)
    assert engine.kv.n_restored == 0
    assert engine.serve([*LONG, 1], session="3")[1] == 40


def test_a_state_that_cannot_serve_displaces_none_that_can(tmp_path: Path) -> None:
    store = StateStore(tmp_path, 10**6, 10**6).start()
    engine = windowed(1, store=store)
    engine.serve(LONG[:30], session="short")
    engine.serve(LONG, session="long")
    engine.serve(OTHER, session="2")
    rule = engine.kv.cut_rule
    asked = pack([*LONG[:35], 1])
    found, n_shared = store.find("model", "a", asked, rule=rule, spare=1)
    assert found
    assert (found.key.session, n_shared) == ("short", 30)
    store.close()
    on_disk = StateStore(tmp_path, 10**6, 10**6).start()
    on_disk.fetch("model", "a", asked, rule=rule, spare=1)
    again, n_again = on_disk.find("model", "a", asked, rule=rule, spare=1)
    assert again
    assert (again.key.session, n_again) == ("short", 30)
    on_disk.close()


def test_a_head_is_shared_by_models_with_windows_too() -> None:
    engine = windowed(2)
    slot, _ = engine.slots.reserve(LONG, "a", "1")
    engine.kv.compute(slot, LONG[:30], "a")
    engine.slots.share_head(slot, LONG[:30])
    engine.kv.compute(slot, LONG, "a")
    engine.slots.release(slot, LONG)
    assert engine.serve([*LONG[:30], 1], "b", "1") == (1, 30)


RULES = {
    "recurrent": CutRule(anywhere=False),
    "window": CutRule(window=8),
    "chunks": CutRule(window=8, chunked=True),
    "both": CutRule(anywhere=False, window=8),
}


@pytest.fixture(params=RULES)
def uncut(request: pytest.FixtureRequest) -> CutRule:
    return RULES[request.param]


def with_rule(rule: CutRule, n_slots: int, store: StateStore | None = None) -> FakeEngine:
    engine = FakeEngine(n_slots, store)
    engine.kv.cut_rule = rule
    return engine


# Too long for the fork to be in its last window.
SAID, EDITED = [*LONG, 7, 8], [*LONG[:33], 1, 2]


def test_an_edit_goes_on_from_the_last_checkpoint_before_it(uncut: CutRule) -> None:
    """On its slot, from RAM, and copied to another conversation."""
    engine = with_rule(uncut, 2)
    engine.serve(SAID, session="1", checkpoints=(16, 32))
    assert engine.serve(EDITED, session="2")[1] == 32
    engine.serve(OTHER, session="3")
    engine.serve(OTHER, session="4")
    assert engine.serve(EDITED, session="1")[1] in (32, 34)
    engine = with_rule(uncut, 1)
    engine.serve(SAID, session="1", checkpoints=(16, 32))
    kept = engine.serve(EDITED, session="1")[1]
    assert kept == (32 if not uncut.anywhere else 33), "all cells of a window are on the slot still"


def test_checkpoints_come_back_from_disk(uncut: CutRule, tmp_path: Path) -> None:
    store = StateStore(tmp_path, 10**6, 10**6).start()
    engine = with_rule(uncut, 1, store)
    engine.serve(SAID, session="1", checkpoints=(16, 32))
    engine.slots.save_all(5)
    store.close()
    store = StateStore(tmp_path, 10**6, 10**6).start()
    engine = with_rule(uncut, 1, store)
    for asked, expected in ((EDITED, 32), ([*LONG[:20], 1, 2], 16)):
        store.fetch("model", "a", pack(asked), rule=uncut, spare=1)
        assert engine.serve(asked, session="1")[1] == expected
    store.close()


def test_what_was_cut_off_takes_its_checkpoints_along(uncut: CutRule) -> None:
    engine = with_rule(uncut, 1)
    engine.serve(SAID, session="1", checkpoints=(16, 32))
    changed = [*LONG[:20], *OTHER[:24]]
    engine.serve(changed, session="1")
    # The one at 32 is of another text.
    kept = engine.serve([*changed[:34], 1, 2], session="1")[1]
    assert kept == (16 if not uncut.anywhere else 34), "all cells of a window are on the slot still"
    engine.serve(OTHER, session="2")
    assert engine.serve([*changed[:30], 3], session="1")[1] == 16


def test_an_interrupted_batch_is_taken_back_by_a_checkpoint(uncut: CutRule) -> None:
    engine = with_rule(uncut, 1)
    slot, _ = engine.slots.reserve(LONG, "a", "1")
    engine.kv.compute(slot, LONG[:20], "a")
    engine.slots.checkpoint(slot, 20)
    engine.kv.compute(slot, LONG[:26], "a")
    engine.slots.checkpoint(slot, 26, passing=True)
    # llama.cpp has begun to compute more.
    engine.kv.compute(slot, LONG, "a")
    assert engine.slots.cut(slot, 26) == 26
    engine.kv.compute(slot, LONG[:37], "a")
    engine.slots.checkpoint(slot, 37)
    engine.slots.release(slot, LONG[:37])
    engine.serve(OTHER, session="2")
    assert engine.serve([*LONG[:30], 1, 2], session="1")[1] == 20, "the passing one is gone"


def test_a_plain_model_has_no_checkpoints() -> None:
    engine = FakeEngine(1)
    engine.serve(LONG, session="1", checkpoints=(16, 32))
    assert engine.kv.n_checkpoints == 0


def test_a_checkpoint_close_behind_another_is_not_made(uncut: CutRule) -> None:
    engine = with_rule(uncut, 1)
    engine.serve(LONG, session="1", checkpoints=(10, 16, 20, 31, 32))
    assert engine.kv.n_checkpoints == 2


def test_checkpoints_on_slots_count_and_keep_within_their_share(uncut: CutRule) -> None:
    engine = with_rule(uncut, 1, StateStore(ram_bytes=4000))
    tokens = list(range(800))
    slot, _ = engine.slots.reserve(tokens, "a", "1")
    for n in range(20, 800, 20):
        engine.kv.compute(slot, tokens[:n], "a")
        engine.slots.checkpoint(slot, n)
        used, size = engine.store.rooms()[0].used, len(engine.kv.snapshot(slot, partial=True))
        assert (size if size <= 2000 else 0) <= used <= 2000
    engine.slots.release(slot, tokens[:780])
    engine.slots.forget("a", "1")
    assert engine.store.rooms()[0].used == 0


# In runs, so that many have much in common.
RUNS = st.lists(st.tuples(st.integers(0, 1), st.sampled_from((4, 8, 12))), min_size=1, max_size=5)
TOKENS = RUNS.map(lambda runs: [0] * 20 + [token for token, n in runs for _ in range(n)])

SHARES = st.sampled_from((0, 0.3, 0.5, 0.7, 0.9, 1, 1, 1))


class CacheMachine(RuleBasedStateMachine):
    """Random prompts that come, are computed in part or whole, leave, are forgotten, and move between slots, RAM and disk.

    Whatever happens, what a prompt finds computed is its own beginning, computed for its owner or for everybody, and every
    slot holds as many cells as the cache believes.
    """

    open_ones = Bundle("open_ones")
    cut_rule = CutRule()
    ram = 2500

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = StateStore(Path(self.folder.name), ram_bytes=self.ram, disk_bytes=2 * self.ram).start()
        self.engine = FakeEngine(3, self.store)
        self.engine.kv.cut_rule = self.cut_rule
        self.busy: dict[int, tuple[str, str]] = {}

    @precondition(lambda self: len(self.busy) < 3)
    @rule(
        target=open_ones,
        tokens=TOKENS,
        owner=st.sampled_from("ab"),
        session=st.sampled_from(["", "1", "2", f"{TEMPORARY}unsaved"]),
        spare=st.integers(0, 1),
    )
    def open(self, tokens: list[int], owner: str, session: str, spare: int) -> tuple[int, list[int], str]:
        if (owner, session) in self.busy.values():
            session = ""
        self.store.fetch("model", owner, pack(tokens), rule=self.cut_rule, spare=spare)
        slot, n_cached = self.engine.slots.reserve(tokens, owner, session, spare=spare)
        cells = self.engine.kv.cells[slot]
        assert slot not in self.busy
        assert [token for token, _ in cells] == tokens[:n_cached]
        assert {cell_owner for _, cell_owner in cells} <= {owner, EVERYBODY}
        assert n_cached <= len(tokens) - spare
        assert self.engine.kv.partial[slot] == cells, "a checkpoint of another text"
        assert self.engine.kv.first[slot] <= self.cut_rule.first_needed(n_cached), "the next token sees cells that are gone"
        self.busy[slot] = (owner, session)
        return slot, tokens, owner

    @rule(opened=consumes(open_ones), share=SHARES, pauses=st.lists(SHARES, max_size=3))
    def release(self, opened: tuple[int, list[int], str], share: float, pauses: list[float]) -> None:
        slot, tokens, owner = opened
        computed = tokens[: max(int(share * len(tokens)), len(self.engine.kv.cells[slot]))]
        for n in sorted(int(pause * len(computed)) for pause in pauses):
            if n > len(self.engine.kv.cells[slot]):
                self.engine.kv.compute(slot, computed[:n], owner)
                self.engine.slots.checkpoint(slot, n, passing=n % 3 == 0)
        self.engine.kv.compute(slot, computed, owner)
        self.engine.slots.release(slot, computed)
        del self.busy[slot]

    @rule(opened=open_ones, share=st.floats(0, 1))
    def interrupt(self, opened: tuple[int, list[int], str], share: float) -> None:
        """A batch that is computed in part, and taken back."""
        slot, tokens, owner = opened
        n_computed = len(self.engine.kv.cells[slot])
        self.engine.slots.checkpoint(slot, n_computed)
        self.engine.kv.compute(slot, tokens[: int(share * len(tokens))], owner)
        kept = self.engine.slots.cut(slot, n_computed)
        assert [token for token, _ in self.engine.kv.partial[slot]] == tokens[:kept]
        assert kept == len(self.engine.kv.cells[slot])

    @precondition(lambda self: len(self.busy) < 3)
    @rule(length=st.integers(16, 20))
    def learn_head(self, length: int) -> None:
        head = [0] * length
        slot, _ = self.engine.slots.reserve(head, EVERYBODY, spare=0)
        self.engine.kv.compute(slot, head, EVERYBODY)
        self.engine.slots.release(slot, head)
        self.engine.slots.share_head(slot, head)

    @rule(owner=st.sampled_from("ab"), session=st.sampled_from("12"))
    def forget(self, owner: str, session: str) -> None:
        if (owner, session) not in self.busy.values():
            self.engine.slots.forget(owner, session)
            self.store.forget(owner, session)

    @rule()
    def save(self) -> None:
        self.engine.slots.save_all(5)

    @rule()
    def restart(self) -> None:
        """The slots and RAM are lost; the files stay."""
        if not self.busy:
            self.store.close()
            self.store = StateStore(Path(self.folder.name), ram_bytes=self.ram, disk_bytes=2 * self.ram).start()
            self.engine = FakeEngine(3, self.store)
            self.engine.kv.cut_rule = self.cut_rule

    @invariant()
    def slots_hold_what_is_tracked(self) -> None:
        for slot, (busy, n_tokens) in enumerate(self.engine.slots.contents()):
            assert busy == (slot in self.busy)
            if not busy:
                assert n_tokens == len(self.engine.kv.cells[slot])

    @invariant()
    def caps_hold(self) -> None:
        with self.store._lock:
            assert self.store._ram_used == sum(state.n_bytes for state in self.store._ram.values())
        checkpoints = sum(data_bytes(slot.checkpoints) for slot in self.engine.slots._slots)
        assert self.store._checkpoints_used == checkpoints
        assert checkpoints <= self.ram // 2 + 3
        deadline = time.monotonic() + 5
        # What is on its way to disk stays until it is written.
        while self.store._ram_used > self.ram and len(self.store._ram) > 1:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert self.store._folder
        assert self.store._folder.n_used == sum(saved.size for saved in self.store._folder._listed.values())
        assert sum(path.stat().st_size for path in Path(self.folder.name).glob("*.state")) <= 2 * self.ram + 1000

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()


class UncuttableMachine(CacheMachine):
    """The same with a model whose state cannot be cut, such as a recurrent one's."""

    cut_rule = CutRule(anywhere=False)
    # Room for a few checkpoints.
    ram = 12_000


class WindowMachine(CacheMachine):
    """The same with a model whose layers have a window."""

    cut_rule = CutRule(window=8)
    ram = 12_000


class ChunkMachine(CacheMachine):
    """The same with windows that begin at multiples of their length."""

    cut_rule = CutRule(window=8, chunked=True)
    ram = 12_000


TestWindowMachine = WindowMachine.TestCase
TestWindowMachine.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
TestChunkMachine = ChunkMachine.TestCase
TestChunkMachine.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)
TestUncuttableMachine = UncuttableMachine.TestCase
TestUncuttableMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
