"""Converting a model file to another type by llama.cpp's quantizer, in a process of its own.

`python3 -m services.engine.llama.quantizer` converts one file, as standard input says in JSON, and writes the reason of a
failure, or nothing, to standard output. llama.cpp ends its process on some files, and no signal interrupts the quantizer.
"""

from __future__ import annotations

from services.storage.processes import end_with_parent, take_stdout

if __name__ == "__main__":
    # First of all: one whose parent ends meanwhile ends too.
    end_with_parent()

import ctypes
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from services.engine.llama.bindings import llama_cpp
from services.engine.llama.loading import reason
from services.errors import BadModelFile
from services.settings import HOME

# llama.h, enum llama_ftype, for the types that a file can become here.
FILE_TYPES = {"Q4_0": 2, "Q8_0": 7, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "IQ4_NL": 25}
# Characters of llama.cpp's reason that are reported.
_LONGEST = 300


def convert(source: Path, target: Path, kind: str, n_threads: int, pruned: Sequence[int] = ()) -> None:
    """Write `source`, with all its parts, as one file of the type `kind` (of FILE_TYPES, or "": as it is) to `target`.

    Metadata is kept; layers whose numbers are `pruned` are left out. Raises BadModelFile with llama.cpp's reason, after
    which `target` may exist in part. KeyboardInterrupt ends the conversion.
    """
    request = json.dumps([str(source), str(target), kind, n_threads, list(pruned)]).encode()
    command, pipe = [sys.executable, "-m", "services.engine.llama.quantizer"], subprocess.PIPE
    process = subprocess.Popen(  # noqa: S603
        command, cwd=HOME, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        said, _ = process.communicate(request)
    finally:
        process.kill()
        process.wait()
    if process.returncode or said:
        why = said.decode("utf-8", "replace")[:_LONGEST] or f"llama.cpp ends its process (status {process.returncode})"
        raise BadModelFile(f"{source.name} cannot become {kind or 'a sample'}: {why}", param="model")


def _quantize(source: str, target: str, kind: str, n_threads: int, pruned: Sequence[int]) -> str:
    """Convert a file in this process; return the reason of a failure, or ""."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = n_threads
    params.allow_requantize = True
    if kind:
        params.ftype = FILE_TYPES[kind]
    params.only_copy = not kind
    if pruned:
        # The list ends with -1.
        params.prune_layers = (ctypes.c_int32 * (len(pruned) + 1))(*pruned, -1)
    failed = llama_cpp.llama_model_quantize(source.encode(), target.encode(), params)
    return reason() if failed else ""


def main() -> None:
    """Convert the file that standard input names."""
    request = json.load(sys.stdin)
    # llama.cpp prints to standard output too.
    with take_stdout() as file:
        file.write(_quantize(*request).encode())


if __name__ == "__main__":
    main()
