"""Measures documents on an otherwise idle machine, and prints a table in Markdown.

`python -m benchmarks.documents.speed MODEL.gguf` takes about five minutes: 1,000 pages of PDF that are stored over the API,
beside a stream and without one; searches in 100,000 chunks, and the memory that they take; and the first token of questions
about a document that is given whole. It needs reportlab.
"""

from __future__ import annotations

import argparse
import importlib
import io
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import requests

from benchmarks.harness.clients import Reply
from benchmarks.harness.scratch import scratch_folder
from benchmarks.harness.servers import OWN, Hearth
from benchmarks.harness.words import make_text
from services.documents.library import Library
from services.documents.parsing.document import Chunk, ParsedDocument

PAGES, PAGE_WORDS = 1000, 450
CHUNKS, CHUNKS_OF_A_FILE, CHUNK_WORDS = 100_000, 250, 130
DOCUMENT_WORDS = 2200
STREAM_TOKENS = 600
ROUNDS = 3


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a GGUF file with a chat template")
    arguments = parser.parse_args()
    print("| measured | |\n|---|---|", flush=True)
    with scratch_folder() as folder:
        measure_searches(Path(folder))
    with scratch_folder() as folder:
        server = Hearth(arguments.model.resolve(), Path(folder), OWN, {"memory_k": None})
        server.start()
        try:
            measure_uploads(server)
            measure_first_tokens(server)
        finally:
            server.stop()


def measure_searches(folder: Path) -> None:
    """Store chunks of words as rare as those of books (Zipf's law), and search for some of them."""
    rng = Random(1)
    words = [make_word(rng) for _ in range(60_000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    library = Library(folder)
    before, began = resident(), time.monotonic()
    files = [
        add_file(library, n, rng.choices(words, weights, k=CHUNKS_OF_A_FILE * CHUNK_WORDS)) for n in range(CHUNKS // 250)
    ]
    row(f"{CHUNKS:,} chunks stored and indexed", f"{time.monotonic() - began:.0f} s")
    seconds = []
    for _ in range(100):
        question = " ".join([*rng.choices(words, weights, k=6), *rng.sample(words, 2)])
        began = time.monotonic()
        library.search(question, files, 5)
        seconds.append(time.monotonic() - began)
    worst, median = sorted(seconds)[-2], statistics.median(seconds)
    row(f"a search in {CHUNKS:,} chunks: median, and 98 of 100", f"{1000 * median:.0f} ms, {1000 * worst:.0f} ms")
    row("memory beyond that before", f"{(resident() - before) / 1e6:.0f} MB")
    library.close()


def measure_uploads(server: Hearth) -> None:
    """Store a long PDF, beside nothing and beside a stream."""
    pdf = book_pdf(PAGES)
    seconds = timed(lambda: upload(server, "book.pdf", pdf))
    row(f"{PAGES:,} pages of PDF ({len(pdf) / 1e6:.1f} MB) parsed and indexed", f"{seconds:.1f} s")
    alone, beside = [], []
    for _ in range(ROUNDS):
        alone.append(stream(server).decode_rate)
        working = threading.Thread(target=upload, args=(server, "book.pdf", pdf))
        working.start()
        beside.append(stream(server).decode_rate)
        working.join()
    share = statistics.median(beside) / statistics.median(alone)
    row("speed of a stream while such a file is stored, to that without", f"{100 * share:.1f} %")


def measure_first_tokens(server: Hearth) -> None:
    """Ask twice about a document that is given whole, before it is read ahead, and after."""
    firsts, seconds, others, ahead = [], [], [], []
    for n in range(ROUNDS):
        rng = Random(n)
        for waits in (False, True):
            file = upload(server, "report.txt", make_text(DOCUMENT_WORDS, rng, english=True).encode())
            if waits:
                # It is read ahead meanwhile.
                time.sleep(45)
            session = 10 * n + 5 * waits
            first = ask(server, file, session, "What is it about?")
            if waits:
                ahead.append(first.first_token)
            else:
                firsts.append(first.first_token)
                tokens = first.prompt_tokens
                seconds.append(ask(server, file, session, "And what comes then?").first_token)
                others.append(ask(server, file, session + 1, "How does it end?").first_token)
    first_token = statistics.median(firsts)
    row(f"first token of the first question about a document (prompts of {tokens:,} tokens)", f"{first_token:.2f} s")
    for name, values in (
        ("… of a second question in the same session", seconds),
        ("… of a question in a new session", others),
        ("… of the first question once it is read ahead", ahead),
    ):
        value = statistics.median(values)
        row(name, f"{value:.2f} s, {value / first_token:.2f} of that")


def book_pdf(pages: int) -> bytes:
    """Return a PDF of pages of English words."""
    canvas: Any = importlib.import_module("reportlab.pdfgen.canvas")
    rng, file = Random(1), io.BytesIO()
    document = canvas.Canvas(file)
    for _ in range(pages):
        words = make_text(PAGE_WORDS, rng, english=True).split()
        text = document.beginText(60, 780)
        text.setFont("Helvetica", 10)
        for at in range(0, len(words), 12):
            text.textLine(" ".join(words[at : at + 12]))
        document.drawText(text)
        document.showPage()
    document.save()
    return file.getvalue()


def add_file(library: Library, n: int, words: list[str]) -> Any:
    """Store a text of words, in chunks of the same number of words."""
    texts = [" ".join(words[at : at + CHUNK_WORDS]) for at in range(0, len(words), CHUNK_WORDS)]
    starts = [sum(len(text) + 1 for text in texts[:i]) for i in range(len(texts))]
    chunks = tuple(Chunk(at, at + len(text), None, "") for at, text in zip(starts, texts, strict=True))
    arrived = library.files.new_path()
    arrived.write_bytes(b".")
    return library.files.add("0", f"{n}.txt", arrived, "", ParsedDocument("\n".join(texts), "text", chunks=chunks))


def upload(server: Hearth, name: str, content: bytes) -> str:
    """Store a file; return its id."""
    reply = requests.post(f"{server.url}/files", files={"file": (name, content)}, headers=server.headers, timeout=600)
    reply.raise_for_status()
    return str(reply.json()["id"])


def stream(server: Hearth) -> Reply:
    """Return an answer of many tokens."""
    return server.chat([{"role": "user", "content": "Tell a long story."}], STREAM_TOKENS, ignore_eos=True).wait()


def ask(server: Hearth, file: str, session: int, words: str) -> Reply:
    """Ask about a file in a session."""
    message = {"role": "user", "content": words}
    return server.chat([message], 16, session_id=session, files=[file], ignore_eos=True).wait()


def make_word(rng: Random) -> str:
    """Return a word of a few syllables."""
    return "".join(rng.choice("bcdfghklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(1, 5)))


def timed(what: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    began = time.monotonic()
    what()
    return time.monotonic() - began


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS")))


def row(name: str, value: str) -> None:
    """Print a row of the table."""
    print(f"| {name} | {value} |", flush=True)


if __name__ == "__main__":
    main()
