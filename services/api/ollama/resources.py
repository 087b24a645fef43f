"""/api/chat, /api/embed and others: Ollama's API, but for its list of models (`models.py`)."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

from flask_restful import Resource

from services.answers.client import Client
from services.answers.request import AnswerRequest
from services.answers.service import Answers
from services.api.http import sse
from services.api.http.computation import Reply
from services.api.http.faults import Form, as_of_request
from services.api.http.idempotency import Respond
from services.api.http.request_fields import telling_ignored
from services.api.http.schemas import replies, spec
from services.api.ollama.errors import ollama_shape
from services.api.ollama.replies import OllamaChatReply, OllamaError, OllamaVector, OllamaVectors
from services.api.ollama.requests import chat_request, prompt_request
from services.api.ollama.schemas import OllamaChat, OllamaEmbed, OllamaEmbedding, OllamaGenerate
from services.api.ollama.writers import OllamaChatWriter, OllamaPromptWriter, OllamaWriter, now
from services.api.vectors import vectors_of
from services.backend.types import Prompt
from services.errors import InvalidRequest


class OllamaChatResource(Resource):
    """Chats, as Ollama's clients send them."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    @spec.validate(json=OllamaChat, resp=replies(OllamaChatReply, 400, 404, 413, 422, 500, 503, error=OllamaError))
    def post(self, json: OllamaChat) -> Any:
        """Answer a chat, by the model's own chat template; without messages the model is loaded.

        The reply is lines of JSON unless `stream` is false; an error on the way is the last line. A field that cannot be
        honoured is refused by name, and one that nobody knows is named by the header `X-Hearth-Ignored`.
        """
        return telling_ignored(self._respond(json), json)


class OllamaEmbedResource(Resource):
    """Texts to vectors."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    @spec.validate(json=OllamaEmbed, resp=replies(OllamaVectors, 400, 404, 413, 422, 500, 503, error=OllamaError))
    def post(self, json: OllamaEmbed) -> Any:
        """Give a vector of length 1 for each text."""
        return telling_ignored(self._respond(json), json)


class OllamaEmbeddingResource(Resource):
    """A text to a vector."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    @spec.validate(json=OllamaEmbedding, resp=replies(OllamaVector, 400, 404, 413, 422, 500, 503, error=OllamaError))
    def post(self, json: OllamaEmbedding) -> Any:
        """Give a vector of length 1 for a text: the older form of /api/embed."""
        return telling_ignored(self._respond(json), json)


def compute_chat(answers: Answers, body: OllamaChat, client: Client) -> Reply:
    """Compute the reply to POST /api/chat. Raises as `Answers.open` does."""
    if not body.messages:
        return _loaded(answers, body, client, {"message": {"role": "assistant", "content": ""}})
    tools = [Form("tools", function.name, function.parameters) for function in body.own_functions]
    return _reply(answers, body, client, chat_request(body), OllamaChatWriter, tools)


def compute_generate(answers: Answers, body: OllamaGenerate, client: Client) -> Reply:
    """Compute the reply to POST /api/generate with a `model`. Raises as `Answers.open` does."""
    if not (body.prompt or body.suffix):
        return _loaded(answers, body, client, {"response": ""})
    return _reply(answers, body, client, prompt_request(body), OllamaPromptWriter, [])


def compute_embed(answers: Answers, body: OllamaEmbed, client: Client) -> Reply:
    """Compute the reply to POST /api/embed. Raises as `vectors_of` does."""
    began = time.perf_counter_ns()
    prompts = [Prompt(text, ((0, len(text)),)) for text in body.input]
    _, vectors, n_tokens = vectors_of(answers, client, body.model, prompts, body.dimensions)
    spent = {"total_duration": time.perf_counter_ns() - began, "load_duration": 0, "prompt_eval_count": n_tokens}
    return {"model": body.model, "embeddings": [list(vector) for vector in vectors], **spent}


def compute_embedding(answers: Answers, body: OllamaEmbedding, client: Client) -> Reply:
    """Compute the reply to POST /api/embeddings. Raises as `vectors_of` does."""
    _, (vector,), _ = vectors_of(answers, client, body.model, [Prompt(body.prompt, ((0, len(body.prompt)),))], None)
    return {"embedding": list(vector)}


def _reply(
    answers: Answers,
    body: OllamaChat | OllamaGenerate,
    client: Client,
    request: AnswerRequest,
    kind: type[OllamaWriter],
    tools: list[Form],
) -> Reply:
    schema = body.format if isinstance(body.format, dict) else None
    forms = [Form("format", schema=schema)] if body.format else []
    prompt = "messages" if isinstance(body, OllamaChat) else "prompt"
    with as_of_request(prompt, [*forms, *tools]), ExitStack() as stack:
        answer = answers.open(client, request)
        stack.callback(answer.close)
        writer = kind(body.model, answer, body.n_top)
        if not body.streams:
            return writer.whole()
        return sse.EventStream(writer.lines(), stack.pop_all().close, sse.LINES, ollama_shape)


def _loaded(answers: Answers, body: OllamaChat | OllamaGenerate, client: Client, nothing: dict[str, Any]) -> Reply:
    """Load the model: what a request without a prompt asks for."""
    if body.unloads:
        what = "keep_alive: models stay loaded while memory allows; POST /models/unload frees one"
        raise InvalidRequest(what, param="keep_alive", code="unsupported_parameter")
    with answers.lease(client, body.model, 0):
        reply = {"model": body.model, "created_at": now(), **nothing, "done": True, "done_reason": "load"}
    if not body.streams:
        return reply
    return sse.EventStream([sse.line(reply)], lambda: None, sse.LINES, ollama_shape)
