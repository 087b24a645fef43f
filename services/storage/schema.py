"""The tables of data/hearth.sqlite: usage, jobs, responses, the keys' last use, and the models that were probed."""

from __future__ import annotations

# Values of `PRAGMA user_version`: the tables are made; and accounts are charged for what was used on the day of an upgrade
# from a version that did not charge them (see `UsageStore.begin_charges`).
MADE, CHARGED = 1, 2
# The table that was added last: a database of an earlier version has the others alone.
NEWEST = "responses"

TABLES = (
    # One row a key and day (UTC, ISO 8601).
    "CREATE TABLE IF NOT EXISTS usage (key TEXT NOT NULL, day TEXT NOT NULL, requests INTEGER NOT NULL, "
    "prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, "
    "cpu_seconds REAL NOT NULL, PRIMARY KEY (key, day))",
    "CREATE TABLE IF NOT EXISTS charged (account TEXT NOT NULL, day TEXT NOT NULL, tokens INTEGER NOT NULL, "
    "PRIMARY KEY (account, day))",
    "CREATE INDEX IF NOT EXISTS charged_day ON charged (day)",
    # Times are seconds since 1970.
    "CREATE TABLE IF NOT EXISTS jobs (owner TEXT NOT NULL, id TEXT NOT NULL, digest TEXT NOT NULL, path TEXT NOT NULL, "
    "body BLOB NOT NULL, state TEXT NOT NULL, created REAL NOT NULL, finished REAL, status INTEGER, content_type TEXT, "
    "reply BLOB, session TEXT NOT NULL DEFAULT '', PRIMARY KEY (owner, id))",
    "CREATE INDEX IF NOT EXISTS jobs_by_end ON jobs (finished)",
    "CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state)",
    # `items` and `body` are JSON, `used` is in seconds since 1970.
    "CREATE TABLE IF NOT EXISTS responses (owner TEXT NOT NULL, id TEXT NOT NULL, previous TEXT NOT NULL, "
    "session TEXT NOT NULL, status TEXT NOT NULL, used REAL NOT NULL, items BLOB NOT NULL, body BLOB NOT NULL, "
    "left_out INTEGER NOT NULL, PRIMARY KEY (owner, id))",
    "CREATE INDEX IF NOT EXISTS responses_by_use ON responses (used)",
    "CREATE INDEX IF NOT EXISTS responses_by_session ON responses (owner, session)",
    # ISO 8601, UTC.
    "CREATE TABLE IF NOT EXISTS last_use (key TEXT PRIMARY KEY, time TEXT NOT NULL)",
    # Settings that llama.cpp has loaded in a probe, by their digest, and the model file's name.
    "CREATE TABLE IF NOT EXISTS probes (digest TEXT PRIMARY KEY, file TEXT NOT NULL)",
    # Older files whose rows are copied, and which are still to be removed.
    "CREATE TABLE IF NOT EXISTS taken_over (name TEXT PRIMARY KEY)",
)
