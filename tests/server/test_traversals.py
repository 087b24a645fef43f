"""Paths that lead out of the folders of public files, sent raw: clients make /config.json of /docs/../config.json."""

from __future__ import annotations

import pytest

from tests.server.test_server import exchange
from tests.support.serving import Server

UP = ("../", "%2e%2e/", "..%2f", "..%5c", "%252e%252e/", "....//", "./../", "\\..\\")


@pytest.mark.parametrize("folder", ["/docs/", "/page/", "/docs/swagger-ui/", "/page/marked/"])
@pytest.mark.parametrize("up", UP)
def test_no_path_leads_out_of_its_folder(server: Server, folder: str, up: str) -> None:
    # The data folder has no fixed place beside the pages; main.py and the system's files have.
    for levels in range(1, 9):
        for file in ("config.json", "data/config.example.json", "main.py", "etc/passwd", "app.py"):
            asked = f"GET {folder}{up * levels}{file} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            received = exchange(server, asked.encode())
            assert received.split(b" ", 2)[1] in (b"400", b"401", b"404"), asked
            assert not any(words in received for words in (b"SelectedModel", b"root:", b"import annotations")), asked


def test_a_file_that_is_public_is_given_to_the_same_request(server: Server) -> None:
    asked = b"GET /docs/swagger-ui/swagger-ui.css HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert exchange(server, asked).startswith(b"HTTP/1.1 200")
