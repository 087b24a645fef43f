"""/answer: prompts, and the caller's sessions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flask import request
from flask_restful import Resource

from auth.authentication import caller
from services.answers.request import AnswerRequest, Question
from services.answers.service import Answers
from services.answers.stream import Answer
from services.api.http import sse
from services.api.http.disconnect import disconnect_poll
from services.api.http.idempotency import current_jobs, idempotent
from services.api.http.schemas import (
    AnswerBody,
    AnswerResult,
    ConversationBody,
    Deleted,
    SessionList,
    SessionName,
    SessionNames,
    Stopped,
    WrittenPrompt,
    replies,
    spec,
    validated,
)
from services.errors import InvalidRequest, NotFound
from services.sessions.history import SessionKey
from services.sessions.records import parse_number
from services.sessions.service import Sessions

# What GET /answer/ID/prompt takes.
_SHOWN = ("prompt", "model", "system_prompt", "memory_k", "keep", "max_tokens", "session_id")


class AnswerResource(Resource):
    """Ask, and list the sessions."""

    def __init__(self, answers: Answers, sessions: Sessions) -> None:
        self._answers = answers
        self._sessions = sessions

    @spec.validate(json=AnswerBody, resp=replies(AnswerResult, 400, 404, 413, 422, 500, 503))
    @idempotent
    def post(self, json: AnswerBody) -> Any:
        """Answer a prompt.

        The session's exchanges and the prompt are written by the profile's template, or where it has none by the model's
        own chat template; `messages_left_out` says how many messages no longer fit. With `stream` true the reply is
        text/event-stream: `data: {"chunk": …}` for each piece, an event with the whole answer, then
        `data: [DONE]`. An error on the way is an event of its own, and the last. The first event has a `queue_position`: 0,
        or which in line the answer is; then comments (`: queued 2`) tell how that goes on.
        """
        try:
            answer = self._answers.open(caller().id, _ask(json, json.model, json.system_prompt), disconnect_poll())
        except InvalidRequest as error:
            # What a chat template will not write.
            error.param = "system_prompt" if error.param == "messages" else error.param
            raise
        if json.stream:
            return sse.stream(_events(answer), answer.close)
        answer.whole()
        return answer.summary

    @spec.validate(resp=replies(SessionNames))
    def get(self) -> Any:
        """List the caller's sessions: number → name. The master key sees everybody's."""
        return self._sessions.names(caller().id)


class SessionsResource(Resource):
    """The caller's own sessions."""

    def __init__(self, answers: Answers, sessions: Sessions) -> None:
        self._answers = answers
        self._sessions = sessions

    @spec.validate(resp=replies(SessionList, 503))
    def get(self) -> Any:
        """List the caller's own sessions with their times, the one that went on last first.

        With ?q=WORDS only those that have these words in their name or their messages, in whichever case; that counts as a
        request.
        """
        owner, words = caller().id, request.args.get("q", "").strip()
        if not words:
            return {"sessions": self._sessions.listed(owner)}
        n_bytes = self._sessions.kept(owner).n_bytes
        with (
            self._answers.places.metered(owner, disconnect_poll()) as deadline,
            self._answers.working(deadline, n_bytes) as pause,
        ):
            return {"sessions": self._sessions.listed(owner, words, pause)}


class SessionResource(Resource):
    """One session. The master key may put the owner's key id before the number, as GET /answer lists it."""

    def __init__(self, answers: Answers, sessions: Sessions) -> None:
        self._answers = answers
        self._sessions = sessions

    @spec.validate(resp=replies(ConversationBody, 404))
    def get(self, number: str, owner: str | None = None) -> Any:
        """Show a conversation in full."""
        return self._sessions.history(_session_key(number, owner)).describe()

    @spec.validate(json=SessionName, resp=replies(SessionName, 400, 404, 413, 500))
    def patch(self, json: SessionName, number: str, owner: str | None = None) -> Any:
        """Give a conversation another name."""
        self._sessions.history(_session_key(number, owner)).rename(json.name)
        return {"name": json.name}

    @spec.validate(resp=replies(Deleted, 404, 500, 503))
    def delete(self, number: str, owner: str | None = None) -> Any:
        """Forget a conversation."""
        key = _session_key(number, owner)
        self._answers.forget(key, disconnect_poll(), caller().id)
        current_jobs().forget_session(key.owner, str(key.number))
        return {"deleted": True}


class PromptResource(Resource):
    """The prompt by which a session goes on."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(resp=replies(WrittenPrompt, 400, 404, 422, 503))
    def get(self, number: str) -> Any:
        """Show what the model would read next, as text and as tokens.

        With ?prompt=WORDS for these words; `model`, `system_prompt`, `memory_k`, `keep` and `max_tokens` are as in the body
        of POST /answer. Nothing is computed or stored.
        """
        key = _session_key(number, None)
        given: dict[str, Any] = {"prompt": "", **request.args.to_dict(), "session_id": key.number}
        if unknown := sorted(given.keys() - _SHOWN):
            raise InvalidRequest(f"{unknown[0]}: there is no such field; there are {', '.join(_SHOWN)}", param=unknown[0])
        for name in ("memory_k", "keep", "max_tokens"):
            if name in given:
                given[name] = int(given[name]) if given[name].isdecimal() and len(given[name]) < 10 else given[name]
        model, system = given.pop("model", None), given.pop("system_prompt", "")
        question = validated(Question, given)
        return self._answers.preview(caller().id, _ask(question, model, system), disconnect_poll())


class StopResource(Resource):
    """The answer that a session is given just now."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(resp=replies(Stopped, 404))
    def post(self, number: str) -> Any:
        """End the answer where it is, and keep what it has said. Whoever reads it gets its end as always."""
        return {"stopped": self._answers.stop(_session_key(number, None))}


def _ask(question: Question, model: str | None, system: str) -> AnswerRequest:
    chat = ({"role": "system", "content": system}, {"role": "user", "content": question.prompt})
    return AnswerRequest(question, model=model, messages=chat if system else ())


def _session_key(number: str, owner: str | None) -> SessionKey:
    """The session that the path names. Another's does not exist, except for the master."""
    me = caller()
    parsed = parse_number(number)
    if parsed is None or (owner not in (None, me.id) and not me.is_master):
        raise NotFound(f"there is no session {number}", param="session_id", code="session_not_found")
    return SessionKey(owner or me.id, parsed)


def _events(answer: Answer) -> Iterator[str]:
    silences, begun = sse.Silences(), False
    for chunk in answer.chunks():
        if chunk:
            yield sse.event({"chunk": chunk} if begun else {"chunk": chunk, "queue_position": 0})
            begun = True
        elif comment := silences.comment(answer.queue_position):
            yield comment
            if answer.queue_position and not begun:
                yield sse.event({"chunk": "", "queue_position": answer.queue_position})
                begun = True
    yield sse.event(answer.summary)
    yield sse.DONE
