from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from services.backend.types import EVERYBODY, TEMPORARY
from services.engine.kv.slots import Slots
from services.engine.kv.state import Buffer, CutRule, pack
from services.engine.kv.store import StateStore

Cell = tuple[int, str]


class FakeKvCache:
    """A KV cache whose cells are tokens, each with the owner for whom it was computed.

    Layers with a window begin to hold cells at `first`; as in llama.cpp a snapshot holds no more than its last token sees.
    """

    cut_rule = CutRule()

    def __init__(self, n_slots: int) -> None:
        self.cells: list[list[Cell]] = [[] for _ in range(n_slots)]
        self.first = [0] * n_slots
        self.n_restored = 0

    def can_keep(self, slot: int, n_tokens: int) -> bool:
        assert n_tokens <= len(self.cells[slot])
        if not self.cut_rule.anywhere and n_tokens < len(self.cells[slot]):
            return False
        return self.first[slot] <= self.cut_rule.first_needed(n_tokens)

    def keep(self, slot: int, n_tokens: int) -> int:
        if not self.can_keep(slot, n_tokens):
            n_tokens = 0
        self.cells[slot] = self.cells[slot][:n_tokens]
        self.first[slot] *= n_tokens > 0
        return n_tokens

    def snapshot(self, slot: int) -> Buffer:
        window, n_tokens = self.cut_rule.window, len(self.cells[slot])
        first = max(self.first[slot], n_tokens - window if window else 0)
        return bytearray(repr((first, self.cells[slot])).encode())

    def restore(self, slot: int, data: Buffer) -> bool:
        self.first[slot], self.cells[slot] = eval(bytes(data))
        self.n_restored += 1
        return True

    def compute(self, slot: int, tokens: list[int], owner: str) -> None:
        """Add the tokens that are not there yet."""
        self.cells[slot] += [(token, owner) for token in tokens[len(self.cells[slot]) :]]


class FakeEngine:
    """Slots over a fake KV cache, and the work that an engine does between `reserve` and `release`."""

    def __init__(self, n_slots: int, store: StateStore | None = None) -> None:
        self.kv = FakeKvCache(n_slots)
        self.store = store or StateStore(ram_bytes=10**6)
        self.slots = Slots(self.kv, self.store, "model", n_slots)

    def serve(self, tokens: list[int], owner: str = "a", session: str = "") -> tuple[int, int]:
        """Compute a prompt; return its slot, and how many tokens it found computed."""
        slot, n_cached = self.slots.reserve(tokens, owner, session)
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


def test_a_rule_says_what_a_state_holds_and_what_the_next_token_needs() -> None:
    rule = CutRule(window=8)
    # A state of 40 tokens holds those from 32 on; the next token of 39 looks at 32 to 39.
    assert [n for n in range(41) if rule.allows(40, n)] == [39, 40]
    assert all(rule.allows(8, n) for n in range(9)), "a window that all of it fits into"
    assert [n for n in range(10) if rule.allows(9, n)] == [8, 9]
    chunked = CutRule(window=8, chunked=True)
    assert [n for n in range(13) if chunked.allows(12, n)] == [8, 9, 10, 11, 12]
    assert [n for n in range(5) if CutRule(anywhere=False).allows(4, n)] == [4]
    assert all(CutRule().allows(40, n) for n in range(41))


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


TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=60).map(lambda bits: [0] * 20 + bits)


class CacheMachine(RuleBasedStateMachine):
    """Random prompts that come, are computed in part or whole, leave, are forgotten, and move between slots, RAM and disk.

    Whatever happens, what a prompt finds computed is its own beginning, computed for its owner or for everybody, and every
    slot holds as many cells as the cache believes.
    """

    open_ones = Bundle("open_ones")
    cut_rule = CutRule()

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = StateStore(Path(self.folder.name), ram_bytes=2500, disk_bytes=5000).start()
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
        assert self.engine.kv.first[slot] <= self.cut_rule.first_needed(n_cached), "the next token sees cells that are gone"
        self.busy[slot] = (owner, session)
        return slot, tokens, owner

    @rule(opened=consumes(open_ones), share=st.floats(0, 1))
    def release(self, opened: tuple[int, list[int], str], share: float) -> None:
        slot, tokens, owner = opened
        computed = tokens[: max(int(share * len(tokens)), len(self.engine.kv.cells[slot]))]
        self.engine.kv.compute(slot, computed, owner)
        self.engine.slots.release(slot, computed)
        del self.busy[slot]

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
            self.store = StateStore(Path(self.folder.name), ram_bytes=2500, disk_bytes=5000).start()
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
        assert self.store._ram_used == sum(state.n_bytes for state in self.store._ram.values())
        assert self.store._ram_used <= 2500 or len(self.store._ram) == 1
        assert self.store._folder
        assert self.store._folder.n_used == sum(saved.size for saved in self.store._folder._listed.values())
        assert sum(path.stat().st_size for path in Path(self.folder.name).glob("*.state")) <= 5000 + 1000

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()


class UncuttableMachine(CacheMachine):
    """The same with a model whose state cannot be cut, such as a recurrent one's."""

    cut_rule = CutRule(anywhere=False)


class WindowMachine(CacheMachine):
    """The same with a model whose layers have a window."""

    cut_rule = CutRule(window=8)


class ChunkMachine(CacheMachine):
    """The same with windows that begin at multiples of their length."""

    cut_rule = CutRule(window=8, chunked=True)


TestWindowMachine = WindowMachine.TestCase
TestWindowMachine.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
TestChunkMachine = ChunkMachine.TestCase
TestChunkMachine.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)
TestUncuttableMachine = UncuttableMachine.TestCase
TestUncuttableMachine.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
