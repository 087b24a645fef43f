"""docs/documents.md: the citations that it shows are those of the APIs, of an answer with a mark."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from tests.support.documents import handbook_pdf
from tests.support.fake_backend import FakeBackend
from tests.support.in_process import Client
from tests.support.serving import ROOT

PAGE = ROOT / "docs" / "documents.md"
QUESTION = "Who should be called if I am ill?"


def shown() -> list[Any]:
    """The JSON of the page's section about citations."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## Citations\n")[2].partition("\n## ")[0]
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", section, re.DOTALL)]


def told(client: Client) -> list[Any]:
    """The same parts of the replies to a question about the page's handbook."""
    file = {"file": ("handbook.pdf", handbook_pdf())}
    stored = client.request("POST", "/files", files=file, data={"collection": "handbook"})
    assert stored.status_code == 200, stored.text
    about = {"model": "Guide", "collection": "handbook", "messages": [{"role": "user", "content": QUESTION}]}
    search = {"type": "file_search", "vector_store_ids": ["handbook"]}
    answer = client.ask(QUESTION, collection="handbook")
    [choice] = client.post("/v1/chat/completions", about).json()["choices"]
    message = client.post("/v1/messages", {**about, "max_tokens": 50}).json()
    asked = {"input": QUESTION, "tools": [search], "include": ["file_search_call.results"]}
    output = client.post("/v1/responses", asked).json()["output"]
    assert answer["citations"] == choice["message"]["citations"]
    return [
        {"result": answer["result"], "citations": answer["citations"]},
        {"content": answer["result"], "annotations": choice["message"]["annotations"]},
        message["content"],
        output,
    ]


def masked(value: Any) -> str:
    """A value as text, without its ids."""
    return re.sub(r"[0-9a-f]{24,}", "…", json.dumps(value))


def test_the_citations_shown_are_those_of_each_api(open_client: Callable[..., Client]) -> None:
    client = open_client(backend=FakeBackend(lambda _: ["Call Maria [2]."]))
    assert masked(shown()) == masked(told(client))
