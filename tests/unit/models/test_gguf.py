from __future__ import annotations

import random
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from services.models.gguf import BadGguf, read_gguf
from services.models.gguf_types import TENSOR_TYPES
from tests.support.tiny import GUIDE

WHOLE = GUIDE.read_bytes()


def header(version: int = 3, tensors: int = 0, entries: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


ARCHITECTURE = string("general.architecture") + struct.pack("<I", 8) + string("llama")


def tensor(name: str, shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def test_the_guide_is_described() -> None:
    info = read_gguf(GUIDE)
    assert (info.name, info.architecture, info.quantization, info.context_length) == ("Guide", "llama", "Q8_0", 2048)
    assert (info.vocabulary, info.size, info.weights) == (2048, len(WHOLE), 3_507_616)


def test_the_metadata_is_kept_as_far_as_it_is_short(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_string("general.description", "é" * 128)
    writer.add_string("general.license", "é" * 128 + "x")
    writer.add_array("llama.attention.head_count_kv", [0, 2, 0])
    writer.add_array("llama.attention.sliding_window_pattern", [True, False])
    writer.add_array("llama.long", list(range(5000)))
    writer.add_array("general.tags", ["a", "b"])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.0])
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_uint16("split.count", 1)
    writer.add_string("elsewhere.x", "x")
    writer.add_tensor("t", np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_gguf(path).metadata == {
        "general.architecture": "llama",
        "llama.context_length": 64,
        "general.description": "é" * 128,
        "llama.attention.head_count_kv": [0, 2, 0],
        "llama.attention.sliding_window_pattern": [True, False],
        "tokenizer.ggml.add_bos_token": True,
        "split.count": 1,
    }


def test_what_follows_texts_of_any_length_is_read(tmp_path: Path) -> None:
    path, rng = tmp_path / "texts.gguf", random.Random(0)
    texts = struct.pack("<II", 9, 8)
    weights = tensor("t") + bytes(4096)
    for _ in range(40):
        lengths = [
            rng.choice((0, 1, 20, 65_519, 65_528, 65_536, 200_000)) + rng.randrange(4) for _ in range(rng.randrange(9))
        ]
        many = string("some") + texts + struct.pack("<Q", len(lengths)) + b"".join(string("x" * each) for each in lengths)
        after = string("general.name") + struct.pack("<I", 8) + string("Ana")
        path.write_bytes(header(tensors=1, entries=3) + ARCHITECTURE + many + after + weights)
        assert read_gguf(path).name == "Ana"
        path.write_bytes(header(tensors=1, entries=3) + ARCHITECTURE + many[:-1])
        with pytest.raises(BadGguf, match="cut short"):
            read_gguf(path)


def test_no_header_makes_it_keep_more_than_a_little(tmp_path: Path) -> None:
    arrays = [string(f"llama.a{n}") + struct.pack("<IIQ", 9, 4, 4096) + bytes(4 * 4096) for n in range(20)]
    path = tmp_path / "x.gguf"
    path.write_bytes(header(tensors=1, entries=21) + ARCHITECTURE + b"".join(arrays) + tensor("t") + bytes(999))
    kept = [key for key in read_gguf(path).metadata if key.startswith("llama.a")]
    assert kept == [f"llama.a{n}" for n in range(16)]


@pytest.mark.parametrize(
    ("template", "has_one"), [(None, False), ("", False), (" \n", False), ("{{ messages }}", True), (5, False)]
)
def test_a_chat_template_is_found(tmp_path: Path, template: str | int | None, has_one: bool) -> None:
    entry = b""
    if template is not None:
        kind, value = (4, struct.pack("<I", template)) if isinstance(template, int) else (8, string(template))
        entry = string("tokenizer.chat_template") + struct.pack("<I", kind) + value
    path = tmp_path / "x.gguf"
    path.write_bytes(header(tensors=1, entries=1 + bool(entry)) + ARCHITECTURE + entry + tensor("t") + bytes(999))
    assert read_gguf(path).chat_template is has_one


def test_the_tensor_types_are_those_of_the_format() -> None:
    """The format's own package lists them too, but for what is newer, and Q8_1, which stands in no file."""
    for kind, sizes in gguf.GGML_QUANT_SIZES.items():
        if kind.name != "Q8_1":
            assert TENSOR_TYPES[kind] == (kind.name, *sizes)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a GGUF file"),
        (b"Hello, I am a text.", "not a GGUF file"),
        (b"GGUF", "cut short"),
        (header(version=1), "version 1 cannot be read"),
        (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "version 50331648 cannot be read"),
        (header(tensors=2**60), "more than the file has room for"),
        (header(entries=2**63), "more than the file has room for"),
        (header(entries=1) + string("a") + struct.pack("<IQ", 8, 2**62), "said to be"),
        (header(entries=1) + struct.pack("<Q", 2**40) + bytes(9), "said to be"),
        (header(entries=1) + string("a") + struct.pack("<I", 99) + bytes(9), "a is of value type 99"),
        (header(entries=1) + string("a") + struct.pack("<IIQ", 9, 4, 2**40), "more than the file has room for"),
        (header(entries=1) + string("a") + struct.pack("<IIQ", 9, 9, 1) + bytes(20), "cannot stand in an array"),
        (header(entries=2) + ARCHITECTURE * 2, "has general.architecture twice"),
        (header(), "names no architecture"),
        (header(entries=1) + ARCHITECTURE, "holds no tensors"),
        (header(tensors=1, entries=1) + ARCHITECTURE + tensor("t"), "tensor t ends at byte"),
        (header(tensors=2, entries=1) + ARCHITECTURE + tensor("t") * 2 + bytes(999), "describes tensor t twice"),
        (header(tensors=1, entries=1) + ARCHITECTURE + tensor("t", kind=77) + bytes(999), "of type 77"),
        (header(tensors=1, entries=1) + ARCHITECTURE + tensor("t", (31,), 2) + bytes(999), "cannot be of shape"),
        (header(tensors=1, entries=1) + ARCHITECTURE + tensor("t", (0,)) + bytes(999), "cannot be of shape"),
        (header(tensors=1, entries=1) + ARCHITECTURE + tensor("t", (2**40, 2**40)) + bytes(999), "cannot be of shape"),
        (header(tensors=1, entries=1) + ARCHITECTURE + tensor("t", (1,) * 5) + bytes(999), "has 5 dimensions"),
        (header(tensors=1, entries=1) + ARCHITECTURE + tensor("t", offset=3) + bytes(999), "not aligned"),
        (header(tensors=1, entries=1) + ARCHITECTURE + tensor("t", offset=2**62), "cut short"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(BadGguf, match=says):
        read_gguf(path)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    cuts = [*range(0, 4000, 7), *range(4000, len(WHOLE), 50_021), len(WHOLE) - 1]
    for length in cuts:
        path.write_bytes(WHOLE[:length])
        with pytest.raises(BadGguf):
            read_gguf(path)


def test_random_damage_is_refused_or_read_and_nothing_else(tmp_path: Path) -> None:
    path, rng = tmp_path / "damaged.gguf", random.Random(0)
    for _ in range(300):
        data = bytearray(WHOLE[:100_000])
        for _ in range(rng.randint(1, 8)):
            at = rng.randrange(4, 90_000 if rng.random() < 0.5 else 1500)
            data[at] = rng.randrange(256)
        path.write_bytes(data)
        with pytest.raises(BadGguf):
            read_gguf(path)


def test_counts_that_no_model_has_are_refused_at_once(tmp_path: Path) -> None:
    """A large file could otherwise keep the reader busy for hours."""
    path = tmp_path / "large.gguf"
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 1, 10**6))
        # It takes no room on the disk.
        file.truncate(10**9)
    with pytest.raises(BadGguf, match="metadata entries is 1000000, and 65536 is the most"):
        read_gguf(path)
