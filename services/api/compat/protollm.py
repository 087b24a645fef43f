"""/generate, /chat_completion and /jobs: ProtoLLM's API, in which every request is a job with a name of its caller's."""

from __future__ import annotations

import json as json_module
from typing import Annotated, Any, ClassVar, Literal

from flask_restful import Resource
from pydantic import BaseModel, Field, model_validator

from auth.authentication import caller
from services.answers.client import Client
from services.answers.request import AnswerRequest, sampling_of
from services.answers.service import Answers
from services.api.http.computation import Reply
from services.api.http.idempotency import Respond, current_job
from services.api.http.schemas import Deleted, replies, spec
from services.api.openai.schemas import ChatMessages, Lenient, Name
from services.errors import HearthError, InvalidRequest, Unprocessable
from services.jobs.job import JobStatus
from services.jobs.jobs import Jobs
from services.jobs.store import JobKey
from services.prompts.chat import words_of
from services.validation import MaxTokens, StopStrings, Temperature

JobId = Annotated[str, Field(min_length=1, max_length=256)]


class Body(Lenient):
    """A body for which ProtoLLM's clients expect status 422 where it does not fit."""

    misfit: ClassVar[type[HearthError]] = Unprocessable


class Meta(Body):
    """How to answer. `tokens_limit` counts tokens of the answer; a field that is null the profile decides."""

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
    """The error of a job that failed."""

    message: str
    code: str | None


class JobDescription(BaseModel):
    """The state of a job. `place` is its queue position; `created` and `finished` are seconds since 1970."""

    job_id: str
    state: Literal["queued", "running", "done", "failed"]
    place: int
    created: float
    finished: float | None
    result: Content | None
    error: JobError | None


class GenerateResource(Resource):
    """A prompt."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    @spec.validate(json=PromptBody, resp=replies(Content, 404, 413, 422, 500, 503))
    def post(self, json: PromptBody) -> Any:
        """Answer a prompt. Sent again with the same `job_id`, it is not computed again; with another body it is refused."""
        return self._respond(json)


class ChatCompletionResource(Resource):
    """A chat."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    @spec.validate(json=ChatBody, resp=replies(Content, 404, 413, 422, 500, 503))
    def post(self, json: ChatBody) -> Any:
        """Answer a chat. Sent again with the same `job_id`, it is not computed again; with another body it is refused."""
        return self._respond(json)


class JobsResource(Resource):
    """Jobs that nobody waits for."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    @spec.validate(json=JobBody, resp=replies(JobDescription, 413, 422, 500, 503, good=202))
    def post(self, json: JobBody) -> Any:
        """Have a prompt or a chat answered in its turn, after a restart too. What comes of it can be had for a day."""
        key = JobKey(caller().id, f"job:{json.job_id}")
        self._jobs.enqueue(key, current_job("/chat_completion" if json.content is None else "/generate", json))
        return _describe(json.job_id, self._jobs.status(key)), 202


class JobResource(Resource):
    """One of the caller's jobs."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    @spec.validate(resp=replies(JobDescription, 404))
    def get(self, job_id: str) -> Any:
        """Tell how a job is getting on, its place in line, and what came of it."""
        return _describe(job_id, self._jobs.status(JobKey(caller().id, f"job:{job_id}")))

    @spec.validate(resp=replies(Deleted, 404, 500))
    def delete(self, job_id: str) -> Any:
        """Stop computing a job, or forget what came of it."""
        self._jobs.remove(JobKey(caller().id, f"job:{job_id}"))
        return {"deleted": True}


def compute_prompt(answers: Answers, body: PromptBody, client: Client) -> Reply:
    """Compute the reply to POST /generate. Raises as `Answers.open` does, and Unprocessable for InvalidRequest."""
    return _answer(answers, [{"role": "user", "content": body.content}], body.meta, client, "generate")


def compute_chat(answers: Answers, body: ChatBody, client: Client) -> Reply:
    """Compute the reply to POST /chat_completion. Raises as `compute_prompt` does."""
    return _answer(answers, [message.plain() for message in body.messages], body.meta, client, "chat_completion")


def _answer(answers: Answers, messages: list[dict[str, Any]], meta: Meta, client: Client, endpoint: str) -> Reply:
    words = words_of(messages)
    if not words.strip():
        raise Unprocessable("the last message of the user is empty", param=endpoint)
    request = AnswerRequest(
        words,
        model=meta.model,
        memory_k=0,
        max_tokens=meta.tokens_limit,
        stop=None if meta.stop_words is None else tuple(meta.stop_words),
        sampling=sampling_of(meta),
        messages=tuple(messages),
    )
    try:
        answer = answers.open(client, request)
    except InvalidRequest as error:
        raise Unprocessable(error.message, param=error.param, code=error.code, public=error.public) from error
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
