"""The questions of questions.json, and where their passages are."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).with_name("questions.json")


@dataclass(frozen=True)
class Question:
    """A question that a passage of a source answers; `overlap` says whether it uses the passage's words."""

    source: str
    question: str
    answer: str
    passage: str
    overlap: bool


def load_questions(path: Path = PATH) -> tuple[list[Question], list[str]]:
    """Return the questions with an answer, and those that none of the sources answers."""
    entries = json.loads(path.read_text(encoding="utf-8"))
    answerable = [Question(**entry) for entry in entries if not entry.get("unanswerable")]
    return answerable, [entry["question"] for entry in entries if entry.get("unanswerable")]


def find_passage(text: str, passage: str) -> list[tuple[int, int]]:
    """Return where the passage is in the text, word for word; the text may break its lines elsewhere."""
    pattern = r"\s+".join(re.escape(word) for word in passage.split())
    return [match.span() for match in re.finditer(pattern, text)]
