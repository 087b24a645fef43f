"""Private members of libraries, which stand in the adapters alone."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.support.serving import ROOT

ADAPTERS = {
    "services/models/hub_internals.py",
    "services/server/waitress_internals.py",
}
# These are documented, in spite of their names.
DOCUMENTED = {"_asdict", "_exit", "_fields", "_fields_", "_replace", "_type_"}
FILES = [*ROOT.glob("services/**/*.py"), *ROOT.glob("auth/**/*.py"), ROOT / "main.py", ROOT / "hearth.py"]
SOURCES = {path.relative_to(ROOT).as_posix(): path for path in FILES}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def names_defined(tree: ast.Module) -> set[str]:
    """The names of all functions, classes, variables and attributes that a file defines."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def private_uses(tree: ast.Module) -> set[str]:
    """The private modules and names that a file imports, and the private attributes that it reads and does not define."""
    own, found = names_defined(tree), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if any(map(is_private, alias.name.split(".")))}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            found |= {f"{node.module}.{name}" for name in names if is_private(name)}
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own | DOCUMENTED:
            found.add(ast.unparse(node))
    return found


def test_private_members_stand_in_the_adapters_alone() -> None:
    uses = {name: found for name, path in SOURCES.items() if (found := private_uses(tree_of(path)))}
    assert {name: found for name, found in uses.items() if name not in ADAPTERS} == {}
    assert uses.keys() >= ADAPTERS, "an adapter that uses nothing private is needed no more"


def test_waitress_is_imported_by_its_adapter_alone() -> None:
    for name, path in SOURCES.items():
        if name not in ADAPTERS:
            assert "from waitress" not in path.read_text(encoding="utf-8"), name
