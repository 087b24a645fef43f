"""Guessers beside one honest client. HEARTH_GUESSERS says how many; 40 in the suite, 200 for a long run of 60 s."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable

import requests

from tests.support.attacking import worst_wait
from tests.support.serving import Server

GUESSERS = int(os.environ.get("HEARTH_GUESSERS", "40"))
SECONDS = 60.0 if "HEARTH_GUESSERS" in os.environ else 5.0
WORST = worst_wait("HEARTH_GUESSERS")


def test_guessers_cost_an_honest_client_nothing(serve: Callable[..., Server]) -> None:
    server = serve()
    stored = json.loads((server.data / "api_keys.json").read_text())
    (server.data / "api_keys.json").write_text(json.dumps({**stored, "0": "open sesame"}))
    server.key = "open sesame"
    assert server.get("/auth").status_code == 200
    ends = time.monotonic() + SECONDS
    statuses: Counter[int] = Counter()

    def guess(number: int) -> None:
        with requests.Session() as http:
            n = 0
            while time.monotonic() < ends:
                n += 1
                try:
                    headers = {"Authorization": f"guess {number} {n}"}
                    statuses[http.get(f"{server.url}/auth", headers=headers, timeout=30).status_code] += 1
                except requests.RequestException:
                    statuses[0] += 1
                time.sleep(0.2)

    threads = [threading.Thread(target=guess, args=(n,)) for n in range(GUESSERS)]
    for thread in threads:
        thread.start()
    waits = []
    while time.monotonic() < ends:
        began = time.monotonic()
        answer = server.post("/answer", {"prompt": "Count to 3.", "memory_k": 0, "max_tokens": 4})
        assert answer.status_code == 200, answer.text
        waits.append(time.monotonic() - began)
    for thread in threads:
        thread.join()
    print(
        f"{GUESSERS} guessers, {SECONDS:g} s: the worst of {len(waits)} honest answers {max(waits):.2f} s; {dict(statuses)}"
    )
    assert max(waits) < WORST
    assert statuses[429] > statuses[401]
