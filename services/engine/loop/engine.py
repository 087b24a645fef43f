"""The engine: one thread that owns a model, its context and every sequence.

Callers hand it requests through an inbox and read their text from a queue of their own. A step reads: admit → schedule →
decode → sample → deliver. What fails in a step fails the requests in flight with a clear error; the engine goes on, or,
when it fails again and again, says that it is down.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as Many
from concurrent.futures import Future
from dataclasses import dataclass, field

from services.backend.status import Counts
from services.backend.types import GenerationRequest, LoadSettings, PrefetchRequest, Prompt
from services.engine.kv.slots import SlotCache
from services.engine.kv.state import pack
from services.engine.kv.store import StateStore
from services.engine.llama.loading import fingerprint
from services.engine.llama.runner import Runner
from services.engine.loop.sequence import EngineGeneration, Sequence
from services.engine.loop.step import Steps
from services.engine.loop.step_clock import StepClock
from services.errors import EngineFailure, HearthError, InvalidRequest, Unavailable

log = logging.getLogger(__name__)

MAX_FAILURES = 3
MAX_WAITING = 32
# How long a stopping engine may write computed states to disk.
SAVE_SECONDS = 5.0
_STOP = None
MakeGeneration = Callable[[int, GenerationRequest, Callable[[], None]], EngineGeneration]


@dataclass(frozen=True, eq=False)
class _Forget:
    owner: str
    session: str
    done: threading.Event = field(default_factory=threading.Event)


class Engine:
    """A loaded model at work. Its methods are for any thread; what is computed is on the engine's own.

    `_inbox` is the only way in. `_lock` protects `_open`, so that nothing is put into the inbox of a stopped engine,
    and `_mailed`, the requests in the inbox by their accounts.
    """

    def __init__(
        self,
        settings: LoadSettings,
        store: StateStore | None = None,
        think_ahead: bool = True,
        max_waiting: int = MAX_WAITING,
        budget: int | None = None,
    ) -> None:
        """Load the model on the engine's thread, and return when it is ready. Raises BadModelFile.

        Computed states that have no room on the slots are left to `store`, which may serve other engines too. At most
        `max_waiting` requests wait for a slot, and more only of accounts that have fewer than an equal share of these.
        """
        self._max_waiting = max_waiting
        self._store = store or StateStore()
        self._think_ahead = think_ahead
        self._inbox: queue.SimpleQueue[list[Sequence] | PrefetchRequest | _Forget | str | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._mailed: Counter[str] = Counter()
        self._open = True
        self._failures = 0
        self.clock = StepClock()
        """Entered for each step."""
        loaded: Future[Runner] = Future()
        self._thread = threading.Thread(target=self._run, args=(settings, budget, loaded), name="engine", daemon=True)
        self._thread.start()
        self._runner = loaded.result()
        self.n_ctx = self._runner.n_ctx
        self.n_weights, self.n_bytes = self._runner.n_weights, self._runner.n_bytes
        """About what the model takes in memory, its KV cache included."""
        self.chat_format = self._runner.vocabulary.chat_format

    @property
    def is_open(self) -> bool:
        """Whether it takes requests: it has neither been closed nor broken."""
        return self._open

    @property
    def n_slots(self) -> int:
        """How many sequences may run at once."""
        return self._runner.n_slots

    @property
    def n_running(self) -> int:
        """How many do."""
        return len(self._steps.scheduler.running)

    @property
    def n_waiting(self) -> int:
        """How many requests wait for a slot."""
        return self._steps.scheduler.n_waiting + self._mailed.total()

    @property
    def counts(self) -> Counts:
        """What it has computed so far."""
        return self._steps.counts

    def tokenize(self, prompt: Prompt) -> list[int]:
        """See `Model.tokenize`."""
        return self._runner.vocabulary.tokenize(prompt)

    def tokenize_all(self, prompts: Many[Prompt]) -> list[list[int]]:
        """See `Model.tokenize_all`."""
        return [self.tokenize(prompt) for prompt in prompts]

    def pieces(self, tokens: Many[int]) -> list[bytes]:
        """See `Model.pieces`."""
        return self._runner.vocabulary.pieces(tokens)

    def submit(self, request: GenerationRequest) -> EngineGeneration:
        """The same as `submit_all` for one request."""
        return self.submit_all([request])[0]

    def submit_all(self, requests: Many[GenerationRequest], make: MakeGeneration | None = None) -> list[EngineGeneration]:
        """See `Model.submit_all`. `make` makes what the caller holds, of a request's index and itself."""
        if not all(request.tokens for request in requests):
            # Nothing to compute logits from: it would never end.
            raise InvalidRequest("the prompt holds no tokens", param="prompt")
        with self._lock:
            self._refuse_crowd([request.account or request.owner for request in requests])
        generations = []
        try:
            for number, request in enumerate(requests):
                # Here, on the caller's thread, since reading a file would hold up everybody's streams.
                prompt = pack(request.tokens + request.resume_tokens)
                self._store.fetch(self._model, request.owner, prompt, rule=self._runner.cut_rule, spare=1)
                made = make(number, request, self._wake) if make else EngineGeneration(request, self._wake)
                generations.append(made)
                made.sequence.sampler = self._runner.sampler(request)
            waiting = [generation.sequence for generation in generations if not self._is_over(generation)]
            with self._lock:
                accounts = [sequence.account for sequence in waiting]
                self._refuse_crowd(accounts)
                self._mailed.update(accounts)
                self._put(waiting)
        except HearthError:
            for generation in generations:
                if generation.sequence.sampler:
                    generation.sequence.sampler.close()
            raise
        return generations

    def _is_over(self, generation: EngineGeneration) -> bool:
        """Whether there is nothing left to compute of what another engine has begun; its caller then is told so."""
        sequence = generation.sequence
        if not sequence.request.resume_tokens or not (reason := sequence.replay(self._runner.vocabulary.piece)):
            return False
        if sequence.sampler:
            sequence.sampler.close()
        sequence.finish(reason)
        generation.leave()
        return True

    def prefetch(self, request: PrefetchRequest) -> None:
        """See `Model.prefetch`."""
        with self._lock:
            if self._open and self._think_ahead and request.tokens:
                self._inbox.put(request)

    def forget(self, owner: str, session: str) -> None:
        """Empty the slot of a conversation, and drop its prefetch; returns when that is done."""
        forget = _Forget(owner, session)
        with self._lock:
            is_open = self._open
            if is_open:
                self._put(forget)
        # An engine that stops may still be writing what lay on its slots.
        forget.done.wait() if is_open else self._thread.join()

    def stop(self) -> None:
        """Fail what is in flight, and end the thread. The vocabulary still works, for those who are about to use it."""
        with self._lock:
            self._open = False
            self._inbox.put(_STOP)
        self._thread.join()

    def close(self) -> None:
        """Stop, and free the model. Only once nobody holds the engine any more."""
        self.stop()
        self._runner.close()

    def _refuse_crowd(self, coming: Many[str]) -> None:
        """Raises Unavailable where there is no room for more of these accounts, or where the engine has stopped.

        Whoever fills the queue keeps nobody else out: slots go to the accounts in turn, so that nobody waits longer for it.
        """
        if not self._open:
            raise Unavailable("the engine has stopped", code="engine_down", retry_after=1)
        scheduler = self._steps.scheduler
        n_waiting = scheduler.n_waiting + self._mailed.total() - scheduler.n_free
        if n_waiting + len(coming) <= self._max_waiting:
            return
        line = self._mailed + Counter(sequence.account for sequence in scheduler.waiting) + Counter(coming)
        share = self._max_waiting // len(line)
        if any(line[account] > max(share, min(self._max_waiting, 1)) for account in coming):
            seconds = self._steps.mean_seconds * (n_waiting + 1) / self._runner.n_slots
            raise Unavailable(
                f"{max(n_waiting, 0)} answers wait for their turn already; try again later",
                code="too_busy",
                retry_after=min(max(round(seconds), 1), 60),
            )

    def _wake(self) -> None:
        self._put("look")

    def _put(self, item: list[Sequence] | _Forget | str) -> None:
        """Tell the engine's thread, at once if what it is at is for nobody."""
        self._inbox.put(item)
        if self._steps.is_for_nobody:
            self._runner.interrupt()

    def _run(self, settings: LoadSettings, budget: int | None, loaded: Future[Runner]) -> None:
        """The thread: load, loop, and fail what is left."""
        try:
            runner = Runner(settings, budget)
            self._model = fingerprint(settings, runner.n_ctx)
            self._store.bind(self._model, settings.file)
            cache = SlotCache(runner, self._store, self._model, runner.n_slots, runner.bytes_per_token)
            self._steps = Steps(runner, cache)
        except BaseException as error:
            loaded.set_exception(error)
            return
        loaded.set_result(runner)
        try:
            while self._take_inbox():
                self._guarded_step()
        finally:
            with self._lock:
                self._open = False
            self._take_inbox(wait=False)
            self._steps.fail_all(
                Unavailable("the engine stopped before the answer was complete", code="engine_down", retry_after=1)
            )
            self._steps.cache.save_all(SAVE_SECONDS)
            self._steps.cache.leave()

    def _take_inbox(self, wait: bool = True) -> bool:
        """Take what callers have sent, waiting where there is nothing else to do; False: stop."""
        go_on = True
        while True:
            idle = wait and go_on and self._steps.is_idle
            try:
                item = self._inbox.get(block=idle, timeout=1 if idle and self._steps.cache.has_unsaved else None)
            except queue.Empty:
                return go_on
            if item is _STOP:
                go_on = False
            elif isinstance(item, list):
                for sequence in item:
                    self._steps.scheduler.add(sequence)
                with self._lock:
                    self._mailed.subtract(sequence.account for sequence in item)
                    self._mailed = +self._mailed
            elif isinstance(item, PrefetchRequest):
                self._steps.prefetch_queue.add(item)
            elif isinstance(item, _Forget):
                self._steps.forget(item.owner, item.session)
                item.done.set()

    def _guarded_step(self) -> None:
        try:
            with self.clock:
                self._steps.step(has_mail=lambda: not self._inbox.empty())
            self._failures = 0
        except Exception as error:
            log.exception("the engine failed in a step")
            self._failures += 1
            reason = error if isinstance(error, HearthError) else EngineFailure(f"the engine failed: {error}")
            self._steps.fail_all(reason, waiting=False)
            self._steps.clear()
            if self._failures >= MAX_FAILURES:
                self._break_down()

    def _break_down(self) -> None:
        log.error("the engine failed %d times in a row and is down", self._failures)
        with self._lock:
            self._open = False
            self._inbox.put(_STOP)
