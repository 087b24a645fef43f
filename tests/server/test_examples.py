from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

import examples.langchain_documents
from examples.client import Answer, Client, ServerError
from examples.langchain_documents import HearthRetriever
from tests.support.documents import handbook_pdf
from tests.support.real_models import smollm2
from tests.support.serving import ROOT, Server


def test_the_client_has_a_method_for_every_request(serve: Callable[..., Server]) -> None:
    server = serve()
    client = Client(server.url, server.key)
    assert client.health() == "ready"
    assert client.is_key_good()
    assert not Client(server.url, "wrong").is_key_good()
    assert client.answer("My name is Ana.", session_id=5).result == "Nice to meet you, Ana!"
    answer = client.answer("What is my name?", session_id=5, temperature=0)
    assert isinstance(answer, Answer)
    assert (answer.result, answer.finish_reason) == ("Your name is Ana.", "stop")
    assert client.sessions() == {"5": "My name is Ana."}
    assert len(client.session(5)["messages"]) == 4
    client.forget(5)
    assert client.sessions() == {}
    assert client.models()["selected"] == "Guide"
    client.switch_model("guide.gguf", "Pirate")
    assert client.answer("What is 7 plus 5?").result == "Arr! 7 plus 5 is 12."
    key, key_id = client.mint_key("Bob")
    listed = client.keys()
    assert [entry["name"] for entry in listed] == ["master", "Bob"]
    assert Client(server.url, key).is_key_good()
    assert client.change_key(key_id, limits={"parallel": 2})["limits"] == {"parallel": 2}
    new = client.rotate_key(key_id, grace="0s")
    assert [Client(server.url, each).is_key_good() for each in (key, new)] == [False, True]
    assert client.usage()[0]["key"] == "0"
    key = new
    client.revoke_key(key_id)
    assert not Client(server.url, key).is_key_good()


def test_the_client_streams(server: Server) -> None:
    stream = Client(server.url, server.key).stream("Count to 9.", session_id=500)
    chunks = []
    try:
        while True:
            chunks.append(next(stream))
    except StopIteration as end:
        answer = end.value
    assert "".join(chunks) == answer.result == "1, 2, 3, 4, 5, 6, 7, 8, 9."


def test_the_client_raises_what_the_server_says(server: Server) -> None:
    client = Client(server.url, server.key)
    for call in (lambda: client.answer(""), lambda: list(client.stream(""))):
        with pytest.raises(ServerError, match="the prompt is empty") as caught:
            call()
        assert (caught.value.status, caught.value.param) == (400, "prompt")


def test_the_chat_talks(server: Server) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.chat", "--url", server.url, "--session", "501"],
        cwd=ROOT,
        env={**os.environ, "HEARTH_KEY": server.key},
        input="My name is Ana.\n\nWhat is my name?\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Nice to meet you, Ana!" in done.stdout
    assert "Your name is Ana." in done.stdout


def test_the_chat_says_what_is_wrong() -> None:
    command = [sys.executable, "-m", "examples.chat", "--url", "http://127.0.0.1:9"]
    env = {**os.environ, "HEARTH_KEY": "x"}
    done = subprocess.run(command, cwd=ROOT, env=env, input="Hi\n", capture_output=True, text=True, timeout=60)
    assert "Connection refused" in done.stderr
    assert "Traceback" not in done.stderr


def langchain_documents(server: Server, question: str, collection: str = "handbook") -> subprocess.CompletedProcess[str]:
    """Run the example of LangChain with a question."""
    command = [sys.executable, "-m", "examples.langchain_documents", "--url", server.url, "--collection", collection]
    env = {**os.environ, "HEARTH_KEY": server.key}
    return subprocess.run([*command, question], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)


def test_the_langchain_retriever_finds_passages_and_the_chain_answers(serve: Callable[..., Server], tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / smollm2().name).symlink_to(smollm2())
    server = serve(models=tmp_path / "models", ready=False)
    server.select("SmolLM2")
    file = {"file": ("handbook.pdf", handbook_pdf())}
    stored = server.request("POST", "/files", files=file, data={"collection": "handbook"})
    assert stored.status_code == 200, stored.text
    shown = textwrap.dedent((examples.langchain_documents.__doc__ or "").partition('if I am ill?"\n')[2])
    done = langchain_documents(server, "Who should be called if I am ill?")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, shown.strip(), "")
    retriever = HearthRetriever(url=server.url, key=SecretStr(server.key), collection="handbook", k=1)
    [document] = retriever.invoke("When are wages paid?")
    assert document.page_content.startswith("Wages")
    about = {**document.metadata, "score": document.metadata["score"] > 0}
    start, end = about["start"], about["end"]
    assert about == {
        "file": stored.json()["id"],
        "name": "handbook.pdf",
        "page": 3,
        "start": start,
        "end": end,
        "score": True,
    }
    assert end - start == len(document.page_content)
    # Without a passage the model is not asked.
    assert langchain_documents(server, "xylophone").stdout == "No passage has the words of the question.\n"
    wrong = langchain_documents(server, "Hello", "papers")
    assert (wrong.returncode, wrong.stderr) == (1, '[there is no collection "papers"]\n')


def test_the_curl_lines_work(serve: Callable[..., Server]) -> None:
    server = serve()
    done = subprocess.run(
        ["examples/curl.sh", server.url],
        cwd=ROOT,
        env={**os.environ, "KEY": server.key},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Your name is Ana." in done.stdout
    assert "[DONE]" in done.stdout
    assert server.key not in done.stdout
    assert '"error":{' not in done.stdout
    assert json.loads(done.stdout.splitlines()[-1] or done.stdout.splitlines()[-2]) == {"deleted": True}
