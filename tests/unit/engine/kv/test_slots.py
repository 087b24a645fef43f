from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from services.backend.types import EVERYBODY, PASSING
from services.engine.kv.slots import SlotCache
from services.engine.kv.state import Buffer, CutRule, pack
from services.engine.kv.store import StateStore

Cell = tuple[int, str]


class FakeMemory:
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


class Desk:
    """A cache over a fake memory, and the work that an engine does between `open` and `release`."""

    def __init__(self, n_slots: int, store: StateStore | None = None) -> None:
        self.memory = FakeMemory(n_slots)
        self.store = store or StateStore(ram_bytes=10**6)
        self.cache = SlotCache(self.memory, self.store, "model", n_slots)

    def serve(self, tokens: list[int], owner: str = "a", session: str = "") -> tuple[int, int]:
        """Compute a prompt; return its slot, and how many tokens it found computed."""
        slot, n_cached = self.cache.open(tokens, owner, session)
        self.memory.compute(slot, tokens, owner)
        self.cache.release(slot, tokens)
        return slot, n_cached


LONG = list(range(100, 140))
OTHER = list(range(200, 240))


def test_the_longest_common_prefix_is_reused() -> None:
    desk = Desk(1)
    assert desk.serve([1, 2, 3, 4]) == (0, 0)
    assert desk.serve([1, 2, 3, 9]) == (0, 3)


def test_the_last_token_is_computed_again_for_its_logits() -> None:
    desk = Desk(1)
    desk.serve([1, 2, 3])
    assert desk.serve([1, 2, 3]) == (0, 2)
    assert desk.cache.open([1, 2, 3], "a", spare=0) == (0, 3)


def test_nothing_is_reused_between_owners() -> None:
    desk = Desk(2)
    desk.serve(LONG, "a")
    assert desk.serve([*LONG, 1], "b")[1] == 0
    desk.serve(OTHER, "c", "1")
    assert desk.serve([*LONG, 1], "d")[1] == 0, "nor what went to RAM"


def test_a_session_goes_on_in_its_slot_and_others_take_the_one_longest_unused() -> None:
    desk = Desk(2)
    assert desk.serve(LONG, session="1") == (0, 0)
    assert desk.serve(OTHER, session="2") == (1, 0)
    assert desk.serve([*LONG, 1], session="1") == (0, 40)
    assert desk.serve([7, 8], session="3") == (1, 0)
    for _ in range(2):
        desk.cache.open([9], "a")
    with pytest.raises(LookupError):
        desk.cache.open([1], "a")
    desk.cache.clear()
    assert desk.memory.cells == [[], []]


def test_what_had_to_leave_its_slot_comes_back_from_memory() -> None:
    desk = Desk(1)
    desk.serve(LONG, session="1")
    desk.serve(OTHER, session="2")
    assert desk.serve([*LONG, 1], session="1") == (0, 40)
    assert desk.serve([*OTHER, 1], session="2") == (0, 40)


def test_another_sessions_state_is_copied_and_left() -> None:
    desk = Desk(2)
    desk.serve(LONG, session="1")
    assert desk.serve([*LONG[:20], 1], session="2") == (1, 20)
    assert desk.serve([*LONG, 1], session="1") == (0, 40)


def test_nobodys_state_is_gone_on_with_where_half_of_it_is_kept() -> None:
    desk = Desk(2)
    desk.serve(LONG)
    assert desk.serve([*LONG[:20], 1]) == (0, 20)
    assert desk.serve([*LONG[:5], 2]) == (1, 0)


def test_a_head_is_shared_with_everybody_and_nothing_more() -> None:
    desk = Desk(2)
    slot, _ = desk.cache.open(LONG, "a", "1")
    desk.memory.compute(slot, LONG[:30], "a")
    assert not desk.cache.knows_head(LONG[:30])
    desk.cache.share_head(slot, LONG[:30])
    assert desk.cache.knows_head(LONG[:30])
    desk.memory.compute(slot, LONG, "a")
    desk.cache.release(slot, LONG)
    assert desk.serve([*LONG, 1], "b", "1") == (1, 30)


def test_a_forgotten_conversation_is_nowhere(tmp_path: Path) -> None:
    desk = Desk(1, StateStore(tmp_path, 10**6, 10**6))
    desk.serve(LONG, session="1")
    desk.cache.save_all(5)
    desk.serve(OTHER, session="2")
    desk.cache.forget("a", "1")
    desk.store.forget("a", "1")
    assert not list(tmp_path.iterdir())
    desk.store.fetch("model", "a", pack(LONG))
    assert desk.serve([*LONG, 1], session="1")[1] == 0
    desk.store.close()


def test_a_state_that_is_refused_is_computed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(1)
    desk.serve(LONG, session="1")
    desk.serve(OTHER, session="2")
    monkeypatch.setattr(desk.memory, "restore", lambda slot, data: False)
    assert desk.serve([*LONG, 1], session="1") == (0, 0)
    assert desk.store.find("model", "a", pack(LONG))[0] is None, "nor is it tried again"


def test_a_state_that_cannot_be_cut_is_never_taken_for_its_beginning() -> None:
    desk = Desk(2)
    desk.memory.cut_rule = CutRule(anywhere=False)
    desk.serve([*LONG, 9], session="1")
    for n in (10, 20, 30, 40):
        # A prompt that is read in chunks goes on with its own, however much another's has in common.
        slot, n_cached = desk.cache.open([*LONG, 7], "a", "2", spare=0)
        assert n_cached == n - 10
        desk.memory.compute(slot, LONG[:n], "a")
        desk.cache.release(slot, LONG[:n])


def windowed(n_slots: int, window: int = 8, store: StateStore | None = None) -> Desk:
    desk = Desk(n_slots, store)
    desk.memory.cut_rule = CutRule(window=window)
    return desk


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
    desk = windowed(1)
    desk.serve(LONG, session="1")
    desk.serve(OTHER, session="2")
    # An edit further back than the window: what the state left out would be taken for computed.
    assert desk.serve([*LONG[:30], 1], session="1") == (0, 0)
    assert desk.memory.n_restored == 0, "nor is it copied in vain"
    desk.serve(OTHER, session="2")
    assert desk.serve([*LONG[:30], 1, 2], session="1") == (0, 31), "and the end of one goes on"
    assert desk.serve([*LONG[:30], 1, 2, 3], session="1") == (0, 32)


def test_the_same_prompt_again_computes_one_token() -> None:
    desk = windowed(1)
    desk.serve(LONG, session="1")
    desk.serve(OTHER, session="2")
    assert desk.serve(LONG, session="1") == (0, 39)


def test_a_slot_with_all_its_cells_is_cut_anywhere_and_one_that_was_restored_is_not() -> None:
    desk = windowed(1)
    desk.serve(LONG, session="1")
    assert desk.serve([*LONG[:20], 1], session="1") == (0, 20)
    desk.serve(OTHER, session="2")
    assert desk.serve([*LONG[:20], 1, 2], session="1") == (0, 21)
    assert desk.serve([*LONG[:16], 3], session="1") == (0, 0), "its cells before 13 are gone"


def test_a_copy_of_another_slot_is_not_taken_where_it_would_lack_cells() -> None:
    desk = windowed(2)
    desk.serve(LONG, session="1")
    assert desk.serve([*LONG[:30], 1], session="2") == (1, 0)
    assert desk.memory.n_restored == 0
    assert desk.serve([*LONG, 1], session="3")[1] == 40


def test_a_state_that_cannot_serve_displaces_none_that_can(tmp_path: Path) -> None:
    store = StateStore(tmp_path, 10**6, 10**6)
    desk = windowed(1, store=store)
    desk.serve(LONG[:30], session="short")
    desk.serve(LONG, session="long")
    desk.serve(OTHER, session="2")
    rule = desk.memory.cut_rule
    asked = pack([*LONG[:35], 1])
    found, n_shared = store.find("model", "a", asked, rule=rule, spare=1)
    assert found
    assert (found.key.session, n_shared) == ("short", 30)
    store.close()
    on_disk = StateStore(tmp_path, 10**6, 10**6)
    on_disk.fetch("model", "a", asked, rule=rule, spare=1)
    again, n_again = on_disk.find("model", "a", asked, rule=rule, spare=1)
    assert again
    assert (again.key.session, n_again) == ("short", 30)
    on_disk.close()


def test_a_head_is_shared_by_models_with_windows_too() -> None:
    desk = windowed(2)
    slot, _ = desk.cache.open(LONG, "a", "1")
    desk.memory.compute(slot, LONG[:30], "a")
    desk.cache.share_head(slot, LONG[:30])
    desk.memory.compute(slot, LONG, "a")
    desk.cache.release(slot, LONG)
    assert desk.serve([*LONG[:30], 1], "b", "1") == (1, 30)


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
        self.store = StateStore(Path(self.folder.name), ram_bytes=2500, disk_bytes=5000)
        self.desk = Desk(3, self.store)
        self.desk.memory.cut_rule = self.cut_rule
        self.busy: dict[int, tuple[str, str]] = {}

    @precondition(lambda self: len(self.busy) < 3)
    @rule(
        target=open_ones,
        tokens=TOKENS,
        owner=st.sampled_from("ab"),
        session=st.sampled_from(["", "1", "2", f"{PASSING}unsaved"]),
        spare=st.integers(0, 1),
    )
    def open(self, tokens: list[int], owner: str, session: str, spare: int) -> tuple[int, list[int], str]:
        if (owner, session) in self.busy.values():
            session = ""
        self.store.fetch("model", owner, pack(tokens), rule=self.cut_rule, spare=spare)
        slot, n_cached = self.desk.cache.open(tokens, owner, session, spare=spare)
        cells = self.desk.memory.cells[slot]
        assert slot not in self.busy
        assert [token for token, _ in cells] == tokens[:n_cached]
        assert {cell_owner for _, cell_owner in cells} <= {owner, EVERYBODY}
        assert n_cached <= len(tokens) - spare
        assert self.desk.memory.first[slot] <= self.cut_rule.first_needed(n_cached), (
            "the next token sees cells that are gone"
        )
        self.busy[slot] = (owner, session)
        return slot, tokens, owner

    @rule(opened=consumes(open_ones), share=st.floats(0, 1))
    def release(self, opened: tuple[int, list[int], str], share: float) -> None:
        slot, tokens, owner = opened
        computed = tokens[: max(int(share * len(tokens)), len(self.desk.memory.cells[slot]))]
        self.desk.memory.compute(slot, computed, owner)
        self.desk.cache.release(slot, computed)
        del self.busy[slot]

    @precondition(lambda self: len(self.busy) < 3)
    @rule(length=st.integers(16, 20))
    def learn_head(self, length: int) -> None:
        head = [0] * length
        slot, _ = self.desk.cache.open(head, EVERYBODY, spare=0)
        self.desk.memory.compute(slot, head, EVERYBODY)
        self.desk.cache.release(slot, head)
        self.desk.cache.share_head(slot, head)

    @rule(owner=st.sampled_from("ab"), session=st.sampled_from("12"))
    def forget(self, owner: str, session: str) -> None:
        if (owner, session) not in self.busy.values():
            self.desk.cache.forget(owner, session)
            self.store.forget(owner, session)

    @rule()
    def save(self) -> None:
        self.desk.cache.save_all(5)

    @rule()
    def restart(self) -> None:
        """The slots and RAM are lost; the files stay."""
        if not self.busy:
            self.store.close()
            self.store = StateStore(Path(self.folder.name), ram_bytes=2500, disk_bytes=5000)
            self.desk = Desk(3, self.store)
            self.desk.memory.cut_rule = self.cut_rule

    @invariant()
    def slots_hold_what_is_tracked(self) -> None:
        for slot, (busy, n_tokens) in enumerate(self.desk.cache.contents()):
            assert busy == (slot in self.busy)
            if not busy:
                assert n_tokens == len(self.desk.memory.cells[slot])

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
