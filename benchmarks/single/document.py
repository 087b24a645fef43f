"""docs/performance.md: benchmarks/single/page.md filled with the table, the plots and the machine's description."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.harness.machine import describe_machine
from benchmarks.harness.servers import LLAMA_FLAGS, ROOT
from benchmarks.single.bench import OURS, THEIRS
from benchmarks.single.figures import median_of
from benchmarks.single.plots import draw_plots
from benchmarks.single.results import Results
from benchmarks.single.rows.talks import REUSE_FLAGS
from benchmarks.single.table import as_markdown

PAGE = ROOT / "benchmarks" / "single" / "page.md"
BEGIN, END = "<!-- remarks: the text between these two lines is kept -->", "<!-- end of remarks -->"


def write_document(results: Results, docs: Path) -> Path:
    """Write performance.md and its plots into `docs`, from the stored results; return its path. Its remarks are kept."""
    path = docs / "performance.md"
    draw_plots(results, docs / "performance")
    places = {
        "dates": results.dates(),
        "machine": describe_machine(),
        "table": as_markdown(results.lines()),
        "remarks": kept_remarks(path.read_text(encoding="utf-8") if path.exists() else ""),
        "flags": " ".join(LLAMA_FLAGS),
        "reuse flags": " ".join(REUSE_FLAGS),
        "with reuse": _first_token(results, "shifting", OURS),
        "without reuse": _first_token(results, "shifting", THEIRS),
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


def _kernels(results: Results) -> str:
    """Return llama-bench's numbers as two small tables."""
    pairs = results.pairs("kernels")
    if not pairs:
        return "They were not measured: `benchmarks/run kernels`."
    parts = ["`llama-bench` and `llama-batched-bench`, on the same model and as many threads, without a server:"]
    for kind, words in (("prompt", "prompt, by tokens read at once"), ("decode", "decoding, by sequences in a batch")):
        rates = pairs[-1][OURS][kind]
        parts.append(
            f"| {words} | {' | '.join(rates)} |\n|{' --- |' * (len(rates) + 1)}\n"
            f"| tokens/s | {' | '.join(f'{rate:.0f}' for rate in rates.values())} |"
        )
    return "\n\n".join(parts)
