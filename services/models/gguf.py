"""A reader of GGUF headers that checks every length against the file.

Format: ggml's docs/gguf.md, versions 2 and 3, little-endian. A file is `GGUF`, the version, the numbers of tensors and of
metadata entries, the entries, the tensors' descriptions, and the tensors' data, aligned.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from services.models.gguf_types import FILE_TYPES, TENSOR_TYPES

# The description of a file without a chat template, such as a base model's.
NO_TEMPLATE = "no chat template: goes on with a text"
_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_STRING_LENGTH = struct.Struct("<Q")
# Bytes of strings that are read in one go.
_BLOCK = 2**16
_MAX_DIMS = 4
_MAX_NAME = 65_535
# More than any model has: without limits a large file could keep the reader busy for hours.
_MAX_ENTRIES, _MAX_TENSORS, _MAX_LENGTH = 2**16, 2**18, 2**23
# Limits of the metadata that is kept: bytes of a string, elements of an array, and elements of all arrays.
_KEPT_STRING, _KEPT_ARRAY, _KEPT_ELEMENTS = 256, 4096, 2**16


# llama.h, enum llama_pooling_type.
_RANK = 4


class BadGguf(ValueError):
    """A fault in a GGUF file; its message follows "NAME: "."""


@dataclass(frozen=True)
class GgufInfo:
    """The facts of a model file. `weights` counts elements, `context_length` tokens, `size` bytes."""

    name: str | None
    architecture: str
    weights: int
    quantization: str
    context_length: int | None
    vocabulary: int | None
    size: int
    adapter: bool = False
    """True for a LoRA adapter."""
    chat_template: bool = False
    """True if it holds a chat template (tokenizer.chat_template)."""
    parts: int = 1
    """The number of its files."""
    metadata: Mapping[str, Any] = field(repr=False, compare=False, default_factory=dict)
    """Numbers, short texts and lists of numbers: general.*, its architecture's, split.*, adapter.*, tokenizer.*."""

    @property
    def makes_vectors(self) -> bool:
        """True if it makes embeddings, or ranks texts, and writes nothing."""
        return self._pooling is not None

    @property
    def ranks(self) -> bool:
        """True if it scores how well a document fits a query."""
        return bool(self._pooling == _RANK)

    @property
    def _pooling(self) -> Any:
        return self.metadata.get(f"{self.architecture}.pooling_type")


def read_gguf(path: Path) -> GgufInfo:
    """Read and check the header of the file at `path`; of the tensors' data only the offsets are checked.

    Raises BadGguf if it is no GGUF, is cut short, or contradicts itself; OSError if it cannot be read.
    """
    with path.open("rb") as file:
        return _Header(file, os.fstat(file.fileno()).st_size).read()


def read_header(file: BinaryIO, size: int) -> GgufInfo:
    """Read and check the header of an open file of `size` bytes, at its beginning. Raises as `read_gguf` does."""
    return _Header(file, size).read()


def vocabulary_of(path: Path) -> bytes:
    """Return the file without its tensors, which suffices to tokenize. Raises BadGguf, OSError.

    `path` is a model's first file; its split.* metadata is left out, since llama.cpp would look for the other files.
    """
    with path.open("rb") as file:
        version, entries = _Header(file, os.fstat(file.fileno()).st_size).entries()
        kept = [(begin, end) for key, begin, end in entries if not key.startswith("split.")]
        pieces = [struct.pack("<4sIQQ", b"GGUF", version, 0, len(kept))]
        for begin, end in kept:
            file.seek(begin)
            pieces.append(file.read(end - begin))
        return b"".join(pieces)


def chat_template_of(path: Path) -> str:
    """Return the chat template in the file at `path`, a model's first; "" if it has none. Raises BadGguf, OSError."""
    with path.open("rb") as file:
        template = _Header(file, os.fstat(file.fileno()).st_size).metadata().get("tokenizer.chat_template")
        return template if isinstance(template, str) else ""


def metadata_digests(path: Path) -> dict[str, str]:
    """Return a digest of each metadata entry's type and value, by its key. Raises BadGguf, OSError."""
    with path.open("rb") as file:
        _, entries = _Header(file, os.fstat(file.fileno()).st_size).entries()
        digests = {}
        for key, begin, end in entries:
            file.seek(begin)
            digests[key] = hashlib.sha256(file.read(end - begin)).hexdigest()
        return digests


class _Header:
    """A cursor over the header of one open file. Every step is first checked against the file's size."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._at = 0
        self._n_kept = 0
        self._lengths: dict[str, int] = {}
        self._places: list[tuple[str, int, int]] = []

    def read(self) -> GgufInfo:
        if self._size < 4 or self._take(4, "the magic number") != b"GGUF":
            raise BadGguf("not a GGUF file: it does not begin with GGUF")
        version = self._number("I", "the version")
        if version not in (2, 3):
            raise BadGguf(f"GGUF version {version} cannot be read: versions 2 and 3 can")
        n_tensors = self._count("the count of tensors", least_each=24, most=_MAX_TENSORS)
        n_entries = self._count("the count of metadata entries", least_each=13, most=_MAX_ENTRIES)
        metadata = self._known = self._metadata(n_entries)
        self._version = version
        architecture = metadata.get("general.architecture", "")
        # Of a model in several files the first has the metadata, and the others have the tensors.
        part, n_parts = _whole(metadata.get("split.no")) or 0, _whole(metadata.get("split.count")) or 1
        if not isinstance(architecture, str) or not (architecture or 0 < part < n_parts):
            raise BadGguf("its metadata names no architecture (general.architecture)")
        if not n_tensors and (part or n_parts == 1):
            raise BadGguf("it holds no tensors")
        weights, types = self._tensors(n_tensors, metadata.get("general.alignment", 32))
        name, template = metadata.get("general.name"), metadata.get("tokenizer.chat_template")
        adapter = metadata.get("general.type") == "adapter"
        if adapter:
            _check_adapter(metadata, types)
        return GgufInfo(
            name=name if isinstance(name, str) else None,
            architecture=architecture,
            weights=weights,
            quantization=FILE_TYPES.get(_whole(metadata.get("general.file_type")) or 0) or _commonest(types),
            context_length=_whole(metadata.get(f"{architecture}.context_length")),
            vocabulary=self._lengths.get("tokenizer.ggml.tokens") or _whole(metadata.get(f"{architecture}.vocab_size")),
            size=self._size,
            adapter=adapter,
            chat_template=isinstance(template, str) and bool(template.strip()),
            metadata=_kept(metadata, architecture),
        )

    def metadata(self) -> Mapping[str, Any]:
        """The metadata, but for long lists. Raises as `read_gguf` does."""
        self.read()
        return self._known

    def entries(self) -> tuple[int, list[tuple[str, int, int]]]:
        """The version, and each metadata entry's key and where it begins and ends, in bytes."""
        self.read()
        return self._version, self._places

    def _metadata(self, n_entries: int) -> dict[str, Any]:
        """The metadata. Of long arrays, and of arrays of strings, only the length is kept, in `_lengths`."""
        metadata: dict[str, Any] = {}
        for index in range(n_entries):
            begin = self._at
            key = self._string(f"the name of metadata entry {index}", _MAX_NAME)
            if key in metadata:
                raise BadGguf(f"its metadata has {key} twice")
            metadata[key] = self._value(key, self._number("I", f"the type of {key}"))
            self._places.append((key, begin, self._at))
        return metadata

    def _value(self, key: str, kind: int) -> Any:
        if kind == _STRING:
            return self._string(key)
        if kind != _ARRAY:
            return self._number(self._code(kind, key), key)
        kind = self._number("I", f"the element type of {key}")
        length = self._count(f"the length of {key}", least_each=8 if kind == _STRING else 1, most=_MAX_LENGTH)
        self._lengths[key] = length
        if kind == _STRING:
            self._skip_strings(length, key)
            return None
        layout = f"<{length}{self._code(kind, key)}"
        if length > min(_KEPT_ARRAY, _KEPT_ELEMENTS - self._n_kept):
            self._skip(struct.calcsize(layout), key)
            return None
        self._n_kept += length
        return list(struct.unpack(layout, self._take(struct.calcsize(layout), key)))

    def _tensors(self, n_tensors: int, alignment: Any) -> tuple[int, Counter[str]]:
        """Check that every tensor lies within the file; return the number of weights, and their numbers by type."""
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise BadGguf("its alignment (general.alignment) is no power of two")
        ends: list[tuple[int, str]] = []
        types: Counter[str] = Counter()
        seen: set[str] = set()
        for index in range(n_tensors):
            name = self._string(f"the name of tensor {index}", _MAX_NAME)
            if name in seen:
                raise BadGguf(f"it describes tensor {name} twice")
            seen.add(name)
            type_name, elements, end = self._tensor(name, alignment)
            types[type_name] += elements
            ends.append((end, name))
        data = -(-self._at // alignment) * alignment
        end, last = max(ends, default=(0, ""))
        if ends and data + end > self._size:
            raise BadGguf(f"it is cut short: tensor {last} ends at byte {data + end}, and the file at byte {self._size}")
        return sum(types.values()), types

    def _tensor(self, name: str, alignment: int) -> tuple[str, int, int]:
        """Read one description: the tensor's type, its number of elements, and the byte at which it ends in the data."""
        n_dims = self._number("I", f"the dimensions of tensor {name}")
        if not 1 <= n_dims <= _MAX_DIMS:
            raise BadGguf(f"tensor {name} has {n_dims} dimensions; 1 to {_MAX_DIMS} can be")
        shape = [self._number("Q", f"the shape of tensor {name}") for _ in range(n_dims)]
        kind = self._number("I", f"the type of tensor {name}")
        offset = self._number("Q", f"the offset of tensor {name}")
        if kind not in TENSOR_TYPES:
            raise BadGguf(f"tensor {name} is of type {kind}, which is not known")
        type_name, block, block_bytes = TENSOR_TYPES[kind]
        elements = prod(shape)
        if not 0 < elements < 2**63 or shape[0] % block:
            raise BadGguf(f"tensor {name} cannot be of shape {shape} and type {type_name}")
        if offset % alignment:
            raise BadGguf(f"tensor {name} begins at {offset}, which is not aligned to {alignment}")
        return type_name, elements, offset + elements // block * block_bytes

    def _code(self, kind: int, key: str) -> str:
        if kind not in _FIXED:
            raise BadGguf(f"{key} is of value type {kind}, which is not known or cannot stand in an array")
        return _FIXED[kind]

    def _string(self, what: str, longest: int = 2**24) -> str:
        length = self._number("Q", what)
        if length > longest:
            raise BadGguf(f"{what} is said to be {length} bytes long")
        return self._take(length, what).decode("utf-8", "replace")

    def _count(self, what: str, least_each: int, most: int) -> int:
        """Read a number of items of at least `least_each` bytes each, which must fit into the rest of the file."""
        count: int = self._number("Q", what)
        if most < count <= (self._size - self._at) // least_each:
            raise BadGguf(f"{what} is {count}, and {most} is the most that can be read")
        if count * least_each > self._size - self._at:
            raise BadGguf(f"it is cut short: {what} is {count}, more than the file has room for")
        return count

    def _number(self, code: str, what: str) -> Any:
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code), what))[0]

    def _take(self, length: int, what: str) -> bytes:
        self._check_room(length, what)
        taken = self._file.read(length)
        if len(taken) < length:
            raise BadGguf(f"it is cut short: it ends within {what}")
        return taken

    def _skip(self, length: int, what: str) -> None:
        self._check_room(length, what)
        self._file.seek(length, os.SEEK_CUR)

    def _skip_strings(self, n_strings: int, key: str) -> None:
        # In blocks, since vocabularies hold hundreds of thousands.
        while n_strings:
            block, at = self._file.read(_BLOCK), 0
            while n_strings and at + _STRING_LENGTH.size <= len(block):
                at += _STRING_LENGTH.size + _STRING_LENGTH.unpack_from(block, at)[0]
                n_strings -= 1
            if not at:
                raise BadGguf(f"it is cut short: it ends within {key}")
            self._check_room(at, key)
            self._file.seek(at - len(block), os.SEEK_CUR)

    def _check_room(self, length: int, what: str) -> None:
        if length > self._size - self._at:
            raise BadGguf(f"it is cut short: {what} needs {length} bytes, and {self._size - self._at} are left")
        self._at += length


def _check_adapter(metadata: dict[str, Any], types: Counter[str]) -> None:
    """Raise BadGguf for an adapter on which llama.cpp would abort the process."""
    if metadata.get("adapter.type") != "lora":
        raise BadGguf("it is an adapter, and of another kind than LoRA (adapter.type)")
    if not isinstance(metadata.get("adapter.lora.alpha", 0.0), float):
        raise BadGguf("its adapter.lora.alpha is no fraction")
    if odd := sorted(set(types) & {"I8", "I16", "I32", "I64", "F64"}):
        raise BadGguf(f"it is an adapter with weights of type {odd[0]}")


def _commonest(types: Counter[str]) -> str:
    """The type of most weights, after which a file without a file type is named; "" if there are none."""
    return max(types, key=types.__getitem__, default="")


def _kept(metadata: dict[str, Any], architecture: str) -> dict[str, Any]:
    """The metadata that is worth showing, and short enough."""
    spaces = {"general", "split", "adapter", "tokenizer", architecture}
    return {
        key: value
        for key, value in metadata.items()
        if len(key) <= _KEPT_STRING
        and (space := key.partition(".")[0]) in spaces
        and not (value is None or (isinstance(value, list) and space == "tokenizer"))
        and not (isinstance(value, str) and len(value.encode("utf-8", "replace")) > _KEPT_STRING)
    }


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
