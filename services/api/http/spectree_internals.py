"""SpecTree, which makes the JSON schemas of the models for the document, and not when the handlers are declared."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from spectree import SpecTree
from spectree.model_adapter.protocol import SchemaMode
from typing_extensions import override


class LazySpecTree(SpecTree):
    """A SpecTree that adds the declared models to the document when it is first read.

    Their schemas take a third of the server's start and megabytes of memory, and few servers are asked for them.
    """

    def __init__(self, **options: Any) -> None:
        """`options` are those of SpecTree."""
        super().__init__(**options)
        self._declared: list[tuple[type[BaseModel], SchemaMode]] = []

    @property
    @override
    def spec(self) -> dict[str, Any]:
        """The document, made by the first call. One thread at a time may ask for it."""
        for model, mode in self._declared:
            super()._add_model(model, mode)
        self._declared.clear()
        return dict(super().spec)

    @override
    def _add_model(self, model: type[BaseModel], mode: SchemaMode = "validation") -> str:
        self._declared.append((model, mode))
        return str(self.naming_strategy(model))
