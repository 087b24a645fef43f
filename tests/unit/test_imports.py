"""Imports run one way along the road of an answer: api → answers → backend ← engine."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.serving import ROOT

FILES = sorted([*ROOT.glob("services/**/*.py"), *ROOT.glob("auth/*.py"), ROOT / "main.py"])
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}

# Who may import the module, or the package, on the left.
ONLY = {
    "flask": ("services.api", "services.app", "services.server", "auth.authentication"),
    "flask_restful": ("services.api", "services.app"),
    "spectree": ("services.api",),
    "waitress": ("services.server",),
    "llama_cpp": (
        "services.engine.llama.batch",
        "services.engine.llama.embedder",
        "services.engine.llama.grammar",
        "services.engine.llama.loading",
        "services.engine.llama.runner",
        "services.engine.llama.sampling",
        "services.engine.llama.vocabulary",
        "services.engine.llama.vocabulary_file",
        "services.engine.llama.log",
    ),
    "langchain_core": ("services.sessions.history", "services.cluster.stores.sessions", "services.cluster.stores.history"),
    "langchain_community": ("services.cluster.stores.history",),
    "celery": ("services.cluster.broker", "services.cluster.worker.worker"),
    "kombu": ("services.cluster.broker",),
    "redis": ("services.cluster",),
    "services.cluster": ("services.cluster", "services.cli", "services.bootstrap", "main"),
    "cryptography": ("auth.hashing", "services.cli.doctor"),
    "limits": ("auth.rate_limits",),
    "flask_cors": ("services.api.http.cors",),
    "httpx2": ("services.models", "services.cluster.worker.upstream"),
    "sqlite3": ("services.storage.sqlite_file",),
    "prometheus_client": ("services.api.metrics",),
    "services.engine": ("services.engine", "services.app", "services.cli", "main", "services.cluster.node.vocabularies"),
    "services.app": ("main",),
    "services.server": ("main", "services.server", "services.cli"),
    "services.api": ("services.api", "services.app", "services.server"),
    "services.answers.service": ("services.api", "services.app", "services.answers"),
    "auth.keys": (
        "auth",
        "services.stores",
        "services.bootstrap",
        "services.cluster.stores.stores",
        "services.cluster.stores.migrate",
        "services.api",
    ),
    "auth.rate_limits": (
        "auth.authentication",
        "services.answers.service",
        "services.answers.prepare",
        "services.answers.places",
        "services.stores",
        "services.cluster.stores.stores",
        "services.api",
    ),
    "auth.authentication": ("services.api", "services.app"),
}


def imported_by(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("target", ONLY)
def test_only_those_named_import_it(target: str) -> None:
    importers = {module for module, path in MODULES.items() if any(is_in(name, target) for name in imported_by(path))}
    allowed = {module for module in importers if any(is_in(module, package) for package in ONLY[target])}
    assert importers == allowed
    assert importers, "nobody imports it: the table is out of date"


def test_no_module_imports_itself_over_others() -> None:
    """No cycles, tested by taking away, again and again, what imports nothing that is left."""
    left = {m: {n for n in imported_by(p) if n in MODULES and n != m} for m, p in MODULES.items()}
    while free := [module for module, names in left.items() if not names & left.keys()]:
        for module in free:
            del left[module]
    assert not left
