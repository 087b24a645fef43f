"""What a GGUF file is, read from its header with every length checked against the file.

Format: ggml's docs/gguf.md, versions 2 and 3, little-endian. A header is `GGUF`, version, the counts of tensors and of
metadata entries, the entries, the tensors' descriptions, and then the tensors' data, aligned.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

# ggml's tensor types: number → (name, elements a block, bytes a block).
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}
# llama.cpp's file types (general.file_type) whose name says more than the commonest tensor type does.
FILE_TYPES = {11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M"}

_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMS = 4
_MAX_NAME = 65_535
# Where the metadata's entries begin, in bytes.
_ENTRIES = 24
# More than any model has: without bounds a large file could keep the reader busy for hours.
_MAX_ENTRIES, _MAX_TENSORS, _MAX_LENGTH = 2**16, 2**18, 2**23


class BadGguf(ValueError):
    """What is wrong with the file, in a sentence that follows "NAME: "."""


@dataclass(frozen=True)
class GgufInfo:
    """What a model file is. `weights` counts elements, `context_length` tokens, `size` bytes."""

    name: str | None
    architecture: str
    weights: int
    quantization: str
    context_length: int | None
    vocabulary: int | None
    size: int
    adapter: bool = False
    """Whether it is a LoRA adapter, which changes a model and is none."""


def read_gguf(path: Path) -> GgufInfo:
    """Read and check the header of the file at `path`; the tensors' data is not read, only its place is checked.

    Raises BadGguf where it is no GGUF, is cut short, or describes what cannot be; OSError where it cannot be read.
    """
    with path.open("rb") as file:
        return _Header(file, os.fstat(file.fileno()).st_size).read()


def vocabulary_of(path: Path) -> bytes:
    """The file as it would be without its tensors: all that is needed to tokenize. Raises BadGguf, OSError."""
    with path.open("rb") as file:
        end, version, n_entries = _Header(file, os.fstat(file.fileno()).st_size).entries()
        file.seek(_ENTRIES)
        return struct.pack("<4sIQQ", b"GGUF", version, 0, n_entries) + file.read(end - _ENTRIES)


class _Header:
    """A cursor over the header of one open file. Every step is checked against the file's size first."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._at = 0

    def read(self) -> GgufInfo:
        if self._size < 4 or self._take(4, "the magic number") != b"GGUF":
            raise BadGguf("not a GGUF file: it does not begin with GGUF")
        version = self._number("I", "the version")
        if version not in (2, 3):
            raise BadGguf(f"GGUF version {version} cannot be read: versions 2 and 3 can")
        n_tensors = self._count("the count of tensors", least_each=24, most=_MAX_TENSORS)
        n_entries = self._count("the count of metadata entries", least_each=13, most=_MAX_ENTRIES)
        metadata = self._metadata(n_entries)
        self._entries = (self._at, version, n_entries)
        architecture = metadata.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            raise BadGguf("its metadata names no architecture (general.architecture)")
        weights, types = self._tensors(n_tensors, metadata.get("general.alignment", 32))
        name = metadata.get("general.name")
        adapter = metadata.get("general.type") == "adapter"
        if adapter:
            _check_adapter(metadata, types)
        return GgufInfo(
            name=name if isinstance(name, str) else None,
            architecture=architecture,
            weights=weights,
            quantization=FILE_TYPES.get(_whole(metadata.get("general.file_type")) or 0) or _commonest(types),
            context_length=_whole(metadata.get(f"{architecture}.context_length")),
            vocabulary=_whole(metadata.get("tokenizer.ggml.tokens")) or _whole(metadata.get(f"{architecture}.vocab_size")),
            size=self._size,
            adapter=adapter,
        )

    def entries(self) -> tuple[int, int, int]:
        """Where the metadata's entries end, the version, and how many entries there are."""
        self.read()
        return self._entries

    def _metadata(self, n_entries: int) -> dict[str, Any]:
        """The metadata; of an array only the length is kept."""
        metadata: dict[str, Any] = {}
        for index in range(n_entries):
            key = self._string(f"the name of metadata entry {index}", _MAX_NAME)
            if key in metadata:
                raise BadGguf(f"its metadata has {key} twice")
            metadata[key] = self._value(key, self._number("I", f"the type of {key}"))
        return metadata

    def _value(self, key: str, kind: int) -> Any:
        if kind == _STRING:
            return self._string(key)
        if kind != _ARRAY:
            return self._number(self._code(kind, key), key)
        kind = self._number("I", f"the element type of {key}")
        length = self._count(f"the length of {key}", least_each=8 if kind == _STRING else 1, most=_MAX_LENGTH)
        if kind == _STRING:
            for _ in range(length):
                self._skip(self._number("Q", key), key)
        else:
            self._skip(length * struct.calcsize("<" + self._code(kind, key)), key)
        return length

    def _tensors(self, n_tensors: int, alignment: Any) -> tuple[int, Counter[str]]:
        """Count the weights, all in all and by type, having checked that every tensor lies within the file."""
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise BadGguf(f"its alignment (general.alignment) is {alignment}, which is no power of two")
        if not n_tensors:
            raise BadGguf("it holds no tensors")
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
        end, last = max(ends)
        if data + end > self._size:
            raise BadGguf(f"it is cut short: tensor {last} ends at byte {data + end}, and the file at byte {self._size}")
        return sum(types.values()), types

    def _tensor(self, name: str, alignment: int) -> tuple[str, int, int]:
        """One description: the tensor's type, its count of elements, and where it ends within the data, in bytes."""
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
        """A count of things of at least `least_each` bytes, which must fit in what is left of the file."""
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

    def _check_room(self, length: int, what: str) -> None:
        if length > self._size - self._at:
            raise BadGguf(f"it is cut short: {what} needs {length} bytes, and {self._size - self._at} are left")
        self._at += length


def _check_adapter(metadata: dict[str, Any], types: Counter[str]) -> None:
    """Refuse what llama.cpp takes for granted of an adapter, and would end the process for."""
    if metadata.get("adapter.type") != "lora":
        raise BadGguf("it is an adapter, and of another kind than LoRA (adapter.type)")
    if not isinstance(metadata.get("adapter.lora.alpha", 0.0), float):
        raise BadGguf("its adapter.lora.alpha is no fraction")
    if odd := sorted(set(types) & {"I8", "I16", "I32", "I64", "F64"}):
        raise BadGguf(f"it is an adapter with weights of type {odd[0]}")


def _commonest(types: Counter[str]) -> str:
    """The type of most weights: what a file of one quantization is called."""
    return types.most_common(1)[0][0]


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
