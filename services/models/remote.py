"""A model as described by its source: its files, and a function that fetches each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RemoteFile:
    """One file: its name in the models folder, its size in bytes (0: unknown), and its digest.

    The digest is a SHA-256 (64 hex digits), git's SHA-1 of a blob (40), or any other text that changes with the file.
    """

    file: str
    size: int
    digest: str
    fetch: Callable[[Path, int], None]
    """Appends the rest of the file to a path that holds the given number of its bytes."""
    local: Path | None = None
    """The file's path if it is on this machine already."""


@dataclass(frozen=True)
class Remote:
    """A model in one file or several, named by the first."""

    source: str
    files: tuple[RemoteFile, ...]

    @property
    def file(self) -> str:
        """Its name in the models folder."""
        return self.files[0].file

    @property
    def size(self) -> int:
        """The size of all its files, in bytes; 0: unknown."""
        return sum(file.size for file in self.files)
