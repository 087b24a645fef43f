"""/api/generate: Langformers' API, a conversation that the server keeps for its caller."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, Field
from typing_extensions import override

from services.answers.client import Client
from services.answers.request import AnswerRequest, sampling_of
from services.answers.service import Answers
from services.answers.stream import Answer
from services.api.http import sse
from services.validation import Keep, MaxTokens, Prompt, SessionId, Share, Strict

_TOLD = ("finish_reason", "usage", "timings", "messages_in_prompt", "messages_left_out")
# Langformers' defaults.
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


def compute_langformers(answers: Answers, body: GenerateBody, client: Client) -> sse.EventStream:
    """Compute the reply to POST /api/generate. Raises as `Answers.open` does."""
    messages = [{"role": "system", "content": body.system_prompt}] if body.system_prompt else []
    messages.append({"role": "user", "content": body.prompt})
    request = AnswerRequest(
        body.prompt,
        session_id=body.session_id,
        keep=body.keep,
        memory_k=body.memory_k // 2,
        max_tokens=body.max_length,
        sampling=sampling_of(body),
        messages=tuple(messages),
        system=body.system_prompt,
        conversation="generate",
    )
    answer = answers.open(client, request)
    return sse.EventStream(sse.written([_LangformersShaper(answer)], done=""), answer.close)


class _LangformersShaper(sse.Shaper):
    """Shapes an answer as Langformers' chunks; the last one is empty, and tells how the answer ended."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    @override
    def text(self, chunk: str) -> Iterable[sse.Data]:
        return [{"chunk": chunk}]

    @override
    def end(self) -> Iterable[sse.Data]:
        return [{"chunk": "", **{name: self.answer.summary[name] for name in _TOLD}}]
