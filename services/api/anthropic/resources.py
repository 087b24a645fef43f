"""/v1/messages: Anthropic's API."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from flask_restful import Resource

from services.answers.client import Client
from services.answers.service import Answers
from services.api.anthropic.errors import anthropic_shape
from services.api.anthropic.replies import AnthropicError, AnthropicMessage, CountedTokens
from services.api.anthropic.requests import callable_tools, counted_request, message_request
from services.api.anthropic.schemas import CountTokensRequest, MessagesRequest
from services.api.anthropic.writers import MessageWriter
from services.api.http import sse
from services.api.http.client import current_client
from services.api.http.computation import Reply
from services.api.http.faults import Form, as_of_request
from services.api.http.idempotency import Respond
from services.api.http.request_fields import telling_ignored
from services.api.http.schemas import replies, spec


class MessagesResource(Resource):
    """Chats, as Anthropic's clients send them."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    @spec.validate(json=MessagesRequest, resp=replies(AnthropicMessage, 400, 404, 413, 422, 500, 503, error=AnthropicError))
    def post(self, json: MessagesRequest) -> Any:
        """Answer a chat, by the model's own chat template.

        A last message of the assistant is continued; the reply holds the new text alone. Beyond Anthropic's reference:
        `session_id` keeps the conversation on the server, so that only new messages are sent. A field that cannot be
        honoured is refused by name; one that nobody knows, and tools that a server would run, are named by the header
        `X-Hearth-Ignored`. With `stream` true the reply is text/event-stream; an error on the way is the event `error`.
        """
        return telling_ignored(self._respond(json), json)


class CountTokensResource(Resource):
    """The length of prompts."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(json=CountTokensRequest, resp=replies(CountedTokens, 400, 404, 413, 422, 503, error=AnthropicError))
    def post(self, json: CountTokensRequest) -> Any:
        """Count the tokens that a chat's prompt has, with its tools and its system prompt."""
        request = counted_request(json)
        with self._answers.written(current_client(), request) as written:
            prompt = written.form.fill((), request.prompt)
            written.pause()
            return telling_ignored({"input_tokens": len(written.model.tokenize(prompt))}, json)


def compute_message(answers: Answers, body: MessagesRequest, client: Client) -> Reply:
    """Compute the reply to POST /v1/messages. Raises as `Answers.open` does."""
    request = message_request(body)
    with as_of_request("messages", _forms(body)), ExitStack() as stack:
        answer = answers.open(client, request)
        stack.callback(answer.close)
        writer = MessageWriter(body, answer)
        if not body.stream:
            return writer.whole()
        return sse.EventStream(writer.events(), stack.pop_all().close, sse.NAMED_EVENTS, anthropic_shape)


def _forms(body: MessagesRequest) -> list[Form]:
    """Return the forms to which an answer is held: the request's own, and the calls of tools."""
    choice, tools, _ = callable_tools(body)
    field = "output_format" if body.output_format else "output_config"
    forms = [Form(field, schema=body.format.schema_)] if body.format and choice in ("none", "auto") else []
    functions = [tool["function"] for tool in tools if choice in ("auto", "required", tool["function"]["name"])]
    return forms + [Form("tools", each["name"], each["parameters"]) for each in functions]
