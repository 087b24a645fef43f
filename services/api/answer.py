"""/answer: prompts, drafts, and answers in flight."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from flask import request
from flask_restful import Resource
from typing_extensions import override

from auth.authentication import caller
from services.answers.client import Client
from services.answers.draft import NotDrafted
from services.answers.request import AnswerRequest, sampling_of
from services.answers.service import Answers
from services.answers.stream import Answer
from services.api.http import sse
from services.api.http.client import current_client
from services.api.http.computation import Reply
from services.api.http.idempotency import Respond
from services.api.http.prompt_fields import PromptFields
from services.api.http.reading_progress import ReadingProgress
from services.api.http.schemas import (
    AnswerBody,
    AnswerResult,
    Deleted,
    DraftBody,
    Drafted,
    SessionNames,
    StopBody,
    Stopped,
    WrittenPrompt,
    replies,
    spec,
    validated,
)
from services.api.sessions import session_key
from services.errors import InvalidRequest
from services.sessions.service import Sessions
from services.storage.json_text import read_json_text

# The parameters of GET /answer/ID/prompt; those that are numbers, and those that are JSON or else a text.
_NUMBERS = ("memory_k", "keep", "max_tokens", "thinking_budget")
_JSON = ("think", "thinking", "enable_thinking", "chat_template_kwargs")
_SHOWN = (
    *("prompt", "model", "system_prompt", "session_id", "reasoning_effort", "files", "collection"),
    *_NUMBERS,
    *_JSON,
)


class AnswerResource(Resource):
    """Answers, and the list of sessions."""

    def __init__(self, respond: Respond, sessions: Sessions) -> None:
        self._respond = respond
        self._sessions = sessions

    @spec.validate(json=AnswerBody, resp=replies(AnswerResult, 400, 404, 413, 422, 500, 503))
    def post(self, json: AnswerBody) -> Any:
        """Answer a prompt.

        The session's exchanges and the prompt are written by the profile's template, or where it has none by the model's
        own chat template; `messages_left_out` says how many messages no longer fit. With `stream` true the reply is
        text/event-stream: `data: {"chunk": …}` for each piece, an event with the whole answer, then `data: [DONE]`. An
        error on the way is an event of its own, and the last. The first event has a `queue_position`: 0, or which in line
        the answer is; then comments (`: queued 2`) tell how that goes on.

        A model that thinks sends its thoughts before the answer, as `data: {"reasoning": …}`; the whole answer has them as
        `reasoning`. `think` (or `thinking`, `enable_thinking`, `reasoning_effort`) says whether and how much it thinks;
        `thinking_budget` ends the thoughts after so many tokens; `chat_template_kwargs` sets variables of the template.

        With `continue`, and no prompt, the session's last answer is continued where it was cut: the stream has what is
        added, `result` the whole answer.

        With `progress` the stream tells how much of a longer prompt is read, before the first text: `data: {"progress":
        {"read": 512, "of": 2048, "seconds_left": 3.2}}`, in tokens; `seconds_left` is null until it can be told.

        With `files` (ids) or a `collection` (a name) it is answered from these: the prompt holds their whole text if that
        fits beside the conversation, else the passages that match. `citations` then has the passages that the answer cites.
        """
        return self._respond(json)

    @spec.validate(resp=replies(SessionNames))
    def get(self) -> Any:
        """List the caller's sessions: number → name. The master key sees everybody's."""
        return self._sessions.names(caller().id)


class PromptResource(Resource):
    """The prompt by which a session goes on."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(resp=replies(WrittenPrompt, 400, 404, 422, 503))
    def get(self, number: str) -> Any:
        """Show what the model would read next, as text and as tokens.

        With ?prompt=WORDS for these words; `model`, `system_prompt`, `memory_k`, `keep`, `max_tokens` and what says whether
        and how the model thinks are as in the body of POST /answer (`chat_template_kwargs` as JSON, `files` with commas
        between). Nothing is computed or stored.
        """
        key = session_key(number, None)
        given: dict[str, Any] = {"prompt": "", **request.args.to_dict(), "session_id": key.number}
        if unknown := sorted(given.keys() - _SHOWN):
            raise InvalidRequest(f"{unknown[0]}: there is no such field; there are {', '.join(_SHOWN)}", param=unknown[0])
        if "files" in given:
            given["files"] = given["files"].split(",")
        given |= {name: _value_of(name, given[name]) for name in (*_NUMBERS, *_JSON) if name in given}
        model, system = given.pop("model", None), given.pop("system_prompt", "")
        asked = _answer_request(validated(PromptFields, given), model, system)
        return self._answers.preview(current_client(), asked)


class DraftResource(Resource):
    """The draft of a session: the words that a person is writing."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(json=DraftBody, resp=replies(Drafted, 400, 404, 413, 422, 503))
    def post(self, json: DraftBody, number: str) -> Any:
        """Read ahead what a person has written so far, so that the answer begins sooner.

        The fields are as in the body of POST /answer: send those that the prompt will have. It is read while nothing else
        is computed, and replaces the session's last draft; the session's next prompt drops it. Nothing is stored, and the
        session need not exist yet. An empty prompt forgets the draft.
        """
        given = json.model_dump(exclude={"model", "system_prompt"}, exclude_none=True)
        fields = validated(PromptFields, {**given, "session_id": session_key(number, None).number})
        asked = _answer_request(fields, json.model, json.system_prompt or "")
        try:
            draft = self._answers.drafts.read(current_client(), asked)
        except NotDrafted as error:
            return {"drafted": False, "reason": str(error)}
        return {"drafted": True, "tokens": draft.tokens, "charged_tokens": draft.charged_tokens}

    @spec.validate(resp=replies(Deleted, 404, 503))
    def delete(self, number: str) -> Any:
        """Forget what was drafted, and what was computed of it."""
        self._answers.drafts.forget(current_client(), session_key(number, None))
        return {"deleted": True}


class StopResource(Resource):
    """A session's answer in flight."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(json=StopBody, resp=replies(Stopped, 400, 404, 413))
    def post(self, json: StopBody, number: str) -> Any:
        """End the answer where it is, and keep its text so far. Its readers get its end as always.

        With `{"what": "thinking"}` only the model's thoughts end, and it answers now.
        """
        return {"stopped": self._answers.stop(session_key(number, None), json.what == "thinking")}


def compute_answer(answers: Answers, body: AnswerBody, client: Client) -> Reply:
    """Compute the reply to POST /answer. Raises as `Answers.open` does."""
    if body.progress and not body.stream:
        raise InvalidRequest("progress: only a stream tells it: send stream too", param="progress")
    try:
        asked = _answer_request(body, body.model, body.system_prompt or "")
        answer = answers.open(client, replace(asked, goes_on=body.continue_ is True))
    except InvalidRequest as error:
        if error.param != "messages":
            raise
        # The chat template refuses the chat that the system prompt made of it.
        raise InvalidRequest(error.message, param="system_prompt", code=error.code) from error
    if body.stream:
        return sse.EventStream(sse.written([_AnswerShaper(answer, body.progress is True)]), answer.close)
    answer.whole()
    return answer.summary


def _answer_request(body: PromptFields, model: str | None, system: str) -> AnswerRequest:
    chat = ({"role": "system", "content": system}, {"role": "user", "content": body.prompt})
    return AnswerRequest(
        body.prompt,
        model=model,
        session_id=body.session_id,
        memory_k=body.memory_k,
        keep=body.keep,
        max_tokens=body.max_tokens,
        stop=None if body.stop is None else tuple(body.stop),
        sampling=sampling_of(body),
        messages=chat if system else (),
        files=body.all_files(),
        collections=body.collections,
        thinking=body.wish,
        template_kwargs=body.chat_template_kwargs or {},
    )


def _value_of(name: str, text: str) -> Any:
    """Return the value of a query's parameter, which the body has as a number or JSON; the text if it is neither."""
    if name in _NUMBERS:
        return int(text) if text.isdecimal() and len(text) < 10 else text
    value = read_json_text(text)
    return value if isinstance(value, bool | dict) else text


class _AnswerShaper(sse.Shaper):
    """Shapes an answer as /answer's own events: pieces, of which the first has the queue position, and the summary."""

    def __init__(self, answer: Answer, tells_reading: bool) -> None:
        self.answer = answer
        self._has_begun = False
        self._progress = ReadingProgress() if tells_reading else None

    @override
    def queued(self, queue_position: int) -> Iterable[sse.Data]:
        if queue_position and not self._has_begun:
            self._has_begun = True
            yield {"chunk": "", "queue_position": queue_position}

    @override
    def text(self, chunk: str) -> Iterable[sse.Data]:
        return [self._piece("chunk", chunk)]

    @override
    def reading(self, n_read: int, of: int) -> Iterable[sse.Data]:
        told = self._progress.told(n_read, of) if self._progress and not self._has_begun else None
        return [{"progress": told}] if told else []

    @override
    def reasoning(self, chunk: str) -> Iterable[sse.Data]:
        return [self._piece("reasoning", chunk)]

    @override
    def end(self) -> Iterable[sse.Data]:
        return [self.answer.summary]

    def _piece(self, kind: str, text: str) -> sse.Data:
        is_first, self._has_begun = not self._has_begun, True
        return {kind: text, "queue_position": 0} if is_first else {kind: text}
