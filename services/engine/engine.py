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

from services.backend import FinishReason, GenerationRequest, LoadSettings, Prompt
from services.engine.cache import SlotCache
from services.engine.pace import Pace
from services.engine.runner import Run, Runner
from services.engine.scheduler import Scheduler, Work
from services.engine.sequence import EngineGeneration, Sequence
from services.errors import EngineFailure, HearthError, InvalidRequest, Unavailable

log = logging.getLogger(__name__)

MAX_FAILURES = 3
_STOP = None


class Engine:
    """A loaded model at work. `submit`, `tokenize` and `close` are for any thread; all else happens on the engine's own.

    `_inbox` is the only way in. `_turn` protects `_open`, so that nothing is put into the inbox of a stopped engine.
    """

    def __init__(self, settings: LoadSettings) -> None:
        """Load the model on the engine's thread, and return when it is ready. Raises BadModelFile."""
        self._inbox: queue.SimpleQueue[Sequence | str | None] = queue.SimpleQueue()
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
        generation = EngineGeneration(request, self._wake)
        with self._turn:
            if not self._open:
                raise Unavailable("the engine has stopped", code="engine_down", retry_after=1)
            self._inbox.put(generation.sequence)
        return generation

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
        self._cache = SlotCache(runner.n_slots)
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

    def _take_inbox(self, wait: bool = True) -> bool:
        """Take what callers have sent, waiting where there is nothing else to do; False: stop."""
        go_on = True
        while True:
            try:
                item = self._inbox.get(block=wait and go_on and self._scheduler.is_idle)
            except queue.Empty:
                return go_on
            if item is _STOP:
                go_on = False
            elif isinstance(item, Sequence):
                self._scheduler.add(item)

    def _guarded_step(self, runner: Runner) -> None:
        try:
            self._step(runner)
            self._failures = 0
        except Exception as error:
            log.exception("the engine failed in a step")
            self._failures += 1
            reason = error if isinstance(error, HearthError) else EngineFailure(f"the engine failed: {error}")
            self._fail_all(reason, waiting=False)
            self._cache.clear()
            runner.clear()
            if self._failures >= MAX_FAILURES:
                self._break_down()

    def _step(self, runner: Runner) -> None:
        self._drop_cancelled()
        self._admit(runner)
        plan = self._scheduler.plan(runner.step_tokens, self._pace.chunk(runner.step_tokens))
        if not plan:
            return
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

    def _drop_cancelled(self) -> None:
        for sequence in [*self._scheduler.running, *self._scheduler.waiting]:
            if sequence.cancelled:
                self._leave(sequence)

    def _admit(self, runner: Runner) -> None:
        while sequence := self._scheduler.admit():
            slot, n_shared = self._cache.take(sequence.tokens, sequence.request.owner)
            sequence.start(slot, runner.keep(slot, n_shared))
            sequence.sampler = runner.sampler(sequence.request.sampling, sequence.request.tokens)

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
