"""Bodies that are larger than may be, over a socket."""

from __future__ import annotations

import pytest

from tests.support.serving import Server


@pytest.mark.parametrize("size", [2**20 + 1, 5_000_000])
def test_a_body_over_a_megabyte_is_refused(server: Server, size: int) -> None:
    reply = server.request("POST", "/answer", data=b" " * size)
    assert (reply.status_code, reply.json()["message"]) == (413, "the body is larger than 1 MiB (1,048,576 bytes)")


def test_a_body_of_unknown_length_over_a_megabyte_is_refused(server: Server) -> None:
    reply = server.request("POST", "/answer", data=iter([b" " * 2**18] * 5))
    assert reply.status_code == 413
    assert server.request("POST", "/answer", data=iter([b'{"prompt": ', b'"Count to 3."}'])).json()["result"] == "1, 2, 3."
