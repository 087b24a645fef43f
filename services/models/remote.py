"""A model somewhere else, as its source has described it: its files, and how each is brought here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RemoteFile:
    """One file: its name in the models folder, its size in bytes (0: not known), and the digest by which it is known.

    The digest is a SHA-256 (64 hex digits), git's SHA-1 of a blob (40), or anything else that changes with the file.
    """

    file: str
    size: int
    digest: str
    fetch: Callable[[Path, int], None]
    """Brings the rest of the file into a path that holds the given number of its bytes."""
    local: Path | None = None
    """Where the file is on this machine already."""


@dataclass(frozen=True)
class Remote:
    """A model in one file or several, the first of which it is called by."""

    source: str
    files: tuple[RemoteFile, ...]

    @property
    def file(self) -> str:
        """Its name in the models folder."""
        return self.files[0].file

    @property
    def size(self) -> int:
        """The size of all its files, in bytes; 0: not known."""
        return sum(file.size for file in self.files)
