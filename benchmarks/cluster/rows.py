"""The rows: each is one comparison, made in pairs on the same machine in the same minutes."""

from __future__ import annotations

import math
import os
import threading
import time
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import fmean, median
from time import perf_counter
from typing import Any

import redis as redis_client
from kombu import Queue

from benchmarks.cluster.parts import TOKENS, WORDS, a_cluster, ask, by_itself, crowd, send, warm_up
from benchmarks.harness.words import make_text
from services.cluster.broker import make_celery
from services.cluster.redis_client import RedisClient
from services.cluster.settings import ClusterSettings
from services.cluster.streams import Streams
from tests.support.clustering import Cluster

Numbers = dict[str, Any]


def overhead(pairs: int) -> Numbers:
    """Time to the first token with and without the broker, in turns, prompt by prompt.

    The `road` is the client's time to the first token less the engine's own.
    """
    rng = Random(1)
    firsts: dict[str, list[float]] = {"embedded": [], "cluster": []}
    roads: dict[str, list[float]] = {"embedded": [], "cluster": []}
    for _ in range(pairs):
        with by_itself(2) as server, a_cluster(1, 2) as cluster:
            for _ in range(30):
                words = make_text(12, rng)
                for side, each in (("embedded", server), ("cluster", cluster.nodes[0])):
                    reply = ask(each, 0, words, 2)
                    firsts[side].append(1000 * reply.first_token)
                    roads[side].append(1000 * reply.first_token - reply.last["timings"]["first_token_ms"])
                    time.sleep(0.05)
    added = [b - a for a, b in zip(roads["embedded"], roads["cluster"], strict=True)]
    told = {f"{side}_first_ms": median(times) for side, times in firsts.items()}
    told |= {f"{side}_road_ms": median(times) for side, times in roads.items()}
    return {**told, "added_ms": median(added), "added_p90_ms": _p90(added)}


def scaling(pairs: int) -> Numbers:
    """Throughput of eight people on one worker of one thread, of sixteen and of eight on two."""
    runs: list[Numbers] = []
    for n in range(pairs):
        rates: Numbers = {}
        for n_workers in (1, 2) if n % 2 else (2, 1):
            with a_cluster(n_workers, 1) as cluster:
                for per_worker, name in ((8, "full"), (4, "half")):
                    users = per_worker * n_workers
                    seconds, replies = crowd(cluster.nodes[0], users, 3, TOKENS, Random(n))
                    rates[f"{name}_{n_workers}"] = users * 3 * TOKENS / seconds
                    rates[f"{name}_{n_workers}_first"] = median(reply.first_token for reply in replies)
        runs.append(rates)
    whole = {name: median(run[name] for run in runs) for name in runs[0]}
    ratios = [run["full_2"] / run["full_1"] for run in runs]
    return {**whole, "ratio": median(ratios), "ratios": ratios}


def takeover(pairs: int) -> Numbers:
    """The pause of a stream whose worker is killed, in seconds, after a short and a long prompt."""
    told: Numbers = {}
    for name, words in (("short", 12), ("long", 1000)):
        gaps, usual = [], []
        for n in range(pairs):
            with a_cluster(2, 1) as cluster:
                node = cluster.nodes[0]
                flight = send(node, 7, make_text(words, Random(n)), 200)
                while len(flight.reply.arrivals) < 60:
                    time.sleep(0.005)
                _home(cluster, 7).process.kill()
                killed = perf_counter()
                reply = flight.wait()
                spans = [(b - a, a) for a, b in pairwise(reply.arrivals)]
                gaps.append(max(span for span, at in spans if at > killed - 1))
                usual.append(median(span for span, at in spans if at < killed - 0.1))
        told |= {f"{name}_gap_s": median(gaps), f"{name}_gaps_s": gaps, f"{name}_usual_s": median(usual)}
    return told


def moving(pairs: int) -> Numbers:
    """A conversation's next first token on its own worker, on another one, and with a shared folder of states."""
    told: Numbers = {}
    for name in ("own", "shared"):
        stays, moves, tokens = [], [], 0
        with a_cluster(2, 1, shares=name == "shared") as cluster:
            node = cluster.nodes[0]
            for n in range(2 * pairs):
                rng, session = Random(n), 100 + n
                for _ in range(6):
                    ask(node, session, make_text(150, rng), 40)
                # A pause for the prefetch, and for the states to be written.
                time.sleep(10)
                stays.append(ask(node, session, make_text(20, rng), 2).first_token)
                time.sleep(10)
                home = _home(cluster, session)
                client = redis_client.Redis.from_url(cluster.redis.url)
                other = next(worker.name for worker in cluster.workers if worker is not home)
                client.set(f"test{cluster.number}:home:0:{session}", other)
                client.close()
                reply = ask(node, session, make_text(20, rng), 2)
                moves.append(reply.first_token)
                tokens = reply.last["usage"]["prompt_tokens"]
        told |= {f"{name}_stays_s": median(stays), f"{name}_moves_s": median(moves), "prompt_tokens": tokens}
    return told


def service(pairs: int) -> Numbers:
    """Reading speed of one worker of one thread, and its step time for 1, 2, 4 and 8 answers: input of the simulation."""
    steps: dict[str, list[float]] = {str(n): [] for n in (1, 2, 4, 8)}
    read: list[float] = []
    with a_cluster(1, 1) as cluster:
        node = cluster.nodes[0]
        for n in range(pairs):
            for count in steps:
                _, replies = crowd(node, int(count), 1, TOKENS, Random(100 * n + int(count)))
                # They begin and end about together, and each step adds a token to each.
                steps[count].append(fmean(1 / reply.decode_rate for reply in replies))
            reply = ask(node, 0, make_text(400, Random(n)), 2)
            usage, timings = reply.last["usage"], reply.last["timings"]
            read.append((usage["prompt_tokens"] - usage["cached_tokens"]) / timings["prompt_ms"] * 1000)
    return {"step_s": {count: median(times) for count, times in steps.items()}, "read_tokens_per_s": median(read)}


def busy(pairs: int) -> Numbers:
    """First tokens of people who pause between prompts, on one worker and on two, to check the simulation."""
    told: Numbers = {}
    for n_workers, users in ((1, 5), (2, 10)):
        firsts: list[float] = []
        for n in range(pairs):
            with a_cluster(n_workers, 1) as cluster:
                firsts += _people(cluster, users, THINK, 90.0, n)
        firsts.sort()
        told[str(n_workers)] = {
            "users": users,
            "answers": len(firsts),
            "median_s": median(firsts),
            "p95_s": firsts[math.ceil(0.95 * len(firsts)) - 1],
        }
    return {"think_s": THINK, **told}


# Mean seconds between an answer and the next prompt, in `busy`.
THINK = 12.0


def limits(pairs: int) -> Numbers:
    """Capacity of the parts between nodes and workers: Redis events, broker tasks, events per node."""
    with a_cluster(1, 1) as cluster:
        named = cluster.environ("bench")
        settings = ClusterSettings(
            named["CELERY_BROKER_URL"], named["CELERY_RESULT_BACKEND"], "bench", "bench", name="bench"
        )
        return {
            "redis_events_per_s": _redis_rate(settings, 4.0 * pairs),
            "broker_tasks_per_s": _broker_rate(settings, 300 * pairs),
            "node_cpu_ms_per_event": _node_cost(cluster),
        }


def _redis_rate(settings: ClusterSettings, seconds: float) -> float:
    """Return the events a second that Redis passes on: written by a worker's script, and read by waiting clients.

    Python's writers are slower than Redis, so the count is divided by the time that Redis's own thread was busy.
    """
    counts = [0] * 4
    over = threading.Event()

    def write(n: int) -> None:
        streams, id_ = Streams(RedisClient(settings)), f"w{n}"
        streams.open(id_, "bench")
        begun = streams.begin(id_, "bench")
        while not over.is_set():
            streams.write(id_, begun.attempt, begun.written + counts[n], [{"text": " word", "tokens": [1]}])
            counts[n] += 1
        streams.drop(id_)

    def read(n: int) -> None:
        streams, after = Streams(RedisClient(settings)), "0"
        while not over.is_set():
            for entry, _, _ in streams.read(f"w{n}", after, 100):
                after = entry

    threads = [threading.Thread(target=do, args=(n,)) for n in range(len(counts)) for do in (write, read)]
    client: Any = redis_client.Redis.from_url(settings.redis)
    before = client.info("cpu")
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    over.set()
    for thread in threads:
        thread.join()
    after = client.info("cpu")
    client.close()
    return float(sum(counts) / sum(after[name] - before[name] for name in _REDIS_CPU))


_REDIS_CPU = ("used_cpu_user_main_thread", "used_cpu_sys_main_thread")


def _broker_rate(settings: ClusterSettings, count: int) -> float:
    """Return the tasks a second that eight senders together get confirmed, on the same cores."""

    def send_all() -> None:
        app = make_celery(settings)
        for _ in range(count):
            app.send_task("none", [list(range(100))], queue=queue, ignore_result=True)
        app.close()

    queue = Queue("bench", queue_arguments={"x-max-priority": 10})
    threads = [threading.Thread(target=send_all) for _ in range(8)]
    began = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 8 * count / (perf_counter() - began)


def _node_cost(cluster: Cluster) -> float:
    """Return the milliseconds of CPU that an API node spends per token, the answer's beginning and end included."""
    node = cluster.nodes[0]
    before = _cpu_seconds(Path(f"/proc/{node.process.pid}/stat"))
    _, replies = crowd(node, 8, 2, TOKENS, Random(5))
    used = _cpu_seconds(Path(f"/proc/{node.process.pid}/stat")) - before
    return 1000 * used / sum(reply.tokens for reply in replies)


def _cpu_seconds(stat: Any) -> float:
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _people(cluster: Cluster, users: int, think: float, seconds: float, seed: int) -> list[float]:
    """Run so many people for so long; return the seconds to each first token, without the first answers."""
    firsts: list[float] = []
    end = perf_counter() + seconds

    def live(number: int) -> None:
        rng = Random(1000 * seed + number)
        time.sleep(rng.uniform(0, think))
        n_answers = 0
        while perf_counter() < end:
            reply = ask(cluster.nodes[0], 1 + number, make_text(WORDS, rng), TOKENS)
            if n_answers:
                firsts.append(reply.first_token)
            n_answers += 1
            time.sleep(rng.expovariate(1 / think))

    threads = [threading.Thread(target=live, args=(number,)) for number in range(users)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return firsts


def _home(cluster: Cluster, session: int) -> Any:
    client: Any = redis_client.Redis.from_url(cluster.redis.url, decode_responses=True)
    name = client.get(f"test{cluster.number}:home:0:{session}")
    client.close()
    return next(worker for worker in cluster.workers if worker.name == name)


def _p90(values: list[float]) -> float:
    return sorted(values)[math.ceil(0.9 * len(values)) - 1]


ROWS = {each.__name__: each for each in (overhead, scaling, takeover, moving, service, busy, limits)}
__all__ = ["ROWS", "Numbers", "warm_up"]
