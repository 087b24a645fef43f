"""/v1/rerank: documents by how well they fit a query, as Cohere's, Jina's, llama-server's and TEI's clients ask for it."""

from __future__ import annotations

from typing import Annotated, Any

from flask_restful import Resource
from pydantic import BaseModel, Field, RootModel, model_validator

from services.answers.client import Client
from services.answers.service import Answers
from services.api.http.computation import Reply
from services.api.http.idempotency import Respond
from services.api.http.open_body import Open, Whole
from services.api.http.request_fields import FieldLists, Listed, fields_of, telling_ignored
from services.api.http.schemas import replies, spec
from services.api.openai.messages import Name
from services.api.vectors import scores_of
from services.validation import at_most

MOST_DOCUMENTS = 2048
_RERANK = "rerank"

_lists = FieldLists((_RERANK,))
FIELDS = (
    *_lists.honoured(
        (_RERANK,),
        model="a profile, or a file of the models folder that ranks texts",
        query="the text that the documents are compared with",
        documents="texts, or objects with a `text`",
        texts="the same as TEI calls it: the reply is a list",
        top_n="the number of the best documents that are told",
        return_documents="true: the reply has the documents",
        return_text="as `return_documents`",
        raw_scores="true: scores as the model gives them, instead of from 0 to 1",
    ),
    *_lists.idle("user priority", "keys tell users apart here"),
    *_lists.idle("truncate truncation max_tokens_per_doc max_chunks_per_doc", "a text that is too long is refused"),
    *_lists.refused("rank_fields", "a document's text is what is ranked", ["text"], []),
)


class RankedDocument(Open):
    """A document."""

    text: str


class RerankRequest(Listed):
    """The body of POST /v1/rerank."""

    listed = fields_of(FIELDS, _RERANK)

    query: str
    documents: Annotated[list[str | RankedDocument] | None, at_most(MOST_DOCUMENTS)] = None
    texts: Annotated[list[str] | None, at_most(MOST_DOCUMENTS)] = None
    model: Name | None = None
    top_n: Annotated[int, Field(ge=1), Whole] | None = None
    return_documents: bool | None = None
    return_text: bool | None = None
    raw_scores: bool | None = None

    @model_validator(mode="after")
    def _has_documents(self) -> RerankRequest:
        if (self.documents is None) == (self.texts is None):
            raise ValueError("documents: either documents or texts are needed, and not both")
        if not self.said:
            raise ValueError(f"{'documents' if self.texts is None else 'texts'}: there are none")
        return self

    @property
    def returns_documents(self) -> bool:
        """True if the reply has the documents."""
        return bool(self.return_documents or self.return_text)

    @property
    def said(self) -> list[str]:
        """The documents' texts."""
        return [each if isinstance(each, str) else each.text for each in self.documents or ()] or list(self.texts or ())


class RankedText(BaseModel):
    """A document's text."""

    text: str


class RankedResult(BaseModel):
    """A document by its place in the request, and how well it fits the query."""

    index: int
    relevance_score: float
    document: RankedText | None = None


class RerankUsage(BaseModel):
    """Counts of tokens."""

    prompt_tokens: int
    total_tokens: int


class Ranking(BaseModel):
    """The documents that fit the query, the best first."""

    model: str
    object: str
    usage: RerankUsage
    results: list[RankedResult]


class TeiRank(BaseModel):
    """A text by its place in the request, and how well it fits the query."""

    index: int
    score: float
    text: str | None = None


class AnyRanking(RootModel[Ranking | list[TeiRank]]):
    """The documents by how well they fit; in TEI's shape where the request has `texts`."""


class RerankResource(Resource):
    """Documents by how well they fit a query."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    @spec.validate(json=RerankRequest, resp=replies(AnyRanking, 400, 404, 413, 422, 500, 503))
    def post(self, json: RerankRequest) -> Any:
        """Score each document with the query, by a model that ranks texts (pooling type RANK), and sort them.

        Scores are from 0 to 1. A query with a document has to fit into the model's context. A field that cannot be honoured
        is refused by name, and one that nobody knows is named by the header `X-Hearth-Ignored`.
        """
        return telling_ignored(self._respond(json), json)


def compute_ranking(answers: Answers, body: RerankRequest, client: Client) -> Reply:
    """Compute the reply to POST /v1/rerank. Raises as `scores_of` does."""
    documents = body.said
    name, scores, n_tokens = scores_of(answers, client, body.model, body.query, documents, bool(body.raw_scores))
    best = sorted(range(len(scores)), key=lambda n: -scores[n])[: body.top_n]
    if body.texts is not None:
        return [
            {"index": n, "score": scores[n], **({"text": documents[n]} if body.returns_documents else {})} for n in best
        ]
    return {
        "model": name,
        "object": "list",
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        "results": [
            {
                "index": n,
                "relevance_score": scores[n],
                **({"document": {"text": documents[n]}} if body.returns_documents else {}),
            }
            for n in best
        ],
    }
