from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.serving import ROOT

NPM_CLIENTS = "tests/server/npm"
NEEDED = ("basename", "bash", "cat", "dirname", "env", "setpriv")


@pytest.fixture
def bare() -> Iterator[Path]:
    """A folder that anybody may read, with setup.sh and a PATH on which nearly nothing is."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copy(ROOT / "setup.sh", folder)
        (folder / "bin").mkdir()
        for tool in NEEDED:
            found = shutil.which(tool)
            assert found
            (folder / "bin" / tool).symlink_to(found)
        yield folder


def run(
    folder: Path, *arguments: str, before: tuple[str, ...] = (), path: str | None = None
) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": path or str(folder / "bin"), "HOME": str(folder)}
    command = [*before, str(folder / "setup.sh"), *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)


def test_help_and_unknown_commands(bare: Path) -> None:
    assert "./setup.sh run" in run(bare, "--help").stdout
    unknown = run(bare, "rnu")
    assert unknown.returncode == 1
    assert "there is no command rnu" in unknown.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who is not")
def test_without_root_and_sudo_the_missing_packages_are_named(bare: Path) -> None:
    done = run(bare, before=("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"))
    assert done.returncode == 1
    assert "there is no sudo to install them: python3 python3-venv build-essential cmake ninja-build curl." in done.stderr


def test_missing_packages_are_installed_by_apt_get(bare: Path) -> None:
    """Through sudo, where one is not root."""
    for tool in ("apt-get", "sudo"):
        fake = bare / "bin" / tool
        fake.write_text(f'#!/usr/bin/env bash\necho "{tool} $*"\n')
        fake.chmod(0o755)
    (bare / "bin" / "python3").symlink_to(Path(sys.executable).resolve())
    for tool in ("c++", "cc", "make", "curl"):
        (bare / "bin" / tool).symlink_to("/bin/true")
    done = run(bare)
    assert "Installing system packages: cmake" in done.stdout
    assert re.search(r"apt-get .* install .*recommends cmake$", done.stdout, re.MULTILINE)
    assert "build-essential" not in done.stdout
    # The tests need a browser, and a cluster's servers.
    assert "Installing system packages: cmake chromium redis-server" in run(bare, "test").stdout
    assert " strace nodejs npm\n" in run(bare, "test").stdout
    for tool in ("google-chrome", "redis-server", "node"):
        (bare / "bin" / tool).symlink_to("/bin/true")
    said = run(bare, "test").stdout
    assert "chromium" not in said
    assert "redis" not in said
    assert " strace npm\n" in said


def test_a_system_without_apt_get_is_told_what_it_needs(bare: Path) -> None:
    done = run(bare)
    assert done.returncode == 1
    assert "needed" in done.stderr
    assert "cmake" in done.stderr


@pytest.fixture
def ready(bare: Path) -> Path:
    """The same with everything installed: a python that says what it runs, and with which HEARTH_MODEL."""
    (bare / ".venv" / "bin").mkdir(parents=True)
    (bare / "scripts").mkdir()
    python = '#!/usr/bin/env bash\necho "python $HEARTH_MODEL $*"\n[[ ! -f broken ]]\n'
    scripts = {".venv/bin/python": python, "scripts/check": '#!/usr/bin/env bash\necho "checked $*"\n'}
    for name, text in {
        **scripts,
        **{f"bin/{tool}": "" for tool in ("chromium", "redis-server", "rabbitmq-server", "strace", "node")},
        "bin/npm": '#!/usr/bin/env bash\nmkdir node_modules 2>/dev/null\necho "npm $*" >>calls\n',
    }.items():
        (bare / name).write_text(text)
        (bare / name).chmod(0o755)
    (bare / ".venv" / "made").touch()
    stamp_of = 'eval "$(sed -n "/^export CMAKE_ARGS/p; /^build_id()/,/^}/p; /^stamp_of()/p" setup.sh)"; stamp_of'
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-clients.txt"):
        (bare / name).touch()
        subprocess.run(["bash", "-c", f"{stamp_of} {name} >.venv/{name}.installed"], cwd=bare, check=True)
    (bare / NPM_CLIENTS / "node_modules").mkdir(parents=True)
    for name in (f"{NPM_CLIENTS}/package-lock.json", ".venv/npm-clients.installed"):
        (bare / name).write_text("{}\n")
    return bare


@pytest.mark.parametrize(("given", "model"), [("", "SmolLM2"), ("none", "none"), ("Qwen3.5-2B", "Qwen3.5-2B")])
def test_the_first_run_has_a_model_unless_told_otherwise(ready: Path, given: str, model: str) -> None:
    done = run(
        ready, "run", "--port", "0", before=("env", f"HEARTH_MODEL={given}"), path=f"{ready}/bin:{os.environ['PATH']}"
    )
    assert done.stdout == f"python {model} {ready}/main.py --port 0\n"


def test_the_tests_models_are_fetched_before_they_run(ready: Path) -> None:
    path = f"{ready}/bin:{os.environ['PATH']}"
    assert run(ready, "test", "-x", path=path).stdout == "python  -m tests.support.real_models\nchecked -x\n"
    (ready / "broken").touch()
    done = run(ready, "test", "-x", path=path)
    assert (done.returncode, done.stdout) == (1, "python  -m tests.support.real_models\n")
    assert "could not be fetched" in done.stderr


def test_packages_of_npm_are_installed_anew_where_their_lock_file_has_changed(ready: Path) -> None:
    folder = ready / NPM_CLIENTS

    def calls() -> str:
        assert run(ready, "test", path=f"{ready}/bin:{os.environ['PATH']}").returncode == 0
        return (folder / "calls").read_text() if (folder / "calls").exists() else ""

    install = "npm ci --ignore-scripts --no-audit --no-fund\n"
    assert calls() == ""
    (folder / "package-lock.json").write_text('{"lockfileVersion": 3}\n')
    assert calls() == install
    assert calls() == install
    (folder / "node_modules").rmdir()
    assert calls() == 2 * install


def test_everything_that_runs_is_pinned_with_hashes() -> None:
    for name in ("requirements.txt", "requirements-cluster.txt", "requirements-dev.txt"):
        lines = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
        pins = [line for line in lines if line and not line.lstrip().startswith("#")]
        assert len(pins) > 20
        assert all("==" in pin and "--hash=sha256:" in pin for pin in pins)
        assert not [line for line in lines if "index-url" in line or "://" in line.split("#")[0]]
    lock = json.loads((ROOT / NPM_CLIENTS / "package-lock.json").read_text(encoding="utf-8"))
    asked, *packages = lock["packages"].values()
    assert all(version[0].isdigit() for version in asked["dependencies"].values())
    assert len(packages) > 10
    # Without addresses, so that the registry is the one that npm is configured for.
    assert all(package["integrity"].startswith("sha512-") and "resolved" not in package for package in packages)
