"""The benchmark's texts, stream reader and arithmetic. The measurements themselves are not tested."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from jinja2 import Environment

from benchmarks.harness.clients import Flight, Reply, total_rate
from benchmarks.harness.model import vocabulary
from benchmarks.harness.peer import pinned
from benchmarks.harness.servers import SYNTHETIC
from benchmarks.harness.talk import CHAT_TEMPLATE, TEMPLATE, WINDOW, Talk
from benchmarks.harness.words import make_text
from benchmarks.single.__main__ import chosen_files, new_parser
from benchmarks.single.bench import Bench, Pair, check_prompts
from benchmarks.single.document import BEGIN, END, kept_remarks, write_document
from benchmarks.single.figures import AT_LEAST, AT_MOST, DIFFERENCE, VALUE, Figure, measure_up
from benchmarks.single.results import Results, stored_results
from benchmarks.single.rows import ROWS, rows_of
from services.prompts.form import Exchange
from services.prompts.template import fill_template
from tests.support.serving import Server


def test_talk_text_is_what_hearth_makes_of_either_template() -> None:
    talk = Talk(1)
    chat = Environment(trim_blocks=True, lstrip_blocks=True).from_string(CHAT_TEMPLATE)
    for turn in range(WINDOW + 2):
        window = [Exchange(human, ai) for human, ai in talk.exchanges[-WINDOW:]]
        words = f"words {turn}"
        assert talk.text(words) == fill_template(TEMPLATE, window, words).text
        said = [({"role": "user", "content": each.human}, {"role": "assistant", "content": each.ai}) for each in window]
        messages = [*(message for exchange in said for message in exchange), {"role": "user", "content": words}]
        assert talk.text(words) == chat.render(messages=messages, add_generation_prompt=True)
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
    assert reply.tokens == 8


def test_rates_count_tokens_and_not_chunks() -> None:
    usage = {"usage": {"completion_tokens": 9}}
    replies = [Reply(arrivals=[1.0, 2.0, 3.0], last=usage), Reply(arrivals=[1.5, 5.0], last=usage)]
    assert replies[0].decode_rate == 4.0
    assert total_rate(replies) == 4.5


def test_a_chat_is_read_with_the_counts_of_its_tokens(server: Server) -> None:
    body = {"messages": [{"role": "user", "content": "Count to 9."}], "max_tokens": 8, "stream": True}
    options = {"stream_options": {"include_usage": True}, "ignore_eos": True}
    reply = Flight(server.url, "/v1/chat/completions", {**body, **options}, {"Authorization": server.key}).wait()
    assert reply.text
    assert reply.tokens == 8
    assert 0 < reply.read_tokens <= reply.prompt_tokens


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
    path = tmp_path / "synthetic-0.4b-q4_0.json"
    results = Results(path)
    results.save("single", [{"ours": {"rate": 1.0}, "theirs": {"rate": 1.0}}])
    gaps = {"gap": 0.1, "first_token": 2.0, "gaps": [(0.1, 0.1), (0.2, 0.1)]}
    results.save("stall", [{"ours": gaps, "theirs": {**gaps, "gap": 2.0}}])
    results.save("single", [{"ours": {"rate": 123.4}, "theirs": {"rate": 120.0}}])
    docs = tmp_path / "docs"
    docs.mkdir()
    page = write_document([Results(path)], docs)
    text = page.read_text(encoding="utf-8")
    assert "| single | One user: decoding speed | 123.4 tokens/s | 120.0 | 1.03 |" in text
    assert "(performance/stall.svg)" in text
    assert not {name for name in ("{plot", "{tables}", "{machine}") if name in text}

    plot = (docs / "performance" / "stall.svg").read_bytes()
    page.write_text(text.replace(BEGIN, f"{BEGIN}\nThis is why."), encoding="utf-8")
    write_document([results], docs)
    assert "This is why." in page.read_text(encoding="utf-8")
    assert (docs / "performance" / "stall.svg").read_bytes() == plot


def test_each_model_has_a_table_with_its_own_goals(tmp_path: Path) -> None:
    speeds: list[Pair] = [{"ours": {"rate": 120.0}, "theirs": {"rate": 100.0}}]
    kernels: list[Pair] = [{"ours": {"prompt": {"64": 700.0}, "decode": {"1": 90.0}}, "theirs": {}}]
    for name, file in (("small+tuned", "small-q8.gguf"), ("small", "small.gguf"), ("synthetic-0.4b-q4_0", "made.gguf")):
        Results(tmp_path / f"{name}.json").save("single", speeds, file)
        Results(tmp_path / f"{name}.json").save("kernels", kernels, file)
    results = stored_results(tmp_path)
    assert [each.name for each in results] == ["synthetic-0.4b-q4_0", "small", "small+tuned"]
    docs = tmp_path / "docs"
    docs.mkdir()
    text = write_document(results, docs).read_text(encoding="utf-8")
    untuned, tuned = text.partition("### small, tuned")[::2]
    assert "| 1.20 | 1.20–1.20 | ≥ 0.98× | yes |" in untuned  # noqa: RUF001
    assert "| 1.20 | 1.20–1.20 | ≥ 1.4× | no |" in tuned  # noqa: RUF001
    assert "Hearth runs `small-q8.gguf`" in tuned
    assert "| small-q8.gguf | 700 |" in tuned
    assert (docs / "performance" / "ratios.svg").exists()


def test_prompts_that_differ_are_noticed() -> None:
    pair: Pair = {"ours": {"prompt_tokens": [100, 104]}, "theirs": {"prompt_tokens": [100, 100]}}
    check_prompts(pair, 0.05)
    with pytest.raises(RuntimeError, match="did not read the same prompts"):
        check_prompts(pair, 0)


def test_a_tuned_file_belongs_to_the_model_before_it(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.gguf", "a-q8.gguf", "b.gguf")]
    for file in files:
        file.touch()
    a, tuned, b = files
    parser = new_parser()
    given = parser.parse_args(["single", "--model", str(a), "--tuned", str(tuned), "--model", str(b)]).files
    assert chosen_files(parser, given) == [(a, a), (tuned, a), (b, b)]
    assert Bench(tuned, a, tmp_path).name == "a+tuned"
    with pytest.raises(SystemExit):
        chosen_files(parser, [("tuned", str(tuned))])
    with pytest.raises(SystemExit):
        chosen_files(parser, [("model", str(tmp_path / "missing.gguf"))])


def test_rows_fit_the_model() -> None:
    made, other = (Bench(Path(name), Path(name), Path()) for name in (SYNTHETIC, "other.gguf"))
    assert "copy" not in rows_of(made)
    assert "overhead" in rows_of(made)
    assert "copy" in rows_of(other)
    assert "overhead" not in rows_of(other)


def test_remarks_are_an_empty_place_at_first() -> None:
    assert kept_remarks("") == f"{BEGIN}\n{END}"


def test_every_row_is_explained() -> None:
    page = Path("benchmarks/single/page.md").read_text(encoding="utf-8")
    assert not [row for row in ROWS if row != "kernels" and f"(`{row}`)" not in page]


def test_llama_server_is_built_from_the_pinned_source() -> None:
    assert pinned().startswith("llama-cpp-python==")
    assert "--hash=sha256:" in pinned()
