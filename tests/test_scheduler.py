from __future__ import annotations

from services.backend import GenerationRequest, Sampling
from services.engine.scheduler import Scheduler
from services.engine.sequence import EngineGeneration, Sequence


def sequence(n_tokens: int, decoding: bool = False) -> Sequence:
    request = GenerationRequest(tuple(range(n_tokens)), max_tokens=9, sampling=Sampling())
    made = EngineGeneration(request, lambda: None).sequence
    if decoding:
        made.n_computed = n_tokens
        made.tokens.append(0)
    return made


def admit_all(scheduler: Scheduler) -> list[Sequence]:
    return list(iter(scheduler.admit, None))


def test_slots_are_given_in_the_order_of_arrival() -> None:
    scheduler, sequences = Scheduler(2, 10), [sequence(1) for _ in range(3)]
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


def test_decoding_goes_first_and_prompts_share_what_is_left() -> None:
    scheduler = Scheduler(4, 10)
    long, short = sequence(25), sequence(4)
    first, second = sequence(3, decoding=True), sequence(3, decoding=True)
    for each in (long, first, short, second):
        scheduler.add(each)
    admit_all(scheduler)
    plan = scheduler.plan()
    assert [(work.sequence, work.count) for work in plan] == [(first, 1), (second, 1), (long, 8)]
    assert [work.completes for work in plan] == [True, True, False]
    long.n_computed = 20
    assert [(work.sequence, work.count) for work in scheduler.plan()][2:] == [(long, 5), (short, 3)]


def test_there_is_nothing_to_plan_when_nothing_runs() -> None:
    scheduler = Scheduler(1, 1)
    assert scheduler.plan() == []
    assert scheduler.is_idle


def test_the_budget_always_lets_every_slot_decode() -> None:
    scheduler = Scheduler(3, 1)
    for _ in range(3):
        scheduler.add(sequence(2, decoding=True))
    admit_all(scheduler)
    assert len(scheduler.plan()) == 3
