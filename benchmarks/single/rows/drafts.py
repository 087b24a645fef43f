"""The first token of a long pasted prompt that was sent ahead as a draft, beside the same without a draft."""

from __future__ import annotations

import json
import re
from random import Random
from statistics import median
from time import monotonic, sleep
from typing import Any

from benchmarks.harness.servers import OWN, Hearth, Server
from benchmarks.harness.talk import Talk
from benchmarks.single.bench import OURS, THEIRS, Bench, Pair

WORDS = 1200
TOKENS = 8
ROUNDS = 3
# The last words are typed after the draft.
TYPED = 4
READ_SECONDS = 60.0
# A draft is read once the counter stands still for as long.
QUIET_SECONDS = 2.5


def paste(bench: Bench, number: int) -> Pair:
    """Hearth alone: 1,500 tokens pasted and read ahead (OURS), and the same number sent at once (THEIRS)."""
    rng = Random(1000 + number)
    times: dict[str, list[float]] = {OURS: [], THEIRS: []}
    n_read = []
    with bench.server(OURS, chat=OWN) as server:
        for talk in range(1, 2 * ROUNDS, 2):
            times[THEIRS].append(server.ask(Talk(talk), server.text(WORDS, rng), TOKENS).first_token)
            words = server.text(WORDS, rng)
            n_read.append(_draft(server, talk + 1, words))
            text = f"{words} {server.text(TYPED, rng)}"
            times[OURS].append(server.ask(Talk(talk + 1), text, TOKENS).first_token)
    return {side: {"first_token": median(each), "rounds": each, "read": n_read} for side, each in times.items()}


def _draft(server: Server, session: int, words: str) -> int:
    """Send a draft and wait until it is read; return the tokens read. Raises RuntimeError if nothing is."""
    assert isinstance(server, Hearth)
    before = _read_ahead(server)
    reply = _call(server, "POST", f"/answer/{session}/draft", {"prompt": words})
    if not reply.get("drafted"):
        raise RuntimeError(f"the draft is not read ahead: {reply}")
    deadline = monotonic() + READ_SECONDS
    read, since = before, monotonic()
    while read == before or monotonic() - since < QUIET_SECONDS:
        if monotonic() > deadline:
            raise RuntimeError(f"a draft of {reply['tokens']} tokens was not read within {READ_SECONDS:.0f} s")
        sleep(0.1)
        if (now := _read_ahead(server)) != read:
            read, since = now, monotonic()
    return read - before


def _read_ahead(server: Server) -> int:
    """Return the server's count of tokens that were read for drafts."""
    found = re.search(r'^hearth_tokens_total\{kind="draft"\} (\S+)', _call(server, "GET", "/metrics"), re.MULTILINE)
    if found is None:
        raise RuntimeError("/metrics does not count the tokens of drafts")
    return int(float(found[1]))


def _call(server: Server, method: str, path: str, body: Any = None) -> Any:
    """Return the reply: JSON, or text. Raises RuntimeError for an error."""
    connection = server.connect()
    headers = {**server.headers, "Content-Type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"{path} answered {response.status}: {text[:500]}")
    return json.loads(text) if "json" in response.getheader("Content-Type", "") else text
