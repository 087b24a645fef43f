"""Measures how often a retriever finds the passage that answers a question.

`python -m benchmarks.documents.evaluate` compares rank-bm25 and FTS5; `--experiments` adds variants of FTS5 and of the
chunks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.documents.chunks import Chunk, split
from benchmarks.documents.questions import Question, find_passage, load_questions
from benchmarks.documents.retrievers import Fts5, RankBm25, Retriever, Scheme
from benchmarks.documents.sources import SOURCES, SourceError, load

# How deep a retriever is asked; MRR counts a passage that is not among these as 0.
DEPTH = 10
# What the other experiments start from.
BEST = Scheme(without_common=True, pairs=True)
SCHEMES = {
    "FTS5": Scheme(),
    "without stems": Scheme(stem=False),
    "without common words": Scheme(without_common=True),
    "pairs of CJK characters": Scheme(pairs=True),
    "without common words, pairs": BEST,
    "… heading x 0.5": Scheme(without_common=True, pairs=True, heading=0.5),
    "… heading x 2": Scheme(without_common=True, pairs=True, heading=2),
    "… title x 0.5": Scheme(without_common=True, pairs=True, title=0.5),
    "… title x 1": Scheme(without_common=True, pairs=True, title=1),
    "… heading x 0.5, title x 0.5": Scheme(without_common=True, pairs=True, heading=0.5, title=0.5),
    "… phrases": Scheme(without_common=True, pairs=True, phrases=True),
    "… NEAR": Scheme(without_common=True, pairs=True, near=True),
    "… prefixes": Scheme(without_common=True, pairs=True, prefixes=True),
    "… without stems, prefixes": Scheme(stem=False, without_common=True, pairs=True, prefixes=True),
}
# The schemes that are measured without --experiments.
DEFAULT = ("FTS5", "pairs of CJK characters", "without common words, pairs")
SIZES = ((400, 60), (600, 0), (600, 90), (800, 0), (800, 120), (800, 240), (1000, 150), (1200, 180))


@dataclass(frozen=True)
class Score:
    """What share of the passages is among the best 1, 5 and 10 chunks, and the mean of 1 / rank."""

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
    """Return the ids of the chunks that hold at least half of the passage, wherever it is in its source."""
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
        results = [chunk for chunk, _ in retriever.search(question.question, DEPTH)]
        ranks.append(next((rank for rank, chunk in enumerate(results, 1) if chunk in ids), None))
    return ranks


def find_ranks_within(
    chunks: Sequence[Chunk], questions: Sequence[Question], wanted: Sequence[set[int]]
) -> list[int | None]:
    """Return the ranks as `find_ranks` does, when each question is asked of its own source alone."""
    sources = {question.source for question in questions}
    indexes = {source: Fts5([chunk for chunk in chunks if chunk.source == source], BEST) for source in sources}
    pairs = zip(questions, wanted, strict=True)
    return [rank for question, ids in pairs for rank in find_ranks(indexes[question.source], [question], [ids])]


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
    retriever: Fts5, questions: Sequence[Question], ranks: Sequence[int | None], unanswerable: Sequence[str]
) -> None:
    """Print how confidence is distributed, and which part of the questions a threshold would refuse."""
    answerable = [retriever.confidence(question.question) for question in questions]
    others = [retriever.confidence(question) for question in unanswerable]
    measures: dict[str, Callable[[tuple[float, float]], float]] = {
        "share": lambda confidence: confidence[0],
        "share x words": lambda confidence: confidence[0] * confidence[1],
    }
    for name, measure in measures.items():
        values, refusable = (
            [measure(confidence) for confidence in answerable],
            [measure(confidence) for confidence in others],
        )
        kinds = list(zip(values, questions, ranks, strict=True))
        groups = {
            "answerable": values,
            "same words": [value for value, question, _ in kinds if question.overlap],
            "other words": [value for value, question, _ in kinds if not question.overlap],
            "found among 5": [value for value, _, rank in kinds if rank and rank <= 5],
            "not found among 5": [value for value, _, rank in kinds if not rank or rank > 5],
            "unanswerable": refusable,
        }
        print(f"\n| {name} | count | {' | '.join(f'{part}0%' for part in range(11))} |\n|{'---|' * 13}")
        for label, group in groups.items():
            print(f"| {label} | {len(group)} | {' | '.join(f'{quantile(group, part / 10):.2f}' for part in range(11))} |")
        for label in ("answerable", "same words", "found among 5"):
            threshold = quantile(groups[label], 0.02)
            print(f"\nA threshold of {threshold:.3f} keeps 98% of '{label}', and refuses:")
            for other in ("not found among 5", "unanswerable"):
                refused = sum(value < threshold for value in groups[other]) / len(groups[other])
                print(f"- of '{other}': {refused:.0%}")


def quantile(values: Sequence[float], part: float) -> float:
    """Return the value that this part of `values` lies below."""
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)]


def main() -> None:
    """Measure, and print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", action="store_true", help="variants of FTS5 and of the chunks too")
    arguments = parser.parse_args()
    texts = load_texts()
    answerable, unanswerable = load_questions()
    questions = [question for question in answerable if question.source in texts]
    chunks = split(texts)
    wanted = locate(questions, chunks, texts)
    print(f"{len(texts)} sources, {len(chunks)} chunks, {len(questions)} questions, {len(unanswerable)} unanswerable\n")
    print("| retriever | questions | count | recall@1 | recall@5 | recall@10 | MRR |\n|---|---|---|---|---|---|---|")
    report("rank-bm25", questions, find_ranks(RankBm25(chunks), questions, wanted))
    report("rank-bm25, stems and pairs", questions, find_ranks(RankBm25(chunks, stem=True), questions, wanted))
    for name, scheme in SCHEMES.items() if arguments.experiments else ((name, SCHEMES[name]) for name in DEFAULT):
        report(name, questions, find_ranks(Fts5(chunks, scheme), questions, wanted), by_source=scheme == BEST)
    report("… in the source alone", questions, find_ranks_within(chunks, questions, wanted))
    if arguments.experiments:
        for size, overlap in SIZES:
            pieces = split(texts, size, overlap)
            located = locate(questions, pieces, texts)
            report(f"chunks of {size}, {overlap} shared", questions, find_ranks(Fts5(pieces, BEST), questions, located))
    best = Fts5(chunks, BEST)
    report_confidence(best, questions, find_ranks(best, questions, wanted), unanswerable)


if __name__ == "__main__":
    main()
