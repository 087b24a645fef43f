"""One step of the engine: admit → schedule → decode → sample → deliver, and thinking ahead when there is nothing to do."""

from __future__ import annotations

import time
from collections.abc import Callable

from services.backend.status import Counts
from services.backend.types import EVERYBODY, FinishReason, PrefetchRequest, TokenChoice
from services.engine.kv.slots import SlotCache
from services.engine.kv.state import MIN_SHARED
from services.engine.llama.batch import Run
from services.engine.llama.runner import Interrupted, Runner
from services.engine.loop.pace import Pace
from services.engine.loop.prefetch import PrefetchQueue
from services.engine.loop.scheduler import Chunk, Scheduler
from services.engine.loop.sequence import Sequence
from services.errors import HearthError


class Steps:
    """What is under way on a model, and how it goes on. Owned by the engine's thread."""

    def __init__(self, runner: Runner, cache: SlotCache) -> None:
        self.cache = cache
        self.scheduler = Scheduler(runner.n_slots)
        self.prefetch_queue = PrefetchQueue()
        self.is_prefetching = False
        """Whether the batch under way is for nobody who waits; read by other threads."""
        self.counts = Counts()
        self.mean_seconds = 1.0
        """For how long an answer holds its slot, of late."""
        self._runner = runner
        self._pace = Pace()
        self._last: PrefetchRequest | None = None
        self._n_last = 0

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do, not even to prefetch."""
        return self.scheduler.is_idle and not self.prefetch_queue

    @property
    def is_for_nobody(self) -> bool:
        """Whether the batch under way may be broken off: it is a prefetch, or every caller has left."""
        running = self.scheduler.running
        return self.is_prefetching or (bool(running) and all(each.cancelled or each.stopped for each in running))

    def forget(self, owner: str, session: str) -> None:
        """Drop what is computed of a conversation, and what is to be. An answer that was broken off gives its slot back."""
        self._end_unwanted()
        self.prefetch_queue.drop(owner, session)
        self.cache.forget(owner, session)

    def clear(self) -> None:
        """Give up all prefetches, and everything that is computed; no sequence may be under way."""
        self.prefetch_queue.clear()
        self.cache.clear()
        self._runner.clear()

    def step(self, has_mail: Callable[[], bool]) -> None:
        """Go on with everything by one batch. `has_mail` says whether a request has come, to which thinking yields."""
        self.is_prefetching = False
        self._runner.interrupt(False)
        self.cache.save_rested()
        self._end_unwanted()
        self._admit()
        if self.scheduler.is_idle:
            self._prefetch(has_mail)
            return
        most = self._runner.step_tokens
        plan = self.scheduler.plan(most, self._pace.chunk(most + 1), self._pace.burst())
        # llama.cpp computes sequences together only where they come in the order of their slots.
        plan.sort(key=lambda work: work.sequence.slot or 0)
        started, cpu = time.perf_counter(), time.process_time()
        try:
            rows = self._runner.decode([_run_of(work) for work in plan])
        except Interrupted as stopped:
            for work, kept in zip(plan, stopped.kept, strict=True):
                work.sequence.n_computed = kept
            return
        cpu = (time.process_time() - cpu) / sum(work.count for work in plan)
        for work in plan:
            work.sequence.cpu_seconds += cpu * work.count
        n_decoding = sum(work.sequence.is_decoding for work in plan)
        n_read = sum(work.count for work in plan) - n_decoding
        self._pace.observe(n_read, n_decoding, time.perf_counter() - started)
        self.counts.prompt_tokens += n_read
        sampled = []
        for work, row in zip(plan, rows, strict=True):
            completes = work.completes
            work.sequence.n_computed += work.count
            if completes:
                sampled.append((work.sequence, *self._sample(work.sequence, row)))
            elif work.sequence.n_computed == work.sequence.pause_at:
                self._share_head(work.sequence)
        # Only now, since each text wakes a thread that wants the interpreter too.
        for sequence, token, choice in sampled:
            self._accept(sequence, token, choice)

    def _end_unwanted(self) -> None:
        for sequence in [*self.scheduler.running, *self.scheduler.waiting]:
            # Read once: other threads set it.
            stopped = sequence.stopped
            if sequence.cancelled or stopped:
                self._leave(sequence)
                if stopped:
                    self.counts.answers += 1
                    sequence.finish("cancelled")
                sequence.generation.leave()

    def _admit(self) -> None:
        while sequence := self.scheduler.admit():
            sequence.generation.queue_position = 0
            request = sequence.request
            self.prefetch_queue.drop(request.owner, request.session)
            known = request.tokens + request.resume_tokens
            sequence.start(*self.cache.open(known, request.owner, request.session))
            self.counts.cached_tokens += sequence.n_cached
            self.counts.note_prompt(self.cache.tier if sequence.n_cached else "none")
            head = request.tokens[: request.n_head]
            if len(head) >= MIN_SHARED and sequence.n_computed < len(head) and not self.cache.knows_head(head):
                sequence.pause_at = len(head)
        for queue_position, waiting in enumerate(self.scheduler.line(), start=1):
            waiting.generation.queue_position = queue_position

    def _share_head(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        self.cache.share_head(sequence.slot, sequence.tokens[: sequence.n_computed])

    def _prefetch(self, has_mail: Callable[[], bool]) -> None:
        """Read one chunk of the prompt that is likely to come. A request that arrives ends the reading at once."""
        request = self.prefetch_queue.first()
        # In this order: a request that comes after the look finds that it has to interrupt.
        self.is_prefetching = True
        if request is None or has_mail():
            return
        slot, n_computed = self.cache.open(request.tokens, request.owner, request.session, spare=0)
        if request is self._last and n_computed < self._n_last:
            # What was read of it has been lost again: it would never come to an end.
            self.cache.release(slot, request.tokens[:n_computed])
            self.prefetch_queue.drop(request.owner, request.session)
            return
        chunk = request.tokens[n_computed : n_computed + self._runner.step_tokens]
        try:
            if chunk:
                self._runner.decode([Run(slot, n_computed, chunk, sampled=False)])
                n_computed += len(chunk)
        except Interrupted as stopped:
            n_computed = stopped.kept[0]
            return
        finally:
            self.cache.release(slot, request.tokens[:n_computed])
            self._last, self._n_last = request, n_computed
        if n_computed == len(request.tokens):
            if request.owner == EVERYBODY:
                self.cache.share_head(slot, request.tokens)
            self.prefetch_queue.drop(request.owner, request.session)

    def _sample(self, sequence: Sequence, row: int) -> tuple[int | None, TokenChoice | None]:
        assert sequence.sampler is not None
        token = sequence.sampler.sample(row, sequence.n_left)
        return token, None if token is None else sequence.sampler.choice(row, token)

    def _accept(self, sequence: Sequence, token: int | None, choice: TokenChoice | None) -> None:
        """Deliver a sampled token's text, and let its sequence leave where that was the last."""
        reason: FinishReason | None = "stop"
        is_first = not sequence.is_decoding
        if token is None:
            # Cut off by its grammar.
            sequence.end(token)
            reason = "length"
        elif self._runner.vocabulary.ends_answer(token):
            sequence.end(token)
        else:
            reason = sequence.accept(token, self._runner.vocabulary.piece(token), choice)
        self.counts.completion_tokens += token is not None
        if is_first and token is not None:
            self.counts.first_tokens += 1
            self.counts.first_token_seconds += sequence.first_token_seconds
        if reason:
            self._leave(sequence)
            self.counts.answers += 1
            seconds = sequence.finish(reason)
            self.mean_seconds += 0.2 * (seconds - self.mean_seconds)
            sequence.generation.leave()

    def _leave(self, sequence: Sequence) -> None:
        """Take a sequence out of the engine; its slot keeps what was computed."""
        self.scheduler.remove(sequence)
        if sequence.slot is not None:
            self.cache.release(sequence.slot, sequence.tokens[: sequence.n_computed])
            sequence.slot = None
        if sequence.sampler is not None:
            sequence.sampler.close()
            sequence.sampler = None

    def fail_all(self, error: HearthError, waiting: bool = True) -> None:
        """End the running sequences, and the waiting ones too unless told otherwise, with `error`."""
        for sequence in [*self.scheduler.running, *(self.scheduler.waiting if waiting else ())]:
            self._leave(sequence)
            sequence.fail(error)
            sequence.generation.leave()


def _run_of(work: Chunk) -> Run:
    sequence = work.sequence
    assert sequence.slot is not None
    end = sequence.n_computed + work.count
    return Run(sequence.slot, sequence.n_computed, sequence.tokens[sequence.n_computed : end], work.completes)
