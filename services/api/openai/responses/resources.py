"""/v1/responses: OpenAI's Responses API."""

from __future__ import annotations

import hashlib
import itertools
import json as json_module
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from flask_restful import Resource

from auth.authentication import caller
from services.answers.client import Client
from services.answers.service import Answers
from services.answers.stream import Answer
from services.api.http.client import current_client
from services.api.http.computation import Reply
from services.api.http.faults import Form, as_of_request
from services.api.http.idempotency import Respond, current_job, request_name
from services.api.http.request_fields import telling_ignored
from services.api.http.schemas import replies, spec
from services.api.openai.responses.replies import CountedInput, InputItems, ResponseBody, ResponseDeleted
from services.api.openai.responses.requests import before_of, counted_request, response_request, with_ids
from services.api.openai.responses.schemas import CountInputTokens, CreateResponse, ItemsQuery, StoredQuery
from services.api.openai.responses.shapes import Json, failed, new_id, response_frame
from services.api.openai.responses.tools import callable_tools
from services.api.openai.responses.writers import ResponseWriter
from services.errors import InvalidRequest, NotFound
from services.jobs.jobs import Jobs
from services.jobs.store import JobKey
from services.sessions.responses import UNFINISHED, ResponseTable, StoredResponse, finished, state_of

PATH = "/v1/responses"
# Begins the name of the job that computes a response in the background.
_JOB = "response:"
# The states in which a request that is sent again finds its response.
_GOOD = ("queued", "in_progress", "completed", "incomplete")
CheckRoom = Callable[[str, int], None]
"""Raises NotPermitted where an owner may not keep so many bytes more."""


class ResponsesResource(Resource):
    """New responses."""

    def __init__(self, respond: Respond, answers: Answers, jobs: Jobs, table: ResponseTable) -> None:
        self._respond = respond
        self._answers = answers
        self._jobs = jobs
        self._table = table

    @spec.validate(json=CreateResponse, resp=replies(ResponseBody, 400, 404, 413, 422, 500, 503))
    def post(self, json: CreateResponse) -> Any:
        """Answer a text or items, by the model's own chat template.

        Unless `store` is false the response is kept for 30 days, and any number of others go on from it by
        `previous_response_id`. A `conversation` is a session, which keeps its exchanges. With `background` a job computes
        the response, after a restart too. With `stream` the reply is text/event-stream; an error on the way is the event
        `response.failed`. A field that cannot be honoured is refused by name; one that nobody knows, and tools that a
        server would run, are named by the header `X-Hearth-Ignored`.
        """
        return telling_ignored(self._enqueue(json) if json.background else self._respond(json), json)

    def _enqueue(self, body: CreateResponse) -> Json:
        if caller().is_guest:
            raise InvalidRequest("background: it needs a key, by which the response is found again", param="background")
        owner, id_ = caller().id, self._id_of_request(body)
        known = self._table.get(owner, id_)
        before = before_of(body, self._table, owner)
        # Refused now, rather than when its turn comes.
        response_request(body, before)
        model = self._answers.profile_name(current_client(), body.model)
        frame = {**response_frame(body, id_, model, stores=True), "status": "queued"}
        # The job first, so that every stored response has one. A response that is finished already is not overwritten.
        self._jobs.enqueue(JobKey(owner, f"{_JOB}{id_}"), current_job(PATH, body))
        items = with_ids(before.items, id_)
        self._table.add(StoredResponse(owner, id_, before.previous, _session(body), "queued", items, frame))
        return _current(known, self._jobs, self._table) if known else frame

    def _id_of_request(self, body: CreateResponse) -> str:
        """Return the response's id: a request that is sent again with its Idempotency-Key has the same."""
        owner, name = caller().id, request_name(body)
        for n in itertools.count():
            id_ = f"resp_{hashlib.sha256(f'{owner}:{name}:{n}'.encode()).hexdigest()[:32]}" if name else new_id()
            known = self._table.get(owner, id_)
            if known is None or (known.status in _GOOD and self._has_job(owner, id_)):
                return id_
        raise AssertionError

    def _has_job(self, owner: str, id_: str) -> bool:
        try:
            return self._jobs.status(JobKey(owner, f"{_JOB}{id_}")).state != "failed"
        except NotFound:
            return False


class ResponseResource(Resource):
    """One stored response."""

    def __init__(self, answers: Answers, jobs: Jobs, table: ResponseTable) -> None:
        self._answers = answers
        self._jobs = jobs
        self._table = table

    @spec.validate(query=StoredQuery, resp=replies(ResponseBody, 400, 404, 500, 503))
    def get(self, query: StoredQuery, id_: str) -> Any:
        """Show a response as far as it has come."""
        if query.stream.lower() not in ("", "false", "0") or query.starting_after:
            param = "starting_after" if query.starting_after else "stream"
            raise InvalidRequest(f"{param}: a stored response is not streamed", param=param, code="unsupported_parameter")
        return _current(_stored(self._table, id_), self._jobs, self._table)

    @spec.validate(resp=replies(ResponseDeleted, 404, 500, 503))
    def delete(self, id_: str) -> Any:
        """Forget a response. Those that go on from it cannot go on any more."""
        stored = _stored(self._table, id_)
        # What was computed of its conversation holds its text too.
        self._answers.forget_state(stored.owner, state_of(self._table, stored))
        # First the job, which would store it again.
        with suppress(NotFound):
            self._jobs.remove(JobKey(stored.owner, f"{_JOB}{id_}"))
        self._table.remove(stored.owner, id_)
        return {"id": id_, "object": "response", "deleted": True}


class CancelResource(Resource):
    """The end of a response in the background."""

    def __init__(self, jobs: Jobs, table: ResponseTable) -> None:
        self._jobs = jobs
        self._table = table

    @spec.validate(resp=replies(ResponseBody, 400, 404, 500, 503))
    def post(self, id_: str) -> Any:
        """Stop computing a response in the background; one that has come to its end stays as it is."""
        stored = _stored(self._table, id_)
        if not stored.body.get("background"):
            raise InvalidRequest("only a response with background true can be cancelled", param="id")
        if stored.status in UNFINISHED:
            self._table.add(finished(stored, "cancelled", stored.body))
            with suppress(NotFound):
                self._jobs.remove(JobKey(stored.owner, f"{_JOB}{id_}"))
        return _stored(self._table, id_).body


class InputItemsResource(Resource):
    """The items that a response answers."""

    def __init__(self, table: ResponseTable) -> None:
        self._table = table

    @spec.validate(query=ItemsQuery, resp=replies(InputItems, 400, 404, 500, 503))
    def get(self, query: ItemsQuery, id_: str) -> Any:
        """List the items of a response's own input."""
        items = list(_stored(self._table, id_).items)
        listed = items if query.order == "asc" else items[::-1]
        ids = [str(item["id"]) for item in listed]
        if query.after and query.after not in ids:
            raise InvalidRequest(f'after: there is no item "{query.after}"', param="after")
        start = ids.index(query.after) + 1 if query.after else 0
        shown = listed[start : start + query.limit]
        return {
            "object": "list",
            "data": shown,
            "first_id": shown[0]["id"] if shown else None,
            "last_id": shown[-1]["id"] if shown else None,
            "has_more": start + len(shown) < len(listed),
        }


class CountInputResource(Resource):
    """The length of prompts."""

    def __init__(self, answers: Answers, table: ResponseTable) -> None:
        self._answers = answers
        self._table = table

    @spec.validate(json=CountInputTokens, resp=replies(CountedInput, 400, 404, 413, 422, 500, 503))
    def post(self, json: CountInputTokens) -> Any:
        """Count the tokens that a response's prompt has, with what comes before it, and its tools."""
        asked = counted_request(json, before_of(json, self._table, caller().id))
        with self._answers.written(current_client(), asked) as written:
            talk = written.conversation
            prompt = written.form.fill(talk.exchanges[talk.start :], asked.prompt)
            written.pause()
            counted = {"object": "response.input_tokens", "input_tokens": len(written.model.tokenize(prompt))}
            return telling_ignored(counted, json)


def compute_response(
    answers: Answers, table: ResponseTable, check_room: CheckRoom, body: CreateResponse, client: Client
) -> Reply:
    """Compute the reply to POST /v1/responses. Raises as `Answers.open` does, NotPermitted and StorageFailed."""
    owner, name = client.identity.id, client.request_name.id if client.request_name else ""
    is_job = name.startswith(_JOB)
    id_ = name.removeprefix(_JOB) if is_job else new_id()
    queued = table.get(owner, id_) if is_job else None
    # A guest has no name to keep anything by.
    stores = body.store is not False and not client.identity.is_guest
    with answers.admit(client) as deadline, as_of_request("input", _forms(body)), ExitStack() as stack:
        before = before_of(body, table, owner)
        asked, items = response_request(body, before), with_ids(before.items, id_)
        if before.chain and asked.session_id is None and stores:
            # The first of a conversation has none: most are never gone on from.
            asked = replace(asked, state=before.chain[0].state)
        if stores:
            check_room(owner, StoredResponse(owner, id_, items=items).n_bytes)

        def store(response: Json, answer: Answer) -> None:
            if not stores:
                return
            if is_job:
                # One that was deleted meanwhile is not stored again.
                client.poll()
            status, left_out = str(response["status"]), answer.n_left_out
            row = StoredResponse(owner, id_, before.previous, _session(body), status, items, response, left_out)
            table.add(row)

        answer = answers.open(replace(client, slot=deadline.slot), asked)
        stack.callback(answer.close)
        frame = response_frame(body, id_, answer.model, stores, queued.body.get("created_at") if queued else None)
        writer = ResponseWriter(body, frame, answer, asked.prompt, store)
        if not body.stream:
            return writer.whole()
        stack.pop_all()
        return writer.events()


def _session(body: CreateResponse) -> str:
    return "" if body.session_id is None else str(body.session_id)


def _stored(table: ResponseTable, id_: str) -> StoredResponse:
    """Return one of the caller's responses. Raises NotFound."""
    if found := table.get(caller().id, id_):
        return found
    raise NotFound(f'there is no response "{id_}"', param="id", code="response_not_found")


def _current(stored: StoredResponse, jobs: Jobs, table: ResponseTable) -> Json:
    """Return a response as it is now: what its job says, while it is not finished."""
    body = dict(stored.body)
    if stored.status not in UNFINISHED:
        return body
    try:
        job = jobs.status(JobKey(stored.owner, f"{_JOB}{stored.id}"))
    except NotFound:
        job = None
    if job and job.state in ("queued", "running"):
        return {**body, "status": "queued" if job.state == "queued" else "in_progress"}
    # It may have come to its end meanwhile.
    latest = table.get(stored.owner, stored.id)
    if latest and latest.status not in UNFINISHED:
        return dict(latest.body)
    reply = job.reply if job else None
    said = json_module.loads(reply.body) if reply and reply.body else {"message": "the response could not be computed"}
    body = failed(body, reply.status if reply else 500, said)
    table.add(finished(stored, "failed", body))
    return body


def _forms(body: CreateResponse) -> list[Form]:
    """Return the forms to which an answer is held: the request's own, and the calls of tools."""
    choice, tools = callable_tools(body.own_tools, body.tool_choice)
    constraint = body.constraint
    forms = [Form("text.format", schema=json_module.loads(constraint.source))] if constraint and choice == "auto" else []
    functions = [tool["function"] for tool in tools if choice in ("auto", "required", tool["function"]["name"])]
    return forms + [Form("tools", each["name"], each.get("parameters")) for each in functions]
