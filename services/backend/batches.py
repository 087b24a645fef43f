"""Items in batches, each within a total size and a number of items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def batches_of(items: Iterable[T], size: Callable[[T], int], most_size: int, most_items: int) -> Iterator[list[T]]:
    """Yield items in their order, as many together as fit; one of more than `most_size` is alone. `size` is an item's."""
    batch: list[T] = []
    total = 0
    for item in items:
        if batch and (len(batch) == most_items or total + size(item) > most_size):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size(item)
    if batch:
        yield batch
