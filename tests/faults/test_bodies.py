"""Bodies of which only a part comes. HEARTH_HALF_BODIES says how many; 20 in the suite, 100 for a long run, which waits
until the server has ended them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from services.server.channel import ARRIVE_SECONDS
from tests.server.test_http import POST
from tests.support.attacking import Crowd, Honest, files_of, memory_of, worst_wait
from tests.support.serving import Server

COUNT = int(os.environ.get("HEARTH_HALF_BODIES", "20"))
SENT = 900_000


def test_half_a_body_takes_memory_that_is_bounded_and_nobodys_time(serve: Callable[..., Server]) -> None:
    server = serve()
    before, files = memory_of(server), files_of(server)
    honest, asking = Honest(server), Honest(server, "/auth")
    crowd = Crowd(server)
    honest.start()
    asking.start()
    try:
        for _ in range(COUNT):
            assert crowd.connect(POST + b"Content-Length: 1000000\r\n\r\n" + b"a" * SENT)
        time.sleep(1)
        most = memory_of(server) - before
        # Each is in memory, up to what all may take together, and no file is opened for it.
        assert most < 1.5 * min(COUNT * SENT, 2**27) / 1e6 + 30
        assert files_of(server) <= files + COUNT + 10
        assert server.ask("Count to 3.")["result"] == "1, 2, 3."
        if COUNT >= 100:
            deadline = time.monotonic() + ARRIVE_SECONDS + 10
            while crowd.count_open():
                assert time.monotonic() < deadline
                time.sleep(0.5)
    finally:
        honest.stop()
        asking.stop()
        crowd.close()
    assert honest.problems == asking.problems == []
    worst = max(*honest.waits, *asking.waits)
    print(f"{COUNT} half-bodies of {SENT:,} bytes: {most} MB; the worst of {len(honest.waits)} answers took {worst:.2f} s")
    assert worst < worst_wait("HEARTH_HALF_BODIES")
