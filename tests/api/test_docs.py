"""/docs: the API's page, from files of our own."""

from __future__ import annotations

import re

import pytest
import requests

from tests.support.serving import Server


def test_the_page_and_its_files_need_no_key(server: Server) -> None:
    page = requests.get(f"{server.url}/docs", timeout=10)
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    links = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
    assert len(links) == 3
    for link in links:
        file = requests.get(server.url + link, timeout=10)
        assert file.status_code == 200
        assert len(file.content) > 100
    assert "://" not in page.text
    assert requests.get(f"{server.url}/openapi.json", timeout=10).json()["info"]["title"] == "Hearth"


@pytest.mark.parametrize("path", ["/docs/nothing", "/docs/../config.json", "/docs/swagger-ui/LICENSE", "/docs/docs.html"])
def test_no_other_file_is_given(server: Server, path: str) -> None:
    assert requests.get(server.url + path, timeout=10).status_code in (401, 404)
