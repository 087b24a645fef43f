"""The four files that older servers kept what is in data/hearth.sqlite now in, with the tables as those made them."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from auth.usage import today

OLD = ["usage.sqlite", "jobs.sqlite", "key_use.json", "tried.json"]
NOON = "2026-01-01T12:00:00+00:00"
USAGE = (
    "CREATE TABLE IF NOT EXISTS usage (key TEXT NOT NULL, day TEXT NOT NULL, requests INTEGER NOT NULL, "
    "prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, "
    "cpu_seconds REAL NOT NULL, PRIMARY KEY (key, day))"
)
CHARGED = (
    "CREATE TABLE IF NOT EXISTS charged (account TEXT NOT NULL, day TEXT NOT NULL, tokens INTEGER NOT NULL, "
    "PRIMARY KEY (account, day))",
    "CREATE INDEX IF NOT EXISTS charged_day ON charged (day)",
    "PRAGMA user_version = 1",
)
# The first files of jobs had no session.
JOBS = (
    "CREATE TABLE IF NOT EXISTS jobs (owner TEXT NOT NULL, id TEXT NOT NULL, digest TEXT NOT NULL, path TEXT NOT NULL, "
    "body BLOB NOT NULL, state TEXT NOT NULL, created REAL NOT NULL, finished REAL, status INTEGER, content_type TEXT, "
    "reply BLOB, PRIMARY KEY (owner, id))",
    "CREATE INDEX IF NOT EXISTS by_end ON jobs (finished)",
    "CREATE INDEX IF NOT EXISTS by_state ON jobs (state)",
)
SESSION = "ALTER TABLE jobs ADD COLUMN session TEXT NOT NULL DEFAULT ''"


def older_files(folder: Path, *, charged: bool = True, session: bool = True, key: str = "a") -> None:
    """What an older server, killed, has left: with WALs that nobody has written back."""
    with open_old(folder / "usage.sqlite") as usage:
        usage.execute(USAGE)
        usage.execute("INSERT INTO usage VALUES (?, ?, 2, 30, 10, 40, 0.5)", (key, today()))
        for statement in CHARGED if charged else ():
            usage.execute(statement)
        if charged:
            usage.execute("INSERT INTO charged VALUES (?, ?, 70)", (key, today()))
    with open_old(folder / "jobs.sqlite") as jobs:
        for statement in JOBS:
            jobs.execute(statement)
        columns, row = "owner, id, digest, path, body, state, created", (key, "job:1", "d", "/answer", b"{}", "queued", 5.0)
        jobs.execute(f"INSERT INTO jobs ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        if session:
            jobs.execute(SESSION)
            jobs.execute("UPDATE jobs SET session = '3'")
    (folder / "key_use.json").write_text(json.dumps({key: NOON}))
    (folder / ".key_use.json.lock").touch()
    (folder / "tried.json").write_text(json.dumps({"0f": "guide.gguf"}))


class open_old:  # noqa: N801
    """A database as older servers made it; what is written stays in its WAL, as after a kill."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = sqlite3.connect(path, isolation_level=None)

    def __enter__(self) -> sqlite3.Connection:
        self._db.execute("PRAGMA journal_mode=WAL")
        return self._db

    def __exit__(self, *_: object) -> None:
        left = {path: path.read_bytes() for path in self._path.parent.glob(f"{self._path.name}*")}
        self._db.close()
        for path, data in left.items():
            path.write_bytes(data)
