"""The features of this machine's CPU that llama.cpp's library uses."""

from __future__ import annotations

import re

from services.engine.llama.bindings import llama_cpp


def cpu_features() -> frozenset[str]:
    """Return their names, as llama.cpp prints them: AVX2, AVX512, NEON, DOTPROD and others."""
    return frozenset(re.findall(r"(\w+) = [1-9]", llama_cpp.llama_print_system_info().decode()))
