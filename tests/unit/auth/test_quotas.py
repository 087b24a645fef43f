"""A disk that takes long over one key's jobs keeps nobody else waiting."""

from __future__ import annotations

import threading
from pathlib import Path

from auth.identity import Terms
from auth.keys import KeyStore
from auth.quotas import Quotas, check_charged
from services.jobs.store import JobStore
from services.sessions.history import SessionKey
from services.sessions.responses import ResponseStore
from services.sessions.service import Sessions
from services.storage.json_file import JsonFile


def test_room_in_a_session_waits_for_no_job(tmp_path: Path) -> None:
    keys, jobs = KeyStore(tmp_path / "api_keys.json"), JobStore(tmp_path / "hearth.sqlite")
    responses = ResponseStore(tmp_path / "hearth.sqlite")
    charged = JsonFile(tmp_path / "charged.json", check_charged)
    quotas = Quotas(keys, Sessions(tmp_path / "sessions.json"), jobs, responses, charged, 10, 10)
    owner, done = keys.mint(Terms()).id, threading.Event()

    def keep() -> None:
        with quotas.session(SessionKey(owner, 1), 100):
            done.set()

    # As where another program has locked the file, and a job is being stored.
    with jobs.lock:
        thread = threading.Thread(target=keep)
        thread.start()
        assert done.wait(2)
    thread.join()
    jobs.close()
