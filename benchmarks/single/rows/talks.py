"""Time to the first token in conversations: a long one, more of them than slots, and after a restart."""

from __future__ import annotations

from random import Random
from statistics import median
from time import perf_counter, sleep

from benchmarks.harness.clients import Reply
from benchmarks.harness.servers import Server
from benchmarks.harness.talk import Talk
from benchmarks.single.bench import OURS, THEIRS, Bench, Numbers, Pair

TOKENS = 24

LONG_TURNS = 9
LONG_WORDS = 80
THOUGHT = 3.0
# In turn 7 the window of five exchanges slides for the first time.
SLIDING = 6

USERS = 12
TURNS = 8
WORDS = 50
APART = 2.0

# With the last two it goes on in the slot of the talk, although a slid prompt has little in common with what the slot read.
REUSE_FLAGS = ("--cache-reuse", "32", "--cache-ram", "0", "--slot-prompt-similarity", "0.01")

RESTART_TURNS = 5
RESTART_WORDS = 215
RESTART_PAUSE = 3.0


def long_talk(server: Server, rng: Random) -> Numbers:
    """One user, who pauses for three seconds between an answer and the next words."""
    talk = Talk(1)
    replies = []
    for turn in range(LONG_TURNS):
        if turn:
            sleep(THOUGHT)
        replies.append(server.ask(talk, server.text(LONG_WORDS, rng), TOKENS))
    turns = [reply.first_token for reply in replies]
    return {"first_token": median(turns[SLIDING:]), "turns": turns, "prompt_tokens": _prompts(replies)}


def twelve(server: Server, rng: Random) -> Numbers:
    """Twelve users on eight slots in turn, a request every two seconds, or once the one before is answered."""
    talks = [Talk(number) for number in range(1, USERS + 1)]
    replies: list[Reply] = []
    due = perf_counter()
    for _ in range(TURNS):
        for talk in talks:
            sleep(max(0.0, due - perf_counter()))
            due = max(due, perf_counter()) + APART
            replies.append(server.ask(talk, server.text(WORDS, rng), TOKENS))
    times = [reply.first_token for reply in replies]
    by_turn = [median(times[USERS * turn : USERS * (turn + 1)]) for turn in range(TURNS)]
    return {"first_token": median(times[-2 * USERS :]), "turns": by_turn, "prompt_tokens": _prompts(replies)}


def restart(server: Server, rng: Random) -> Numbers:
    """A conversation of 1,500 tokens, whose next turn comes after a restart of the server."""
    talk = Talk(1)
    replies = [server.ask(talk, server.text(RESTART_WORDS, rng), TOKENS) for _ in range(RESTART_TURNS)]
    sleep(RESTART_PAUSE)
    server.stop()
    server.start()
    replies.append(server.ask(talk, server.text(WORDS, rng), TOKENS))
    return {"first_token": replies[-1].first_token, "prompt_tokens": _prompts(replies)}


def shifting(bench: Bench, number: int) -> Pair:
    """The long talk with llama-server alone: with `--cache-reuse` (OURS), which is off by default, and without (THEIRS)."""
    pair = {}
    for side, flags in ((OURS, REUSE_FLAGS), (THEIRS, ())):
        with bench.server(THEIRS, flags=flags) as server:
            pair[side] = long_talk(server, Random(1000 + number))
    return pair


def _prompts(replies: list[Reply]) -> list[int]:
    return [reply.prompt_tokens for reply in replies]
