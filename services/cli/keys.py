"""`main.py keys …`: the keys and their usage, from the command line of the machine itself."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from auth.audit import AuditLog
from auth.identity import GRACE, SCOPES, USUAL, Limits, Terms
from auth.usage import as_csv, entries
from services.bootstrap import open_keys, open_usage
from services.logs import visible
from services.settings import Settings, settings_of
from services.validation import explain

_LIMITS = tuple(Limits.model_fields)
_NONE = "none"


def keys(arguments: Sequence[str]) -> int:
    """Run `main.py keys` with these arguments; return the exit status. Raises HearthError."""
    parser = _parser()
    given = parser.parse_args(arguments)
    settings = settings_of(parser, given, "data")
    run: Callable[[_Command, argparse.Namespace], None] = given.run
    run(_Command(settings, parser.error), given)
    return 0


class _Command:
    """The key store, the audit log, and the report of wrong arguments, for one command."""

    def __init__(self, settings: Settings, fail: Callable[[str], Any]) -> None:
        settings.data.mkdir(parents=True, exist_ok=True)
        self.store = open_keys(settings, os.environ)
        self.settings = settings
        self._audit = AuditLog(settings.data / "audit.jsonl")
        self.fail = fail

    def note(self, did: str, id_: str) -> None:
        self._audit.note(did, None, of=id_, by="command line")

    def terms(self, given: argparse.Namespace) -> Terms:
        """Return the terms of the flags; "none" takes one away. Exits where one is wrong."""
        fields: dict[str, Any] = {}
        for name in ("name", "expires", "scopes", "profiles"):
            value = getattr(given, name)
            if value is not None:
                listed = [part.strip() for part in value.split(",")] if name in ("scopes", "profiles") else value
                fields[name] = None if value == _NONE else listed
        limits = {name: _count(value) for name in _LIMITS if (value := getattr(given, name)) is not None}
        try:
            return Terms.model_validate({**fields, **({"limits": limits} if limits else {})})
        except ValidationError as error:
            self.fail(explain(error, Terms.model_fields).message)
            raise


def _show_key(key: str, what: str) -> None:
    print(f"\n    {key}\n\n{what} It is shown this once.")


def _mint(command: _Command, given: argparse.Namespace) -> None:
    minted = command.store.mint(command.terms(given))
    command.note("mint", minted.id)
    _show_key(minted.key, f"This is the key {minted.id}.")


def _change(command: _Command, given: argparse.Namespace) -> None:
    command.store.change(given.id, command.terms(given))
    command.note("change", given.id)
    _print_keys([command.store.describe(given.id)])


def _rotate(command: _Command, given: argparse.Namespace) -> None:
    try:
        minted, until = command.store.rotate(given.id, given.grace)
    except ValueError as error:
        command.fail(f"--grace {error}")
        raise
    command.note("rotate", given.id)
    _show_key(minted.key, f"This is the key {given.id} from now on; the old one works until {until}.")


def _revoke(command: _Command, given: argparse.Namespace) -> None:
    command.store.revoke(given.id)
    command.note("revoke", given.id)
    print(f"The key {given.id} works no longer.")


def _list(command: _Command, _given: argparse.Namespace) -> None:
    _print_keys(command.store.list())


def _usage(command: _Command, given: argparse.Namespace) -> None:
    first = (datetime.now(timezone.utc).date() - timedelta(days=max(given.days, 1) - 1)).isoformat()
    usage = open_usage(command.settings, os.environ)
    rows = entries(usage.rows(given.id, first), command.store.names())
    usage.close()
    if given.csv:
        print(as_csv(rows), end="")
    elif given.json:
        print(json.dumps({"usage": rows}, indent=2))
    else:
        _draw(rows)


def _draw(rows: list[dict[str, Any]]) -> None:
    """Print a line for each key and day, with a bar as long as its share of the largest count of tokens."""
    tokens = [row["prompt_tokens"] + row["completion_tokens"] for row in rows]
    table = Table("day (UTC)", "key", "name", *("requests", "prompt", "cached", "answered", "CPU s"), "tokens")
    for column in table.columns[3:8]:
        column.justify = "right"
    for row, count in zip(rows, tokens, strict=True):
        numbers = (row["requests"], row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"])
        bar = "█" * max(round(20 * count / max(*tokens, 1)), 1 if count else 0)
        texts = (
            row["day"],
            row["key"],
            visible(row["name"] or ""),
            *(f"{n:,}" for n in numbers),
            f"{row['cpu_seconds']:,.1f}",
        )
        table.add_row(*texts, f"{bar} {count:,}")
    Console(width=None if os.isatty(1) else 140, markup=False, highlight=False).print(table)


def _print_keys(listed: list[dict[str, Any]]) -> None:
    table = Table("id", "name", "scopes", "profiles", "limits", "expires", "last used")
    for key in listed:
        limits = ", ".join(f"{name} {most:,}" for name, most in key["limits"].items())
        name, profiles = (
            visible(key["name"] or ""),
            "all" if key["profiles"] is None else visible(", ".join(key["profiles"])),
        )
        texts = (key["id"], name, ", ".join(key["scopes"]), profiles, limits)
        table.add_row(*texts, key["expires"] or "never", key["last_used"] or "")
    Console(width=None if os.isatty(1) else 160, markup=False, highlight=False).print(table)


def _count(text: str) -> Any:
    """Return a flag's limit; anything but a number is left as it is, for the model to refuse by name."""
    return None if text == _NONE else int(text) if text.isdecimal() else text


def _parser() -> argparse.ArgumentParser:
    # Before the command's name or behind it.
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data", metavar="…", default=argparse.SUPPRESS, help="folder of api_keys.json")
    about = "The keys of this machine's server, and their usage."
    parser = argparse.ArgumentParser(prog="main.py keys", description=about, parents=[common])
    parser.set_defaults(run=_list, id=None)
    commands = parser.add_subparsers(metavar="COMMAND")
    commands.add_parser("list", parents=[common], help="what there are (the default)").set_defaults(run=_list)
    mint = commands.add_parser("mint", parents=[common], help="make one, and show it this once")
    change = commands.add_parser("change", parents=[common], help='change what one may do; "none" takes a thing away')
    for command, run in ((mint, _mint), (change, _change)):
        command.set_defaults(run=run)
        command.add_argument("--name", help="whose it is")
        command.add_argument("--expires", help="a time (ISO 8601), or how long from now: 30d, 12h")
        command.add_argument("--scopes", help=f"with commas between, of {', '.join(SCOPES)} ({', '.join(USUAL)})")
        command.add_argument("--profiles", help="the profiles that it may use, with commas between (all)")
        for name in _LIMITS:
            command.add_argument(f"--{name.replace('_', '-')}", metavar="N", help="limit")
    rotate = commands.add_parser("rotate", parents=[common], help="give one a new form; the old one works on for a while")
    rotate.set_defaults(run=_rotate)
    rotate.add_argument("--grace", default=GRACE, help=f"for how long the old one works: 12h, 0s ({GRACE})")
    revoke = commands.add_parser("revoke", parents=[common], help="end one, at once")
    revoke.set_defaults(run=_revoke)
    for command in (change, rotate, revoke):
        command.add_argument("id", metavar="ID")
    usage = commands.add_parser("usage", parents=[common], help="draw who used how much, day by day")
    usage.set_defaults(run=_usage)
    usage.add_argument("id", metavar="ID", nargs="?", help="of one key only")
    usage.add_argument("--days", type=int, default=30, help="of how many days (30)")
    usage.add_argument("--csv", action="store_true", help="as CSV")
    usage.add_argument("--json", action="store_true", help="as JSON")
    return parser
