"""Model files by a fuzzer that follows the code it reaches: python3 -m tests.support.fuzz_gguf [-runs=1000000] [CORPUS…].

Whatever bytes a file has, its header is read in bounded time and memory, and it is either refused or described. Of those
that are described, some are tried in llama.cpp, in a process of their own, as the server does.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

with atheris.instrument_imports(include=["services.models.gguf"]):
    from services.models.gguf import BadGguf, read_gguf

from services.backend.types import LoadSettings
from services.engine.process.client import EngineProcess
from services.engine.process.connection import EngineOptions
from services.errors import BadModelFile

# Seconds that reading one header may take, and between two trials in llama.cpp.
SLOW, TRIAL_EVERY = 2.0, 5.0
_folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
_engine = EngineProcess.open(EngineOptions(_folder / "states"), _folder / "hearth.sqlite")
_counts = {"refused": 0, "described": 0, "tried": 0, "refused by llama.cpp": 0}
_tried_at = 0.0


def read_one(data: bytes) -> None:
    """One file."""
    global _tried_at
    if (_counts["refused"] + _counts["described"]) % 500 == 499:
        # The fuzzer ends the process without a word to Python.
        print("cases:", _counts, flush=True)
    path = _folder / "fuzzed.gguf"
    path.write_bytes(data)
    started = time.monotonic()
    try:
        read_gguf(path)
        _counts["described"] += 1
    except BadGguf:
        _counts["refused"] += 1
        return
    finally:
        assert time.monotonic() - started < SLOW
    if time.monotonic() - _tried_at > TRIAL_EVERY:
        _counts["tried"] += 1
        try:
            with _engine.lease(LoadSettings(path, 64, stamp=(_counts["tried"], 0, 0))):
                pass
        except BadModelFile:
            _counts["refused by llama.cpp"] += 1
        _tried_at = time.monotonic()


def main() -> None:
    """Run the fuzzer, which counts the cases as it goes."""
    atheris.Setup(sys.argv, read_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
