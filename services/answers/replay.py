"""What was answered already: a request that is computed once, and whose answer its session holds, is answered by that.

The reply of such a request is kept as a job (services/jobs/jobs.py), and a kill may come between the exchange and that.
Whoever sends the request again then gets the stored answer, written anew by the same endpoint, and nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

from services.answers.admission import Poll
from services.answers.request import AnswerRequest
from services.answers.stream import Answer
from services.backend.types import Finish, Spent, TokenChoice
from services.jobs.store import JobKey, JobRequest
from services.sessions.history import SessionKey
from services.sessions.records import parse_number
from services.sessions.service import Sessions
from services.sessions.table import RequestName

_name: ContextVar[RequestName | None] = ContextVar("request_name", default=None)


@contextmanager
def named(name: RequestName) -> Iterator[None]:
    """What this thread opens meanwhile belongs to the request of this name."""
    token = _name.set(name)
    try:
        yield
    finally:
        _name.reset(token)


def request_name() -> RequestName | None:
    """The name of the request that this thread computes; None where it has none."""
    return _name.get()


def stored_answer(sessions: Sessions, owner: str, asks: Sequence[AnswerRequest], poll: Poll) -> Answer | None:
    """The answer to the request that is being computed, where its session holds it; else None.

    `poll` is called while another prompt of the session is answered. Raises what it raises, and Unprocessable where another
    request has that name.
    """
    name, number = request_name(), asks[0].question.session_id
    if name is None or number is None:
        return None
    key = SessionKey(owner, number)
    with sessions.lock(key, poll):
        known = sessions.history(key).answered(name)
    if known is None:
        return None
    text, told = known
    summary = {"result": text, "session_id": number, **told}
    return Answer(_Stored(text, told), poll, False, lambda _text: summary, ExitStack(), str(told["profile"]))


def is_answered(sessions: Sessions, key: JobKey, request: JobRequest) -> bool:
    """Whether the session that a request goes on with holds its answer. Raises Unprocessable as `stored_answer` does."""
    number = parse_number(request.session)
    if number is None:
        return False
    return sessions.history(SessionKey(key.owner, number)).answered(RequestName(key.id, request.digest)) is not None


def told_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a session keeps of an answer's summary: all but what it knows itself."""
    return {name: value for name, value in summary.items() if name not in ("result", "session_id")}


class _Stored:
    """A generation (see `Generation`) that came to its end before a restart."""

    queue_position: int | None = 0
    spent = Spent()

    def __init__(self, text: str, told: Mapping[str, Any]) -> None:
        self._text = text
        self.tokens: list[int] = []
        # How the tokens were chosen is not kept.
        self.choices: list[TokenChoice] = []
        self.finish: Finish | None = Finish(told["finish_reason"], **told["usage"], timings=told["timings"])

    def chunks(self, _poll: Callable[[], None]) -> Iterator[str]:
        """The text, in one piece."""
        if self._text:
            yield self._text

    def stop(self) -> None:
        """It is over."""

    def cancel(self) -> None:
        """It is over."""
