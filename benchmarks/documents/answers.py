"""Measures how often the citations of answers hold the answer, on a real server with a real model.

`python -m benchmarks.documents.answers MODEL.gguf` asks questions of the test set whose passage has their words, each from
the collection of all sources, and prints a table in Markdown. On two cores it takes about five minutes.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import requests

from benchmarks.documents.evaluate import load_texts
from benchmarks.documents.questions import Question, find_passage, load_questions
from benchmarks.harness.scratch import scratch_folder
from benchmarks.harness.servers import OWN, Hearth

QUESTIONS = 40
COLLECTION = "texts"


@dataclass(frozen=True)
class Outcome:
    """The outcome of one question: the citations hold the passage, a mark names it, the words are right."""

    is_cited: bool
    has_marks: bool
    is_marked: bool
    is_right: bool


def main() -> None:
    """Ask, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a GGUF file with a chat template")
    arguments = parser.parse_args()
    texts = load_texts()
    asked = [question for question in load_questions()[0] if question.source in texts and question.overlap]
    Random(1).shuffle(asked)
    with scratch_folder() as folder:
        server = Hearth(arguments.model.resolve(), Path(folder), OWN, {"memory_k": 0, "max_tokens": 60})
        server.start()
        try:
            sources = {source: upload(server, source, text) for source, text in texts.items()}
            outcomes = [ask(server, question, sources) for question in asked[:QUESTIONS]]
        finally:
            server.stop()
    print("| of the answers | share |\n|---|---|")
    for name, values in (
        ("citations hold the passage that answers", [each.is_cited for each in outcomes]),
        ("the model writes marks such as [1]", [each.has_marks for each in outcomes]),
        ("a mark names that passage", [each.is_marked for each in outcomes]),
        ("the words hold the expected answer", [each.is_right for each in outcomes]),
    ):
        print(f"| {name} | {sum(values)} of {len(values)} |")


def upload(server: Hearth, source: str, text: str) -> str:
    """Store a source's text in the collection; return the file's id."""
    reply = requests.post(
        f"{server.url}/files",
        files={"file": (f"{source}.txt", text.encode())},
        data={"collection": COLLECTION},
        headers=server.headers,
        timeout=600,
    )
    reply.raise_for_status()
    return str(reply.json()["id"])


def ask(server: Hearth, question: Question, sources: dict[str, str]) -> Outcome:
    """Ask a question from the collection."""
    body = {"prompt": question.question, "collection": COLLECTION}
    reply = requests.post(f"{server.url}/answer", json=body, headers=server.headers, timeout=600)
    reply.raise_for_status()
    answer: dict[str, Any] = reply.json()
    # The parser may leave out lines that are empty: the passage is looked for in the citation's own text.
    holding = [
        each
        for each in answer["citations"]
        if each["file"] == sources[question.source] and find_passage(each["text"], question.passage)
    ]
    return Outcome(
        bool(holding),
        any(each["cited"] for each in answer["citations"]),
        any(each["cited"] for each in holding),
        question.answer.casefold() in answer["result"].casefold(),
    )


if __name__ == "__main__":
    main()
