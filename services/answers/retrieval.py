"""Retrieval: the passages of own files that match what a person has said, by words and by the profile's models.

Words are always compared (BM25). Where the profile names an `embedder`, the passages whose vectors are nearest are taken
together with these (reciprocal rank fusion); where it names a `reranker`, that orders the best of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.answers.admission import Poll
from services.answers.models import Models
from services.backend.protocols import Embedder
from services.backend.scores import probability
from services.backend.types import Prompt
from services.documents.files import StoredFile
from services.documents.library import Library, Passage
from services.errors import BadModelFile
from services.models.profile import Profile

# Passages that are fused, and of these those that are reranked, at least.
_WIDE = 30


@dataclass(frozen=True)
class Retriever:
    """Finds passages. Any thread may call it."""

    models: Models
    library: Library

    def find(self, profile: Profile, question: str, files: Sequence[StoredFile], k: int, poll: Poll) -> list[Passage]:
        """Return the `k` passages of these files that match a question best, the best first.

        `poll` is called while a model is loaded, or computes. Raises what that raises, Unavailable or BadModelFile for a
        model that cannot be used, and StorageFailed.
        """
        if not files or not (profile.embedder or profile.reranker):
            return self.library.search(question, files, k)
        wide = max(_WIDE, k)
        found = self.library.search(question, files, wide)
        if profile.embedder:
            found = self._with_near(profile.embedder, question, files, found, wide, poll)
        if profile.reranker and found:
            found = self._reranked(profile.reranker, question, found, poll)
        return found[:k]

    def _with_near(
        self, model: str, question: str, files: Sequence[StoredFile], found: Sequence[Passage], k: int, poll: Poll
    ) -> list[Passage]:
        chosen = self.models.choose(None, model)
        prefixes = chosen.profile.embedding_prefix
        with self.models.lease_embedder(chosen, poll) as embedder:
            if embedder.ranks:
                raise BadModelFile(f"embedder: {chosen.name} ranks texts, and makes no vectors", param="embedder")
            asked = vectors_of(embedder, [f"{prefixes.query if prefixes else ''}{question}"], poll)[0]
        return self.library.with_near(asked, self.models.vectors_key(chosen), files, found, k)

    def _reranked(self, model: str, question: str, found: Sequence[Passage], poll: Poll) -> list[Passage]:
        chosen = self.models.choose(None, model)
        with self.models.lease_embedder(chosen, poll) as ranker:
            if not ranker.ranks:
                raise BadModelFile(f"reranker: {chosen.name} makes vectors, and ranks no texts", param="reranker")
            pairs = [tokens[: ranker.n_ctx] for tokens in ranker.tokenize_pairs(question, [each.text for each in found])]
            scores = [probability(each) for each in ranker.embed(pairs, poll)[0]]
        ranked = [replace(each, score=score, confidence=score) for each, score in zip(found, scores, strict=True)]
        return sorted(ranked, key=lambda each: -each.score)


def vectors_of(embedder: Embedder, texts: Sequence[str], poll: Poll) -> list[list[float]]:
    """Return the vectors of texts, of which what does not fit into the model's context is left out."""
    tokens = embedder.tokenize_all([Prompt(text) for text in texts])
    vectors, _ = embedder.embed([each[: embedder.n_ctx] for each in tokens], poll)
    return vectors
