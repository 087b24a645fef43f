"""/v1/embeddings: vectors for texts."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any

from flask_restful import Resource

from services.answers.client import Client
from services.answers.service import Answers
from services.api.http.computation import Reply
from services.api.http.idempotency import Respond
from services.api.http.request_fields import telling_ignored
from services.api.http.schemas import replies, spec
from services.api.openai.replies import Embeddings
from services.api.openai.schemas import EmbeddingsRequest, prompts_of
from services.backend.protocols import Embedder
from services.backend.types import Prompt, Spent
from services.errors import ClientDisconnected, InvalidRequest, NotAuthenticated, Unavailable, input_too_long
from services.prompts.form import least_tokens


class EmbeddingsResource(Resource):
    """Texts to vectors."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    @spec.validate(json=EmbeddingsRequest, resp=replies(Embeddings, 400, 404, 413, 422, 500, 503))
    def post(self, json: EmbeddingsRequest) -> Any:
        """Give a vector of length 1 for each text, by a model for embeddings, or the mean of any other's last layer.

        All of them may take as long as one answer; what takes longer gets status 503, and nothing of it.
        """
        return telling_ignored(self._respond(json), json)


def compute_embeddings(answers: Answers, body: EmbeddingsRequest, client: Client) -> Reply:
    """Compute the reply to POST /v1/embeddings. Raises as `Answers.lease_embedder` and `Embedder.embed` do.

    Raises InvalidRequest if vectors of another length are wanted than the model's.
    """
    prompts, data = prompts_of(body.input), []
    with answers.lease_embedder(client, body.model) as leased:
        embedder, ticket, deadline = leased.embedder, leased.ticket, leased.deadline
        texts = []
        with answers.working(deadline, sum(len(prompt.text) for prompt in prompts)) as pause:
            for prompt in prompts:
                pause()
                texts.append(_tokens(embedder, prompt))
        n_tokens = sum(map(len, texts))
        ticket.reserve(n_tokens, 0)
        deadline.slot.begin()
        for index, tokens in enumerate(texts):
            deadline.poll()
            try:
                vector, spent = embedder.embed(tokens, deadline.poll)
            except (ClientDisconnected, NotAuthenticated, Unavailable):
                # It was broken off, and has cost something by then.
                ticket.add(Spent(prompt_tokens=len(tokens)))
                raise
            ticket.add(spent)
            if body.dimensions not in (None, len(vector)):
                what = f"dimensions: this model's vectors have {len(vector)} and are not shortened"
                raise InvalidRequest(what, param="dimensions", code="unsupported_parameter")
            data.append({"object": "embedding", "index": index, "embedding": _encoded(vector, body.encoding_format)})
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return {"object": "list", "model": leased.name, "data": data, "usage": usage}


def _tokens(embedder: Embedder, prompt: Prompt) -> list[int]:
    """Return a text's tokens. Raises InvalidRequest, without tokenizing, where they are certainly too many."""
    if (least := least_tokens(prompt.text, embedder.chat_format.longest_token)) > embedder.n_ctx:
        raise input_too_long(least, embedder.n_ctx, at_least=True)
    return embedder.tokenize(prompt)


def _encoded(vector: Sequence[float], encoding: str | None) -> Any:
    """Return a vector as numbers, or as base64 of little-endian 32-bit floats, which OpenAI's clients ask for."""
    if encoding != "base64":
        return list(vector)
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
