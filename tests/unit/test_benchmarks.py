"""The benchmark's texts, stream reader and arithmetic. The measurements themselves are not tested."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from benchmarks.harness.clients import Flight
from benchmarks.harness.model import vocabulary
from benchmarks.harness.peer import pinned
from benchmarks.harness.talk import TEMPLATE, WINDOW, Talk
from benchmarks.harness.words import make_text
from benchmarks.single.bench import Pair
from benchmarks.single.document import BEGIN, END, kept_remarks, write_document
from benchmarks.single.figures import AT_LEAST, AT_MOST, DIFFERENCE, VALUE, Figure, measure_up
from benchmarks.single.results import Results
from benchmarks.single.rows import ROWS
from services.prompts.form import Exchange
from services.prompts.template import fill_template
from tests.support.serving import Server


def test_talk_text_is_what_hearth_makes_of_the_template() -> None:
    talk = Talk(1)
    for turn in range(WINDOW + 2):
        window = [Exchange(human, ai) for human, ai in talk.exchanges[-WINDOW:]]
        assert talk.text(f"words {turn}") == fill_template(TEMPLATE, window, f"words {turn}").text
        talk.add(f"words {turn}", f" answer {turn}\n")


def test_a_text_has_so_many_words_and_follows_its_seed() -> None:
    text = make_text(60, Random(1))
    assert len(text.split()) == 60
    assert text == make_text(60, Random(1)) != make_text(60, Random(2))


def test_vocabulary_is_made_by_its_merges() -> None:
    tokens, merges = vocabulary()
    assert len(tokens) == len(set(tokens)) == 14_902
    known = set(tokens)
    assert all({left, right, left + right} <= known for left, right in merges)


def test_a_stream_of_hearth_is_read_and_timed(server: Server) -> None:
    body = {"prompt": "Count to 9.", "max_tokens": 8, "stream": True, "memory_k": 0}
    reply = Flight(server.url, "/answer", body, {"Authorization": server.key}).wait()
    assert reply.text == reply.last["result"]
    assert reply.last["usage"]["completion_tokens"] == 8
    assert reply.sent < reply.arrivals[0] <= reply.arrivals[-1] <= reply.ended
    assert reply.first_token > 0
    assert reply.decode_rate > 0


def test_an_error_is_raised(server: Server) -> None:
    with pytest.raises(RuntimeError, match="400"):
        Flight(server.url, "/answer", {"prompt": ""}, {"Authorization": server.key}).wait()


def test_hanging_up_is_no_error(server: Server) -> None:
    flight = Flight(server.url, "/answer", {"prompt": "Hello", "stream": True}, {"Authorization": server.key})
    flight.hang_up()
    flight.wait()


PAIRS: list[Pair] = [
    {"ours": {"n": ours}, "theirs": {"n": theirs}} for ours, theirs in ((1.0, 10.0), (2.0, 10.0), (6.0, 20.0))
]


@pytest.mark.parametrize(
    ("sense", "reach", "of", "reached"),
    [
        (AT_MOST, 0.2, "ratio", True),
        (AT_MOST, 0.19, "ratio", False),
        (AT_LEAST, 0.2, "ratio", True),
        (AT_LEAST, 0.21, "ratio", False),
        (AT_LEAST, 2, VALUE, True),
        (AT_MOST, 1.9, VALUE, False),
        (AT_MOST, -8, DIFFERENCE, True),
        (AT_MOST, -8.1, DIFFERENCE, False),
        (AT_MOST, None, VALUE, None),
    ],
)
def test_a_figure_is_the_ratio_of_medians(sense: str, reach: float | None, of: str, reached: bool | None) -> None:
    line = measure_up(Figure("row", "n", "What", "ms", 1, sense, reach, of), PAIRS)
    assert (line.ours, line.theirs, line.ratio, line.ratios) == (2.0, 10.0, 0.2, (0.1, 0.3))
    assert line.reached is reached


def test_a_figure_of_hearth_alone_has_no_ratio() -> None:
    line = measure_up(Figure("row", "n", "What", "ms", 1, AT_MOST, 3, VALUE, scale=2), [{"ours": {"n": 1.0}, "theirs": {}}])
    assert (line.ours, line.theirs, line.ratio, line.reached) == (2.0, None, None, True)


def test_results_are_merged_row_by_row_and_drawn(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json")
    results.save("single", [{"ours": {"rate": 1.0}, "theirs": {"rate": 1.0}}])
    gaps = {"gap": 0.1, "first_token": 2.0, "gaps": [(0.1, 0.1), (0.2, 0.1)]}
    results.save("stall", [{"ours": gaps, "theirs": {**gaps, "gap": 2.0}}])
    results.save("single", [{"ours": {"rate": 123.4}, "theirs": {"rate": 120.0}}])
    docs = tmp_path / "docs"
    docs.mkdir()
    page = write_document(Results(tmp_path / "results.json"), docs)
    text = page.read_text(encoding="utf-8")
    assert "| single | One user: decoding speed | 123.4 tokens/s | 120.0 | 1.03 |" in text
    assert "(performance/stall.svg)" in text
    assert not {name for name in ("{plot", "{table}", "{machine}") if name in text}

    plot = (docs / "performance" / "stall.svg").read_bytes()
    page.write_text(text.replace(BEGIN, f"{BEGIN}\nThis is why."), encoding="utf-8")
    write_document(results, docs)
    assert "This is why." in page.read_text(encoding="utf-8")
    assert (docs / "performance" / "stall.svg").read_bytes() == plot


def test_remarks_are_an_empty_place_at_first() -> None:
    assert kept_remarks("") == f"{BEGIN}\n{END}"


def test_every_row_is_explained() -> None:
    page = Path("benchmarks/single/page.md").read_text(encoding="utf-8")
    assert not [row for row in ROWS if row != "kernels" and f"(`{row}`)" not in page]


def test_llama_server_is_built_from_the_pinned_source() -> None:
    assert pinned().startswith("llama-cpp-python==")
    assert "--hash=sha256:" in pinned()
