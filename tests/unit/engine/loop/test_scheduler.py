from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from services.backend.types import GenerationRequest, Sampling
from services.engine.loop.scheduler import Scheduler
from services.engine.loop.sequence import Sequence


def sequence(n_tokens: int, owner: str = "a", decoding: bool = False) -> Sequence:
    request = GenerationRequest(tuple(range(n_tokens)), max_tokens=9, sampling=Sampling(), owner=owner)
    made = Sequence(request)
    if decoding:
        made.n_computed = n_tokens
        made.tokens.append(0)
    return made


def admit_all(scheduler: Scheduler) -> list[Sequence]:
    return list(iter(scheduler.admit, None))


def running(*sequences: Sequence) -> Scheduler:
    scheduler = Scheduler(len(sequences))
    for each in sequences:
        scheduler.add(each)
    admit_all(scheduler)
    return scheduler


def planned(scheduler: Scheduler, budget: int, chunk: int, burst: int = 0) -> list[tuple[Sequence, int]]:
    return [(work.sequence, work.count) for work in scheduler.plan(budget, chunk, burst)]


def test_slots_are_given_in_the_order_of_arrival() -> None:
    scheduler, sequences = Scheduler(2), [sequence(1) for _ in range(3)]
    for each in sequences:
        scheduler.add(each)
    assert admit_all(scheduler) == sequences[:2]
    assert list(scheduler.waiting) == sequences[2:]
    scheduler.remove(sequences[0])
    assert admit_all(scheduler) == sequences[2:]
    for each in sequences:
        scheduler.remove(each)
        scheduler.remove(each)
    assert scheduler.is_idle


def test_whoever_has_fewest_slots_is_next() -> None:
    scheduler = Scheduler(3)
    greedy, modest = [sequence(1, "greedy") for _ in range(5)], sequence(1, "modest")
    for each in [*greedy, modest]:
        scheduler.add(each)
    assert admit_all(scheduler) == [greedy[0], modest, greedy[1]]


def test_accounts_take_turns_at_a_single_slot() -> None:
    scheduler = Scheduler(1)
    greedy, modest = [sequence(1, "greedy") for _ in range(3)], [sequence(1, "modest") for _ in range(2)]
    for each in greedy:
        scheduler.add(each)
    [first] = admit_all(scheduler)
    for each in modest:
        scheduler.add(each)
    assert list(scheduler.queue()) == [modest[0], greedy[1], modest[1], greedy[2]]
    served = [first]
    while scheduler.n_waiting:
        scheduler.remove(served[-1])
        served += admit_all(scheduler)
    assert served == [greedy[0], modest[0], greedy[1], modest[1], greedy[2]]


def test_keys_of_one_account_have_its_share_together() -> None:
    scheduler = Scheduler(2)
    minted = [sequence(1, owner) for owner in "abc"]
    for each in minted:
        each.request = replace(each.request, account="parent")
    other = sequence(1, "other")
    for each in [*minted, other]:
        scheduler.add(each)
    assert admit_all(scheduler) == [minted[0], other]


def test_decoding_goes_first_and_a_chunk_of_a_prompt_beside_it() -> None:
    long = sequence(25)
    first, second = sequence(3, decoding=True), sequence(3, decoding=True)
    scheduler = running(long, first, second)
    assert planned(scheduler, budget=20, chunk=8) == [(first, 1), (second, 1), (long, 8)]
    assert [work.completes for work in scheduler.plan(20, 8)] == [True, True, False]


def test_a_prompt_that_is_alone_has_the_whole_budget() -> None:
    long = sequence(25)
    assert planned(running(long), budget=20, chunk=8) == [(long, 20)]


def read(scheduler: Scheduler, budget: int = 128) -> Sequence:
    """Read the next chunk, and say of whose prompt it was."""
    work = scheduler.plan(budget, budget)[0]
    work.sequence.n_computed += work.count
    return work.sequence


def test_owners_take_turns_and_of_one_owner_the_oldest_prompt_is_read() -> None:
    long, second, short, middle = sequence(900, "a"), sequence(900, "a"), sequence(400, "b"), sequence(500, "c")
    scheduler = running(long, second, short, middle)
    assert planned(scheduler, budget=300, chunk=8) == [(long, 300)]
    assert planned(scheduler, budget=300, chunk=8) == [(short, 300)]
    assert [read(scheduler) for _ in range(5)] == [middle, long, short, middle, long]


def test_a_newcomer_goes_before_those_who_were_read_of_late() -> None:
    first, second, newcomer = sequence(900, "a"), sequence(900, "b"), sequence(9, "c")
    scheduler = Scheduler(3)
    scheduler.add(first)
    scheduler.add(second)
    admit_all(scheduler)
    assert [read(scheduler) for _ in range(3)] == [first, second, first]
    scheduler.add(newcomer)
    admit_all(scheduler)
    assert read(scheduler) is newcomer


def test_newcomers_without_end_do_not_keep_a_long_prompt_from_being_read() -> None:
    long = sequence(900)
    scheduler = Scheduler(4)
    scheduler.add(long)
    for number in range(200):
        for name in "xyz":
            scheduler.add(sequence(9, f"{name}{number}"))
        admit_all(scheduler)
        work = scheduler.plan(64, 64)[-1]
        work.sequence.n_computed += work.count
        if not work.sequence.n_pending:
            scheduler.remove(work.sequence)
        if long not in scheduler.running:
            break
    assert not long.n_pending


def test_a_crowd_whose_short_prompts_came_together_begins_to_decode_together() -> None:
    crowd = [sequence(70, owner) for owner in "abcd"]
    scheduler = running(*crowd)
    for each in crowd:
        assert planned(scheduler, budget=128, chunk=65, burst=280) == [(each, 70)]
        each.n_computed += 70
        each.tokens.append(0)
    assert planned(scheduler, budget=128, chunk=65, burst=280) == [(each, 1) for each in crowd]


def test_short_prompts_are_read_in_one_step() -> None:
    short, longer, shorter, own = sequence(10, "a"), sequence(20, "b"), sequence(5, "c"), sequence(7, "a")
    beside = sequence(3, "d", decoding=True)
    scheduler = running(short, longer, shorter, own, beside)
    everything = [(beside, 1), (short, 10), (longer, 20), (shorter, 5), (own, 7)]
    assert planned(scheduler, budget=99, chunk=42) == everything
    scheduler = running(short, longer, shorter, own, beside)
    assert planned(scheduler, budget=99, chunk=41) == everything[:4]
    # One that does not fit is not begun, and none behind it.
    assert planned(scheduler, budget=99, chunk=16) == [(beside, 1), (short, 10)]
    longer.pauses = [4]
    scheduler = running(short, longer, shorter)
    assert planned(scheduler, budget=99, chunk=42) == [(short, 10)]


def test_a_prompt_that_needs_no_stream_to_wait_reads_no_others_for_longer_than_a_chunk() -> None:
    first, second = sequence(10, "a"), sequence(30, "b")
    assert planned(running(first, second), budget=99, chunk=40) == [(first, 10), (second, 30)]
    assert planned(running(first, second), budget=99, chunk=39) == [(first, 10)]


def test_nobody_waits_for_prompts_that_are_long_or_few_or_come_late() -> None:
    def first_word(n_tokens: int, owner: str) -> Sequence:
        return sequence(n_tokens, owner, decoding=True)

    begun = [first_word(70, owner) for owner in "abc"]
    assert planned(running(*begun, sequence(70, "d")), 128, 65)[:3] == [(each, 1) for each in begun]
    late = running(*begun, sequence(71, "d"))
    assert len(late.plan(128, 65, burst=280)) == 4
    assert len(late.plan(128, 65, burst=281)) == 1
    assert len(running(*begun[:2], sequence(5, "d")).plan(128, 65, burst=999)) == 3
    begun[0].tokens.append(0)
    assert len(late.plan(128, 65, burst=999)) == 4


def test_there_is_nothing_to_plan_when_nothing_runs() -> None:
    assert Scheduler(1).plan(9, 9) == []
    assert Scheduler(1).is_idle


@settings(max_examples=60, deadline=None)
@given(rng=st.randoms(use_true_random=False))
def test_every_prompt_is_read_whatever_comes_beside_it(rng: random.Random) -> None:
    """Random arrivals, cancels, ends and chunks: no plan exceeds its bounds, nobody waits for ever, and none is left."""
    scheduler = Scheduler(rng.randint(1, 8))
    arriving = [sequence(rng.randint(1, 300), rng.choice("abc")) for _ in range(12)]
    for each in arriving:
        each.pauses = sorted(rng.sample(range(1, 300), rng.choice((0, 0, 3))))
        each.head_at = rng.choice((0, 40))
    left = set(arriving)

    def draft(drafting: Sequence, most: int) -> tuple[int, ...]:
        assert drafting.is_decoding
        return (0,) * rng.randint(0, most)

    for _ in range(3000):
        if arriving and rng.random() < 0.3:
            scheduler.add(arriving.pop())
        if rng.random() < 0.01 and (there := [*scheduler.running, *scheduler.waiting]):
            cancelled = rng.choice(there)
            scheduler.remove(cancelled)
            left.discard(cancelled)
        admit_all(scheduler)
        budget, chunk, burst = rng.randint(1, 64), rng.randint(1, 64), rng.choice((0, 500, 2000))
        plan = scheduler.plan(budget, chunk, burst, draft)
        n_decoding = sum(work.sequence.is_decoding for work in plan)
        n_read = sum(work.count for work in plan) - n_decoding
        begun = [each for each in scheduler.running if each.is_decoding]
        assert n_decoding == len(begun) or (not n_decoding and all(each.n_generated == 1 for each in begun))
        assert n_read <= (chunk if n_decoding else budget)
        assert len({work.sequence for work in plan}) == len(plan)
        n_drafted = sum(len(work.draft) for work in plan)
        assert n_drafted == 0 or (len(plan) == n_decoding == 1 and 1 + n_drafted <= budget)
        assert plan or not scheduler.running
        for work in plan:
            assert 0 < work.count <= work.sequence.n_pending
            first, end = work.sequence.n_computed + 1, work.sequence.n_computed + work.count
            assert not any(first <= pause < end for pause in (*work.sequence.pauses, work.sequence.head_at))
            completes = work.completes
            work.sequence.n_computed += work.count
            if completes:
                n_accepted = rng.randint(0, len(work.draft))
                work.sequence.n_computed += n_accepted
                work.sequence.tokens += [0] * (1 + n_accepted)
            if work.sequence.n_generated >= 9:
                scheduler.remove(work.sequence)
                left.discard(work.sequence)
        if not left:
            break
    assert not left
    assert scheduler.is_idle


def test_the_queue_is_the_order_in_which_slots_are_given() -> None:
    rng = random.Random(1)
    for _ in range(50):
        scheduler = Scheduler(rng.randrange(1, 5))
        for _ in range(rng.randrange(12)):
            scheduler.add(sequence(5, owner=rng.choice("abc")))
        admit_all(scheduler)
        queue = list(scheduler.queue())
        assert set(queue) == set(scheduler.waiting)
        for expected in queue:
            # A slot becomes free without anybody leaving: the one who is next takes it.
            scheduler._n_slots += 1
            assert scheduler.admit() is expected
