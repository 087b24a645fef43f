"""The facts of a model that `main.py models` prints, its memory with a profile's settings included."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from services.logs import visible, visible_lines
from services.models.catalog import CatalogEntry
from services.models.gguf import NO_TEMPLATE, GgufInfo
from services.models.memory import Fit
from services.models.profile import Profile

CAN = {"think": "thinks first", "tools": "uses tools"}


def file_facts(info: GgufInfo) -> list[tuple[str, str]]:
    """Return the facts of a model file's header, a name and a text each."""
    kind = "" if info.chat_template or info.adapter else f" ({NO_TEMPLATE})"
    facts = [
        ("name", info.name or ""),
        ("architecture", info.architecture + kind),
        ("weights", f"{short(info.weights)}, {info.quantization}"),
        ("size", gb(info.size) + (f" in {info.parts} files" if info.parts > 1 else "")),
        ("trained context", f"{info.context_length:,} tokens" if info.context_length else "not said"),
        ("vocabulary", f"{info.vocabulary:,} tokens" if info.vocabulary else ""),
    ]
    return [("kind", "a LoRA adapter, for a profile's lora"), *facts] if info.adapter else facts


def catalog_facts(entry: CatalogEntry) -> list[tuple[str, str]]:
    """Return the catalog's facts of a model, a name and a text each."""
    return [
        ("about", entry.about),
        ("source", entry.source),
        ("size", gb(entry.size)),
        ("weights", short(entry.weights)),
        ("licence", entry.licence),
        ("can", ", ".join(CAN[each] for each in entry.can)),
        ("trained context", f"{entry.context:,} tokens"),
        ("comfortable", f"on a machine with {entry.machine_gb} GB; it needs {gb(entry.needs)} free"),
    ]


def profile_facts(name: str, profile: Profile) -> list[tuple[str, str]]:
    """Return a profile's name, the form of its prompts and its memory, a name and a text each."""
    return [
        ("profile", name or "none yet, so as one that is made for it"),
        ("prompted by", "its template" if profile.template is not None else "a chat template"),
        ("remembers", "all that fits" if profile.memory is None else f"{profile.memory} exchanges (memory_k)"),
    ]


def memory_facts(made: Fit, free: int) -> list[tuple[str, str]]:
    """Return a model's memory, or the reason for which it does not fit, a name and a text each."""
    if made.problem:
        return [("memory", f"does not fit: {made.problem}")]
    at_once = "1 answer at once" if made.n_slots == 1 else f"{made.n_slots} answers at once"
    return [
        ("in memory", f"{gb(made.weights + made.kv)}: weights {gb(made.weights)}, KV cache {gb(made.kv)}"),
        ("that is", f"{at_once}, each with a context of {made.n_ctx:,} tokens"),
        ("free now", gb(free)),
    ]


def print_facts(title: str, facts: Iterable[tuple[str, str]]) -> None:
    """Print a line for each fact that has a text."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in facts:
        if text:
            table.add_row(name, visible_lines(text))
    _console().print(visible(title), table, sep="\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows of texts under their columns; names are never cut."""
    table = Table()
    for n, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=n == 0)
    for row in rows:
        table.add_row(*map(visible_lines, row))
    _console().print(table)


def gb(n_bytes: int) -> str:
    """Return a size in the unit that suits it: 3.8 MB, 12.1 GB."""
    for power, unit in ((3, "GB"), (2, "MB"), (1, "KB")):
        if n_bytes >= 0.9995 * 1000**power:
            return f"{n_bytes / 1000**power:.{1 if n_bytes < 99.95 * 1000**power else 0}f} {unit}"
    return f"{n_bytes} B"


def short(count: int) -> str:
    """Return a count of weights: 3.5 M, 1.2 B."""
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"


def _console() -> Any:
    return Console(width=None if os.isatty(1) else 160, markup=False, highlight=False)
