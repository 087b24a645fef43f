"""The test set says what its page claims: enough questions of each kind, quotes, and words that are avoided."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.documents.chunks import Chunk
from benchmarks.documents.evaluate import Score, holders, locate, quantile
from benchmarks.documents.questions import PATH, Question, find_passage, load_questions
from benchmarks.documents.sources import SOURCES
from services.documents.database import DocumentDatabase
from services.documents.words import words_of

FIELDS = {"source", "question", "answer", "passage", "overlap"}


def content_words(texts: list[str], database: DocumentDatabase) -> list[set[str]]:
    """The words of each text as the index has them, without those that every question has."""
    return [set(database.stems(words_of(text))) for text in texts]


def test_every_entry_has_an_answer_or_says_that_there_is_none() -> None:
    for entry in json.loads(PATH.read_text(encoding="utf-8")):
        assert entry.keys() == FIELDS or entry == {"question": entry["question"], "unanswerable": True}
        assert all(value.strip() for value in entry.values() if isinstance(value, str))


def test_there_are_enough_questions_of_each_kind() -> None:
    answerable, unanswerable = load_questions()
    assert len(answerable) >= 200
    assert sum(not question.overlap for question in answerable) * 2 >= len(answerable)
    assert len(unanswerable) >= 40
    questions = [question.question for question in answerable] + unanswerable
    assert len(set(questions)) == len(questions)


def test_every_source_is_known_and_asked_about() -> None:
    answerable, _ = load_questions()
    assert {question.source for question in answerable} == {source.name for source in SOURCES}
    assert len({source.sha256 for source in SOURCES}) == len(SOURCES)


def test_passages_are_quotes_of_one_or_two_sentences() -> None:
    languages = {source.name: source.language for source in SOURCES}
    for question in load_questions()[0]:
        # A Chinese or Japanese character says as much as two or three letters.
        shortest = 20 if languages[question.source] in {"zh", "ja"} else 40
        assert shortest <= len(question.passage) <= 200, question.passage
        assert question.passage == " ".join(question.passage.split())


def test_half_of_the_questions_avoid_the_words_of_passage_and_answer(tmp_path: Path) -> None:
    answerable, _ = load_questions()
    database = DocumentDatabase(tmp_path / "documents.sqlite")
    asked = content_words([question.question for question in answerable], database)
    passages = content_words([question.passage for question in answerable], database)
    answers = content_words([question.answer for question in answerable], database)
    for question, words, passage, answer in zip(answerable, asked, passages, answers, strict=True):
        if question.overlap:
            assert words & passage, question.question
        else:
            assert len(words & passage) <= 1, question.question
            assert not words & answer, question.question


def test_a_passage_is_found_across_line_breaks() -> None:
    assert find_passage("It was\n   the BEST butter.", "the BEST butter") == [(10, 25)]
    assert find_passage("It was the butter.", "the BEST butter") == []


def test_a_chunk_answers_if_it_holds_half_of_the_passage() -> None:
    chunks = [Chunk(0, "a", 0, 14, ""), Chunk(1, "a", 15, 40, ""), Chunk(2, "a", 16, 40, ""), Chunk(3, "b", 0, 40, "")]
    assert holders(chunks, [(10, 20)], "a") == {1}
    assert holders(chunks, [(10, 20)], "b") == {3}


def test_a_passage_that_is_not_there_stops_the_measurement() -> None:
    question = Question("a", "Which butter?", "the best", "the BEST butter", True)
    text = "It was the BEST butter."
    assert locate([question], [Chunk(0, "a", 0, 23, text)], {"a": text}) == [{0}]
    with pytest.raises(ValueError, match="a has 0 of: the BEST butter"):
        locate([question], [Chunk(0, "a", 0, 5, "Bread")], {"a": "Bread"})


def test_scores_and_quantiles() -> None:
    assert Score.of([1, 2, None, 8]) == Score(4, 0.25, 0.5, 0.75, (1 + 1 / 2 + 1 / 8) / 4)
    assert [quantile([3, 1, 2, 4], part) for part in (0, 0.5, 1)] == [1, 3, 4]
