"""The limits of one parsing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ParseLimits:
    """The limits of one parsing; what passes one is refused."""

    characters: int = 20_000_000
    """Of text."""
    pages: int = 10_000
    headings: int = 20_000
    """Further headings stay in the text alone: what has more is no outline."""
    unpacked: int = 200_000_000
    """Bytes that an archive (docx, odt, epub) unpacks to, or one stream of a PDF."""
    ratio: int = 200
    """Unpacked bytes for each packed one, in archives that unpack to more than 10 MB: text stays far below it."""
    seconds: float = 300
    """Of the CPU."""
    waiting: float = 300
    """More seconds on the clock: others compute first."""
    memory: int = 1280 * 1024 * 1024
    """Bytes of address space, the interpreter and the libraries included: ten million characters take 150 MiB."""
