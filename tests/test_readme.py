"""The README's console blocks: each command is typed, in order, to a fresh server, and its output compared."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable

from services.profiles import Profile
from tests.serving import ROOT, Server

README = (ROOT / "README.md").read_text(encoding="utf-8")
# What differs each time: times, keys, ids, dates.
CHANGING = [
    # How much was read ahead depends on how fast the next prompt came.
    (r'"cached_tokens": ?\d+', '"cached_tokens":0'),
    (r'_ms": ?[\d.]+', '_ms":0'),
    (r"hearth-[\w-]{43}", "hearth-…"),
    (r'"id":"[0-9a-f]{8}"', '"id":"…"'),
    (r'"id":"chatcmpl-[0-9a-f]{32}"', '"id":"…"'),
    (r'"created":\d+', '"created":0'),
    (r"\d{4}-\d\d-\d\dT[\d:+]+", "…"),
]


def masked(text: str) -> str:
    for pattern, mask in CHANGING:
        text = re.sub(pattern, mask, text)
    return text.strip()


def commands() -> list[tuple[str, str]]:
    """Every `$ command` of the console blocks, with the output shown below it."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def test_every_command_gives_the_output_shown(serve: Callable[..., Server]) -> None:
    server = serve()
    environ = {**os.environ, "KEY": server.key}
    assert len(commands()) > 15
    for command, output in commands():
        if command.startswith("KEY="):
            continue
        typed = command.replace("localhost:5000", server.url).replace("curl ", "curl -s ", 1)
        done = subprocess.run(["bash", "-c", typed], env=environ, capture_output=True, text=True, timeout=60)
        assert masked(done.stdout) == masked(output), command


def test_every_key_of_a_profile_is_explained() -> None:
    table = README[README.index("| key | default |") :]
    for name, field in Profile.model_fields.items():
        assert f"`{name}`" in table
        assert field.is_required() == (name in ("model", "template"))


def test_the_profile_shown_is_good() -> None:
    shown = json.loads(re.findall(r"```json\n(.*?)```", README, re.DOTALL)[0])
    Profile.model_validate(shown["Guide"])
