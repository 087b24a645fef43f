"""The command line: measure the rows with each model, print the tables, write docs/performance.md."""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.model import make_model
from benchmarks.harness.peer import make_peer
from benchmarks.harness.servers import ROOT
from benchmarks.single.bench import OURS, THEIRS, Bench, Pair
from benchmarks.single.document import write_document
from benchmarks.single.figures import FIGURES
from benchmarks.single.results import Results, stored_results
from benchmarks.single.rows import ROWS, rows_of
from benchmarks.single.table import as_text

BUILD = ROOT / "benchmarks" / "build"
RESULTS = BUILD / "results"
# Stands for the model that the benchmark makes, among the files of --model.
MADE = "synthetic"


def main() -> int:
    """Run the command; return the exit status: 1 if a row could not be measured."""
    parser = new_parser()
    arguments = parser.parse_args()
    if unknown := set(arguments.rows) - set(ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}")
    # So that stopping this program stops the servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    BUILD.mkdir(exist_ok=True)
    failed = []
    if not arguments.draw:
        files = chosen_files(parser, arguments.files or [("model", MADE)])
        binaries = make_peer(BUILD)
        for ours, theirs in files:
            failed += measure_all(Bench(ours, theirs, binaries), arguments.rows, arguments.pairs)
    results = stored_results(RESULTS)
    for each in results:
        print(f"\n{each.name}\n{as_text(each.lines(arguments.rows or None))}")
    if not arguments.no_docs:
        print(f"Written: {write_document(results, ROOT / 'docs').relative_to(ROOT)}")
    if failed:
        print(f"Not measured: {', '.join(failed)}")
    return 1 if failed else 0


def measure_all(bench: Bench, rows: Sequence[str], pairs: int) -> list[str]:
    """Measure those rows, or all that fit the model, and store each; return the ones that failed."""
    results = Results(RESULTS / f"{bench.name}.json")
    failed = []
    for row in rows or rows_of(bench):
        try:
            results.save(row, measure(row, bench, pairs), bench.ours.name)
        except Exception:
            # The other rows are measured all the same: a run takes an hour, and may be a night's.
            traceback.print_exc()
            failed.append(f"{row} ({bench.name})")
    return failed


def measure(row: str, bench: Bench, pairs: int) -> list[Pair]:
    """Measure a row so many times, and print each result."""
    done = []
    for number in range(pairs):
        print(f"{bench.name}: {row}, pair {number + 1} of {pairs} …", flush=True)
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


def new_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks/run", description="Measure Hearth beside llama-server.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"rows to measure (all): {', '.join(ROWS)}")
    parser.add_argument("--pairs", type=int, default=3, help="how often each row measures both (3)")
    parser.add_argument(
        "--model",
        metavar="FILE",
        dest="files",
        action="append",
        type=lambda file: ("model", file),
        help=f"a GGUF file for both servers, or {MADE!r}, which is the default; several run one after the other",
    )
    parser.add_argument(
        "--tuned",
        metavar="FILE",
        dest="files",
        action="append",
        type=lambda file: ("tuned", file),
        help="a file for Hearth beside the --model before it for llama-server: as `main.py tune --convert` leaves it",
    )
    parser.add_argument("--no-docs", action="store_true", help="print the table, do not write docs/performance.md")
    parser.add_argument(
        "--draw", action="store_true", help="measure nothing: write docs/performance.md from stored results"
    )
    return parser


def chosen_files(parser: argparse.ArgumentParser, given: Sequence[tuple[str, str]]) -> list[tuple[Path, Path]]:
    """Return the files of Hearth and of llama-server, for each `(kind, name)` given: "model" or "tuned", and a file.

    An error of `parser` ends the process.
    """
    pairs: list[tuple[Path, Path]] = []
    for kind, name in given:
        path = make_model(BUILD) if (kind, name) == ("model", MADE) else Path(name).resolve()
        if not path.is_file():
            parser.error(f"--{kind}: there is no file {name}")
        if kind == "tuned" and not pairs:
            parser.error("--tuned needs the --model that it was made of before it")
        pairs.append((path, path if kind == "model" else pairs[-1][1]))
    return pairs


if __name__ == "__main__":
    sys.exit(main())
