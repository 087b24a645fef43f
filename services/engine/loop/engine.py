"""The engine: one thread that owns a model, its context and every sequence.

Callers put messages into its inbox and read their text from a queue of their own. A step reads: admit → schedule →
decode → sample → deliver. An exception in a step fails the requests in flight with a clear error; the engine goes on, or,
when it fails again and again, reports that it is down.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as Many

from typing_extensions import override

from services.backend.protocols import Model
from services.backend.status import Counts
from services.backend.types import GenerationRequest, LoadSettings, PrefetchRequest, Prompt
from services.engine.kv.checkpoints import borders_in_tokens, message_borders
from services.engine.kv.slots import Slots
from services.engine.kv.state import pack
from services.engine.kv.store import StateStore
from services.engine.llama.loading import fingerprint
from services.engine.llama.runner import Runner
from services.engine.loop.generation import EngineGeneration
from services.engine.loop.messages import Forget, InboxMessage, Prefetch, Quit, Submit, Wake
from services.engine.loop.ngrams import NGrams
from services.engine.loop.sequence import Sequence
from services.engine.loop.step import Steps
from services.engine.loop.step_clock import StepClock
from services.engine.own_thread import open_on_own_thread
from services.errors import EngineFailure, HearthError, InvalidRequest, Unavailable

log = logging.getLogger(__name__)

MAX_FAILURES = 3
MAX_WAITING = 32
# Shorter answers are over before a draft would pay.
LEAST_TOKENS = 8
# How long a stopping engine may write computed states to disk.
SAVE_SECONDS = 5.0
MakeGeneration = Callable[[int, Sequence, Callable[[], None]], EngineGeneration]


class Engine(Model):
    """A loaded model at work. Its methods are for any thread; the computing is done on the engine's own.

    `_inbox` is the only way in. `_lock` protects `_open`, so that no message is put into the inbox of a stopped engine,
    and `_submitted`, the requests in the inbox by their accounts.
    """

    def __init__(
        self, settings: LoadSettings, runner: Runner, store: StateStore, prefetches: bool, max_waiting: int
    ) -> None:
        """Made by the thread that then runs it: see `open`."""
        self.n_ctx = runner.n_ctx
        self.n_weights, self.n_bytes = runner.n_weights, runner.n_bytes
        """About what the model takes in memory, its KV cache included."""
        self.chat_format = runner.vocabulary.chat_format
        self.clock = StepClock()
        """Entered for each step."""
        self._runner = runner
        self._store = store
        self._prefetches = prefetches
        self._max_waiting = max_waiting
        self._model = fingerprint(settings, runner.n_ctx)
        store.bind(self._model, settings.file)
        slots = Slots(runner, store, self._model, runner.n_slots, runner.bytes_per_token)
        self._speculates = settings.speculation and runner.cut_rule.anywhere
        self._steps = Steps(runner, slots, self._speculates)
        self._inbox: queue.SimpleQueue[InboxMessage] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._submitted: Counter[str] = Counter()
        self._open = True
        self._failures = 0
        self._thread = threading.current_thread()

    @classmethod
    def open(
        cls,
        settings: LoadSettings,
        store: StateStore | None = None,
        prefetches: bool = True,
        max_waiting: int = MAX_WAITING,
        budget: int | None = None,
    ) -> Engine:
        """Load a model on a thread of its own, which works until `stop`; return once it is ready. Raises BadModelFile.

        Computed states that do not fit on the slots go to `store`, which may serve other engines too. At most
        `max_waiting` requests wait for a slot, and more only of accounts that have fewer than an equal share of these.
        The model takes `budget` bytes as far as fewer slots make that possible.
        """

        def make() -> Engine:
            return cls(settings, Runner(settings, budget), store or StateStore(), prefetches, max_waiting)

        return open_on_own_thread("engine", make, Engine._run)

    @property
    def is_open(self) -> bool:
        """True if it takes requests: it has neither been closed nor broken."""
        return self._open

    @property
    def n_slots(self) -> int:
        """The number of sequences that may run at once."""
        return self._runner.n_slots

    @property
    def n_running(self) -> int:
        """The number of sequences that have a slot."""
        return len(self._steps.scheduler.running)

    @property
    def n_waiting(self) -> int:
        """The number of requests that wait for a slot."""
        return self._steps.scheduler.n_waiting + self._submitted.total()

    @property
    def counts(self) -> Counts:
        """The tokens and answers computed so far."""
        return self._steps.counts

    @override
    def tokenize(self, prompt: Prompt) -> list[int]:
        return self._runner.vocabulary.tokenize(prompt)

    @override
    def tokenize_all(self, prompts: Many[Prompt]) -> list[list[int]]:
        return [self.tokenize(prompt) for prompt in prompts]

    @override
    def pieces(self, tokens: Many[int]) -> list[bytes]:
        return self._runner.vocabulary.pieces(tokens)

    def submit(self, request: GenerationRequest) -> EngineGeneration:
        """Queue one request, as `submit_all` does."""
        return self.submit_all([request])[0]

    @override
    def submit_all(self, requests: Many[GenerationRequest], make: MakeGeneration | None = None) -> list[EngineGeneration]:
        """As `Model.submit_all`; `make` makes the generations, each of its request's index, its sequence and `wake`."""
        if not all(request.tokens for request in requests):
            # Nothing to compute logits from: it would never end.
            raise InvalidRequest("the prompt holds no tokens", param="prompt")
        with self._lock:
            self._refuse_crowd([request.account or request.owner for request in requests])
        generations = []
        try:
            for index, request in enumerate(requests):
                # Here, on the caller's thread, since reading a file would hold up everybody's streams.
                prompt = pack(request.tokens + request.resume_tokens)
                self._store.fetch(self._model, request.owner, prompt, rule=self._runner.cut_rule, spare=1)
                sequence = Sequence(request)
                if self._runner.cut_rule.has_partial:
                    sequence.borders = self._borders(request)
                if self._speculates and request.max_tokens >= LEAST_TOKENS:
                    sequence.ngrams = NGrams(sequence.tokens)
                made = make(index, sequence, self._wake) if make else EngineGeneration(sequence, self._wake)
                generations.append(made)
                sequence.sampler = self._runner.sampler(request)
            waiting = tuple(generation for generation in generations if not self._is_over(generation))
            with self._lock:
                accounts = [generation.sequence.account for generation in waiting]
                self._refuse_crowd(accounts)
                self._submitted.update(accounts)
                self._put(Submit(waiting))
        except HearthError:
            for generation in generations:
                if generation.sequence.sampler:
                    generation.sequence.sampler.close()
            raise
        return generations

    def _borders(self, request: GenerationRequest) -> list[int]:
        """Return the positions in a prompt's tokens of the borders between its messages, as far as they are known."""
        vocabulary = self._runner.vocabulary
        if request.borders:
            return borders_in_tokens([len(vocabulary.known(token).written) for token in request.tokens], request.borders)
        return message_borders(request.tokens, vocabulary.marks)

    def _is_over(self, generation: EngineGeneration) -> bool:
        """Return whether what another engine has begun is complete already, and then deliver its end."""
        sequence = generation.sequence
        if not sequence.request.resume_tokens or not (reason := generation.replay()):
            return False
        generation.end(sequence.finish(reason))
        if sequence.sampler:
            sequence.sampler.close()
            sequence.sampler = None
        generation.leave()
        return True

    @override
    def prefetch(self, request: PrefetchRequest) -> bool:
        with self._lock:
            is_taken = self._open and self._prefetches and bool(request.tokens)
            if is_taken:
                self._inbox.put(Prefetch(request))
            return is_taken

    def forget(self, owner: str, session: str) -> None:
        """Empty the slot of a conversation, and drop its prefetch; returns when that is done."""
        forget = Forget(owner, session)
        with self._lock:
            is_open = self._open
            if is_open:
                self._put(forget)
        # An engine that stops may still be writing the states of its slots.
        forget.done.wait() if is_open else self._thread.join()

    def stop(self) -> None:
        """Fail the requests in flight, and end the thread. The vocabulary still works, for those who lease the engine."""
        self._quit()
        self._thread.join()

    def close(self) -> None:
        """Stop, and free the model. Only once nobody leases the engine any more."""
        self.stop()
        self._runner.close()

    def _refuse_crowd(self, accounts: Many[str]) -> None:
        """Raise Unavailable where the queue has no room for requests of these accounts, or the engine has stopped.

        An account that fills the queue keeps no other out: slots go to the accounts in turn, so that no other waits longer
        for it.
        """
        if not self._open:
            raise Unavailable("the engine has stopped", code="engine_down", retry_after=1)
        scheduler = self._steps.scheduler
        n_waiting = scheduler.n_waiting + self._submitted.total() - scheduler.n_free
        if n_waiting + len(accounts) <= self._max_waiting:
            return
        queued = self._submitted + Counter(sequence.account for sequence in scheduler.waiting) + Counter(accounts)
        share = self._max_waiting // len(queued)
        if any(queued[account] > max(share, min(self._max_waiting, 1)) for account in accounts):
            seconds = self._steps.mean_seconds * (n_waiting + 1) / self._runner.n_slots
            raise Unavailable(
                f"{max(n_waiting, 0)} answers wait for their turn already; try again later",
                code="too_busy",
                retry_after=min(max(round(seconds), 1), 60),
            )

    def _wake(self) -> None:
        self._put(Wake())

    def _put(self, message: InboxMessage) -> None:
        """Put a message into the inbox, and interrupt a batch that nobody waits for."""
        self._inbox.put(message)
        if self._steps.is_interruptible:
            self._runner.interrupt()

    def _quit(self) -> None:
        with self._lock:
            self._open = False
            self._inbox.put(Quit())

    def _run(self) -> None:
        """Work until Quit comes, then fail the requests that are left and save their states."""
        try:
            while self._receive():
                self._guarded_step()
        finally:
            with self._lock:
                self._open = False
            self._receive(wait=False)
            self._steps.fail_all(
                Unavailable("the engine stopped before the answer was complete", code="engine_down", retry_after=1)
            )
            self._steps.slots.save_all(SAVE_SECONDS)
            self._steps.slots.evict_all()

    def _receive(self, wait: bool = True) -> bool:
        """Handle the messages in the inbox, waiting for one while there is nothing to compute; return False after Quit."""
        go_on = True
        while True:
            idle = wait and go_on and self._steps.is_idle
            try:
                message = self._inbox.get(block=idle, timeout=1 if idle and self._steps.slots.has_unsaved else None)
            except queue.Empty:
                return go_on
            match message:
                case Submit(generations):
                    self._begin(generations)
                case Prefetch(request):
                    self._steps.prefetch_queue.add(request)
                case Forget(owner, session, done):
                    self._steps.forget(owner, session)
                    done.set()
                case Quit():
                    go_on = False

    def _begin(self, generations: Many[EngineGeneration]) -> None:
        for generation in generations:
            self._steps.submit(generation)
        with self._lock:
            self._submitted.subtract(generation.sequence.account for generation in generations)
            self._submitted = +self._submitted

    def _guarded_step(self) -> None:
        try:
            with self.clock:
                self._steps.step(has_messages=lambda: not self._inbox.empty())
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
        self._quit()
