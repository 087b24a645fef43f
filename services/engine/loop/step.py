"""One step of the engine: admit → schedule → decode → sample → deliver, or a prefetch where no request is in flight."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as Many

from services.backend.status import Counts
from services.backend.types import EVERYBODY, FinishReason, PrefetchRequest
from services.engine.kv.checkpoints import STEP, checkpoint_positions, message_borders
from services.engine.kv.slots import Slots
from services.engine.kv.state import MIN_SHARED
from services.engine.llama.batch import Run
from services.engine.llama.runner import Interrupted, Runner
from services.engine.llama.sampling import Sampled
from services.engine.loop.generation import EngineGeneration
from services.engine.loop.pace import LONE_CHUNK, Pace
from services.engine.loop.prefetch import PrefetchQueue
from services.engine.loop.scheduler import BatchItem, Scheduler
from services.engine.loop.sequence import Sequence
from services.engine.loop.speculation import Speculation
from services.errors import HearthError


class Steps:
    """The sequences in flight on a model, the generations that their callers read, and the prefetches.

    Owned by the engine's thread; others may read `scheduler`, `is_interruptible`, `counts` and `mean_seconds`.
    """

    def __init__(self, runner: Runner, slots: Slots, speculates: bool) -> None:
        """`speculates`: tokens may be computed ahead."""
        self.slots = slots
        self.scheduler = Scheduler(runner.n_slots)
        self.prefetch_queue = PrefetchQueue()
        self.counts = Counts()
        self.mean_seconds = 1.0
        """The seconds for which an answer keeps its slot, averaged over the last ones."""
        self._runner = runner
        self._needs_checkpoints = runner.cut_rule.has_partial
        self._pace = Pace()
        self._speculation = Speculation(speculates, runner.n_ctx)
        self._generations: dict[Sequence, EngineGeneration] = {}
        self._is_prefetching = False
        self._last: PrefetchRequest | None = None
        self._n_last = 0
        """The last prefetch, and how many tokens of it were computed."""

    @property
    def is_idle(self) -> bool:
        """True if there is nothing to compute, not even a prefetch."""
        return self.scheduler.is_idle and not self.prefetch_queue

    @property
    def is_interruptible(self) -> bool:
        """True if nobody waits for the batch under way: it is a prefetch, or every caller has cancelled."""
        running = self.scheduler.running
        return self._is_prefetching or (bool(running) and all(each.cancelled or each.stopped for each in running))

    def submit(self, generation: EngineGeneration) -> None:
        """Let a generation's sequence wait for a slot."""
        self._generations[generation.sequence] = generation
        self.scheduler.add(generation.sequence)

    def forget(self, owner: str, session: str) -> None:
        """Drop the state and the prefetches of a conversation; a cancelled answer of it releases its slot first."""
        self._remove_cancelled()
        self.prefetch_queue.drop(owner, session)
        self.slots.forget(owner, session)

    def clear(self) -> None:
        """Drop all prefetches, and everything that is computed; no sequence may be running."""
        self.prefetch_queue.clear()
        self.slots.clear()
        self._runner.clear()

    def fail_all(self, error: HearthError, waiting: bool = True) -> None:
        """End the running sequences with `error`, and the waiting ones too unless `waiting` is False."""
        for sequence in [*self.scheduler.running, *(self.scheduler.waiting if waiting else ())]:
            generation = self._remove(sequence)
            generation.put(error)
            generation.leave()

    def step(self, has_messages: Callable[[], bool]) -> None:
        """Compute one batch. `has_messages` returns whether a message has come, before which a prefetch gives way."""
        self._is_prefetching = False
        self._runner.interrupt(False)
        self.slots.save_rested()
        self._remove_cancelled()
        self._admit()
        if self.scheduler.is_idle:
            self._prefetch(has_messages)
            return
        batch = self._schedule()
        completed = self._decode(batch)
        if completed and batch[0].draft:
            self._accept_draft(*completed[0], batch[0].draft)
        else:
            self._sample_each(completed)
        for generation in self._generations.values():
            generation.flush()

    def _remove_cancelled(self) -> None:
        for sequence in [*self.scheduler.running, *self.scheduler.waiting]:
            # Read once: other threads set it.
            stopped = sequence.stopped
            if stopped:
                self._finish(sequence, "cancelled")
            elif sequence.cancelled:
                self._remove(sequence).leave()

    def _admit(self) -> None:
        """Give free slots to waiting sequences, and tell the others their queue positions."""
        while sequence := self.scheduler.admit():
            self._generations[sequence].move(0)
            request = sequence.request
            self.prefetch_queue.drop(request.owner, request.session)
            known = request.tokens + request.resume_tokens
            # With no state that is computed already, where the logits after each token are wanted.
            spare = len(known) if request.prompt_logprobs else 1
            sequence.start(*self.slots.reserve(known, request.owner, request.session, spare=spare))
            self.slots.drop_draft(request.owner, request.session)
            self._plan_checkpoints(sequence)
            self.counts.cached_tokens += sequence.n_cached
            self.counts.note_prompt(self.slots.tier if sequence.n_cached else "none")
            head = request.tokens[: request.n_head]
            if (
                not request.prompt_logprobs
                and len(head) >= MIN_SHARED
                and sequence.n_computed < len(head)
                and not self.slots.knows_head(head)
            ):
                sequence.head_at = len(head)
        for queue_position, waiting in enumerate(self.scheduler.queue(), start=1):
            self._generations[waiting].move(queue_position)

    def _plan_checkpoints(self, sequence: Sequence) -> None:
        """Make a checkpoint where a sequence goes on from what is computed, and plan those of the rest of its prompt."""
        if self._needs_checkpoints and not sequence.wants_rows:
            assert sequence.slot is not None
            self.slots.checkpoint(sequence.slot, sequence.n_computed)
            sequence.pauses = checkpoint_positions(sequence.borders, len(sequence.tokens), sequence.n_computed)

    def _make_checkpoint(self, sequence: Sequence) -> None:
        """Make a checkpoint where one is planned in the prompt, and each STEP tokens of an answer."""
        assert sequence.slot is not None
        n_computed = sequence.n_computed
        if n_computed % STEP == 0 if sequence.is_decoding else n_computed in sequence.pauses:
            self.slots.checkpoint(sequence.slot, n_computed)

    def _schedule(self) -> list[BatchItem]:
        most = self._runner.step_tokens
        pace = self._pace
        batch = self.scheduler.plan(pace.lone_chunk(most), pace.chunk(most + 1), pace.burst(), self._draft)
        # llama.cpp computes sequences together only where they come in the order of their slots.
        batch.sort(key=lambda item: item.sequence.slot or 0)
        return batch

    def _draft(self, sequence: Sequence, most: int) -> tuple[int, ...]:
        """Return up to `most` tokens to compute ahead for a sequence."""
        if self._needs_checkpoints:
            # A checkpoint is of a state without a draft.
            most = min(most, STEP - 1 - sequence.n_computed % STEP)
        return self._speculation.draft(sequence, most)

    def _decode(self, batch: list[BatchItem]) -> list[tuple[Sequence, int]]:
        """Compute a batch; return the sequences whose next token can be sampled, with their rows: [] if interrupted.

        Of a sequence with a draft, the row is that of its last token before the draft.
        """
        started, cpu = time.perf_counter(), time.process_time()
        try:
            rows = self._runner.decode([_run_of(item) for item in batch])
        except Interrupted:
            for item in batch:
                sequence = item.sequence
                assert sequence.slot is not None
                sequence.n_computed = self.slots.cut(sequence.slot, sequence.n_computed)
            return []
        cpu = (time.process_time() - cpu) / sum(item.count for item in batch)
        n_decoding = sum(item.sequence.is_decoding for item in batch)
        n_read = sum(item.count for item in batch) - n_decoding
        self._observe(batch, n_read, n_decoding, time.perf_counter() - started)
        self.counts.prompt_tokens += n_read
        completed = []
        for item, row in zip(batch, rows, strict=True):
            sequence, completes = item.sequence, item.completes
            if sequence.wants_rows:
                self._choose_prompt(sequence, row - item.count + 1, item.count)
            sequence.cpu_seconds += cpu * item.count
            sequence.n_computed += item.count
            if not item.draft:
                self._make_checkpoint(sequence)
            if completes:
                completed.append((sequence, row - len(item.draft)))
            else:
                self._generations[sequence].read(sequence.n_computed)
                if sequence.n_computed == sequence.head_at:
                    self._share_head(sequence)
        return completed

    def _observe(self, batch: list[BatchItem], n_read: int, n_decoding: int, seconds: float) -> None:
        """Take note of the time of a step."""
        n_drafted = len(batch[0].draft)
        if not n_drafted:
            self._pace.observe(n_read, n_decoding, seconds)
        if n_decoding == 1 and not n_read:
            self._speculation.costs.observe(1 + n_drafted, seconds)

    def _sample_each(self, completed: list[tuple[Sequence, int]]) -> None:
        """Sample and deliver the next token of each sequence, from its row."""
        chosen = [(sequence, self._sample(sequence, row)) for sequence, row in completed]
        # Only now, since each text wakes a thread that wants the interpreter too.
        for sequence, sampled in chosen:
            if reason := self._deliver(sequence, sampled):
                self._finish(sequence, reason)

    def _accept_draft(self, sequence: Sequence, row: int, draft: tuple[int, ...]) -> None:
        """Sample and deliver a sequence's next tokens from row `row` on, as long as they are those of its draft."""
        assert sequence.slot is not None
        n_accepted, reason = 0, None
        for expected in (*draft, None):
            sampled = self._sample(sequence, row + n_accepted)
            reason = self._deliver(sequence, sampled)
            if reason or sampled is None or sampled.token != expected:
                break
            n_accepted += 1
            sequence.n_computed += 1
        sequence.n_drafted += len(draft)
        sequence.n_draft_accepted += n_accepted
        self.counts.drafted_tokens += len(draft)
        self.counts.accepted_tokens += n_accepted
        if n_accepted < len(draft):
            n_kept = self.slots.cut(sequence.slot, sequence.n_computed)
            if n_kept < sequence.n_computed:
                # What is lost is read again, token by token.
                self._speculation.give_up()
                sequence.n_computed = n_kept
        self._make_checkpoint(sequence)
        if reason:
            self._finish(sequence, reason)

    def _choose_prompt(self, sequence: Sequence, row: int, count: int) -> None:
        """Note how likely the prompt's tokens were behind `count` of them, the first in row `row`."""
        assert sequence.sampler is not None
        choices, tokens = self._generations[sequence].prompt_choices, sequence.request.tokens
        for n in range(count):
            following = sequence.n_computed + n + 1
            # After an interruption some may be known already.
            if following < len(tokens) and following == len(choices) + 1:
                choices.append(sequence.sampler.prompt_choice(row + n, tokens[following]))

    def _sample(self, sequence: Sequence, row: int) -> Sampled | None:
        """Sample a sequence's next token; None if there can be none."""
        assert sequence.sampler is not None
        if sequence.thinks_no_more:
            sequence.sampler.stop_thinking()
        return sequence.sampler.sample(row, sequence.n_left) if sequence.n_left > 0 else None

    def _deliver(self, sequence: Sequence, sampled: Sampled | None) -> FinishReason | None:
        """Deliver a sampled token to its caller; return why the sequence ends with it, if it does."""
        is_first = not sequence.is_decoding
        sequence.append(sampled.token if sampled else None)
        self.counts.completion_tokens += sampled is not None
        reason: FinishReason | None = "length"
        if sampled:
            generation = self._generations[sequence]
            if sampled.known.ends_answer:
                generation.note(sampled)
            ends = sampled.known.ends_answer or generation.accept(sampled)
            reason = sequence.ending(ends)
        if is_first and sampled:
            self.counts.first_tokens += 1
            self.counts.first_token_seconds += sequence.first_token_seconds
        return reason

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """End a sequence, and deliver how it ended."""
        finish = sequence.finish(reason)
        generation = self._remove(sequence)
        self.counts.answers += 1
        generation.end(finish)
        generation.leave()
        if reason != "cancelled":
            seconds = (finish.timings["total_ms"] - finish.timings["queued_ms"]) / 1000
            self.mean_seconds += 0.2 * (seconds - self.mean_seconds)

    def _remove(self, sequence: Sequence) -> EngineGeneration:
        """Take a sequence out of the engine, whose slot keeps what was computed; return its generation."""
        self.scheduler.remove(sequence)
        if sequence.slot is not None:
            self.slots.release(sequence.slot, sequence.tokens[: sequence.n_computed])
            sequence.slot = None
        if sequence.sampler is not None:
            sequence.sampler.close()
            sequence.sampler = None
        sequence.ngrams = None
        return self._generations.pop(sequence)

    def _share_head(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        self.slots.share_head(sequence.slot, sequence.tokens[: sequence.n_computed])

    def _prefetch(self, has_messages: Callable[[], bool]) -> None:
        """Read one chunk of the prompt that is likely to come. A request that arrives interrupts it at once."""
        request = self.prefetch_queue.first()
        # In this order: a caller that puts a message after `has_messages` finds that it has to interrupt.
        self._is_prefetching = True
        if request is None or has_messages():
            return
        slot, n_computed = self.slots.reserve(request.tokens, request.owner, request.conversation, spare=0)
        if request is self._last and n_computed < self._n_last:
            # Its state was evicted meanwhile: it would never come to an end.
            self.slots.release(slot, request.tokens[:n_computed])
            self.prefetch_queue.complete(request)
            return
        chunk = self._next_to_prefetch(request, slot, n_computed)
        try:
            if chunk:
                self._runner.decode([Run(slot, n_computed, chunk, sampled=False)])
                n_computed += len(chunk)
                self.counts.draft_tokens += len(chunk) if request.is_draft else 0
        except Interrupted:
            n_computed = self.slots.cut(slot, n_computed)
            return
        finally:
            self.slots.release(slot, request.tokens[:n_computed])
            self._last, self._n_last = request, n_computed
        if n_computed == len(request.tokens):
            if request.owner == EVERYBODY:
                self.slots.share_head(slot, request.tokens)
            self.prefetch_queue.complete(request)

    def _next_to_prefetch(self, request: PrefetchRequest, slot: int, n_computed: int) -> Many[int]:
        """Return the tokens to read next, and make a checkpoint before them: a request may interrupt them."""
        # A request that interrupts it loses the whole chunk.
        end = n_computed + min(self._runner.step_tokens, LONE_CHUNK)
        if self._needs_checkpoints:
            borders = message_borders(request.tokens, self._runner.vocabulary.marks)
            self.slots.checkpoint(slot, n_computed, passing=n_computed % STEP > 0 and n_computed not in borders)
            end = min([end, *checkpoint_positions(borders, len(request.tokens), n_computed)])
        return request.tokens[n_computed:end]


def _run_of(item: BatchItem) -> Run:
    sequence = item.sequence
    assert sequence.slot is not None
    end = sequence.n_computed + item.count
    tokens = [*sequence.tokens[sequence.n_computed : end], *item.draft]
    return Run(sequence.slot, sequence.n_computed, tokens, item.completes, sequence.wants_rows or bool(item.draft))
