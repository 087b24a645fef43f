"""Models in several files, as llama.cpp's gguf-split makes them: NAME-00001-of-00003.gguf and so on.

The first holds the metadata, and maybe no tensors (--no-tensor-first-split); each holds its number (split.no, from 0) and
the number of files (split.count). llama.cpp loads the first, and finds the others by their names.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path, PurePosixPath

from services.models.gguf import BadGguf, GgufInfo, read_gguf
from services.models.gguf_types import FILE_TYPES
from services.storage.json_file import Stamp, stamp_of

# llama.cpp takes lower case only.
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


def part_names(name: str) -> list[str]:
    """The names of all files of the model to which a file of this name belongs; its own name if it is not a part."""
    found = _PART.fullmatch(name)
    if not found or not 1 <= int(found[2]) <= int(found[3]):
        return [name]
    return [f"{found[1]}-{number:05}-of-{found[3]}.gguf" for number in range(1, int(found[3]) + 1)]


def model_stem(name: str) -> str:
    """The name of the model to which a file of this name belongs, without the number of the part and the suffix."""
    found = _PART.fullmatch(name)
    return found[1] if found else PurePosixPath(name).stem


def parts_in_repository(file: str) -> list[str]:
    """The paths of all files of a model in a repository, by that of the first, or the only one; "" for "" only."""
    path = PurePosixPath(file)
    return [path.with_name(name).as_posix() for name in part_names(path.name)] if file else [file]


def part_paths(path: Path) -> list[Path]:
    """The existing files of the model to which the file at `path` belongs, in order."""
    return [part for name in part_names(path.name) if (part := path.with_name(name)).is_file()]


def read_model(path: Path) -> GgufInfo:
    """Read and check the headers of all files of a model, the first of which is at `path`; sizes and weights are sums.

    Raises BadGguf, naming the part that is missing or damaged; OSError if the first cannot be read.
    """
    first = read_gguf(path)
    number, count = first.metadata.get("split.no", 0), first.metadata.get("split.count", 1)
    if not isinstance(number, int) or not isinstance(count, int):
        raise BadGguf("its split.no and split.count are no whole numbers")
    if count <= 1:
        return first
    names = part_names(path.name)
    if number or len(names) != count or names[0] != path.name:
        ending = f"-{number + 1:05}-of-{count:05}.gguf"
        raise BadGguf(f"it is part {number + 1} of {count} of a model, so that its name should end with {ending}")
    parts = [first, *(_read_part(path.with_name(name), index, count) for index, name in enumerate(names) if index)]
    largest = max(parts, key=lambda part: part.weights)
    named = first.metadata.get("general.file_type") in FILE_TYPES
    return replace(
        first,
        weights=sum(part.weights for part in parts),
        size=sum(part.size for part in parts),
        quantization=first.quantization if named else largest.quantization,
        parts=count,
    )


def stamp_of_model(path: Path) -> Stamp:
    """A stamp that changes whenever one of the model's files does. `path` is its first file. Raises OSError."""
    first = stamp_of(path.stat())
    others = [stamp_of(part.stat()) for part in part_paths(path) if part != path]
    if not others:
        return first
    stamps = [first, *others]
    digest = hashlib.sha256(repr(stamps).encode()).digest()
    return max(stamp[0] for stamp in stamps), sum(stamp[1] for stamp in stamps), int.from_bytes(digest[:7], "big")


def _read_part(path: Path, number: int, count: int) -> GgufInfo:
    """Read the header of a part. Raises BadGguf, naming it."""
    try:
        part = read_gguf(path)
    except FileNotFoundError:
        raise BadGguf(f"its part {path.name} is missing") from None
    except OSError as error:
        raise BadGguf(f"its part {path.name} cannot be read: {error.strerror}") from None
    except BadGguf as error:
        raise BadGguf(f"its part {path.name}: {error}") from None
    if (part.metadata.get("split.no"), part.metadata.get("split.count")) != (number, count):
        raise BadGguf(f"its part {path.name} does not say that it is part {number + 1} of {count}")
    return part
