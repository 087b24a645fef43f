"""The tables of data/documents.sqlite: files, their texts and chunks, the index over these, collections and folders."""

from __future__ import annotations

SET_UP = (
    # Takes effect before the first table is made: room is given back to the disk in pieces.
    "PRAGMA auto_vacuum=INCREMENTAL",
    "PRAGMA journal_mode=WAL",
    # Committed changes outlive a power cut.
    "PRAGMA synchronous=FULL",
    # Deleted rows are overwritten.
    "PRAGMA secure_delete=ON",
    "PRAGMA foreign_keys=ON",
)
# It stems English, and takes accents off.
TOKENIZER = "porter unicode61 remove_diacritics 2"
TABLES = (
    # `created` is in seconds since 1970; `n_bytes` are those of the file as it was sent and of its text.
    # No number is used twice: a search that is in flight would take another key's text for that of a deleted file.
    "CREATE TABLE IF NOT EXISTS files (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, "
    "owner TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, purpose TEXT NOT NULL, digest TEXT NOT NULL, "
    "size INTEGER NOT NULL, n_bytes INTEGER NOT NULL, n_characters INTEGER NOT NULL, n_tokens INTEGER NOT NULL, "
    "n_pages INTEGER NOT NULL, n_chunks INTEGER NOT NULL, created REAL NOT NULL)",
    "CREATE INDEX IF NOT EXISTS files_by_owner ON files (owner, number)",
    "CREATE INDEX IF NOT EXISTS files_by_size ON files (owner, n_bytes)",
    "CREATE TABLE IF NOT EXISTS texts (file INTEGER PRIMARY KEY REFERENCES files ON DELETE CASCADE, text TEXT NOT NULL)",
    # `start` and `end` are offsets in the text, in characters.
    "CREATE TABLE IF NOT EXISTS chunks (number INTEGER PRIMARY KEY AUTOINCREMENT, file INTEGER NOT NULL REFERENCES files "
    "ON DELETE CASCADE, start INTEGER NOT NULL, end INTEGER NOT NULL, page INTEGER, heading TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS chunks_by_file ON chunks (file)",
    # The rows are those of `chunks`; `pairs` are the text's characters in twos, where a script writes no spaces.
    f"CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (text, heading, pairs, tokenize='{TOKENIZER}')",
    # `data` holds a file's vectors by a model, one after the other, in the order of its chunks.
    "CREATE TABLE IF NOT EXISTS vectors (file INTEGER NOT NULL REFERENCES files ON DELETE CASCADE, model TEXT NOT NULL, "
    "data BLOB NOT NULL, PRIMARY KEY (file, model))",
    # The computed states of conversations that have read some of a file.
    "CREATE TABLE IF NOT EXISTS readings (file INTEGER NOT NULL REFERENCES files ON DELETE CASCADE, owner TEXT NOT NULL, "
    "state TEXT NOT NULL, PRIMARY KEY (file, owner, state)) WITHOUT ROWID",
    # A row while the index may hold words of deleted files.
    "CREATE TABLE IF NOT EXISTS traces (mark INTEGER PRIMARY KEY)",
    # `readers` is a JSON list of key ids, or "everybody".
    "CREATE TABLE IF NOT EXISTS collections (number INTEGER PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, "
    "readers TEXT NOT NULL, created REAL NOT NULL, UNIQUE (owner, name))",
    "CREATE TABLE IF NOT EXISTS members (collection INTEGER NOT NULL REFERENCES collections ON DELETE CASCADE, "
    "file INTEGER NOT NULL REFERENCES files ON DELETE CASCADE, PRIMARY KEY (collection, file)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS members_by_file ON members (file)",
    # A collection follows `path`. `disks` is a JSON object, as `walk` has it; `leaving` is 1 while its files are deleted.
    "CREATE TABLE IF NOT EXISTS folders (collection INTEGER PRIMARY KEY REFERENCES collections ON DELETE CASCADE, "
    "path TEXT NOT NULL, disks TEXT NOT NULL DEFAULT '{}', problem TEXT, leaving INTEGER NOT NULL DEFAULT 0)",
    # The files of a followed folder as they were last read. `path` is relative; `digest` is NULL for what is tried again.
    "CREATE TABLE IF NOT EXISTS followed (collection INTEGER NOT NULL REFERENCES folders ON DELETE CASCADE, "
    "path TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, digest TEXT, "
    "file INTEGER REFERENCES files ON DELETE SET NULL, problem TEXT, PRIMARY KEY (collection, path)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS followed_by_file ON followed (file)",
)
