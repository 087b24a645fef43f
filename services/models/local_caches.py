"""Models that are on this machine already: in the caches of other programs, or in a file that its owner names.

Hugging Face's cache: models--USER--REPO holds refs/REVISION, a file with a commit's name, and snapshots/COMMIT/FILE, which
links to blobs/DIGEST. LM Studio's folder: USER/REPO/FILE. Ollama's: manifests/HOST/NAMESPACE/NAME/TAG holds JSON with
`layers`, and a layer's blob is blobs/sha256-DIGEST.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from services.errors import NotFound
from services.models.best_file import best_file
from services.models.remote import RemoteFile
from services.models.sources import HubFile, LocalFile, OllamaModel
from services.models.split import part_names, parts_in_repository

_BLOCK = 2**20
_OLLAMA_MODEL = "application/vnd.ollama.image.model"


def find_in_caches(source: HubFile) -> dict[str, Path]:
    """Find the files of a source's model, by their paths in the repository; {} if no program keeps all of them.

    If the source names no file, the best of the files kept is taken, which need not be the best on the hub.
    """
    for folder in _folders(source):
        kept = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        file = source.file
        if not file:
            with contextlib.suppress(NotFound):
                file = best_file(source.repo, list(kept), source.quantization)
        names = parts_in_repository(file)
        if all(name in kept for name in names):
            return {name: kept[name] for name in names}
    return {}


def find_file(source: LocalFile) -> dict[str, Path]:
    """Find the files of a model by its first file, by their names. Raises NotFound if one is missing."""
    found = {name: source.path.with_name(name) for name in part_names(source.path.name)}
    for path in found.values():
        if not path.is_file():
            raise NotFound(f"there is no file {path}", param="source", code="file_not_found")
    return found


def kept_file(path: Path, name: str, digest: str = "") -> RemoteFile:
    """A file of this machine, to be fetched as `name`. The digest is the one given, else its blob's name, else ""."""
    blob = path.resolve()
    if not digest and blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        digest = blob.name

    def fetch(part: Path, received: int) -> None:
        with blob.open("rb") as source, part.open("r+b", buffering=0) as file:
            source.seek(received)
            file.seek(received)
            shutil.copyfileobj(source, file, _BLOCK)

    return RemoteFile(name, blob.stat().st_size, digest, fetch, blob)


def _folders(source: HubFile) -> Iterator[Path]:
    """Yield the folders that may hold a repository's files."""
    from huggingface_hub import constants

    repo = Path(constants.HF_HUB_CACHE, f"models--{source.repo.replace('/', '--')}")
    revision = source.revision or "main"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        revision = (repo / "refs" / revision).read_text(encoding="ascii").strip()
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        yield repo / "snapshots" / revision
    if not source.revision:
        yield Path.home() / ".lmstudio" / "models" / source.repo
        yield Path.home() / ".cache" / "lm-studio" / "models" / source.repo


def ollama_blob(model: OllamaModel) -> tuple[Path, str]:
    """Find the blob that is a model's GGUF file, and its SHA-256 in hex. Raises NotFound if Ollama has no such model."""
    name, _, tag = model.name.rpartition(":") if ":" in model.name.split("/")[-1] else (model.name, "", "")
    parts = name.split("/")
    path = "/".join([*["*", "library"][: 3 - len(parts)], *parts, tag or "latest"])
    folders = _ollama_folders()
    for folder in folders:
        for manifest in sorted((folder / "manifests").glob(path)):
            try:
                layers = json.loads(manifest.read_text(encoding="utf-8"))["layers"]
                digest = next(layer["digest"] for layer in layers if layer["mediaType"] == _OLLAMA_MODEL)
            except (OSError, ValueError, LookupError, TypeError, StopIteration):
                continue
            blob = folder / "blobs" / str(digest).replace(":", "-")
            if re.fullmatch(r"sha256:[0-9a-f]{64}", str(digest)) and blob.is_file():
                return blob, str(digest).removeprefix("sha256:")
    where = " or ".join(str(folder) for folder in folders)
    what = f"Ollama has no model {model.name} on this machine (looked in {where}); ollama pull {model.name} gets it"
    raise NotFound(what, param="source", code="model_not_found")


def _ollama_folders() -> list[Path]:
    """Ollama's folders of models: OLLAMA_MODELS, else that of the person, and that of the system's service."""
    if configured := os.environ.get("OLLAMA_MODELS"):
        return [Path(configured)]
    return [Path.home() / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")]
