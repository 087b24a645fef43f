"""Vectors for texts, as all APIs compute them."""

from __future__ import annotations

from collections.abc import Sequence

from services.answers.client import Client
from services.answers.service import Answers
from services.backend.protocols import Embedder
from services.backend.types import Prompt, Spent
from services.errors import ClientDisconnected, InvalidRequest, NotAuthenticated, Unavailable, input_too_long
from services.prompts.form import least_tokens


def vectors_of(
    answers: Answers, client: Client, model: str | None, prompts: Sequence[Prompt], dimensions: int | None
) -> tuple[str, list[Sequence[float]], int]:
    """Return the model's name, a vector for each prompt, and the number of all their tokens.

    Raises as `Answers.lease_embedder` and `Embedder.embed` do, and InvalidRequest if `dimensions` is another length than
    that of the model's vectors.
    """
    vectors: list[Sequence[float]] = []
    with answers.lease_embedder(client, model) as leased:
        embedder, ticket, deadline = leased.embedder, leased.ticket, leased.deadline
        texts = []
        with answers.working(deadline, sum(len(prompt.text) for prompt in prompts)) as pause:
            for prompt in prompts:
                pause()
                texts.append(_tokens(embedder, prompt))
        n_tokens = sum(map(len, texts))
        ticket.reserve(n_tokens, 0)
        deadline.slot.begin()
        for tokens in texts:
            deadline.poll()
            try:
                vector, spent = embedder.embed(tokens, deadline.poll)
            except (ClientDisconnected, NotAuthenticated, Unavailable):
                # It was broken off, and has cost something by then.
                ticket.add(Spent(prompt_tokens=len(tokens)))
                raise
            ticket.add(spent)
            if dimensions not in (None, len(vector)):
                what = f"dimensions: this model's vectors have {len(vector)} and are not shortened"
                raise InvalidRequest(what, param="dimensions", code="unsupported_parameter")
            vectors.append(vector)
    return leased.name, vectors, n_tokens


def _tokens(embedder: Embedder, prompt: Prompt) -> list[int]:
    """Return a text's tokens. Raises InvalidRequest, without tokenizing, where they are certainly too many."""
    if (least := least_tokens(prompt.text, embedder.chat_format.longest_token)) > embedder.n_ctx:
        raise input_too_long(least, embedder.n_ctx, at_least=True)
    return embedder.tokenize(prompt)
