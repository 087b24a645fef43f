"""Where model files come from: a repository of a Hugging Face hub, or the models that Ollama keeps on this machine."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from services.errors import InvalidRequest, NotFound

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_REVISION = re.compile(r"\w[\w.-]{0,127}")
_OLLAMA = re.compile(r"(?:[A-Za-z0-9][\w.:-]*/){0,2}[A-Za-z0-9][\w.-]*(?::[\w][\w.-]{0,127})?")
# Of several files of one model, the first of these quantizations: small enough for a CPU, and good enough to talk to.
_PREFERRED = ("Q4_K_M", "Q4_0", "Q4_K_S", "Q5_K_M", "IQ4_XS", "Q6_K", "Q8_0")
# What is put behind it while it arrives has to fit too (255 bytes on most disks).
_LONGEST_NAME = 200
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_MODEL_LAYER = "application/vnd.ollama.image.model"
FORMS = "hf:REPO/FILE.gguf, hf:REPO or ollama:NAME"


@dataclass(frozen=True)
class HubFile:
    """A file of a hub's repository; `file` is "" where the best one is to be chosen."""

    repo: str
    file: str = ""
    revision: str | None = None

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"hf:{self.repo}{at}/{self.file}".rstrip("/")


@dataclass(frozen=True)
class OllamaModel:
    """A model that Ollama has pulled: `llama3.2`, `llama3.2:1b`, `somebody/model:tag`."""

    name: str

    def __str__(self) -> str:
        return f"ollama:{self.name}"


Source = HubFile | OllamaModel


def parse_source(text: str, param: str = "source") -> Source:
    """What `hf:USER/REPO[@REVISION][/FILE.gguf]` or `ollama:NAME[:TAG]` means. Raises InvalidRequest, naming `param`."""
    kind, _, rest = text.partition(":")
    if kind == "hf":
        return _parse_hub(rest, text, param)
    if kind == "ollama" and _OLLAMA.fullmatch(rest) and ".." not in rest:
        return OllamaModel(rest)
    raise InvalidRequest(f"{param}: {text!r} names no source of models; one is {FORMS}", param=param)


def _parse_hub(rest: str, text: str, param: str) -> HubFile:
    parts = rest.split("/")
    repo, at, revision = "/".join(parts[:2]).partition("@")
    if at and not _REVISION.fullmatch(revision):
        raise InvalidRequest(f"{param}: {text!r} names no revision behind its @", param=param)
    return hub_file(repo, "/".join(parts[2:]), param, revision or None)


def hub_file(repo: str, file: str, param: str, revision: str | None = None) -> HubFile:
    """A file of a repository; "": the best one. Raises InvalidRequest, naming `param`, where they cannot be such."""
    if not _REPO.fullmatch(repo):
        raise InvalidRequest(f"{param}: {repo!r} names no repository: it should be USER/REPO", param=param)
    if file and (not file.endswith(".gguf") or any(part in ("", ".", "..") for part in PurePosixPath(file).parts)):
        raise InvalidRequest(f"{param}: {file!r} should be the name of a .gguf file", param=param)
    if PurePosixPath(file).name.startswith(".") or len(PurePosixPath(file).name) > _LONGEST_NAME:
        raise InvalidRequest(f"{param}: {file[:80]!r} cannot be the name of a model file here", param=param)
    if _PART.search(file):
        what = f"{file} is one of several parts of a model; only models in one file can be pulled"
        raise InvalidRequest(f"{param}: {what}", param=param)
    return HubFile(repo, file, revision)


def best_file(repo: str, files: Sequence[str]) -> str:
    """The GGUF file of a repository to take where none is named: of the preferred quantization, else the first.

    Raises NotFound where it has none.
    """
    models = sorted(file for file in files if file.lower().endswith(".gguf") and not _PART.search(file))
    models = [file for file in models if "mmproj" not in file.lower()] or models
    if not models:
        raise NotFound(f"the repository {repo} has no GGUF file", param="source", code="file_not_found")
    for quantization in _PREFERRED:
        for file in models:
            if re.search(rf"(?<![a-z0-9]){quantization}(?![a-z0-9_])", file, re.IGNORECASE):
                return file
    return models[0]


def ollama_blob(model: OllamaModel) -> tuple[Path, str]:
    """The blob that is the model's GGUF file, and its SHA-256 in hex, by the manifest that Ollama keeps of it.

    Ollama's layout: manifests/HOST/NAMESPACE/NAME/TAG holds JSON with `layers`; a layer's blob is blobs/sha256-DIGEST.
    Raises NotFound where Ollama has no such model here.
    """
    name, _, tag = model.name.rpartition(":") if ":" in model.name.split("/")[-1] else (model.name, "", "")
    parts = name.split("/")
    path = "/".join([*["*", "library"][: 3 - len(parts)], *parts, tag or "latest"])
    folders = _ollama_folders()
    for folder in folders:
        for manifest in sorted((folder / "manifests").glob(path)):
            try:
                layers = json.loads(manifest.read_text(encoding="utf-8"))["layers"]
                digest = next(layer["digest"] for layer in layers if layer["mediaType"] == _MODEL_LAYER)
            except (OSError, ValueError, LookupError, TypeError, StopIteration):
                continue
            blob = folder / "blobs" / str(digest).replace(":", "-")
            if re.fullmatch(r"sha256:[0-9a-f]{64}", str(digest)) and blob.is_file():
                return blob, str(digest).removeprefix("sha256:")
    where = " or ".join(str(folder) for folder in folders)
    what = f"Ollama has no model {model.name} on this machine (looked in {where}); ollama pull {model.name} gets it"
    raise NotFound(what, param="source", code="model_not_found")


def file_name(source: Source, file: str = "") -> str:
    """What a source's file is called in the models folder; `file` is the one chosen of a repository."""
    if isinstance(source, HubFile):
        return PurePosixPath(file or source.file).name
    return re.sub(r"[^\w.-]+", "-", source.name.removesuffix(":latest")) + ".gguf"


def _ollama_folders() -> list[Path]:
    """Where Ollama keeps its models: as it is told, in the person's home, or as a service of the system."""
    if told := os.environ.get("OLLAMA_MODELS"):
        return [Path(told)]
    return [Path.home() / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")]
