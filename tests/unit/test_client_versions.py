"""The versions of clients in docs/clients.md are those that the tests run."""

from __future__ import annotations

import json
import re

from tests.support.serving import ROOT

ROW = re.compile(r"^\| (?:npm )?([\w@/-]+) \| ([\d.]+) \|", re.MULTILINE)


def test_the_table_has_the_versions_that_are_pinned() -> None:
    pinned: set[tuple[str, str]] = set()
    for name in ("requirements-clients.txt", "requirements-dev.txt"):
        pinned |= set(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))
    lock = json.loads((ROOT / "tests" / "server" / "npm" / "package-lock.json").read_text(encoding="utf-8"))
    pinned |= {(name.removeprefix("node_modules/"), each["version"]) for name, each in lock["packages"].items() if name}
    page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    rows = ROW.findall(page)
    rows += re.findall(r"(@ai-sdk/[\w-]+|langchain-tests) (\d[\d.]*\d)", page)
    assert len(rows) > 18
    assert set(rows) - pinned == set()
