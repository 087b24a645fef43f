"""/generate, /chat_completion and /jobs: ProtoLLM's API, in which every request is a job with a name of its caller's."""

from __future__ import annotations

import json as json_module
from typing import Annotated, Any, ClassVar, Literal

from flask import request
from flask_restful import Resource
from pydantic import BaseModel, Field, model_validator

from auth.authentication import caller
from services.answers.request import AnswerRequest, Question
from services.answers.service import Answers
from services.api.http.disconnect import disconnect_poll
from services.api.http.idempotency import current_jobs, idempotent, job_request
from services.api.http.schemas import Deleted, replies, spec
from services.api.openai.schemas import ChatMessages, Lenient, Name
from services.errors import HearthError, InvalidRequest, Unprocessable
from services.jobs.job import JobStatus
from services.jobs.store import JobKey
from services.prompts.chat import words_of
from services.validation import MaxTokens, StopStrings, Temperature

JobId = Annotated[str, Field(min_length=1, max_length=256)]


class Body(Lenient):
    """What its clients take for a body that does not fit is 422."""

    misfit: ClassVar[type[HearthError]] = Unprocessable


class Meta(Body):
    """How to answer. `tokens_limit` counts tokens of the answer; what is null the profile decides."""

    temperature: Temperature | None = 0.2
    tokens_limit: MaxTokens | None = 8096
    stop_words: StopStrings | None = None
    model: Name | None = None


class PromptBody(Body):
    """The body of POST /generate."""

    job_id: JobId
    meta: Meta = Meta()
    content: str


class ChatBody(Body):
    """The body of POST /chat_completion."""

    job_id: JobId
    meta: Meta = Meta()
    messages: ChatMessages


class JobBody(Body):
    """The body of POST /jobs: that of /generate or of /chat_completion."""

    job_id: JobId
    meta: Meta = Meta()
    content: str | None = None
    messages: ChatMessages | None = None

    @model_validator(mode="after")
    def _asks_one_thing(self) -> JobBody:
        if (self.content is None) == (self.messages is None):
            raise ValueError("either content or messages is needed, and not both")
        return self


class Content(BaseModel):
    """The answer."""

    content: str


class JobError(BaseModel):
    """Why a job failed."""

    message: str
    code: str | None


class JobDescription(BaseModel):
    """How a job is getting on. `place` is which in line it is; `created` and `finished` are seconds since 1970."""

    job_id: str
    state: Literal["queued", "running", "done", "failed"]
    place: int
    created: float
    finished: float | None
    result: Content | None
    error: JobError | None


class GenerateResource(Resource):
    """A prompt."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(json=PromptBody, resp=replies(Content, 404, 413, 422, 500, 503))
    @idempotent
    def post(self, json: PromptBody) -> Any:
        """Answer a prompt. Sent again with the same `job_id`, it is not computed again; with another body it is refused."""
        return _answer(self._answers, [{"role": "user", "content": json.content}], json.meta)


class ChatCompletionResource(Resource):
    """A chat."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(json=ChatBody, resp=replies(Content, 404, 413, 422, 500, 503))
    @idempotent
    def post(self, json: ChatBody) -> Any:
        """Answer a chat. Sent again with the same `job_id`, it is not computed again; with another body it is refused."""
        return _answer(self._answers, [message.plain() for message in json.messages], json.meta)


class JobsResource(Resource):
    """Jobs that nobody waits for."""

    @spec.validate(json=JobBody, resp=replies(JobDescription, 413, 422, 500, 503, good=202))
    def post(self, json: JobBody) -> Any:
        """Have a prompt or a chat answered in its turn, after a restart too. What comes of it can be had for a day."""
        key = JobKey(caller().id, f"job:{json.job_id}")
        path = "/chat_completion" if json.content is None else "/generate"
        current_jobs().enqueue(key, job_request(path))
        return _describe(json.job_id, current_jobs().status(key)), 202


class JobResource(Resource):
    """One of the caller's jobs."""

    @spec.validate(resp=replies(JobDescription, 404))
    def get(self, job_id: str) -> Any:
        """Tell how a job is getting on, its place in line, and what came of it."""
        return _describe(job_id, current_jobs().status(JobKey(caller().id, f"job:{job_id}")))

    @spec.validate(resp=replies(Deleted, 404, 500))
    def delete(self, job_id: str) -> Any:
        """Stop computing a job, or forget what came of it."""
        current_jobs().remove(JobKey(caller().id, f"job:{job_id}"))
        return {"deleted": True}


def _answer(answers: Answers, messages: list[dict[str, Any]], meta: Meta) -> dict[str, str]:
    words = words_of(messages)
    if not words.strip():
        raise Unprocessable("the last message of the user is empty", param=request.path.strip("/"))
    question = Question(
        prompt=words, memory_k=0, temperature=meta.temperature, max_tokens=meta.tokens_limit, stop=meta.stop_words
    )
    try:
        answer = answers.open(
            caller().id, AnswerRequest(question, model=meta.model, messages=tuple(messages)), disconnect_poll()
        )
    except InvalidRequest as error:
        raise Unprocessable(error.message, param=error.param, code=error.code) from error
    return {"content": answer.whole()}


def _describe(job_id: str, status: JobStatus) -> dict[str, Any]:
    said = json_module.loads(status.reply.body) if status.reply and status.reply.body else {}
    failed = status.state == "failed"
    return {
        "job_id": job_id,
        "state": status.state,
        "place": status.queue_position,
        "created": status.created,
        "finished": status.finished,
        "result": said if said and not failed else None,
        "error": {"message": said.get("message", "it failed"), "code": said.get("error", {}).get("code")}
        if failed
        else None,
    }
