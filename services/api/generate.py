"""/api/generate: Ollama's where the body has a `model`, else Langformers', whose bodies never have one."""

from __future__ import annotations

from typing import Any

from flask_restful import Resource
from pydantic import BaseModel, RootModel

from auth.authentication import caller
from services.answers.client import Client
from services.answers.service import Answers
from services.api.compat.langformers import Chunk, GenerateBody, compute_langformers
from services.api.http.computation import Reply
from services.api.http.idempotency import Respond
from services.api.http.request_fields import telling_ignored
from services.api.http.schemas import replies, spec
from services.api.ollama.replies import OllamaGenerateReply
from services.api.ollama.resources import compute_generate
from services.api.ollama.schemas import OllamaGenerate
from services.errors import NotPermitted


class AnyGenerate(RootModel[OllamaGenerate | GenerateBody]):
    """The body of POST /api/generate."""

    @classmethod
    def member(cls, data: Any) -> type[BaseModel]:
        """Return which of both a body is."""
        return OllamaGenerate if "model" in data else GenerateBody


class AnyGenerated(RootModel[OllamaGenerateReply | Chunk]):
    """A whole reply of Ollama's, or one of its lines, or the data of one of Langformers' events."""


class GenerateResource(Resource):
    """Prompts."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    @spec.validate(json=AnyGenerate, resp=replies(AnyGenerated, 400, 404, 413, 422, 500, 503))
    def post(self, json: AnyGenerate) -> Any:
        """Answer a prompt.

        With a `model` it is Ollama's: lines of JSON unless `stream` is false, errors as `{"error": …}`. Without one it is
        Langformers': the caller's conversation goes on, or the session of that id; another system prompt begins it anew.
        The reply is text/event-stream then: `data: {"chunk": …}` for each piece. The last event has an empty chunk, and
        beside it how the answer ended and its counts of tokens; an error on the way is an event of its own, and the last.
        """
        body: Any = json
        if not isinstance(body, OllamaGenerate):
            return self._respond(body)
        if caller().is_guest:
            what = "model: without a key of this server its own model answers: leave this field out"
            raise NotPermitted(what, param="model", code="key_needed")
        return telling_ignored(self._respond(body), body)


def compute(answers: Answers, body: OllamaGenerate | GenerateBody, client: Client) -> Reply:
    """Compute the reply to POST /api/generate. Raises as `Answers.open` does."""
    if isinstance(body, OllamaGenerate):
        return compute_generate(answers, body, client)
    return compute_langformers(answers, body, client)
