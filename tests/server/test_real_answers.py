"""A real model answers by its own chat template: the same tokens on every endpoint, and answers worth having."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from services.app import build_application, create_app
from services.backend.types import GenerationRequest, Prompt
from services.engine.llama.vocabulary import Vocabulary
from services.engine.llama.vocabulary_file import load_vocabulary
from services.settings import Settings
from services.stores import file_stores
from tests.support.ports import free_port
from tests.support.real_models import smollm2
from tests.support.serving import ROOT, Server, Stream
from tests.support.tiny import GUIDE
from tests.unit.answers.test_answers import DummyBackend, DummyGeneration

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# The same file under a name that no profile has.
PLAIN = "plain.gguf"
FACTS = {
    "What is the capital of France?": "paris",
    "What is the capital of Italy?": "rome",
    "What is the capital of Japan?": "tokyo",
    "What is the capital of Germany?": "berlin",
    "What is the capital of Spain?": "madrid",
    "What color is the sky on a clear day?": "blue",
    "How many days are in a week?": "seven|7",
    "How many legs does a dog have?": "four|4",
    "What is the largest planet in the solar system?": "jupiter",
    "What is the opposite of hot?": "cold",
    "Who wrote Romeo and Juliet?": "shakespeare",
    "What is 2 + 2?": "4|four",
    "What gas do humans need to breathe?": "oxygen",
    "What is the chemical formula of water?": "h2o|h₂o",
    "Which animal says meow?": "cat",
    "What is the first month of the year?": "january",
    "In which country are the pyramids of Giza?": "egypt",
    "What is frozen water called?": "ice",
    "Which planet do we live on?": "earth",
    "What language is spoken in Brazil?": "portuguese",
}
MEMORY = [
    ("My name is Ana.", "What is my name?", "ana"),
    ("My favorite color is green.", "What is my favorite color?", "green"),
    ("I have a dog called Rex.", "What is my dog called?", "rex"),
    ("I live in Lisbon.", "Where do I live?", "lisbon"),
    ("I am a teacher.", "What is my job?", "teach"),
    ("I was born in 1985.", "In which year was I born?", "1985"),
]
SYSTEM = "You are a helpful, friendly assistant. Give short and correct answers."
PEER = os.environ.get("HEARTH_PEER")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with the guide and SmolLM2."""
    made = tmp_path_factory.mktemp("real models")
    for path in (GUIDE, smollm2()):
        (made / path.name).symlink_to(path)
    (made / PLAIN).symlink_to(smollm2())
    return made


@pytest.fixture(scope="module")
def real(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose selected profile is the one that the first start selects."""
    server = Server(tmp_path_factory.mktemp("real") / "data", models=folder)
    server.select("SmolLM2")
    yield server.start()
    server.stop()


@contextmanager
def peer() -> Iterator[str]:
    """llama-server with the same model; HEARTH_PEER names the folder of its binaries."""
    port = free_port()
    flags = ["--host", "127.0.0.1", "--port", str(port), "-m", str(smollm2()), "-c", "8192", "-np", "1", "--jinja"]
    running = subprocess.Popen(
        [str(Path(str(PEER)) / "llama-server"), *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if requests.get(f"{url}/health", timeout=5).status_code == 200:
                    break
            except requests.ConnectionError:
                time.sleep(0.1)
        yield url
    finally:
        running.terminate()
        running.wait()


def is_right(said: str, wanted: str) -> bool:
    return bool(re.search(wanted, said.lower()))


def test_it_answers_as_well_as_anywhere(real: Server) -> None:
    def ask(question: str) -> tuple[bool, bool]:
        said = real.ask(question, memory_k=0, temperature=0, max_tokens=200 if PEER else 100)
        return is_right(said["result"], FACTS[question]), said["finish_reason"] == "stop"

    def remember(number: int) -> bool:
        told, question, wanted = MEMORY[number]
        real.ask(told, session_id=number, temperature=0, max_tokens=200)
        return is_right(real.ask(question, session_id=number, temperature=0, max_tokens=200)["result"], wanted)

    with ThreadPoolExecutor(4) as people:
        facts = list(people.map(ask, FACTS))
        remembered = sum(people.map(remember, range(len(MEMORY)))) if PEER else 0
    n_right, n_ended = (sum(each) for each in zip(*facts, strict=True))
    assert n_right >= 15
    assert n_ended >= 14
    if PEER:
        with peer() as url:
            theirs = peer_answers(url)
        assert (n_right, n_ended, remembered) >= tuple(count - 1 for count in theirs), theirs


def peer_answers(url: str) -> tuple[int, int, int]:
    def ask(*messages: str) -> Any:
        said = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(messages)]
        body = {"messages": [{"role": "system", "content": SYSTEM}, *said], "temperature": 0, "max_tokens": 200}
        return requests.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()["choices"][0]

    answers = {question: ask(question) for question in FACTS}
    n_right = sum(is_right(answers[question]["message"]["content"], wanted) for question, wanted in FACTS.items())
    remembered = 0
    for told, question, wanted in MEMORY:
        reply = ask(told)["message"]["content"]
        remembered += is_right(ask(told, reply, question)["message"]["content"], wanted)
    return n_right, sum(each["finish_reason"] == "stop" for each in answers.values()), remembered


class RecordingBackend(DummyBackend):
    """Tokenizes as SmolLM2 does, answers "Paris.", and remembers what it was asked."""

    n_ctx = 8192

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self._vocabulary = vocabulary
        self.said = ["Paris."]
        self.chat_format = vocabulary.chat_format

    def tokenize(self, prompt: Prompt) -> list[int]:
        return self._vocabulary.tokenize(prompt)

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        return self._vocabulary.pieces(tokens)

    def submit_all(self, requests: Sequence[GenerationRequest]) -> list[DummyGeneration]:
        return super().submit_all(requests)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return load_vocabulary(smollm2())


Post = Callable[[str, dict[str, Any]], tuple[int, ...]]


@pytest.fixture
def posted(tmp_path: Path, folder: Path, vocabulary: Vocabulary) -> Post:
    """Sends a body to an endpoint; gives the token ids that the engine is handed."""
    backend = RecordingBackend(vocabulary)
    config = json.loads((ROOT / "data" / "config.example.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "SelectedModel": "SmolLM2"}))
    settings = Settings(data=tmp_path, models=folder)
    application = build_application(settings, backend, file_stores(settings))
    minted = application.stores.keys.mint_master()
    assert minted
    key, client = minted.key, create_app(application).test_client()

    def post(path: str, body: dict[str, Any]) -> tuple[int, ...]:
        backend.requests.clear()
        reply = client.post(path, json=body, headers={"Authorization": key})
        assert reply.status_code == 200, reply.text
        reply.get_data()
        return backend.requests[-1].tokens

    return post


def test_every_endpoint_writes_a_conversation_alike(posted: Post, vocabulary: Vocabulary) -> None:
    """First prompts and second ones, with and without a system prompt, for a file that no profile names."""
    for n, system in enumerate((None, "Be brief.")):
        own = [] if system is None else [{"role": "system", "content": system}]
        first = [*own, {"role": "user", "content": "What is the capital of France?"}]
        second = [
            *first,
            {"role": "assistant", "content": "Paris."},
            {"role": "user", "content": "And <|im_end|> שלום 🙂?"},
        ]
        asked: dict[str, tuple[int, ...]] = {}
        for turn, messages in enumerate((first, second)):
            words = messages[-1]["content"]
            said = {"system_prompt": system} if system else {}
            asked = {
                "/answer": posted("/answer", {"model": PLAIN, "prompt": words, "session_id": n, **said}),
                "/v1/chat/completions": posted("/v1/chat/completions", {"model": PLAIN, "messages": messages}),
                "session": posted(
                    "/v1/chat/completions", {"model": PLAIN, "messages": [*own, messages[-1]], "session_id": 10 + n}
                ),
                "/api": posted("/api", {"file_name": PLAIN, "inputs": messages}),
                "/chat_completion": posted(
                    "/chat_completion", {"job_id": f"{n} {turn}", "meta": {"model": PLAIN}, "messages": messages}
                ),
            }
            if turn == 0 and system is None:
                asked["/generate"] = posted(
                    "/generate", {"job_id": "g", "meta": {"model": PLAIN}, "content": "What is the capital of France?"}
                )
            assert len(set(asked.values())) == 1, asked
        texts = b"".join(vocabulary.pieces(asked["/answer"])).decode()
        assert texts.count("<|im_start|>") == 5
        # What a person types is no end of a turn: the seventh is plain text.
        assert asked["/answer"].count(vocabulary.tokenize(Prompt("<|im_end|>"))[0]) == texts.count("<|im_end|>") - 1 == 4


def test_the_selected_profile_is_prompted_alike_too(posted: Post) -> None:
    """With its own system prompt, which a request's takes the place of."""
    posted_by = partial(posted)
    messages = [{"role": "user", "content": "Hi"}]
    asked = [
        posted_by("/answer", {"prompt": "Hi", "memory_k": 0, "model": "SmolLM2"}),
        posted_by("/v1/chat/completions", {"messages": messages, "model": "SmolLM2"}),
        posted_by(
            "/v1/chat/completions", {"messages": [{"role": "system", "content": SYSTEM}, *messages], "model": "SmolLM2"}
        ),
        posted_by("/answer", {"prompt": "Hi", "memory_k": 0, "model": "SmolLM2", "system_prompt": SYSTEM}),
    ]
    assert len(set(asked)) == 1
    asked.append(posted_by("/api/generate", {"prompt": "Hi", "memory_k": 0}))
    assert len(set(asked)) == 1
    other = posted_by("/answer", {"prompt": "Hi", "memory_k": 0, "model": "SmolLM2", "system_prompt": "Be brief."})
    assert other not in asked


@pytest.mark.skipif(not PEER, reason="HEARTH_PEER names no llama-server")
def test_the_tokens_are_llama_servers(posted: Post) -> None:
    with peer() as url:
        for messages in (
            [{"role": "user", "content": "Hi"}],
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "  שלום 🙂 e\u0301\n\nnew "}],
            [{"role": ("user", "assistant")[n % 2], "content": f"words {n}"} for n in range(7)],
        ):
            text = requests.post(f"{url}/apply-template", json={"messages": messages}, timeout=60).json()["prompt"]
            body = {"content": text, "add_special": True}
            theirs = requests.post(f"{url}/tokenize", json=body, timeout=60).json()["tokens"]
            assert list(posted("/v1/chat/completions", {"model": PLAIN, "messages": messages})) == theirs


def test_a_long_session_slides_and_reads_little(real: Server, tmp_path: Path) -> None:
    """Also over a restart: where the window begins is kept with the session. With HEARTH_PEER it has sixty turns."""
    n_turns, n_ctx = (60, 512) if PEER else (30, 256)
    real.edit_config("Small", model=FILE, n_ctx=n_ctx, n_parallel=2, temperature=0, max_tokens=8)
    marks, restart = 12, n_turns * 2 // 3
    starts, read, left_out = [], [], 0
    for turn in range(n_turns):
        if turn == restart:
            real.stop()
            real.start()
        words = f"Question {turn}: what rhymes with {('cat', 'tree', 'moon', 'light')[turn % 4]}?"
        n_words = real.post("/tokenize", {"content": words, "model": "Small"}).json()["count"]
        said = real.ask(words, session_id=60, model="Small")
        usage = said["usage"]
        assert usage["prompt_tokens"] <= n_ctx - 8
        assert said["messages_in_prompt"] + said["messages_left_out"] == 2 * turn + 1
        slid, left_out = said["messages_left_out"] != left_out, said["messages_left_out"]
        starts.append(left_out)
        # What a restart has from the disk is cut at the last word that was computed.
        if not slid and turn not in (0, restart):
            read.append(usage["prompt_tokens"] - usage["cached_tokens"] - n_words)
    assert starts == sorted(starts)
    assert 3 < len(set(starts)) < 12
    assert max(read) <= marks + 24
    assert sorted(read)[len(read) * 9 // 10] <= marks
    stored = json.loads((real.data / "sessions.json").read_text()) if (real.data / "sessions.json").exists() else {}
    if "60" in stored and len(stored["60"]["messages"]) == 2 * n_turns:
        assert 2 * stored["60"]["window"] >= starts[-1]
    shown = real.get("/answer/60/prompt", params={"prompt": "More?", "model": "Small"}).json()
    assert shown["prompt"].startswith("<|im_start|>system\n")
    assert shown["prompt"].endswith("<|im_start|>user\nMore?<|im_end|>\n<|im_start|>assistant\n")
    assert shown["messages_left_out"] >= starts[-1] > 0


def test_openais_api_tells_what_a_session_leaves_out(real: Server) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "session_id": 65, "max_tokens": 4, "model": FILE}
    assert real.post("/v1/chat/completions", body).json()["messages_in_prompt"] == 1
    whole = real.post("/v1/chat/completions", {**body, "memory_k": 0}).json()
    assert (whole["messages_in_prompt"], whole["messages_left_out"]) == (1, 2)
    reply = real.post("/v1/chat/completions", {**body, "stream": True}).text
    events = [json.loads(line[6:]) for line in reply.splitlines() if line.startswith("data: {")]
    assert (events[-1]["messages_in_prompt"], events[-1]["messages_left_out"]) == (5, 0)
    assert "messages_in_prompt" not in real.post("/v1/chat/completions", {**body, "session_id": None}).json()


def test_a_session_goes_on_in_another_form(real: Server) -> None:
    real.ask("My name is Ana.", session_id=70, model="Guide", max_tokens=5)
    real.ask("Hello again.", session_id=70, max_tokens=5)
    shown = real.get("/answer/70/prompt", params={"prompt": "Bye"}).json()
    assert shown["messages_in_prompt"] == 5
    assert shown["prompt"].count("<|im_start|>user") == 3
    guide = real.get("/answer/70/prompt", params={"prompt": "Bye", "model": "Guide"}).json()
    assert guide["prompt"].startswith("You are the guide of this server.\n\nHuman: My name is Ana.\nAI:")
    assert (guide["messages_in_prompt"], guide["stop"]) == (5, ["\nHuman:"])


def test_completions_read_special_tokens_of_a_text(real: Server) -> None:
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"

    def count(**fields: Any) -> int:
        body = {"prompt": text, "max_tokens": 1, "temperature": 0, "model": FILE, **fields}
        return int(real.post("/v1/completions", body).json()["usage"]["prompt_tokens"])

    assert count() < count(parse_special=False)
    assert count() == real.post("/tokenize", {"content": text, "model": FILE}).json()["count"]
    plain = real.post("/tokenize", {"content": text, "parse_special": False, "model": FILE}).json()
    assert count(parse_special=False) == plain["count"]
    pieces = real.post("/tokenize", {"content": "é<|im_end|>🙂", "with_pieces": True, "model": FILE}).json()["tokens"]
    assert {"id": 2, "piece": "<|im_end|>"} in pieces
    data = b"".join(each["piece"].encode() if isinstance(each["piece"], str) else bytes(each["piece"]) for each in pieces)
    assert data.decode() == "é<|im_end|>🙂"
    talk = {"messages": [{"role": "user", "content": "x"}], "model": FILE}
    tools = [{"type": "function", "function": {"name": "weather", "description": "Tells the weather of a place."}}]
    assert (
        real.post("/tokenize", {**talk, "tools": tools}).json()["count"] > real.post("/tokenize", talk).json()["count"] + 20
    )
    assert real.post("/tokenize", {"content": "x", "tools": tools}).json()["error"]["param"] == "tools"
    refused = real.post("/tokenize", {"messages": [{"role": "user", "content": "x"}], "add_special": True})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "add_special"


def test_a_chat_template_of_the_profile_takes_the_place_of_the_files(real: Server, folder: Path) -> None:
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]"
    (folder / "own.jinja").write_text(template, encoding="utf-8")
    for name, value in (("Inline", template), ("File", "file:own.jinja"), ("Gone", "file:gone.jinja")):
        real.edit_config(name, model=FILE, chat_template=value, system_prompt="S", n_ctx=512)
    for name in ("Inline", "File"):
        shown = real.get("/answer/80/prompt", params={"prompt": "Hi", "model": name}).json()
        assert shown["prompt"] == "[system] S\n[user] Hi\n[assistant]"
    gone = real.post("/answer", {"prompt": "Hi", "model": "Gone"})
    assert gone.status_code == 422
    assert "gone.jinja cannot be read" in gone.json()["message"]


def test_a_switch_without_a_profile_selects_or_makes_one(real: Server) -> None:
    before = json.loads((real.data / "config.json").read_text())
    assert real.post("/models/model", {"model": FILE}).json() == {"model_status": True, "profile": "SmolLM2"}
    (real.models / "other.gguf").symlink_to(GUIDE)
    reply = real.post("/models/model", {"model": "other.gguf"})
    assert reply.json() == {"model_status": True, "profile": "other"}
    after = json.loads((real.data / "config.json").read_text())
    assert after["other"] == {"model": "other.gguf"}
    assert after["SelectedModel"] == "other"
    assert {name: after[name] for name in before if name != "SelectedModel"} == {
        name: before[name] for name in before if name != "SelectedModel"
    }
    (real.models / "third.gguf").symlink_to(GUIDE)
    with ThreadPoolExecutor(4) as people:
        replies = list(people.map(lambda _: real.post("/models/model", {"model": "third.gguf"}), range(4)))
    assert {(reply.status_code, reply.json().get("profile")) for reply in replies} == {(200, "third")}
    key, _ = real.mint(profiles=["Pirate"], scopes=["answer", "models:switch"])
    assert real.post("/models/model", {"model": "guide.gguf"}, key=key).json()["profile"] == "Pirate"
    assert real.post("/models/model", {"model": FILE, "model_config": "SmolLM2"}).status_code == 200


def test_a_conversation_without_a_session_slides_and_says_so(real: Server) -> None:
    real.edit_config("Short", model=FILE, n_ctx=256, n_parallel=1, temperature=0, max_tokens=12)
    key, _ = real.mint()
    told = [real.ask(f"Say the number {turn}.", key=key, model="Short") for turn in range(14)]
    assert [each["messages_in_prompt"] + each["messages_left_out"] for each in told] == [2 * n + 1 for n in range(14)]
    left_out = [each["messages_left_out"] for each in told]
    assert left_out == sorted(left_out)
    assert left_out[-1] > 0
    assert len(set(left_out)) < 5
    # A request to another model takes nothing away.
    real.ask("Hi", key=key, model="SmolLM2", max_tokens=1)
    assert real.ask("Hi", key=key, model="SmolLM2", max_tokens=1)["messages_in_prompt"] == 31


def test_what_the_prompt_is_asked_by_is_honoured_or_refused(real: Server) -> None:
    real.ask("Hi", session_id=90, max_tokens=1)
    shown = real.get("/answer/90/prompt", params={"prompt": "Bye", "memory_k": "0", "system_prompt": "Be brief."}).json()
    assert (shown["messages_in_prompt"], shown["messages_left_out"]) == (1, 2)
    assert "Be brief." in shown["prompt"]
    for name, value in (("bogus", "1"), ("keep", "9"), ("memory_k", "many"), ("max_tokens", "0")):
        refused = real.get("/answer/90/prompt", params={"prompt": "Bye", name: value})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, name)


@pytest.mark.parametrize("model", [FILE, "Guide"])
def test_a_cut_answer_continued_is_the_answer_that_was_not_cut(real: Server, model: str) -> None:
    asked: dict[str, Any] = {"prompt": "Count from 1 to 9.", "model": model, "temperature": 0, "memory_k": 0}
    whole = real.post("/answer", {**asked, "max_tokens": 30}).json()
    cut = real.post("/answer", {**asked, "session_id": 71, "keep": 0, "max_tokens": 6}).json()
    assert (cut["finish_reason"], whole["result"].startswith(cut["result"])) == ("length", True)
    more = {**asked, "session_id": 71, "continue": True, "max_tokens": 24, "stream": True}
    del more["prompt"]
    events = Stream(real.post("/answer", more, stream=True)).rest()
    assert events[-2]["result"] == whole["result"]
    assert cut["result"] + "".join(each.get("chunk", "") for each in events[:-2]) == whole["result"]
    assert real.get("/answer/71").json()["messages"][1]["content"] == whole["result"]
