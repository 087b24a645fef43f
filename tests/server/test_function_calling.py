"""Cases in the shape of the Berkeley function-calling leaderboard's "simple" set: one function, one question, one call.

Each case is {"id", "question": [[message]], "function": [schema], "possible_answer": {argument: [values]}}, as
BFCL_v3_simple.json and its possible answers have them; the cases are the project's own. SmolLM2 is too small to choose its
arguments well: what is held to is the form. A model that follows a script is held to the arguments too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from tests.support.families import QWEN, Call, scripted_server
from tests.support.openai_api import stream
from tests.support.real_models import smollm2, wants_all
from tests.support.scripted import marker
from tests.support.serving import Server

CHATS = "/v1/chat/completions"
NUMBER, INTEGER, TEXT, YES = {"type": "number"}, {"type": "integer"}, {"type": "string"}, {"type": "boolean"}


def a_case(
    question: str, name: str, about: str, properties: dict[str, Any], required: list[str], /, **answer: Any
) -> dict[str, Any]:
    """A case whose call has the arguments `answer`, which may have other right values beside."""
    parameters = {"type": "object", "properties": properties, "required": required}
    return {
        "id": f"simple_{name}",
        "question": [[{"role": "user", "content": question}]],
        "function": [{"name": name, "description": about, "parameters": parameters}],
        "possible_answer": {key: [value] for key, value in answer.items()},
    }


def one_of(*values: Any) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


def list_of(kind: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": kind}


UNITS = one_of("celsius", "fahrenheit")
PLACE = {"type": "object", "properties": {"lat": NUMBER, "lon": NUMBER}, "required": ["lat", "lon"]}
CASES = [
    a_case(
        "What is the area of a triangle with a base of 8 cm and a height of 3.5 cm?",
        "triangle_area",
        "The area of a triangle.",
        {"base": NUMBER, "height": NUMBER, "unit": TEXT},
        ["base", "height"],
        base=8,
        height=3.5,
        unit="cm",
    ),
    a_case(
        "How warm is it in Oslo now, in celsius?",
        "weather.current",
        "The weather in a city at this moment.",
        {"city": TEXT, "unit": UNITS},
        ["city", "unit"],
        city="Oslo",
        unit="celsius",
    ),
    a_case(
        "Convert 250 euros to Japanese yen.",
        "convert_money",
        "Converts an amount of money.",
        {"amount": NUMBER, "source": TEXT, "target": TEXT},
        ["amount", "source", "target"],
        amount=250,
        source="EUR",
        target="JPY",
    ),
    a_case(
        "Find the roots of 2x² - 4x + 1 = 0.",
        "solve_quadratic",
        "The real roots of ax² + bx + c.",
        {"a": INTEGER, "b": INTEGER, "c": INTEGER},
        ["a", "b", "c"],
        a=2,
        b=-4,
        c=1,
    ),
    a_case(
        "Remind me tomorrow at 7:30 to water the plants.",
        "reminders-add",
        "Adds a reminder.",
        {
            "what": TEXT,
            "day": one_of("today", "tomorrow"),
            "time": {"type": "string", "pattern": "^[0-2][0-9]:[0-5][0-9]$"},
        },
        ["what", "day", "time"],
        what="water the plants",
        day="tomorrow",
        time="07:30",
    ),
    a_case(
        "Sort the numbers 5, 3, 9 and 1 from the largest to the smallest.",
        "sort_numbers",
        "Sorts a list of numbers.",
        {"numbers": list_of(INTEGER), "descending": YES},
        ["numbers", "descending"],
        numbers=[5, 3, 9, 1],
        descending=True,
    ),
    a_case(
        "How far is it from 52.5 north, 13.4 east to 48.9 north, 2.4 east?",
        "distance",
        "The distance between two places on Earth.",
        {"start": PLACE, "goal": PLACE},
        ["start", "goal"],
        start={"lat": 52.5, "lon": 13.4},
        goal={"lat": 48.9, "lon": 2.4},
    ),
    a_case(
        "Book a table for four at Chez Léon on Friday.",
        "book_table",
        "Books a table in a restaurant.",
        {"restaurant": TEXT, "guests": {"type": "integer", "minimum": 1, "maximum": 20}, "day": TEXT},
        ["restaurant", "guests", "day"],
        restaurant="Chez Léon",
        guests=4,
        day="Friday",
    ),
    a_case("Flip a coin for me.", "flip_coin", "Flips a coin.", {}, []),
    a_case(
        "Translate “good morning” into Korean.",
        "translate",
        "Translates a text.",
        {"text": TEXT, "language": one_of("Korean", "Finnish", "Quechua")},
        ["text", "language"],
        text="good morning",
        language="Korean",
    ),
    a_case(
        'Search the notes for the words "tax 2025" and show the first ten.',
        "notes.search",
        "Finds notes by their words.",
        {"query": TEXT, "limit": {"type": "integer", "default": 5}},
        ["query"],
        query="tax 2025",
        limit=10,
    ),
    a_case(
        "Draw a red circle of radius 40 at 10, 20.",
        "draw_circle",
        "Draws a circle.",
        {"x": INTEGER, "y": INTEGER, "radius": INTEGER, "color": {"type": ["string", "null"]}},
        ["x", "y", "radius"],
        x=10,
        y=20,
        radius=40,
        color="red",
    ),
    a_case(
        "Put 2 melons and 6 eggs on my list.",
        "add_items",
        "Adds items to the shopping list.",
        {
            "items": list_of(
                {"type": "object", "properties": {"name": TEXT, "count": INTEGER}, "required": ["name", "count"]}
            )
        },
        ["items"],
        items=[{"name": "melon", "count": 2}, {"name": "egg", "count": 6}],
    ),
    a_case(
        "What is 15 percent of 80?",
        "percent_of",
        "A part of a number, in percent.",
        {"percent": NUMBER, "number": NUMBER},
        ["percent", "number"],
        percent=15,
        number=80,
    ),
    a_case(
        "Play some jazz in the kitchen, not too loud.",
        "play_music",
        "Plays music in a room.",
        {"genre": TEXT, "room": TEXT, "volume": {"type": "integer", "minimum": 0, "maximum": 100}},
        ["genre", "room"],
        genre="jazz",
        room="kitchen",
        volume=30,
    ),
    a_case(
        "Is 2027 a prime number?",
        "is_prime",
        "Whether a number is prime.",
        {"number": INTEGER},
        ["number"],
        number=2027,
    ),
    a_case(
        "Write to ana@example.org that I am late.",
        "send_mail",
        "Sends a mail.",
        {"to": TEXT, "subject": {"anyOf": [TEXT, {"type": "null"}]}, "body": TEXT},
        ["to", "subject", "body"],
        to="ana@example.org",
        subject=None,
        body="I am late.",
    ),
    a_case(
        "Rename the file C:\\tmp\\a.txt to b.txt.",
        "rename_file",
        "Gives a file another name.",
        {"path": TEXT, "name": TEXT},
        ["path", "name"],
        path="C:\\tmp\\a.txt",
        name="b.txt",
    ),
    a_case(
        "How many days are there between March 3 and June 21, 2025?",
        "days_between",
        "The number of days between two dates.",
        {"first": {"type": "string", "format": "date"}, "last": {"type": "string", "format": "date"}},
        ["first", "last"],
        first="2025-03-03",
        last="2025-06-21",
    ),
    a_case(
        "Turn the living room's lamps to a warm white at 20 percent.",
        "lamps.set",
        "Sets the lamps of a room.",
        {
            "room": TEXT,
            "state": {
                "type": "object",
                "properties": {"white": one_of("warm", "cold"), "brightness": {"type": "number", "maximum": 1}},
                "required": ["white", "brightness"],
                "additionalProperties": False,
            },
        },
        ["room", "state"],
        room="living room",
        state={"white": "warm", "brightness": 0.2},
    ),
]
CHOICES = ("required", "named", "auto")
# On SmolLM2 every fourth case, or all of them where more time is given.
TRIED = [
    (case, choice)
    for n, case in enumerate(CASES)
    for m, choice in enumerate(CHOICES)
    if wants_all() or (n % 4 == 0 and n // 4 % 3 == m)
]


def body(case: dict[str, Any], choice: str, **fields: Any) -> dict[str, Any]:
    [function], [messages] = case["function"], case["question"]
    named = {"type": "function", "function": {"name": function["name"]}}
    tools = [{"type": "function", "function": function}]
    return {"messages": messages, "tools": tools, "tool_choice": named if choice == "named" else choice, **fields}


def check(case: dict[str, Any], choice: dict[str, Any]) -> list[dict[str, Any]]:
    """Check that a reply's calls fit the case's schema, and that nothing is lost silently; return their arguments."""
    [function] = case["function"]
    message = choice["message"]
    found = []
    for call in message.get("tool_calls") or ():
        assert call["function"]["name"] == function["name"]
        arguments = json.loads(call["function"]["arguments"])
        jsonschema.validate(arguments, function["parameters"])
        found.append(arguments)
    if not found:
        # What is there then is text, or the reply was cut.
        assert message["content"] or choice["finish_reason"] == "length"
    return found


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("smol")
    (folder / "models").mkdir()
    (folder / "models" / "smol.gguf").symlink_to(smollm2())
    server = Server(folder / "data", models=folder / "models")
    server.edit_config("smol", model="smol.gguf", n_ctx=2048, n_parallel=1, n_threads=1, temperature=0)
    server.select("smol")
    yield server.start()
    server.kill()


@pytest.mark.parametrize(("case", "choice"), TRIED, ids=[f"{each['id']}-{choice}" for each, choice in TRIED])
def test_a_small_model_keeps_to_the_form(smol: Server, case: dict[str, Any], choice: str) -> None:
    reply = smol.post(CHATS, body(case, choice, max_tokens=48))
    assert reply.status_code == 200, reply.text
    [got] = reply.json()["choices"]
    calls = check(case, got)
    if choice != "auto":
        # It has to call; only the limit of tokens may come between.
        assert calls or got["finish_reason"] == "length"


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    scripts: dict[str | tuple[str, str], str] = {marker(case["id"]): QWEN.write("", "", [call_of(case)]) for case in CASES}
    with scripted_server(tmp_path_factory.mktemp("functions"), {"qwen3": (QWEN, scripts)}) as server:
        yield server


def call_of(case: dict[str, Any]) -> Call:
    return Call(case["function"][0]["name"], {key: value for key, [value] in case["possible_answer"].items()})


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
@pytest.mark.parametrize("choice", CHOICES)
def test_a_right_call_is_given_as_it_is(scripted: Server, case: dict[str, Any], choice: str) -> None:
    [[message]] = case["question"]
    asked = {**case, "question": [[{**message, "content": f"{message['content']} {marker(case['id'])}"}]]}
    sent = body(asked, choice, enable_thinking=False, parallel_tool_calls=False, max_tokens=200)
    reply = scripted.post(CHATS, sent)
    assert reply.status_code == 200, reply.text
    [got] = reply.json()["choices"]
    assert check(case, got) == [dict(call_of(case).arguments)]
    # The model's own bytes.
    assert got["message"]["tool_calls"][0]["function"]["arguments"] == call_of(case).json
    assert got["finish_reason"] == "tool_calls"
    if choice != "auto":
        return
    deltas = [event["choices"][0]["delta"] for event in stream(scripted, CHATS, **sent)[:-1]]
    pieces = [call["function"].get("arguments", "") for delta in deltas for call in delta.get("tool_calls") or ()]
    assert "".join(pieces) == call_of(case).json
