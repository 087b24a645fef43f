"""Models cut into several files as llama.cpp's gguf-split cuts them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import gguf

_ALIGNMENT = 32


def split_model(path: Path, folder: Path, name: str, n_tensors: Sequence[int]) -> list[Path]:
    """Write the model as NAME-00001-of-0000N.gguf and so on, with so many of its tensors each, the last with the rest.

    Of 0 in the first comes what --no-tensor-first-split makes. As gguf-split does, the later ones say nothing but what
    part they are.
    """
    reader = gguf.GGUFReader(path)
    tensors = list(reader.tensors)
    n_entries = struct.unpack_from("<Q", path.read_bytes(), 16)[0]
    entries = path.read_bytes()[24 : tensors[0].field.offset]
    paths = []
    for number, n in enumerate([*n_tensors[:-1], len(tensors)]):
        taken, tensors = tensors[:n], tensors[n:]
        keys = [("split.no", "H", 2, number), ("split.count", "H", 2, len(n_tensors))]
        keys.append(("split.tensors.count", "i", 5, len(reader.tensors)))
        head = b"" if number else entries
        head += b"".join(_string(key) + struct.pack("<I" + code, kind, value) for key, code, kind, value in keys)
        head = struct.pack("<4sIQQ", b"GGUF", 3, len(taken), len(keys) + (0 if number else n_entries)) + head
        data = b""
        for tensor in taken:
            head += _string(tensor.name) + struct.pack(
                f"<I{len(tensor.shape)}Q", len(tensor.shape), *map(int, tensor.shape)
            )
            head += struct.pack("<IQ", tensor.tensor_type, len(data))
            data += _padded(tensor.data.tobytes())
        paths.append(folder / f"{name}-{number + 1:05}-of-{len(n_tensors):05}.gguf")
        paths[-1].write_bytes(_padded(head) + data)
    return paths


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
