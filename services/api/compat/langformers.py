"""/api/generate: Langformers' API, a conversation that the server keeps for its caller."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from flask_restful import Resource
from pydantic import BaseModel, Field

from auth.authentication import caller
from services.answers.request import AnswerRequest, Question
from services.answers.service import Answers
from services.answers.stream import Answer
from services.api.http import sse
from services.api.http.disconnect import disconnect_poll
from services.api.http.idempotency import idempotent
from services.api.http.schemas import replies, spec
from services.validation import Keep, MaxTokens, Prompt, SessionId, Share, Strict

_TOLD = ("finish_reason", "usage", "timings", "messages_in_prompt", "messages_left_out")
# What Langformers takes where a body leaves it out.
MEMORY_K, TEMPERATURE, TOP_P, MAX_LENGTH = 10, 0.5, 1.0, 5000


class GenerateBody(Strict):
    """The body of POST /api/generate. `memory_k` counts messages, and `max_length` the answer's tokens.

    `keep` is how many messages of the session stay before the prompt: to answer one of them anew.
    """

    prompt: Prompt
    system_prompt: str = ""
    memory_k: Annotated[int, Field(ge=0, le=2000)] = MEMORY_K
    temperature: Annotated[float, Field(ge=0, le=1)] = TEMPERATURE
    top_p: Share = TOP_P
    max_length: MaxTokens = MAX_LENGTH
    session_id: SessionId | None = None
    keep: Keep | None = None


class Chunk(BaseModel):
    """The data of one event."""

    chunk: str


class LangformersResource(Resource):
    """A conversation."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(json=GenerateBody, resp=replies(Chunk, 400, 413, 422, 500, 503))
    @idempotent
    def post(self, json: GenerateBody) -> Any:
        """Go on with the caller's conversation, or with the session of that id; another system prompt begins it anew.

        The reply is text/event-stream: `data: {"chunk": …}` for each piece. The last event has an empty chunk, and
        beside it how the answer ended and its counts of tokens; an error on the way is an event of its own, and the last.
        """
        question = Question(
            prompt=json.prompt,
            session_id=json.session_id,
            keep=json.keep,
            memory_k=json.memory_k // 2,
            temperature=json.temperature,
            top_p=json.top_p,
            max_tokens=json.max_length,
        )
        messages = [{"role": "system", "content": json.system_prompt}] if json.system_prompt else []
        messages.append({"role": "user", "content": json.prompt})
        ask = AnswerRequest(question, messages=tuple(messages), system=json.system_prompt, talk="generate")
        answer = self._answers.open(caller().id, ask, disconnect_poll())
        return sse.stream(_events(answer), answer.close)


def _events(answer: Answer) -> Iterator[str]:
    silences = sse.Silences()
    for chunk in answer.chunks():
        if chunk:
            yield sse.event({"chunk": chunk})
        elif comment := silences.comment(answer.queue_position):
            yield comment
    told = {name: answer.summary[name] for name in _TOLD}
    yield sse.event({"chunk": "", **told})
