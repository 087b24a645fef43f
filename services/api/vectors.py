"""Vectors for texts, and scores of pairs of texts, as all APIs compute them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from services.answers.client import Client
from services.answers.service import Answers, LeasedEmbedder
from services.backend.batches import batches_of
from services.backend.protocols import Embedder
from services.backend.scores import probability
from services.backend.types import Prompt, Spent
from services.errors import (
    BadModelFile,
    ClientDisconnected,
    InvalidRequest,
    NotAuthenticated,
    Unavailable,
    input_too_long,
)
from services.models.profile import EmbeddingPrefix
from services.prompts.form import least_tokens

# The most tokens, and texts, that are computed before a request is looked at again.
_AT_ONCE = 4096, 64
Prefix = Callable[[EmbeddingPrefix], str]
"""Returns the prefix that a profile has for the texts of a request."""


def vectors_of(
    answers: Answers,
    client: Client,
    model: str | None,
    prompts: Sequence[Prompt],
    dimensions: int | None,
    prefix: Prefix = lambda prefixes: prefixes.document,
) -> tuple[str, list[Sequence[float]], int]:
    """Return the model's name, a vector of length 1 for each prompt, and the number of all their tokens.

    `dimensions` cuts the vectors; None: they are whole. Raises as `Answers.lease_embedder` and `Embedder.embed` do,
    BadModelFile for a model that ranks texts, and InvalidRequest if the vectors are not as long as `dimensions`.
    """
    with answers.lease_embedder(client, model) as leased:
        embedder = leased.embedder
        if embedder.ranks:
            what = f"{leased.name} ranks texts, and makes no embeddings: use /v1/rerank"
            raise BadModelFile(what, param="model")
        begins = prefix(leased.prefixes) if leased.prefixes else ""
        texts: list[list[int]] = []
        with answers.working(leased.deadline, sum(len(prompt.text) for prompt in prompts)) as pause:
            _check(embedder, prompts)
            for some in batches_of(prompts, lambda prompt: len(prompt.text), *_AT_ONCE):
                pause()
                texts += embedder.tokenize_all([_prefixed(prompt, begins) for prompt in some])
        n_tokens, vectors = sum(map(len, texts)), _computed(leased, texts, "input")
    if dimensions is not None and vectors and dimensions > len(vectors[0]):
        what = f"dimensions: this model's vectors have {len(vectors[0])}"
        raise InvalidRequest(what, param="dimensions", code="unsupported_parameter")
    return leased.name, [_cut(vector, dimensions) for vector in vectors], n_tokens


def scores_of(
    answers: Answers, client: Client, model: str | None, query: str, documents: Sequence[str], raw: bool = False
) -> tuple[str, list[float], int]:
    """Return the model's name, the score of each document, and the number of all tokens.

    Scores are from 0 to 1; `raw`: as the model gives them. Raises as `vectors_of` does, and BadModelFile for a model that
    ranks no texts.
    """
    with answers.lease_embedder(client, model) as leased:
        embedder = leased.embedder
        if not embedder.ranks:
            what = f"{leased.name} ranks no texts: /v1/rerank needs a model with the pooling type RANK"
            raise BadModelFile(what, param="model")
        pairs: list[list[int]] = []
        with answers.working(leased.deadline, sum(len(query) + len(each) for each in documents)) as pause:
            for some in batches_of(documents, lambda document: len(query) + len(document), *_AT_ONCE):
                pause()
                pairs += embedder.tokenize_pairs(query, some)
        n_tokens, vectors = sum(map(len, pairs)), _computed(leased, pairs, "documents")
    return leased.name, [each[0] if raw else probability(each) for each in vectors], n_tokens


def _computed(leased: LeasedEmbedder, texts: Sequence[list[int]], field: str) -> list[list[float]]:
    """Compute all vectors, which count for the key; `field` of the request has the texts."""
    n_ctx = leased.embedder.n_ctx
    if (long := next((n for n, tokens in enumerate(texts) if len(tokens) > n_ctx > 0), None)) is not None:
        raise input_too_long(len(texts[long]), n_ctx, param=_place(field, long, len(texts)))
    ticket, deadline = leased.ticket, leased.deadline
    ticket.reserve(sum(map(len, texts)), 0)
    deadline.slot.begin()
    vectors: list[list[float]] = []
    for some in batches_of(texts, len, *_AT_ONCE):
        deadline.poll()
        try:
            computed, spent = leased.embedder.embed(some, deadline.poll)
        except (ClientDisconnected, NotAuthenticated, Unavailable):
            # It was broken off, and has cost something by then.
            ticket.add(Spent(prompt_tokens=sum(map(len, some))))
            raise
        ticket.add(spent)
        vectors += computed
    return vectors


def _place(field: str, n: int, count: int) -> str:
    """Return the place of a text in a request, where there are several."""
    return f"{field}.{n}" if count > 1 else field


def _check(embedder: Embedder, prompts: Sequence[Prompt]) -> None:
    """Raise InvalidRequest, without tokenizing, where the tokens of one text are certainly too many."""
    for n, prompt in enumerate(prompts):
        if (least := least_tokens(prompt.text, embedder.chat_format.longest_token)) > embedder.n_ctx:
            raise input_too_long(least, embedder.n_ctx, at_least=True, param=_place("input", n, len(prompts)))


def _prefixed(prompt: Prompt, begins: str) -> Prompt:
    """Return a text behind a prefix, unless it has that already; token ids stay as they are."""
    if prompt.ids or not begins or prompt.text.startswith(begins):
        return prompt
    typed = tuple((start + len(begins), end + len(begins)) for start, end in prompt.typed)
    return replace(prompt, text=f"{begins}{prompt.text}", typed=typed)


def _cut(vector: list[float], dimensions: int | None) -> list[float]:
    """Return the beginning of a vector, of length 1 again."""
    if dimensions is None or dimensions == len(vector):
        return vector
    short = vector[:dimensions]
    length = math.hypot(*short) or 1.0
    return [value / length for value in short]
