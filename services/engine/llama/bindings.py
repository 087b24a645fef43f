"""llama.cpp's C functions, structures and constants: llama-cpp-python's module of them, without the rest of its package.

The package's `__init__` imports chat formats, a cache on disk and Jinja around them, of which the engine uses nothing: a
third of the time that its process takes to start.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import version
from typing import Any

VERSION = version("llama-cpp-python")


def _load() -> Any:
    """Import the module. A later `import llama_cpp` runs the package's `__init__` as usual, over the same module."""
    found = importlib.util.find_spec("llama_cpp")
    if "llama_cpp" in sys.modules or found is None:
        from llama_cpp import llama_cpp

        return llama_cpp
    # A package that has not run yet: its modules can be imported.
    sys.modules["llama_cpp"] = importlib.util.module_from_spec(found)
    try:
        from llama_cpp import llama_cpp

        return llama_cpp
    finally:
        del sys.modules["llama_cpp"]


llama_cpp = _load()
