"""/v1: OpenAI's API for chats, completions and models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from flask_restful import Resource

from services.answers.client import Client
from services.answers.request import AnswerRequest
from services.answers.service import Answers
from services.answers.stream import Answer
from services.api.http.computation import Reply
from services.api.http.faults import Form, as_of_request
from services.api.http.idempotency import Respond
from services.api.http.request_fields import telling_ignored
from services.api.http.schemas import replies, spec
from services.api.http.sse import EventStream
from services.api.openai.echo import Echo
from services.api.openai.replies import ChatCompletion, Completion
from services.api.openai.requests import chat_requests, completion_requests
from services.api.openai.schemas import ChatRequest, CompletionRequest, Generating
from services.api.openai.writers import ChatWriter, CompletionWriter, Writer, streamed_reply, whole_reply


class ChatCompletionsResource(Resource):
    """Chats."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    @spec.validate(json=ChatRequest, resp=replies(ChatCompletion, 400, 404, 413, 422, 500, 503))
    def post(self, json: ChatRequest) -> Any:
        """Answer a chat, by the model's own chat template.

        A model's thoughts come as `reasoning_content`. A last message of the assistant is continued, unless
        `continue_final_message` is false or `add_generation_prompt` true; the reply holds the new text alone.

        Beyond OpenAI's reference: `session_id` keeps the conversation on the server, so that only new messages are sent
        (the reply then says how many messages of the session the prompt held and left out); the samplers, grammars and
        thinking fields of llama-server, vLLM and Ollama. A field that cannot be honoured is refused by name, and one that
        nobody knows is named by the header `X-Hearth-Ignored`. With `stream` true the reply is text/event-stream: chunks,
        then `data: [DONE]`; an error on the way is an event of its own, and the last.
        """
        return telling_ignored(self._respond(json), json)


class CompletionsResource(Resource):
    """Plain texts to go on with."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    @spec.validate(json=CompletionRequest, resp=replies(Completion, 400, 404, 413, 422, 500, 503))
    def post(self, json: CompletionRequest) -> Any:
        """Go on with a text, as it stands: no template is put around it. Fields are honoured as those of chats are."""
        return telling_ignored(self._respond(json), json)


def compute_chat(answers: Answers, body: ChatRequest, client: Client) -> Reply:
    """Compute the reply to POST /v1/chat/completions. Raises as `Answers.open_all` does."""
    requests = chat_requests(body)
    with as_of_request("messages", _forms(body, requests[0])):
        opened = answers.open_all(client, requests)
    return _reply(ChatWriter(body), body, opened)


def compute_completion(answers: Answers, body: CompletionRequest, client: Client) -> Reply:
    """Compute the reply to POST /v1/completions. Raises as `Answers.open_all` does."""
    requests = completion_requests(body)
    echoes = [Echo(request) for request in requests] if body.echo else []
    gap = requests[0].infill
    long = "suffix" if gap and len(gap.behind) > len(gap.before) else "prompt"
    with as_of_request(long, _forms(body, requests[0])):
        opened = answers.open_all(client, [echo.request for echo in echoes] or requests)
    return _reply(CompletionWriter(body, echoes), body, opened)


def _forms(body: Generating, request: AnswerRequest) -> list[Form]:
    """Return the forms to which an answer is held: the request's own, and the calls of tools."""
    forms = []
    if request.constraint and request.tool_choice in ("none", "auto"):
        is_schema = request.constraint.kind == "json_schema"
        forms.append(Form(body.constraint_field, schema=json.loads(request.constraint.source) if is_schema else None))
    field = "functions" if isinstance(body, ChatRequest) and body.functions is not None else "tools"
    functions = [tool["function"] for tool in request.tools]
    called = [each for each in functions if request.tool_choice in ("auto", "required", each["name"])]
    return forms + [Form(field, each["name"], each.get("parameters")) for each in called]


def _reply(writer: Writer, body: Generating, opened: Sequence[Answer]) -> Reply:
    """Write all answers, which are computed together, one after the other."""
    with ExitStack() as stack:
        for answer in opened:
            stack.callback(answer.close)
        if body.stream:
            return EventStream(streamed_reply(writer, body, opened), stack.pop_all().close)
        return whole_reply(writer, body, opened)
