"""The choice of a repository's GGUF file: the requested quantization, else the one that suits a CPU best."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from services.errors import NotFound
from services.models.split import part_names

# The preferred quantizations, the first that exists: small enough for a CPU, and good enough to talk to.
_PREFERRED = ("Q4_K_M", "Q4_0", "Q4_K_S", "Q5_K_M", "IQ4_XS", "Q6_K", "Q8_0", "MXFP4")
# Files that belong to a model and are none: the image projector, and the importance matrix of the quantization.
_COMPANIONS = ("mmproj", "imatrix")
_QUANTIZATION = re.compile(
    r"(?<![a-z0-9])((?:ud-)?(?:i?q\d|tq\d|mxfp4|nvfp4)(?:_[a-z0-9]+)*|bf16|fp?16|fp?32)(?![a-z0-9_])", re.IGNORECASE
)


def best_file(repo: str, files: Sequence[str], quantization: str = "") -> str:
    """Choose a repository's GGUF file by the paths of all its files; of a model in several files, the first.

    Raises NotFound if it has none, or none of the requested quantization: then it names those that exist.
    """
    models = _models(files)
    if not models:
        raise NotFound(f"the repository {repo} has no GGUF file", param="source", code="file_not_found")
    for wanted in [quantization] if quantization else _PREFERRED:
        # The shortest name is the plain one: Q4_K_M before UD-Q4_K_M.
        if fitting := [file for file in models if _is_of(wanted, file)]:
            return min(fitting, key=lambda file: (len(file), file))
    if not quantization:
        return models[0]
    has = ", ".join(sorted({quantization_of(file) for file in models}))
    what = f"the repository {repo} has no file of the quantization {quantization}; it has {has}"
    raise NotFound(what, param="source", code="file_not_found")


def quantization_of(file: str) -> str:
    """The quantization that a file's path names, in capitals; if it names none, the file's name."""
    found = _QUANTIZATION.findall(file)
    return found[-1].upper() if found else PurePosixPath(file).name


def _models(files: Sequence[str]) -> list[str]:
    """The files that are complete models; of a model in several files the first, if all exist."""
    known = set(files)
    models = []
    for file in sorted(file for file in files if file.lower().endswith(".gguf")):
        path = PurePosixPath(file)
        parts = [path.with_name(name).as_posix() for name in part_names(path.name)]
        if parts[0] == file and known.issuperset(parts):
            models.append(file)
    return [file for file in models if not any(companion in file.lower() for companion in _COMPANIONS)] or models


def _is_of(quantization: str, file: str) -> bool:
    return bool(re.search(rf"(?<![a-z0-9]){re.escape(quantization)}(?![a-z0-9_])", file, re.IGNORECASE))
