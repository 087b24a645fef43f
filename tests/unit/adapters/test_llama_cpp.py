"""The members of llama-cpp-python that services/engine/llama relies on: its C structures and functions."""

from __future__ import annotations

import re
import subprocess
import sys

import llama_cpp

from tests.support.serving import ROOT

FOLDER = ROOT / "services" / "engine" / "llama"


def test_structures_have_the_fields_that_are_set() -> None:
    """ctypes takes any attribute of a structure, so that a field that is gone would be set without effect."""
    source = "".join(path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.py")))
    kinds = ("llama_model_params", "llama_context_params", "llama_model_quantize_params")
    known = {name for kind in kinds for name, *_ in getattr(llama_cpp, kind)._fields_}
    chained = re.findall(r"^ +((?:params\.\w+ = )+)", source, re.MULTILINE)
    used = {name for each in chained for name in re.findall(r"params\.(\w+)", each)}
    assert len(used) > 15
    assert used <= known, f"llama.cpp's parameters have no {used - known}"
    batch = set(re.findall(r"self\.native\.(\w+)", source))
    assert batch <= {name for name, *_ in llama_cpp.llama_batch._fields_}
    assert len(batch) == 6


def test_functions_and_types_are_there() -> None:
    """They are loaded from the compiled library by name, when they are first called."""
    source = "".join(path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.py")))
    used = set(re.findall(r"\bllama_cpp\.(\w+)", source))
    assert len(used) > 60
    missing = {name for name in used if not hasattr(llama_cpp, name)}
    assert not missing


def test_the_bindings_are_imported_without_the_package_and_leave_it_usable() -> None:
    program = """
import sys
from services.engine.llama.bindings import VERSION, llama_cpp as bindings
print(*sorted(name for name in sys.modules if name.partition(".")[0] == "llama_cpp"))
import llama_cpp
assert llama_cpp.Llama and llama_cpp.__version__ == VERSION
assert llama_cpp.llama_cpp is bindings and llama_cpp.llama_batch is bindings.llama_batch
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["llama_cpp._ctypes_extensions", "llama_cpp.llama_cpp"]
