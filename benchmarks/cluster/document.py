"""docs/scaling.md: benchmarks/cluster/page.md filled with measured and simulated numbers, and its plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.cluster.simulation import Habits, Service, median, quantile, share_within, waits, workers_needed
from benchmarks.harness.machine import describe_machine
from benchmarks.harness.plots import new_figure, plot_settings, save_figure
from benchmarks.harness.servers import ROOT

PAGE = ROOT / "benchmarks" / "cluster" / "page.md"
USERS = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
THINKS = (20.0, 60.0, 300.0)
# Beyond so many people the number of workers is extrapolated: a larger pool is no more efficient.
SIMULATED = 2_000
# Seconds to fetch a state over a network of 1 Gbit/s, about.
_FETCH = 0.15
Numbers = dict[str, Any]


def write_document(measured: Numbers, docs: Path) -> Path:
    """Write scaling.md and its plots into `docs`, from all rows, which must have been measured; return its path."""
    service = service_of(measured)
    needed = {(think, users): _needed(service, think, users) for think in THINKS for users in USERS}
    folder = docs / "scaling"
    folder.mkdir(exist_ok=True)
    with plot_settings():
        _draw_needed(needed, folder / "workers.svg")
        _draw_waits(service, folder / "waits.svg")
        _draw_limits(measured, folder / "limits.svg")
    text = PAGE.read_text(encoding="utf-8")
    for name, value in _places(measured, service, needed).items():
        text = text.replace(f"{{{name}}}", value)
    path = docs / "scaling.md"
    path.write_text(text, encoding="utf-8")
    return path


def service_of(measured: Numbers) -> Service:
    """Return a worker's speeds as measured."""
    steps = {int(count): seconds for count, seconds in measured["service"]["step_s"].items()}
    return Service(steps, measured["service"]["read_tokens_per_s"], measured["overhead"]["cluster_road_ms"] / 1000)


def _needed(service: Service, think: float, users: int) -> int:
    if users <= SIMULATED:
        return workers_needed(service, Habits(think), users)
    return -(-users * workers_needed(service, Habits(think), SIMULATED) // SIMULATED)


def _places(measured: Numbers, service: Service, needed: dict[tuple[float, int], int]) -> dict[str, str]:
    overhead, scaling, takeover, moving = (measured[name] for name in ("overhead", "scaling", "takeover", "moving"))
    numbers = {
        "embedded first": overhead["embedded_first_ms"],
        "cluster first": overhead["cluster_first_ms"],
        "added": overhead["added_ms"],
        "added p90": overhead["added_p90_ms"],
        "one": scaling["full_1"],
        "two": scaling["full_2"],
        "short gap": 1000 * takeover["short_gap_s"],
        "short usual": 1000 * takeover["short_usual_s"],
        "long gap": 1000 * takeover["long_gap_s"],
        "stays": 1000 * moving["own_stays_s"],
        "moves": 1000 * moving["own_moves_s"],
        "shared": 1000 * moving["shared_moves_s"],
        "moved tokens": moving["prompt_tokens"],
        "read": measured["service"]["read_tokens_per_s"],
        "redis events": measured["limits"]["redis_events_per_s"],
        "broker tasks": measured["limits"]["broker_tasks_per_s"],
        "redis users": redis_users(measured, 60.0),
        "broker users": broker_users(measured, 60.0),
        "node users": node_users(measured, 60.0),
        "state mb": 12.3e-3 * moving["prompt_tokens"],
    }
    places = {name: f"{value:,.0f}" for name, value in numbers.items()}
    places["ratio"] = f"{scaling['ratio']:.2f}"
    places["ratios"] = ", ".join(f"{ratio:.2f}" for ratio in scaling["ratios"])
    places["read one"] = f"{Habits(60).prompt / service.read:.2f}"
    places["event ms"] = f"{measured['limits']['node_cpu_ms_per_event']:.2f}"
    places["lan ms"] = f"{1000 * 12.3e-3 * moving['prompt_tokens'] * 8 / 1000:,.0f}"
    places["date"] = ", ".join(sorted({row["date"] for row in measured.values()}))
    places["machine"] = describe_machine()
    places["steps"] = ", ".join(f"{1000 * seconds:.0f}" for seconds in service.steps.values())
    places["check"] = "\n".join(_checks(measured, service))
    places["needed"] = "\n".join(_rows(needed))
    return places


def _checks(measured: Numbers, service: Service) -> list[str]:
    """The two-worker run beside the simulation of the very same people."""
    rows = ["| workers | people | | answers | first token, median | 95 of 100 within |", "|---|---|---|---|---|---|"]
    for workers in ("1", "2"):
        real = measured["busy"][workers]
        habits = Habits(measured["busy"]["think_s"], talk=400)
        firsts = waits(service, habits, real["users"], int(workers), 4000)
        told = (real["median_s"], real["p95_s"]), (median(firsts), quantile(firsts, 0.95))
        for name, count, (middle, late) in zip(
            ("measured", "simulated"), (real["answers"], len(firsts)), told, strict=True
        ):
            rows.append(f"| {workers} | {real['users']} | {name} | {count:,} | {middle:.2f} s | {late:.2f} s |")
    return rows


def _rows(needed: dict[tuple[float, int], int]) -> list[str]:
    head = "| people | " + " | ".join(f"{think:.0f} s between prompts" for think in THINKS) + " |"
    rows = [head, "|" + "---|" * (len(THINKS) + 1)]
    for users in USERS:
        rows.append(f"| {users:,} | " + " | ".join(f"{needed[think, users]:,}" for think in THINKS) + " |")
    return rows


def _rate(think: float, users: float) -> float:
    """Prompts a second: people think, wait a little, and read along while an answer of 100 tokens is written."""
    return users / (think + 5)


def redis_users(measured: Numbers, think: float) -> float:
    """Return the number of people that one Redis serves at half its capacity: one event a token."""
    return float(0.5 * measured["limits"]["redis_events_per_s"] / (Habits(think).answer * _rate(think, 1)))


def broker_users(measured: Numbers, think: float) -> float:
    """Return the number of people that one RabbitMQ serves at half its measured capacity."""
    return float(0.5 * measured["limits"]["broker_tasks_per_s"] / _rate(think, 1))


def node_users(measured: Numbers, think: float) -> float:
    """Return the number of people that one core of API nodes serves, half busy."""
    return float(0.5 * 1000 / measured["limits"]["node_cpu_ms_per_event"] / (Habits(think).answer * _rate(think, 1)))


def _draw_needed(needed: dict[tuple[float, int], int], path: Path) -> None:
    figure, axes = new_figure()
    for think, colour in zip(THINKS, ("#c4501b", "#4a6a8a", "#5a8a4a"), strict=True):
        axes.plot(USERS, [needed[think, users] for users in USERS], color=colour, marker="o", label=f"{think:.0f} s")
    axes.set(title="Workers of one core for a first token within a second", xlabel="people", xscale="log", yscale="log")
    save_figure(figure, axes, path, "seconds between prompts")


def _draw_waits(service: Service, path: Path) -> None:
    """Draw the share of prompts answered in time by people per worker, for several pools."""
    figure, axes = new_figure()
    loads = (2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40)
    fetched = Habits(60.0, talk=round(_FETCH * service.read))
    for name, workers, habits, colour in (
        ("1", 1, Habits(60.0), "#c4501b"),
        ("4", 4, Habits(60.0), "#4a6a8a"),
        ("16", 16, Habits(60.0), "#5a8a4a"),
        ("16 that share states", 16, fetched, "#8a5a8a"),
    ):
        shares = [100 * share_within(waits(service, habits, load * workers, workers)) for load in loads]
        axes.plot(loads, shares, color=colour, marker="o", markersize=3, label=name)
    axes.set(title="Prompts with their first token within a second, 60 s between prompts", ylabel="percent")
    axes.set(xlabel="people a worker", ylim=(0, 101))
    save_figure(figure, axes, path, "workers")


def _draw_limits(measured: Numbers, path: Path) -> None:
    figure, axes = new_figure()
    thinks = (10, 20, 40, 60, 120, 300, 600)
    for name, bears, colour in (
        ("one Redis", redis_users, "#c4501b"),
        ("one RabbitMQ", broker_users, "#4a6a8a"),
        ("one core of API nodes", node_users, "#5a8a4a"),
    ):
        axes.plot(thinks, [bears(measured, think) for think in thinks], color=colour, marker="o", markersize=3, label=name)
    axes.set(title="How many people each part bears, half busy", xlabel="seconds between prompts", ylabel="people")
    axes.set(xscale="log", yscale="log")
    save_figure(figure, axes, path)
