"""A model's vocabulary without its weights, for tokenizing on a machine that does not have the model."""

from __future__ import annotations

from pathlib import Path

from services.engine.llama import log as native_log
from services.engine.llama.bindings import llama_cpp
from services.engine.llama.vocabulary import Vocabulary
from services.errors import BadModelFile


def load_vocabulary(path: Path) -> Vocabulary:
    """Load the vocabulary of a GGUF file, which needs no tensors. It is never freed. Raises BadModelFile."""
    native_log.show_all(False)
    native_log.take_errors()
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise BadModelFile(f"llama.cpp cannot read the vocabulary {path.name}: {native_log.take_errors()}", param="model")
    return Vocabulary(model)
