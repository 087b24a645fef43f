"""Measures how often a retriever finds the passage that answers a question.

`python -m benchmarks.documents.evaluate` compares the library with the rank-bm25 package, which has to be installed beside.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.documents.chunks import Chunk, listed, parsed
from benchmarks.documents.questions import Question, find_passage, load_questions
from benchmarks.documents.retrievers import OwnLibrary, RankBm25, Retriever
from benchmarks.documents.sources import SOURCES, SourceError, load
from services.documents.library import LEAST_SURE

# How deep a retriever is asked; MRR counts a passage that is not among these as 0.
DEPTH = 10


@dataclass(frozen=True)
class Score:
    """The share of the passages that are among the best 1, 5 and 10 chunks, and the mean of 1 / rank."""

    count: int
    recall_1: float
    recall_5: float
    recall_10: float
    mrr: float

    @staticmethod
    def of(ranks: Sequence[int | None]) -> Score:
        """The score of the ranks (from 1) at which passages were found; None: not among the best ten."""

        def recall(depth: int) -> float:
            return sum(rank is not None and rank <= depth for rank in ranks) / max(len(ranks), 1)

        mrr = sum(1 / rank for rank in ranks if rank) / max(len(ranks), 1)
        return Score(len(ranks), recall(1), recall(5), recall(10), mrr)

    def row(self) -> str:
        """The score as cells of a table."""
        return f"{self.recall_1:.3f} | {self.recall_5:.3f} | {self.recall_10:.3f} | {self.mrr:.3f}"


def load_texts() -> dict[str, str]:
    """Return the sources' texts by name; one that cannot be had is named and left out."""
    texts = {}
    for source in SOURCES:
        try:
            texts[source.name] = load(source)
        except SourceError as error:
            print(f"left out: {error}")
    return texts


def holders(chunks: Iterable[Chunk], spans: Sequence[tuple[int, int]], source: str) -> set[int]:
    """Return the ids of the chunks that hold at least half of the passage in one of these places."""
    return {
        chunk.id
        for chunk in chunks
        if chunk.source == source
        for start, end in spans
        if 2 * (min(end, chunk.end) - max(start, chunk.start)) >= end - start
    }


def locate(questions: Sequence[Question], chunks: Sequence[Chunk], texts: Mapping[str, str]) -> list[set[int]]:
    """Return for each question the chunks that answer it. Raises ValueError if a passage is not in its source, or twice."""
    by_source: dict[str, list[Chunk]] = {}
    for chunk in chunks:
        by_source.setdefault(chunk.source, []).append(chunk)
    found = []
    for question in questions:
        spans = find_passage(texts[question.source], question.passage)
        if len(spans) != 1:
            raise ValueError(f"{question.source} has {len(spans)} of: {question.passage}")
        found.append(holders(by_source[question.source], spans, question.source))
    return found


def find_ranks(retriever: Retriever, questions: Sequence[Question], wanted: Sequence[set[int]]) -> list[int | None]:
    """Return the rank at which each question's passage is found, or None."""
    ranks: list[int | None] = []
    for question, ids in zip(questions, wanted, strict=True):
        results = retriever.search(question.question, DEPTH)
        ranks.append(next((rank for rank, chunk in enumerate(results, 1) if chunk in ids), None))
    return ranks


def find_ranks_within(own: OwnLibrary, questions: Sequence[Question], wanted: Sequence[set[int]]) -> list[int | None]:
    """Return the ranks as `find_ranks` does, when each question is asked of its own source alone."""
    pairs = zip(questions, wanted, strict=True)
    return [rank for question, ids in pairs for rank in find_ranks(own.within(question.source), [question], [ids])]


def report(name: str, questions: Sequence[Question], ranks: Sequence[int | None], *, by_source: bool = False) -> None:
    """Print a retriever's scores: of all questions, with and without the passage's words, and of each source."""
    groups = {"all": list(ranks)}
    for overlap, label in ((True, "same words"), (False, "other words")):
        groups[label] = [rank for question, rank in zip(questions, ranks, strict=True) if question.overlap == overlap]
    if by_source:
        languages = {source.name: source.language for source in SOURCES}
        for question, rank in zip(questions, ranks, strict=True):
            groups.setdefault(f"{question.source} ({languages[question.source]})", []).append(rank)
    for label, group in groups.items():
        score = Score.of(group)
        print(f"| {name} | {label} | {score.count} | {score.row()} |", flush=True)


def report_confidence(
    own: OwnLibrary, questions: Sequence[Question], ranks: Sequence[int | None], unanswerable: Sequence[str]
) -> None:
    """Print how sure searches are, and which part of the questions a threshold refuses."""

    def sure(question: str) -> float:
        return max((passage.confidence for passage in own.passages(question, 3)), default=0.0)

    kinds = list(zip((sure(question.question) for question in questions), questions, ranks, strict=True))
    groups = {
        "answerable": [value for value, _, _ in kinds],
        "same words": [value for value, question, _ in kinds if question.overlap],
        "other words": [value for value, question, _ in kinds if not question.overlap],
        "found among 5": [value for value, _, rank in kinds if rank and rank <= 5],
        "not found among 5": [value for value, _, rank in kinds if not rank or rank > 5],
        "unanswerable": [sure(question) for question in unanswerable],
    }
    print(
        f"\n| confidence | count | {' | '.join(f'{part}0%' for part in range(11))} | below {LEAST_SURE} |\n|{'---|' * 14}"
    )
    for label, group in groups.items():
        cells = " | ".join(f"{quantile(group, part / 10):.2f}" for part in range(11))
        print(f"| {label} | {len(group)} | {cells} | {sum(value < LEAST_SURE for value in group) / len(group):.0%} |")
    print(f"\n98% of 'found among 5' are at {quantile(groups['found among 5'], 0.02):.3f} or more")


def quantile(values: Sequence[float], part: float) -> float:
    """Return the value that this part of `values` lies below."""
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)]


def main() -> None:
    """Measure, and print tables in Markdown."""
    texts = load_texts()
    answerable, unanswerable = load_questions()
    questions = [question for question in answerable if question.source in texts]
    documents = {source: parsed(text) for source, text in texts.items()}
    chunks = listed(documents)
    wanted = locate(questions, chunks, texts)
    print(f"{len(texts)} sources, {len(chunks)} chunks, {len(questions)} questions, {len(unanswerable)} unanswerable\n")
    with tempfile.TemporaryDirectory() as folder:
        own = OwnLibrary(Path(folder), documents, {source.name: source.title for source in SOURCES})
        print("| retriever | questions | count | recall@1 | recall@5 | recall@10 | MRR |\n|---|---|---|---|---|---|---|")
        report("rank-bm25", questions, find_ranks(RankBm25(chunks), questions, wanted))
        report("rank-bm25, stems and pairs", questions, find_ranks(RankBm25(chunks, own.database), questions, wanted))
        ranks = find_ranks(own, questions, wanted)
        report("Hearth", questions, ranks, by_source=True)
        report("Hearth, in the source alone", questions, find_ranks_within(own, questions, wanted))
        report_confidence(own, questions, ranks, unanswerable)


if __name__ == "__main__":
    main()
