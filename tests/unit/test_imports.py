"""The package rules: who may import a library or a package, and the order in which the packages import each other.

`python -m tests.unit.test_imports [FOLDER]` counts the rooms (folders with code) and the arrows (one room imports from
another) of this project, or of a checkout in FOLDER.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.support.serving import ROOT

# A library or a package, and the only packages that may import it.
ONLY = {
    "celery": ("services.cluster",),
    "charset_normalizer": ("services.documents.parsing",),
    "cryptography": ("auth.hashing", "services.cli"),
    "docx": ("services.documents.parsing",),
    "flask": ("services.api", "services.app", "auth.authentication"),
    "flask_cors": ("services.api.http",),
    "flask_restful": ("services.api", "services.app"),
    "httpx2": ("services.models", "services.cluster.worker"),
    "kombu": ("services.cluster",),
    "langchain_community": ("services.cluster.stores", "services.documents.parsing"),
    "langchain_core": ("services.sessions.langchain_history", "services.cluster.stores"),
    "limits": ("auth.rate_limits",),
    "llama_cpp": ("services.engine.llama.bindings",),
    "lxml": ("services.documents.parsing",),
    "prometheus_client": ("services.api",),
    "pypdf": ("services.documents.parsing",),
    "redis": ("services.cluster",),
    "spectree": ("services.api",),
    "sqlite3": ("services.storage",),
    "waitress": ("services.server",),
    "benchmarks": (),
    "examples": ("services.cli",),
    "tests": (),
    "auth.authentication": ("services.api", "services.app"),
    "services.answers": ("services.answers", "services.api", "services.app", "services.cli"),
    "services.api": ("services.api", "services.app", "services.server"),
    "services.app": ("services.cli",),
    "services.cluster": ("services.cluster", "services.cli", "services.bootstrap"),
    "services.engine": ("services.engine", "services.app", "services.cli", "services.cluster.node"),
    "services.engine.llama": ("services.engine", "services.cluster.node"),
    "services.server": ("services.server", "services.cli"),
}

# The layers, from the top to the bottom: a module imports from its own layer and from those below. The longest name counts.
LAYERS = (
    ("main", "hearth"),
    ("services.cli",),
    ("services.bootstrap",),
    ("services.server",),
    ("services.app",),
    # The road of one answer: the API, the answers, the prompts, and the models that compute them.
    ("services.api",),
    ("services.api.http",),
    ("auth.authentication",),
    ("services.cluster.worker",),
    ("services.cluster.node",),
    ("services.cluster.stores",),
    ("services.cluster",),
    ("services.engine.process",),
    ("services.engine",),
    ("services.engine.loop",),
    ("services.engine.llama",),
    ("services.engine.kv",),
    (
        "services.engine.machine",
        "services.engine.process_stat",
        "services.engine.own_thread",
    ),
    ("services.stores",),
    ("services.answers",),
    ("auth",),
    ("services.jobs",),
    ("services.documents",),
    ("services.sessions",),
    ("services.prompts",),
    ("services.models",),
    ("services.replies",),
    ("services.backend",),
    ("services.storage",),
    ("services.patterns",),
    ("services.readers",),
    ("services.validation",),
    ("services.settings",),
    ("services.logs", "services.errors", "services.keyless"),
)

# The imports that run upwards all the same, and why.
UPWARDS = {
    ("auth.authentication", "services.bootstrap"): "generate_api_key, typed at a Python prompt, opens the stores itself",
    (
        "services.engine.llama.embedder",
        "services.engine.loop.step_clock",
    ): "embeddings are steps too, which the watchdog counts",
    ("services.models.profile", "services.prompts.chat_template"): "a profile's chat template is checked when it is read",
}

# What a process imports until it works, and the packages that would cost it time and memory for nothing: see
# docs/performance.md. They are imported when they are used.
STARTS = {
    "services.cli.serve services.cli.first_model services.engine.process.client services.stores services.app "
    "services.server.waitress_server": {
        *("celery", "httpx", "httpx2", "huggingface_hub", "langchain_community", "langchain_core", "llama_cpp"),
        *("llguidance", "numpy", "redis", "requests", "rich"),
    },
    "services.engine.process.main services.engine.process.probe": {
        *("cryptography", "diskcache", "flask", "huggingface_hub", "jinja2", "langchain_core", "requests", "rich"),
        *("spectree", "waitress", "werkzeug"),
    },
}


@cache
def modules_in(root: Path) -> dict[str, Path]:
    """Return the files of the server's modules by name; a package is named by its folder."""
    files = [*root.glob("services/**/*.py"), *root.glob("auth/**/*.py"), root / "main.py", root / "hearth.py"]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Return the names of the modules that a file imports, and of everything that it imports from them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def arrows_between_modules(root: Path) -> set[tuple[str, str]]:
    """Return each import of one module of the server by another."""
    modules = modules_in(root)
    arrows = {(module, name) for module, path in modules.items() for name in imports_of(path) & modules.keys() - {module}}
    # `from package.module import name` names the package too; only modules count.
    return {(module, name) for module, name in arrows if modules[name].name != "__init__.py"}


def room_of(module: str, root: Path) -> str:
    """Return the folder of a module, as a package; main and hearth are rooms of their own."""
    return module if modules_in(root)[module].name == "__init__.py" else module.rpartition(".")[0] or module


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def layer_of(module: str) -> int:
    """Return the number of the layer with the longest name that holds the module. Raises ValueError if there is none."""
    number = {package: n for n, layer in enumerate(LAYERS) for package in layer if is_in(module, package)}
    if not number:
        raise ValueError(f"{module} stands in no layer")
    return number[max(number, key=len)]


def test_benchmarks_import_nothing_of_the_tests_but_their_support() -> None:
    names = {name for path in ROOT.glob("benchmarks/**/*.py") for name in imports_of(path) if is_in(name, "tests")}
    assert names
    assert all(is_in(name, "tests.support") for name in names)


@pytest.mark.parametrize("target", ONLY)
def test_only_these_packages_import_it(target: str) -> None:
    importers = {name for name, path in modules_in(ROOT).items() if any(is_in(each, target) for each in imports_of(path))}
    assert not {name for name in importers if not any(is_in(name, package) for package in ONLY[target])}
    unused = {package for package in ONLY[target] if not any(is_in(name, package) for name in importers)}
    assert not unused, "the rule allows more than is used"


@pytest.mark.parametrize("modules", STARTS, ids=["server", "engine"])
def test_a_start_imports_none_of_these(modules: str) -> None:
    program = f"import sys, {', '.join(modules.split())}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in run.stdout.split()}
    assert "pydantic" in imported
    assert not imported & STARTS[modules]


def test_imports_run_downwards() -> None:
    arrows = arrows_between_modules(ROOT)
    upwards = {(module, name) for module, name in arrows if layer_of(name) < layer_of(module)}
    assert upwards == UPWARDS.keys()


def test_no_cycles() -> None:
    """Remove the modules that import none of those left, again and again, until none is left."""
    left: dict[str, set[str]] = {module: set() for module in modules_in(ROOT)}
    for module, name in arrows_between_modules(ROOT):
        left[module].add(name)
    while free := [module for module, names in left.items() if not names & left.keys()]:
        for module in free:
            del left[module]
    assert not left


def count(root: Path) -> str:
    """Return the numbers of modules, rooms and arrows in a checkout, in words."""
    modules = arrows_between_modules(root)
    arrows = {(room_of(module, root), room_of(name, root)) for module, name in modules}
    arrows = {(one, other) for one, other in arrows if one != other}
    rooms = {room_of(module, root) for module in modules_in(root)}
    both_ways = sum((other, one) in arrows for one, other in arrows) // 2
    return (
        f"{len(rooms)} rooms, {len(arrows)} arrows between them ({both_ways} pairs of rooms import each other); "
        f"{len(modules_in(root))} modules, {len(modules)} arrows between them"
    )


if __name__ == "__main__":
    print(count(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT))
