"""The words of a text as SQLite's full-text index sees them, and those too common to search for."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable

TOKENIZER = "unicode61 remove_diacritics 2"
# Runs of Chinese and Japanese characters (Han, kana), which no space divides into words.
_RUNS = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")

_COMMON = """
a about after all also am an and any are as at be because been before being but by can could did do does doing done
for from had has have he her here him his how i if in into is it its itself just like may me might more most much must
my no nor not of off on one only or other our out over own s same shall she should so some such t than that the their
them then there these they this those through to too under until up upon us very was we were what when where which
while who whom whose why will with would you your
aber als am an auch auf aus bei bin bis da das dass dem den der des die doch du durch ein eine einem einen einer eines
er es für gibt hat haben ich ihr im in ist ja kann können man mit nach nicht noch nur ob oder sich sie sind so soll
sollte über um und uns unter vom von vor wann war warum was wenn wer werden weshalb welche welchen welcher welches wie
wird wo wohin womit wovon wovor zu zum zur
au aux avec ce ces cette comment dans de des du elle elles en est et eux faut il ils je la le les leur lui ma mais me
mes mon ne nos notre nous ou où par pas pour quand que quel quelle quelles quels qu qui quoi sa sans se ses si son
sont sur ta te tu un une vos votre vous y a t l d s n c j
al como cuál cuándo cuánto de del dónde el ella en es está están esta este hasta la las lo los más no o para pero por
puede qué quién se si sin son su sus te tiene tu un una y ya
"""


def spread(text: str) -> str:
    """Return the text with every run of Chinese or Japanese characters as its overlapping pairs, each a word."""
    return _RUNS.sub(lambda run: f" {' '.join(_pairs(run[0]))} ", text)


def _pairs(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(len(run) - 1)] or [run]


def terms(texts: Iterable[str], *, stem: bool = True) -> list[list[str]]:
    """Return each text's words in order as FTS5 indexes them: without case and diacritics, and with Porter's stems."""
    with sqlite3.connect(":memory:") as db:
        tokenizer = f"porter {TOKENIZER}" if stem else TOKENIZER
        db.execute(f"CREATE VIRTUAL TABLE texts USING fts5(body, tokenize='{tokenizer}')")
        db.execute("CREATE VIRTUAL TABLE words USING fts5vocab(texts, instance)")
        rows = list(enumerate(texts, 1))
        db.executemany("INSERT INTO texts(rowid, body) VALUES (?, ?)", rows)
        found: dict[int, list[tuple[int, str]]] = {row: [] for row, _ in rows}
        for word, row, offset in db.execute("SELECT term, doc, offset FROM words"):
            found[row].append((offset, word))
    db.close()
    return [[word for _, word in sorted(pairs)] for pairs in found.values()]


def common_terms(*, stem: bool = True) -> frozenset[str]:
    """The words of English, German, French and Spanish that nearly every text holds, as `terms` writes them."""
    return frozenset(terms([_COMMON], stem=stem)[0])
