from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import ROOT

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
    for tool in ("google-chrome", "redis-server"):
        (bare / "bin" / tool).symlink_to("/bin/true")
    said = run(bare, "test").stdout
    assert "chromium" not in said
    assert "redis" not in said


def test_a_system_without_apt_get_is_told_what_it_needs(bare: Path) -> None:
    done = run(bare)
    assert done.returncode == 1
    assert "needed" in done.stderr
    assert "cmake" in done.stderr


def test_everything_that_runs_is_pinned_with_hashes() -> None:
    for name in ("requirements.txt", "requirements-cluster.txt", "requirements-dev.txt"):
        lines = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
        pins = [line for line in lines if line and not line.lstrip().startswith("#")]
        assert len(pins) > 20
        assert all("==" in pin and "--hash=sha256:" in pin for pin in pins)
        assert not [line for line in lines if "index-url" in line or "://" in line.split("#")[0]]
