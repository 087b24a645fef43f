"""/v1/embeddings: vectors for texts."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any

from flask_restful import Resource

from auth.authentication import caller
from services.answers import Answers
from services.api.hangup import poll_of_caller
from services.api.once import once
from services.api.openai_replies import Embeddings
from services.api.openai_schemas import EmbeddingsRequest, prompts_of
from services.api.schemas import replies, spec


class EmbeddingsResource(Resource):
    """Texts to vectors."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(json=EmbeddingsRequest, resp=replies(Embeddings, 400, 404, 413, 422, 500, 503))
    @once
    def post(self, json: EmbeddingsRequest) -> Any:
        """Give a vector of length 1 for each text, by a model for embeddings, or the mean of any other's last layer."""
        poll, n_tokens, data = poll_of_caller(), 0, []
        with self._answers.lease_embedder(caller().id, json.model) as (name, embedder, ticket):
            for index, prompt in enumerate(prompts_of(json.input)):
                poll()
                tokens = embedder.tokenize(prompt)
                ticket.hold(len(tokens), 0)
                vector, spent = embedder.embed(tokens)
                ticket.spent += spent
                n_tokens += len(tokens)
                data.append({"object": "embedding", "index": index, "embedding": _encoded(vector, json.encoding_format)})
        usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
        return {"object": "list", "model": name, "data": data, "usage": usage}


def _encoded(vector: Sequence[float], encoding: str | None) -> Any:
    """As numbers, or as the base64 of little-endian floats of 32 bits, which OpenAI's clients ask for."""
    if encoding != "base64":
        return list(vector)
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
