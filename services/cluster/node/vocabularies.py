"""The models' tokenizers, on a machine that has no model: workers publish the vocabularies."""

from __future__ import annotations

import threading
from pathlib import Path

from services.cluster.registry import TEXT, Registry, ServedModel
from services.cluster.stores.files import NO_WORKER
from services.cluster.text_tokens import TextTokenizer, Tokenizer
from services.engine.llama.vocabulary_file import load_vocabulary
from services.errors import Unavailable


class Vocabularies:
    """The tokenizers used so far, in memory. Any thread may call it; `_lock` lets one at a time be fetched."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        """`folder` keeps the vocabularies that were fetched."""
        self._registry = registry
        self._folder = folder
        self._lock = threading.Lock()
        self._known: dict[str, Tokenizer] = {TEXT: TextTokenizer()}

    def get(self, model: ServedModel) -> Tokenizer:
        """Return a model's tokenizer. Raises Unavailable where no worker has published its vocabulary."""
        if found := self._known.get(model.vocabulary):
            return found
        with self._lock:
            if model.vocabulary not in self._known:
                path = self._registry.fetch_vocabulary(model.vocabulary, self._folder)
                if path is None:
                    what = f"the vocabulary of {model.name} is not there yet"
                    raise Unavailable(what, code=NO_WORKER, retry_after=5)
                self._known[model.vocabulary] = load_vocabulary(path)
            return self._known[model.vocabulary]
