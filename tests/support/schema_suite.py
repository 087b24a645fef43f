"""JSON-Schema-Test-Suite, which the source package of jsonschema carries: schemas, and values that fit them or do not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.support import real_models

_PINNED = "jsonschema==4.26.0 --hash=sha256:0c26707e2efad8aa1bfc5b7ce170f3fccc2e4918ff85989ba9ffa9facb2be326"
DRAFTS = ("draft4", "draft6", "draft7", "draft2019-09", "draft2020-12")

_OLD = ("draft4", "draft6", "draft7")


class Case(NamedTuple):
    """A schema, what it is about, and values with whether they fit it."""

    name: str
    schema: Any
    values: list[tuple[Any, bool]]


def cases(draft: str) -> Iterator[Case]:
    """Yield the suite's cases for a draft, the formats' among them; the package is downloaded once."""
    folder = _folder() / draft
    for path in [*sorted(folder.glob("*.json")), *sorted(folder.glob("optional/format/*.json"))]:
        for group in json.loads(path.read_text(encoding="utf-8")):
            schema = group["schema"]
            if draft in _OLD and isinstance(schema, dict):
                schema = {"$schema": f"http://json-schema.org/{draft.replace('draft', 'draft-0')}/schema#", **schema}
            values = [(test["data"], test["valid"]) for test in group["tests"]]
            yield Case(f"{path.stem}: {group['description']}", schema, values)


def different(drafts: Sequence[str]) -> Iterator[tuple[str, Case]]:
    """Yield the cases of several drafts, each with its draft; those that are the same in two of them only once."""
    seen: set[str] = set()
    for draft in drafts:
        for case in cases(draft):
            schema = {**case.schema, "$schema": ""} if isinstance(case.schema, dict) else case.schema
            key = json.dumps([schema, case.values])
            if key not in seen:
                seen.add(key)
                yield draft, case


def _folder() -> Path:
    target = real_models.FOLDER / "schema-suite"
    with real_models._alone():
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=real_models.FOLDER) as scratch:
                shutil.move(_unpacked(Path(scratch)), target)
    return target


def _unpacked(folder: Path) -> Path:
    wanted = folder / "wanted.txt"
    wanted.write_text(_PINNED, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        "jsonschema",
        "--require-hashes",
    ]
    subprocess.run([*command, "-r", str(wanted), "-d", str(folder)], check=True)
    [package] = folder.glob("jsonschema-*.tar.gz")
    with tarfile.open(package) as archive:
        archive.extractall(folder, filter="data")
    return folder / package.name.removesuffix(".tar.gz") / "json" / "tests"
