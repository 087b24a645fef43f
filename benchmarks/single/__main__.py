"""The command line: measure the rows, print the table, write docs/performance.md."""

from __future__ import annotations

import argparse
import signal
import sys

from benchmarks.harness.model import make_model
from benchmarks.harness.peer import make_peer
from benchmarks.harness.servers import ROOT
from benchmarks.single.bench import OURS, THEIRS, Bench, Pair
from benchmarks.single.document import write_document
from benchmarks.single.figures import FIGURES
from benchmarks.single.results import Results
from benchmarks.single.rows import ROWS
from benchmarks.single.table import as_text

BUILD = ROOT / "benchmarks" / "build"


def main() -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks/run", description="Measure Hearth beside llama-server.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"rows to measure (all): {', '.join(ROWS)}")
    parser.add_argument("--pairs", type=int, default=3, help="how often each row measures both (3)")
    parser.add_argument("--no-docs", action="store_true", help="print the table, do not write docs/performance.md")
    parser.add_argument(
        "--draw", action="store_true", help="measure nothing: write docs/performance.md from stored results"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.rows) - set(ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}")
    # So that stopping this program stops the servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    BUILD.mkdir(exist_ok=True)
    results = Results(BUILD / "results.json")
    if not arguments.draw:
        bench = Bench(make_model(BUILD), make_peer(BUILD))
        for row in arguments.rows or ROWS:
            results.save(row, measure(row, bench, arguments.pairs))
    print(as_text(results.lines(arguments.rows or None)))
    if not arguments.no_docs:
        print(f"Written: {write_document(results, ROOT / 'docs').relative_to(ROOT)}")
    return 0


def measure(row: str, bench: Bench, pairs: int) -> list[Pair]:
    """Measure a row so many times, and print each result."""
    done = []
    for number in range(pairs):
        print(f"{row}, pair {number + 1} of {pairs} …", flush=True)
        pair = ROWS[row](bench, number)
        done.append(pair)
        for figure in FIGURES:
            if figure.row == row:
                sides = ((side, pair[side].get(figure.key)) for side in (OURS, THEIRS))
                shown = ", ".join(
                    f"{side} {value * figure.scale:,.{figure.digits}f}" for side, value in sides if value is not None
                )
                print(f"    {figure.what}: {shown} {figure.unit}", flush=True)
    return done


if __name__ == "__main__":
    sys.exit(main())
