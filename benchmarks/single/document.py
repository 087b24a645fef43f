"""docs/performance.md: benchmarks/single/page.md filled with the tables, the plots and the machine's description."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.machine import describe_machine
from benchmarks.harness.servers import LLAMA_FLAGS, ROOT
from benchmarks.single.bench import OURS, THEIRS
from benchmarks.single.figures import median_of
from benchmarks.single.plots import draw_plots, title_of
from benchmarks.single.results import Results
from benchmarks.single.rows.chats import CHECKPOINT_FLAGS
from benchmarks.single.rows.copies import SPECULATION_FLAGS
from benchmarks.single.rows.talks import REUSE_FLAGS
from benchmarks.single.table import as_markdown

PAGE = ROOT / "benchmarks" / "single" / "page.md"
BEGIN, END = "<!-- remarks: the text between these two lines is kept -->", "<!-- end of remarks -->"


def write_document(results: Sequence[Results], docs: Path) -> Path:
    """Write performance.md and its plots into `docs`, from each model's results; return its path. Its remarks are kept."""
    path = docs / "performance.md"
    draw_plots(results, docs / "performance")
    days = sorted(set().union(*(each.days() for each in results)))
    first = results[0]
    places = {
        "dates": " to ".join(dict.fromkeys([days[0], days[-1]])),
        "machine": describe_machine(),
        "tables": "\n\n".join(_table(each) for each in results),
        "remarks": kept_remarks(path.read_text(encoding="utf-8") if path.exists() else ""),
        "flags": " ".join(LLAMA_FLAGS),
        "reuse flags": " ".join(REUSE_FLAGS),
        "checkpoint flags": " ".join(CHECKPOINT_FLAGS),
        "speculation flags": " ".join(SPECULATION_FLAGS),
        "with reuse": _first_token(first, "shifting", OURS),
        "without reuse": _first_token(first, "shifting", THEIRS),
        "kernels": _kernels(results),
    }
    text = PAGE.read_text(encoding="utf-8")
    for name, value in places.items():
        text = text.replace(f"{{{name}}}", value)
    text = re.sub(r"\{plot (\S+)\}", lambda place: _plot(place[1], docs), text)
    path.write_text(re.sub(r"\n{3,}", "\n\n", text), encoding="utf-8")
    return path


def kept_remarks(page: str) -> str:
    """Return the hand-written part of the page, between its two markers."""
    found = re.search(f"{re.escape(BEGIN)}.*?{re.escape(END)}", page, re.DOTALL)
    return found[0] if found else f"{BEGIN}\n{END}"


def _plot(name: str, docs: Path) -> str:
    path = docs / "performance" / f"{name}.svg"
    return f"![{name}](performance/{name}.svg)" if path.exists() else ""


def _first_token(results: Results, row: str, side: str) -> str:
    """Return the median first token of one side, as text."""
    pairs = results.pairs(row)
    return f"{1000 * median_of(pairs, side, 'first_token'):,.0f} ms" if pairs else "(not measured)"


def _table(results: Results) -> str:
    """Return a model's heading and table, with the name of Hearth's file if it is a tuned one."""
    note = ""
    if results.is_tuned:
        note = f"Hearth runs {', '.join(f'`{file}`' for file in results.files())}, llama-server the file itself.\n\n"
    return f"### {title_of(results)}\n\n{note}{as_markdown(results.lines())}"


def _kernels(results: Sequence[Results]) -> str:
    """Return the numbers of llama-bench and llama-batched-bench with each file, as two tables."""
    rates: dict[str, Any] = {}
    for each in results:
        for pair in each.pairs("kernels")[-1:]:
            rates[" ".join(each.files()) or title_of(each)] = pair[OURS]
    if not rates:
        return "They were not measured: `benchmarks/run kernels`."
    parts = [
        "`llama-bench` and `llama-batched-bench`, on the same models and as many threads, without a server, in tokens/s:"
    ]
    for kind, words in (("prompt", "prompt, by tokens read at once"), ("decode", "decoding, by sequences in a batch")):
        counts = list(next(iter(rates.values()))[kind])
        lines = [[words, *counts], ["---"] * (len(counts) + 1)]
        lines += [[name, *(f"{of[kind][count]:.0f}" for count in counts)] for name, of in rates.items()]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts)
