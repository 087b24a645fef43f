"""The fuzz of model files, for a few seconds. HEARTH_GGUF_RUNS says how many cases: 1000000 for a long run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.support.serving import ROOT
from tests.support.tiny import write_twin_token_model

RUNS = int(os.environ.get("HEARTH_GGUF_RUNS", "4000"))

pytest.importorskip("atheris", reason="there is no atheris for this Python")


def write_small(path: Path) -> None:
    """A GGUF of a few hundred bytes with one value of each kind, from which the fuzzer begins."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_float32("llama.f", 1.0)
    writer.add_bool("llama.b", True)
    writer.add_uint8("llama.u8", 1)
    writer.add_int64("llama.i64", -1)
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", ""])
    writer.add_array("llama.numbers", [1, 2, 3])
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_no_bytes_bring_the_reader_down(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write_small(corpus / "small.gguf")
    write_twin_token_model(corpus / "twins.gguf")
    command = [
        sys.executable,
        "-m",
        "tests.support.fuzz_gguf",
        f"-runs={RUNS}",
        "-seed=1",
        "-max_len=4096",
        "-rss_limit_mb=4096",
    ]
    done = subprocess.run(
        [*command, f"-artifact_prefix={tmp_path}/", str(corpus)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(re.findall(r"cases: .*", done.stdout)[-1:], re.findall(r"cov: \d+", done.stderr)[-1:])
    assert f"Done {RUNS} runs" in done.stderr
