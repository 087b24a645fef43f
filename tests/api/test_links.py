"""Files of the data folder that are links to elsewhere, as an owner keeps a configuration under version control."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.support.in_process import Client
from tests.support.serving import Api


def test_linked_files_stay_links_when_the_server_writes_them(open_client: Callable[..., Client], tmp_path: Path) -> None:
    files = Api(tmp_path / "data")
    elsewhere = tmp_path / "etc"
    elsewhere.mkdir()
    names = ("config.json", "api_keys.json", "sessions.json")
    for name in names:
        path = files.data / name
        if path.exists():
            path.rename(elsewhere / name)
        path.symlink_to(Path("..") / "etc" / name)
    client = open_client(data=files.data)
    switched = client.post("/models/model", {"model": "guide.gguf", "model_config": "Pirate"})
    assert switched.status_code == 200, switched.text
    _, id_ = client.mint("Ana")
    client.ask("My name is Ana.", session_id=1)
    client.restart()
    assert [name for name in names if not (client.data / name).is_symlink()] == []
    assert [name for name in names if (elsewhere / name).is_symlink()] == []
    assert json.loads((elsewhere / "config.json").read_text())["SelectedModel"] == "Pirate"
    assert id_ in json.loads((elsewhere / "api_keys.json").read_text())
    assert "1" in json.loads((elsewhere / "sessions.json").read_text())
