"""Hearth's command line: `python3 main.py` serves; the commands are in services/cli."""

from __future__ import annotations

import sys

from services.cli.commands import run_command


def main() -> int:
    """Run the command that the arguments name; return the exit status."""
    return run_command(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
