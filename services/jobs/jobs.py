"""Requests that are computed once, however often they are sent, and jobs that nobody waits for.

A job has a name that its client chose. A client that sends the same request under that name follows the same job: the reply
so far, and what comes. The reply is kept for a day.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from services.errors import HearthError, NotFound, NotPermitted, Unavailable
from services.jobs.job import Job, JobStatus, Perform
from services.jobs.store import JobKey, JobRequest, JobState, JobTable, Reply, StoredJob
from services.sessions.table import name_taken

log = logging.getLogger(__name__)

# Background jobs computed at once: half of the default slots, so that the others are free for people.
WORKERS = 4
# Jobs that may wait, of all keys and of each; more get 503.
MAX_QUEUED, MAX_QUEUED_EACH = 1000, 250
# Seconds for which a background job is tried again while the server has no room for it.
_PATIENCE = 600.0
# Seconds between two looks at what other servers do: for a job that is followed, and for all.
_LOOK, _WATCH = 0.2, 2.0
# Seconds between two clean-ups of the table.
_CLEAN_UP = 30.0


class Jobs:
    """All jobs.

    Any thread may call it. `_changed` protects the jobs in flight, the queue of those that wait and whose turn it is, and
    wakes the workers.
    """

    def __init__(
        self,
        store: JobTable,
        perform: Perform,
        settle: Callable[[str, str, str], None] = lambda *_: None,
        check_room: Callable[[str, int], None] = lambda *_: None,
        is_answered: Callable[[JobKey, JobRequest], bool] = lambda *_: False,
        tidy: Callable[[], None] = lambda: None,
    ) -> None:
        """`settle` is called with the owner, session and name of each request whose reply is kept now.

        `check_room` raises NotPermitted where an owner may not keep so many bytes more. `is_answered` returns whether a
        request is answered already, and only its reply is not kept. `tidy` is called whenever the store is tidied.
        """
        self._store = store
        self._perform = perform
        self._settle = settle
        self._check_room = check_room
        self._is_answered = is_answered
        self._tidy = tidy
        self._changed = threading.Condition()
        self._in_flight: dict[JobKey, Job] = {}
        self._queue: list[Job] = []
        self._served: dict[str, int] = {}
        """How many of each key's jobs have had their turn."""
        self._unkept: list[Job] = []
        """The jobs that are over, and could not be stored yet."""
        self._closed = False
        self._closing = threading.Event()
        store.add_lost_listener(self._abandon)

    def start(self, takes_up: bool = True) -> None:
        """Start the workers; `takes_up` says whether they resume the jobs that the server's last stop left unfinished."""
        if takes_up:
            self._resume()
        look_after = self._watch if self._store.is_shared else self._clean_up
        threading.Thread(target=look_after, name="jobs", daemon=True).start()
        for n in range(WORKERS):
            threading.Thread(target=self._work, name=f"job-{n}", daemon=True).start()

    def follow(self, key: JobKey, request: JobRequest) -> Job | Reply:
        """Return the reply where the request was computed, else its job, begun now or before and followed; `leave` it.

        Raises Unprocessable where another request has that name, Unavailable while the server stops.
        """
        with self._changed:
            known = self._known(key, request)
            if isinstance(known, Job) and known.follow():
                return known
            if isinstance(known, StoredJob) and known.state == "done" and known.reply:
                return known.reply
            self._check_open()
            if known is None:
                try:
                    self._check_room(key.owner, 0)
                except NotPermitted:
                    if not self._is_answered(key, request):
                        raise
            is_unfinished = isinstance(known, StoredJob) and known.finished is None
            job = Job(key, request, is_unfinished, time.time())
            job.follow()
            if is_unfinished and not self._store.is_shared:
                # It waits on the disk alone, since it could not be stored or taken up before.
                self._enqueue(job)
                return job
            self._in_flight[key] = job
        threading.Thread(target=self._compute_once, args=(job,), name="keyed", daemon=True).start()
        return job

    def enqueue(self, key: JobKey, request: JobRequest) -> None:
        """Have a request computed in the background, after a restart too. Where it is computed already, it goes on.

        Raises Unprocessable where another request has that name, Unavailable where too many wait, StorageFailed.
        """
        with self._changed:
            known = self._known(key, request)
            if isinstance(known, Job) and (known.background or known.is_over):
                return
            if isinstance(known, StoredJob) and (known.state == "done" or (self._store.is_shared and not known.finished)):
                return
            self._check_open()
            mine = sum(job.key.owner == key.owner for job in self._queue)
            if mine >= MAX_QUEUED_EACH or len(self._queue) >= MAX_QUEUED:
                raise Unavailable("too many jobs are waiting; try again later", code="too_many_jobs", retry_after=30)
            self._check_room(key.owner, len(request.body))
            job = known if isinstance(known, Job) else Job(key, request, True, time.time())
            self._store.add(StoredJob(key, request, "queued", job.created, None, None))
            if job is known:
                # Somebody waits for it, and will not have to.
                job.detach()
            elif self._store.claim(key):
                self._enqueue(job)

    def status(self, key: JobKey) -> JobStatus:
        """Return the state of a job. Raises NotFound, StorageFailed."""
        with self._changed:
            if job := self._in_flight.get(key):
                queue_position = self._queue.index(job) + 1 if job in self._queue else 0
                return JobStatus(job.state, queue_position, job.created, None, job.reply())
            stored = self._store.get(key)
        if stored is None:
            raise NotFound(f"there is no job {_shown(key)}", param="job_id", code="job_not_found")
        return JobStatus(stored.state, 0, stored.created, stored.finished, stored.reply)

    def remove(self, key: JobKey) -> None:
        """Stop computing a job, or forget its reply. Raises NotFound, StorageFailed."""
        with self._changed:
            if not self._abandon(key) and not self._store.get(key):
                raise NotFound(f"there is no job {_shown(key)}", param="job_id", code="job_not_found")
            self._store.remove(key)

    def forget_session(self, owner: str, session: str) -> None:
        """Forget the replies to requests of a session that was deleted. Raises StorageFailed."""
        with self._changed:
            for key, job in list(self._in_flight.items()):
                # Its followers still get the reply; it is not kept.
                if key.owner == owner and job.request.session == session and not job.background:
                    del self._in_flight[key]
            self._store.remove_session(owner, session)

    def close(self) -> None:
        """Begin no job any more. Unfinished ones are computed after the next start."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._closing.set()

    def release(self) -> None:
        """Close the store, once nothing is computed any more."""
        with self._changed:
            self._keep_all()
            self._store.close()

    def _known(self, key: JobKey, request: JobRequest) -> Job | StoredJob | None:
        job = self._in_flight.get(key)
        known = job if job and not job.is_given_up else self._store.get(key)
        if known and known.request.digest != request.digest:
            raise name_taken(key.id)
        return known

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the server is stopping", code="stopping", retry_after=5)

    def _resume(self) -> None:
        """Queue the unfinished jobs that no server computes: they were left when one stopped."""
        for stored in self._store.unfinished():
            with self._changed:
                if self._closed or stored.key in self._in_flight or not self._store.claim(stored.key):
                    continue
                # Another server may have come to its end meanwhile.
                now = self._store.get(stored.key)
                if now is None or now.finished is not None:
                    self._store.release(stored.key)
                else:
                    self._enqueue(Job(stored.key, stored.request, True, stored.created))

    def _abandon(self, key: JobKey) -> bool:
        """Compute a job no further; return whether it was in flight here."""
        with self._changed:
            job = self._in_flight.pop(key, None)
            if job:
                job.cancel()
            if job and job in self._queue:
                self._queue.remove(job)
                job.end("failed")
            return job is not None

    def _clean_up(self) -> None:
        """Keep the store small, and store what it did not take before; in a thread of its own."""
        while not self._closing.wait(_CLEAN_UP):
            try:
                with self._changed:
                    self._keep_all()
                self._store.tidy()
                self._tidy()
            except HearthError as error:
                log.warning("old jobs and responses cannot be removed: %s", error.message)

    def _watch(self) -> None:
        """Resume the jobs that other servers left, and stop those that were deleted there; in a thread of its own."""
        while not self._closed:
            time.sleep(_WATCH)
            try:
                with self._changed:
                    self._keep_all()
                self._resume()
                for job in [job for job in list(self._in_flight.values()) if job.background and not job.is_over]:
                    if self._store.get(job.key) is None:
                        with suppress(NotFound):
                            self.remove(job.key)
            except Exception as error:
                log.warning("jobs cannot be looked after: %s", error)

    def _compute_once(self, job: Job) -> None:
        """Compute a job, or wait for its reply where another server does; in a thread of its own."""
        try:
            while not self._store.claim(job.key):
                time.sleep(_LOOK)
                job.poll()
            # Another server may just have come to its end.
            stored = self._store.get(job.key) if self._store.is_shared else None
            if stored is None or stored.state != "done" or not stored.reply:
                return self._compute(job)
            job.take(stored.reply)
        except Exception as error:
            log.warning("a job failed: %s", error)
            job.end("failed")
        with self._changed:
            self._in_flight.pop(job.key, None)
        return self._release(job.key)

    def _release(self, key: JobKey) -> None:
        """Leave a job to other servers. Where that cannot be stored now the claim ends by itself."""
        with suppress(HearthError):
            self._store.release(key)

    def _enqueue(self, job: Job) -> None:
        with self._changed:
            self._in_flight[job.key] = job
            self._queue.append(job)
            self._changed.notify()

    def _work(self) -> None:
        """Compute background jobs, one after the other; in a thread of its own."""
        while True:
            with self._changed:
                while not self._queue and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                # The key that has had the fewest turns comes first, and of its jobs the oldest.
                job = min(self._queue, key=lambda each: self._served.get(each.key.owner, 0))
                self._queue.remove(job)
                self._served[job.key.owner] = self._served.get(job.key.owner, 0) + 1
                if not self._queue:
                    self._served.clear()
            self._compute(job)

    def _compute(self, job: Job) -> None:
        """Compute a job, and keep its reply."""
        job.run()
        state: JobState = "failed"
        try:
            running = self._perform(job.key, job.request, job.poll, job.background)
            if running.status in (429, 503) and "Retry-After" in running.headers and self._may_wait(job):
                time.sleep(1)
                with self._changed:
                    # It may have been removed meanwhile.
                    if self._in_flight.get(job.key) is job:
                        job.requeue()
                        return self._enqueue(job)
            job.begin(running.status, running.headers)
            for part in running.parts():
                job.add(part)
            if running.status < 400 and not running.has_failed and not job.is_given_up:
                state = "done"
        except Exception:
            log.exception("a job failed")
        finally:
            if job.state == "running":
                job.end(state)
                self._keep(job)
        return None

    def _may_wait(self, job: Job) -> bool:
        """Return whether a job that the server has no room for may wait at the end of the queue."""
        return job.background and time.time() - job.created < _PATIENCE and not (self._closed or job.is_given_up)

    def _keep(self, job: Job) -> None:
        with self._changed:
            # A failed job is tried again when it is sent again; one that a stop has ended goes on after the next start.
            is_kept = job.state == "done" or (job.background and not self._closed)
            if self._in_flight.get(job.key) is job and is_kept:
                self._unkept.append(job)
                return self._keep_all()
            if self._in_flight.get(job.key) is job:
                del self._in_flight[job.key]
            return self._release(job.key)

    def _keep_all(self) -> None:
        """Store the jobs that are over. What the disk does not take stays in memory, and is tried again with the next."""
        while self._unkept:
            job = self._unkept[0]
            if self._in_flight.get(job.key) is job:
                stored = StoredJob(job.key, job.request, job.state, job.created, time.time(), job.reply())
                try:
                    self._store.add(stored)
                except HearthError as error:
                    log.error("what came of a job is kept in memory only: %s", error.message)
                    return
                del self._in_flight[job.key]
                if job.state == "done":
                    with suppress(HearthError):
                        self._settle(job.key.owner, job.request.session, job.key.id)
            self._unkept.pop(0)
            self._release(job.key)


def _shown(key: JobKey) -> str:
    """Return the name that the client chose."""
    return key.id.partition(":")[2]
