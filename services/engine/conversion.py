"""Writing a model file of another type beside the old one, which stays."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from services.engine.llama.features import cpu_features
from services.engine.llama.quantizer import FILE_TYPES, convert
from services.engine.machine import usable_cores
from services.engine.type_trials import expected_size
from services.errors import BadModelFile, InvalidRequest, StorageFailed
from services.models.disk import check_room
from services.models.fast_types import best_types
from services.models.gguf import BadGguf, metadata_digests
from services.models.split import model_stem, read_model
from services.storage.json_file import sync_folder

# The type at the end of a file's name.
_TYPE = re.compile(r"[-._](I?Q\d(_[A-Z0-9]+)*|B?F(16|32))$", re.IGNORECASE)
# What a conversion changes of the metadata: the type's number, and that the model was in several files.
_CHANGED = ("general.file_type", "general.quantization_version", "split.")


def fast_types() -> list[str]:
    """Return the types that llama.cpp has fast kernels for on this CPU, the best first."""
    return best_types(cpu_features())


def type_named(text: str) -> str:
    """Return the type that a person names, regardless of case. Raises InvalidRequest, naming those that exist."""
    if text.upper() not in FILE_TYPES:
        what = f'"{text}" is no type that a file can become: there are {", ".join(FILE_TYPES)}'
        raise InvalidRequest(what, param="type")
    return text.upper()


def target_of(source: Path, kind: str) -> Path:
    """Return the path of a model's file as `kind`: NAME-q8_0.gguf beside it. Raises InvalidRequest if it is taken."""
    stem = _TYPE.sub("", model_stem(source.name))
    target = source.with_name(f"{stem}-{kind.lower()}.gguf")
    if target.exists() or target.is_symlink():
        raise _exists(target)
    return target


def write_beside(source: Path, kind: str, folder: Path) -> Path:
    """Convert the model whose first file is `source` to `kind`, and return the path of the new file beside it.

    It is made in `folder`, which is on the same disk, and appears whole, with the metadata of the old one. Raises
    InvalidRequest where such a file is there, StorageFailed where the disk has no room, BadModelFile.
    """
    target, made = target_of(source, kind), folder / "whole.gguf"
    try:
        info = read_model(source)
        check_room(folder, target.name, expected_size(info, kind))
        convert(source, made, kind, usable_cores())
        _check_same_model(source, made)
    except BadGguf as error:
        raise BadModelFile(f"{source.name}: {error}", param="model") from error
    with made.open("rb") as file:
        os.fsync(file.fileno())
    _move_to_free_name(made, target)
    sync_folder(target.parent)
    return target


def _check_same_model(source: Path, made: Path) -> None:
    """Raise BadModelFile unless the new file has all weights and the metadata of the old one. Raises BadGguf."""
    old, new = read_model(source), read_model(made)
    before, after = metadata_digests(source), metadata_digests(made)
    for key in sorted(before.keys() | after.keys()):
        if not key.startswith(_CHANGED) and before.get(key) != after.get(key):
            raise BadModelFile(f"the conversion of {source.name} changed its {key}", param="model")
    if old.weights != new.weights:
        what = f"the conversion of {source.name} has {new.weights:,} weights instead of {old.weights:,}"
        raise BadModelFile(what, param="model")


def _move_to_free_name(made: Path, target: Path) -> None:
    """Give the file its name, unless another file has taken that meanwhile. Raises InvalidRequest, StorageFailed."""
    try:
        # Unlike a rename, a link replaces nothing.
        os.link(made, target)
        made.unlink()
    except FileExistsError:
        raise _exists(target) from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise StorageFailed(f"{target.name} cannot be written: {error.strerror}", param="model") from error
        # A file system without links.
        if target.exists():
            raise _exists(target) from None
        made.rename(target)


def _exists(target: Path) -> InvalidRequest:
    what = f"{target.name} is there already, and no file is overwritten: select it in a profile, or remove it"
    return InvalidRequest(what, param="type", code="file_exists")
