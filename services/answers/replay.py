"""Replay: a request that is computed once, and whose answer its session holds already, is answered by that.

The reply of such a request is kept as a job (services/jobs/jobs.py), and a kill may come between storing the exchange and
storing the reply. A client that sends the request again then gets the stored answer, written anew by the same endpoint, and
nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from typing_extensions import override

from services.answers.admission import Poll
from services.answers.client import Client
from services.answers.stream import Answer
from services.backend.protocols import Generation
from services.backend.types import Finish, Mark, Spent, TokenChoice
from services.jobs.store import JobKey, JobRequest
from services.replies.events import Content, Event, Reasoning, Reply
from services.replies.reader import Reader
from services.sessions.history import SessionKey
from services.sessions.records import parse_number
from services.sessions.service import Sessions
from services.sessions.table import RequestName


def stored_answer(sessions: Sessions, client: Client, session_id: int | None, poll: Poll) -> Answer | None:
    """Return the answer to the client's request, where its session holds it; else None.

    `poll` is called while another prompt of the session is answered. Raises what it raises, and Unprocessable where another
    request has that name.
    """
    if client.request_name is None or session_id is None:
        return None
    key = SessionKey(client.identity.id, session_id)
    with sessions.lock(key, poll):
        known = sessions.history(key).answered(client.request_name)
    if known is None:
        return None
    text, told = known
    summary = {"result": text, "session_id": session_id, **told}
    reader = _StoredReader(Reply(told.get("reasoning", ""), text))
    profile = str(told["profile"])
    return Answer(
        _StoredGeneration(told),
        reader,
        poll,
        lambda *_: summary,
        ExitStack(),
        profile,
        trims=False,
        n_prompt=summary["usage"]["prompt_tokens"],
    )


def is_answered(sessions: Sessions, key: JobKey, request: JobRequest) -> bool:
    """Return whether the session that a request goes on with holds its answer. Raises Unprocessable as `stored_answer`."""
    number = parse_number(request.session)
    if number is None:
        return False
    return sessions.history(SessionKey(key.owner, number)).answered(RequestName(key.id, request.digest)) is not None


def stored_summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a session keeps of an answer's summary: all fields but those that the session knows itself."""
    return {name: value for name, value in summary.items() if name not in ("result", "reasoning", "session_id")}


class _StoredGeneration(Generation):
    """A generation that came to its end before a restart."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.tokens: list[int] = []
        # How the tokens were chosen is not kept.
        self.choices: list[TokenChoice] = []
        self.n_choices = 0
        self.queue_position: int | None = 0
        self.finish: Finish | None = Finish(told["finish_reason"], **told["usage"], timings=told["timings"])

    @property
    @override
    def spent(self) -> Spent:
        return Spent()

    @override
    def chunks(self, poll: Callable[[], None]) -> Iterator[str]:
        # Its reader has the reply.
        return iter(())

    @override
    def stop(self) -> None:
        pass

    @override
    def stop_thinking(self) -> None:
        pass

    @override
    def cancel(self) -> None:
        pass


class _StoredReader(Reader):
    """Gives a reply that was read before a restart."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    @override
    def add(self, piece: str | Mark) -> list[Event]:
        return []

    @override
    def end(self) -> list[Event]:
        reasoning: list[Event] = [Reasoning(self._reply.reasoning)] if self._reply.reasoning else []
        return [*reasoning, Content(self._reply.content)] if self._reply.content else reasoning
