"""What models are tokenized by, on a machine that has none of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from services.backend.types import ChatFormat, Prompt
from services.cluster.registry import TEXT, Registry, ServedModel
from services.cluster.stores.files import NO_WORKER
from services.cluster.text_tokens import TextTokenizer
from services.engine.llama.vocabulary_file import load_vocabulary
from services.errors import Unavailable


class Tokenizer(Protocol):
    """Texts to token ids and back."""

    chat_format: ChatFormat

    def tokenize(self, prompt: Prompt) -> list[int]:
        """See `Model.tokenize`."""
        ...

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """See `Model.pieces`."""
        ...


class Vocabularies:
    """Those that were asked for, in memory. Any thread may call it; `_lock` lets one at a time be fetched."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        """`folder` is where what was fetched is kept."""
        self._registry = registry
        self._folder = folder
        self._lock = threading.Lock()
        self._known: dict[str, Tokenizer] = {TEXT: TextTokenizer()}

    def get(self, model: ServedModel) -> Tokenizer:
        """That of a model. Raises Unavailable where no worker has left it."""
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
