"""The engine: one thread that owns a model, its context and every sequence.

Callers hand it requests through an inbox and read their text from a queue of their own. A step reads: admit → schedule →
decode → sample → deliver. What fails in a step fails the requests in flight with a clear error; the engine goes on, or,
when it fails again and again, says that it is down.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from services.backend import EVERYBODY, FinishReason, GenerationRequest, LoadSettings, Prompt, Thought
from services.engine.cache import SlotCache
from services.engine.pace import Pace
from services.engine.runner import Run, Runner, fingerprint
from services.engine.scheduler import Scheduler, Work
from services.engine.sequence import EngineGeneration, Sequence
from services.engine.state import pack
from services.engine.store import MIN_SHARED, StateStore
from services.engine.thoughts import Thoughts
from services.errors import EngineFailure, HearthError, InvalidRequest, Unavailable

log = logging.getLogger(__name__)

MAX_FAILURES = 3
# How long a stopping engine may write computed states to disk.
SAVE_SECONDS = 5.0
_STOP = None


@dataclass(frozen=True, eq=False)
class _Forget:
    owner: str
    session: str
    done: threading.Event = field(default_factory=threading.Event)


class Engine:
    """A loaded model at work. `submit`, `tokenize` and `close` are for any thread; all else happens on the engine's own.

    `_inbox` is the only way in. `_turn` protects `_open`, so that nothing is put into the inbox of a stopped engine.
    """

    def __init__(self, settings: LoadSettings, store: StateStore | None = None, think_ahead: bool = True) -> None:
        """Load the model on the engine's thread, and return when it is ready. Raises BadModelFile.

        Computed states that have no room on the slots are left to `store`, which may serve other engines too.
        """
        self._store = store or StateStore()
        self._think_ahead = think_ahead
        self._inbox: queue.SimpleQueue[Sequence | Thought | _Forget | str | None] = queue.SimpleQueue()
        self._turn = threading.Lock()
        self._open = True
        self._failures = 0
        loaded: Future[Runner] = Future()
        self._thread = threading.Thread(target=self._run, args=(settings, loaded), name="engine", daemon=True)
        self._thread.start()
        self._runner = loaded.result()
        self.n_ctx = self._runner.n_ctx

    @property
    def is_open(self) -> bool:
        """Whether it takes requests: it has neither been closed nor broken."""
        return self._open

    def tokenize(self, prompt: Prompt) -> list[int]:
        """See `Model.tokenize`."""
        return self._runner.vocabulary.tokenize(prompt)

    def submit(self, request: GenerationRequest) -> EngineGeneration:
        """See `Model.submit`."""
        if not request.tokens:
            # Nothing to compute logits from: it would never end.
            raise InvalidRequest("the prompt holds no tokens", param="prompt")
        # Here, on the caller's thread, since reading a file would hold up everybody's streams.
        self._store.fetch(self._model, request.owner, pack(request.tokens))
        generation = EngineGeneration(request, self._wake)
        with self._turn:
            if not self._open:
                raise Unavailable("the engine has stopped", code="engine_down", retry_after=1)
            self._inbox.put(generation.sequence)
            self._runner.interrupt()
        return generation

    def think(self, thought: Thought) -> None:
        """See `Model.think`."""
        with self._turn:
            if self._open and self._think_ahead and thought.tokens:
                self._inbox.put(thought)

    def forget(self, owner: str, session: str) -> None:
        """Empty the slot of a conversation, and drop the thought of it; returns when that is done."""
        forget = _Forget(owner, session)
        with self._turn:
            if not self._open:
                return
            self._inbox.put(forget)
            self._runner.interrupt()
        forget.done.wait()

    def stop(self) -> None:
        """Fail what is in flight, and end the thread. The vocabulary still works, for those who are about to use it."""
        with self._turn:
            self._open = False
            self._inbox.put(_STOP)
        self._thread.join()

    def close(self) -> None:
        """Stop, and free the model. Only once nobody holds the engine any more."""
        self.stop()
        self._runner.close()

    def _wake(self) -> None:
        self._inbox.put("look")

    def _run(self, settings: LoadSettings, loaded: Future[Runner]) -> None:
        """The thread: load, loop, and fail what is left."""
        try:
            runner = Runner(settings)
        except BaseException as error:
            loaded.set_exception(error)
            return
        self._model = fingerprint(settings, runner.n_ctx)
        self._store.bind(self._model, settings.file)
        self._cache = SlotCache(runner, self._store, self._model, runner.n_slots, runner.bytes_per_token)
        self._thoughts = Thoughts()
        self._scheduler = Scheduler(runner.n_slots)
        self._pace = Pace()
        loaded.set_result(runner)
        try:
            while self._take_inbox():
                self._guarded_step(runner)
        finally:
            with self._turn:
                self._open = False
            self._take_inbox(wait=False)
            self._fail_all(
                Unavailable("the engine stopped before the answer was complete", code="engine_down", retry_after=1)
            )
            self._cache.save_all(SAVE_SECONDS)

    def _take_inbox(self, wait: bool = True) -> bool:
        """Take what callers have sent, waiting where there is nothing else to do; False: stop."""
        go_on = True
        while True:
            idle = wait and go_on and self._scheduler.is_idle and not self._thoughts
            try:
                item = self._inbox.get(block=idle, timeout=1 if idle and self._cache.has_unsaved else None)
            except queue.Empty:
                return go_on
            if item is _STOP:
                go_on = False
            elif isinstance(item, Sequence):
                self._scheduler.add(item)
            elif isinstance(item, Thought):
                self._thoughts.add(item)
            elif isinstance(item, _Forget):
                self._thoughts.drop(item.owner, item.session)
                self._cache.forget(item.owner, item.session)
                item.done.set()

    def _guarded_step(self, runner: Runner) -> None:
        try:
            self._step(runner)
            self._failures = 0
        except Exception as error:
            log.exception("the engine failed in a step")
            self._failures += 1
            reason = error if isinstance(error, HearthError) else EngineFailure(f"the engine failed: {error}")
            self._fail_all(reason, waiting=False)
            self._thoughts.clear()
            self._cache.clear()
            runner.clear()
            if self._failures >= MAX_FAILURES:
                self._break_down()

    def _step(self, runner: Runner) -> None:
        self._cache.save_rested()
        self._drop_cancelled()
        self._admit(runner)
        if self._scheduler.is_idle:
            self._think(runner)
            return
        plan = self._scheduler.plan(runner.step_tokens, self._pace.chunk(runner.step_tokens))
        # llama.cpp computes sequences together only where they come in the order of their slots.
        plan.sort(key=lambda work: work.sequence.slot or 0)
        started = time.perf_counter()
        rows = runner.decode([_run_of(work) for work in plan])
        n_decoding = sum(work.sequence.is_decoding for work in plan)
        self._pace.observe(sum(work.count for work in plan) - n_decoding, n_decoding, time.perf_counter() - started)
        for work, row in zip(plan, rows, strict=True):
            completes = work.completes
            work.sequence.n_computed += work.count
            if completes:
                self._sample(runner, work.sequence, row)
            elif work.sequence.n_computed == work.sequence.pause_at:
                self._share_head(work.sequence)

    def _drop_cancelled(self) -> None:
        for sequence in [*self._scheduler.running, *self._scheduler.waiting]:
            if sequence.cancelled:
                self._leave(sequence)

    def _admit(self, runner: Runner) -> None:
        while sequence := self._scheduler.admit():
            request = sequence.request
            self._thoughts.drop(request.owner, request.session)
            sequence.start(*self._cache.open(request.tokens, request.owner, request.session))
            head = request.tokens[: request.n_head]
            if len(head) >= MIN_SHARED and sequence.n_computed < len(head) and not self._cache.knows_head(head):
                sequence.pause_at = len(head)
            sequence.sampler = runner.sampler(request.sampling, request.tokens)

    def _share_head(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        self._cache.share_head(sequence.slot, sequence.tokens[: sequence.n_computed])

    def _think(self, runner: Runner) -> None:
        """Read one chunk of the prompt that is likely to come. A request that arrives ends the reading at once."""
        thought = self._thoughts.first()
        runner.interrupt(False)
        if thought is None or not self._inbox.empty():
            return
        slot, n_computed = self._cache.open(thought.tokens, thought.owner, thought.session, spare=0)
        chunk = thought.tokens[n_computed : n_computed + runner.step_tokens]
        try:
            if chunk and runner.read(Run(slot, n_computed, chunk, sampled=False)):
                n_computed += len(chunk)
        finally:
            self._cache.release(slot, thought.tokens[:n_computed])
        if n_computed == len(thought.tokens):
            if thought.owner == EVERYBODY:
                self._cache.share_head(slot, thought.tokens)
            self._thoughts.drop(thought.owner, thought.session)

    def _sample(self, runner: Runner, sequence: Sequence, row: int) -> None:
        """Choose the sequence's next token, deliver its text, and let the sequence leave where that was the last."""
        assert sequence.sampler is not None
        token = sequence.sampler.sample(row)
        reason: FinishReason | None = "stop"
        if runner.vocabulary.ends_answer(token):
            sequence.end(token)
        else:
            reason = sequence.accept(token, runner.vocabulary.piece(token))
        if reason:
            self._leave(sequence)
            sequence.finish(reason)

    def _leave(self, sequence: Sequence) -> None:
        """Take a sequence out of the engine; its slot keeps what was computed."""
        self._scheduler.remove(sequence)
        if sequence.slot is not None:
            self._cache.release(sequence.slot, sequence.tokens[: sequence.n_computed])
            sequence.slot = None
        if sequence.sampler is not None:
            sequence.sampler.close()
            sequence.sampler = None

    def _fail_all(self, error: HearthError, waiting: bool = True) -> None:
        """End the running sequences, and the waiting ones too unless told otherwise, with `error`."""
        for sequence in [*self._scheduler.running, *(self._scheduler.waiting if waiting else ())]:
            self._leave(sequence)
            sequence.fail(error)

    def _break_down(self) -> None:
        log.error("the engine failed %d times in a row and is down", self._failures)
        with self._turn:
            self._open = False
            self._inbox.put(_STOP)


def _run_of(work: Work) -> Run:
    sequence = work.sequence
    assert sequence.slot is not None
    end = sequence.n_computed + work.count
    return Run(sequence.slot, sequence.n_computed, sequence.tokens[sequence.n_computed : end], work.completes)
