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
from services.api.vectors import vectors_of


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
    """Compute the reply to POST /v1/embeddings. Raises as `vectors_of` does."""
    is_query = body.input_type in ("query", "search_query")
    prompts = prompts_of(body.input)
    name, vectors, n_tokens = vectors_of(
        answers, client, body.model, prompts, body.dimensions, lambda prefix: prefix.query if is_query else prefix.document
    )
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector, body.encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return {"object": "list", "model": name, "data": data, "usage": usage}


def _encoded(vector: Sequence[float], encoding: str | None) -> Any:
    """Return a vector as numbers, or as base64 of little-endian 32-bit floats, which OpenAI's clients ask for."""
    if encoding != "base64":
        return list(vector)
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
