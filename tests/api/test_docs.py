"""/docs: the API's page, from files of our own."""

from __future__ import annotations

import re

import pytest

from tests.support.in_process import Client


def test_the_page_and_its_files_need_no_key(client: Client) -> None:
    page = client.http.get(f"{client.url}/docs")
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    links = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
    assert len(links) == 3
    for link in links:
        file = client.http.get(client.url + link)
        assert file.status_code == 200
        assert len(file.content) > 100
    assert "://" not in page.text
    assert client.http.get(f"{client.url}/openapi.json").json()["info"]["title"] == "Hearth"


@pytest.mark.parametrize("path", ["/docs/nothing", "/docs/swagger-ui/LICENSE", "/docs/docs.html"])
def test_no_other_file_is_given(client: Client, path: str) -> None:
    assert client.http.get(client.url + path).status_code == 404
