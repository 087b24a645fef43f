from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from services.errors import DamagedFile, NotFound
from services.models.config import Profiles
from services.models.profile import Profile
from tests.support.serving import ROOT

GOOD = {"SelectedModel": "A", "A": {"model": "a.gguf", "template": "{input}"}}


def write(folder: Path, config: Any) -> Path:
    path = folder / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config, indent=1))
    return path


def test_the_shipped_profiles_are_good() -> None:
    config = Profiles(ROOT / "data" / "config.example.json").config()
    assert config.selected == "Guide"
    assert {"Guide", "Pirate"} < set(config.profiles)
    assert (config.profiles["Pirate"].template or "").startswith("You are a pirate.\n")
    assert config.profiles["SmolLM2"].template is None


def test_a_profile_needs_only_a_model(tmp_path: Path) -> None:
    profile = Profiles(write(tmp_path, GOOD)).config().profile
    assert (profile.memory, profile.context, profile.cache_type_k, profile.flash_attn) == (5, 2048, "f16", True)
    chat = Profiles(write(tmp_path, {"SelectedModel": "A", "A": {"model": "a.gguf"}})).config().profile
    assert (chat.memory, chat.context, chat.template) == (None, 0, None)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"A": {"model": "a.gguf", "template": "{input}", "temprature": 1}}, "did you mean temperature"),
        ({"A": {"model": "a.gguf", "template": "{input}", "colour": 1}}, "colour: there is no such field"),
        ({"A": {"model": "a.gguf", "template": "no place"}}, r"must contain \{input\}"),
        ({"A": {"template": "{input}"}}, "model: is missing"),
        ({"A": {"model": "a.gguf", "template": "{input}", "system_prompt": "S"}}, "system_prompt has no place beside"),
        (
            {"A": {"model": "a.gguf", "chat_template": "{% for %}"}},
            "chat_template: the model's chat template cannot be read",
        ),
        ({"A": {"model": "a.gguf", "chat_template": "file:../x.jinja"}}, "should be file:NAME.jinja"),
        ({"A": {"model": "a.gguf", "n_ctx": 7}}, "n_ctx: input should be greater"),
        ({"A": {"model": "a.gguf", "template": "{input}", "n_ctx": "4096"}}, "n_ctx: should be a whole number of tokens"),
        ({"A": {"model": "a.gguf", "template": "{input}", "n_ctx": True}}, "n_ctx: "),
        ({"A": {"model": "a.gguf", "template": "{input}", "top_p": 1.5}}, "top_p: "),
        ({"A": {"model": "a.gguf", "template": "{input}", "cache_type_k": "q3"}}, "cache_type_k: "),
        ({"A": {"model": "a.gguf", "template": "{input}", "stop": ["a", ""]}}, "stop.1: "),
        ({"A": {"model": "a.gguf", "thinking": "much"}}, "thinking: should be true, false"),
        ({"A": {"model": "a.gguf", "thinking": 1}}, "thinking: should be true, false"),
        ({"A": {"model": "a.gguf", "thinking": "none"}}, "thinking: should be true, false"),
        ({"A": {"model": "a.gguf", "thinking_budget": -1}}, "thinking_budget: "),
        ({"A": {"model": "a.gguf", "thinking_budget": "9"}}, "thinking_budget: "),
        ({"A": {"model": "a.gguf", "chat_template_kwargs": []}}, "chat_template_kwargs: "),
        ({"A": {"model": "a.gguf", "chat_template_kwargs": {"tools": []}}}, "chat_template_kwargs: tools is no variable"),
        ({"A": 5}, 'line 3, column \\d+: profile "A" should be an object'),
        ({"SelectedModel": "B"}, r"line 2, column \d+: .*should name one of the profiles, and 'B' is none"),
        ({"SelectedModel": 3}, "should name one of the profiles"),
        ({"SelectedModel": "SelectedModel"}, "should name one of the profiles"),
    ],
)
def test_a_wrong_entry_is_refused_by_name(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(DamagedFile, match=says):
        Profiles(write(tmp_path, {**GOOD, **change}))


@pytest.mark.parametrize("thinking", [True, False, "low", "medium", "high", None])
def test_a_profile_says_how_its_model_thinks(tmp_path: Path, thinking: bool | str | None) -> None:
    own = {"thinking": thinking, "thinking_budget": 0, "chat_template_kwargs": {"style": ["a", 1, None]}}
    profile = Profiles(write(tmp_path, {**GOOD, "A": {"model": "a.gguf", **own}})).config().profile
    assert (profile.thinking, profile.thinking_budget) == (thinking, 0)
    assert profile.chat_template_kwargs == {"style": ["a", 1, None]}


def test_a_windows_editors_file_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    profiles = Profiles(path)
    assert profiles.config().selected == "A"
    path.write_bytes(b"\xef\xbb\xbf{\r\n  oops")
    assert profiles.config().selected == "A"
    assert "line 2" in (profiles.problem or "")


def test_the_first_start_begins_with_the_example(tmp_path: Path) -> None:
    config = Profiles(tmp_path / "config.json").config()
    assert config == Profiles(ROOT / "data" / "config.example.json").config()
    assert json.loads((tmp_path / "config.json").read_text())["SelectedModel"] == "Guide"


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DamagedFile, match=r"config\.json, line 1, column 1: \"SelectedModel\" is missing"):
        Profiles(tmp_path / "config.json")


def test_an_edit_is_seen_and_a_broken_one_leaves_the_last_good_state(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    profiles = Profiles(path)
    write(tmp_path, {**GOOD, "A": {**GOOD["A"], "temperature": 0.25}})  # type: ignore[dict-item]
    assert profiles.config().profile.temperature == 0.25
    write(tmp_path, '{"SelectedModel": "A",\n "A": {"model" "a.gguf"}}')
    assert profiles.config().profile.temperature == 0.25
    assert "line 2, column 16" in (profiles.problem or "")
    path.unlink()
    assert profiles.config().profile.temperature == 0.25
    assert "is missing" in (profiles.problem or "")
    write(tmp_path, GOOD)
    assert profiles.config().profile.temperature == 0.8
    assert profiles.problem is None


def test_selecting_writes_the_file_and_keeps_the_rest(tmp_path: Path) -> None:
    both = {**GOOD, "B": {"model": "b.gguf", "template": "B {input}", "seed": 7}}
    path = write(tmp_path, both)
    profiles = Profiles(path)
    profiles.select("B", "c.gguf")
    assert json.loads(path.read_text()) == {**both, "SelectedModel": "B", "B": {**both["B"], "model": "c.gguf"}}  # type: ignore[dict-item]
    assert profiles.config().profile.model == "c.gguf"
    for name in ("C", "SelectedModel"):
        with pytest.raises(NotFound):
            profiles.select(name, "c.gguf")


def test_selecting_does_not_overwrite_a_broken_edit(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    profiles = Profiles(path)
    write(tmp_path, "{")
    with pytest.raises(DamagedFile):
        profiles.select("A", "c.gguf")
    assert path.read_text() == "{"


def test_every_documented_key_is_a_field() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text[text.index("| key | default | meaning |") :].partition("\n\n")[0]
    documented = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert set(Profile.model_fields) == documented
