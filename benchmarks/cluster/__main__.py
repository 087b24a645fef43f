"""The command line: measure the rows, keep the results, and write docs/scaling.md."""

from __future__ import annotations

import argparse
import json
from datetime import datetime, timezone

from benchmarks.cluster.document import write_document
from benchmarks.cluster.rows import ROWS
from benchmarks.harness.servers import ROOT

RESULTS = ROOT / "benchmarks" / "cluster" / "measured.json"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="benchmarks/run cluster", description="Measure a cluster on this machine.")
    rows = "; ".join(f"{name}: {(row.__doc__ or '').splitlines()[0]}" for name, row in ROWS.items())
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"what to measure (all): {rows}")
    parser.add_argument("--pairs", type=int, default=3, help="how often (3)")
    parser.add_argument("--draw", action="store_true", help="only simulate, and write docs/scaling.md")
    given = parser.parse_args()
    if unknown := [name for name in given.rows if name not in ROWS]:
        parser.error(f"there is no row {unknown[0]}: there are {', '.join(ROWS)}")
    measured = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in () if given.draw else given.rows or ROWS:
        numbers = ROWS[name](given.pairs)
        measured[name] = {"date": datetime.now(timezone.utc).date().isoformat(), "pairs": given.pairs, **numbers}
        RESULTS.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
        print(name, json.dumps(numbers), flush=True)
    if given.draw or not given.rows:
        print(f"{write_document(measured, ROOT / 'docs')} is written.")


if __name__ == "__main__":
    main()
