"""docs/replies.md says what the code does."""

from __future__ import annotations

from tests.support.llama_chat_cases import chat_cases
from tests.support.reply_table import BEGIN, END, PAGE, table
from tests.unit.replies.test_llama_cases import DIFFERENT


def test_the_table_of_formats_is_what_the_code_does() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0] == table(), "python -m tests.support.reply_table writes it anew"


def test_the_page_counts_llama_cpps_cases() -> None:
    found = chat_cases()
    words = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"All {len(found.runs)} tests of replies" in words
    assert f"({len(found.cases)} cases)" in words
    assert f"{['', 'One', 'Two', 'Three', 'Four', 'Five', 'Six', 'Seven', 'Eight'][len(DIFFERENT)]} of them" in words
