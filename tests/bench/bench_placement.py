"""`make bench-placement`: how near the plans come to the bound, how fast, and what old metrics do to them.

    python -m tests.bench.bench_placement            # all, into results/placement.json
    python -m tests.bench.bench_placement --quick    # two seeds of the three small sizes, printed only
    python -m tests.bench.bench_placement --without-largest   # what is known of 1000x5000 stays: it alone takes minutes
    python -m tests.bench.bench_placement --only-largest      # the other way round

Quality is measured on all cores at once. Times are CPU time of one thread: on a free core that is the wall clock's, and
what else the machine does counts for less.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from edgeward.fleet.model import Fleet
from edgeward.placement import Guidance, PlanSettings, plan
from edgeward.placement.decide import begin, finish, place
from edgeward.placement.ledger import Ledger
from edgeward.placement.order import turns
from edgeward.placement.solve import bounded, solve

from . import placement_milp, placement_stale, report
from .placement_fleets import INSTANCES, SEEDS, SIZES, digests, fleet
from .placement_policies import (
    Outcome,
    at_random,
    least_allocated,
    missing_is_zero,
    most_allocated,
    run,
    target_load,
)

SETTINGS = PlanSettings()
LARGEST = SIZES[-1]
SEEDS_AT = {SIZES[-2]: 6, LARGEST: 1}
"""of 20, where one instance takes a quarter of a minute or minutes"""
MILP_SEEDS = 3
STALE_SEEDS = 3
Size = tuple[int, int]


def name(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def quality(task: tuple[Size, int]) -> dict[str, Any]:
    """One instance: our score and bound by tier, and the sums of the others' scores."""
    size, seed = task
    one = fleet(*size, seed)
    advice = bounded(one, SETTINGS, solve(one, SETTINGS))
    others: dict[str, Callable[[], Outcome]] = {
        "greedy": lambda: run(one, None),
        "random": lambda: run(one, at_random(seed)),
        "least_allocated": lambda: run(one, least_allocated),
        "most_allocated": lambda: run(one, most_allocated),
        "target_load": lambda: run(one, target_load),
        "missing_is_zero": lambda: run(missing_is_zero(one), None, judged=one),
    }
    if size == LARGEST:
        others = {"greedy": others["greedy"]}
    return {
        "size": name(size),
        "bound": sum(tier.bound or 0.0 for tier in advice.tiers),
        "ours": sum(tier.score for tier in advice.tiers),
        "worst": min((tier.share or 0.0 for tier in advice.tiers), default=1.0),
        "backstop": advice.backstop,
        "others": {label: outcome().score for label, outcome in others.items()},
    }


def shares(found: list[dict[str, Any]]) -> dict[str, float]:
    """Means over the seeds of one size."""
    size = found[0]["size"]
    figures = {
        f"share_of_bound_{size}": statistics.fmean(item["ours"] / item["bound"] for item in found),
        f"share_of_bound_worst_tier_{size}": min(item["worst"] for item in found),
    }
    for label in found[0]["others"]:
        figures[f"share_{label}_{size}"] = statistics.fmean(item["others"][label] / item["bound"] for item in found)
    return {key: round(value, 4) for key, value in figures.items()}


def milliseconds(work: Callable[[], object], times: int) -> float:
    """Median of CPU times."""
    taken = []
    for _ in range(times):
        began = time.process_time()
        work()
        taken.append(1000 * (time.process_time() - began))
    return round(statistics.median(taken), 1)


def guided(one: Fleet) -> Guidance:
    advice = solve(one, SETTINGS)
    plan(one, SETTINGS, guidance=advice)
    return advice


def times(sizes: tuple[Size, ...]) -> dict[str, float]:
    """plan_ms: the solve and the plan that follows it; bound_ms: the bounds, for which nobody waits; plan_greedy_ms: a
    plan without advice. Everything is to be placed and explained."""
    figures: dict[str, float] = {}
    for size in sizes:
        one = fleet(*size, 0)
        count = 1 if size == LARGEST else 3
        figures[f"plan_ms_{name(size)}"] = milliseconds(lambda one=one: guided(one), count)  # type: ignore[misc]
        advice = solve(one, SETTINGS)
        figures[f"bound_ms_{name(size)}"] = milliseconds(
            lambda one=one, advice=advice: bounded(one, SETTINGS, advice),  # type: ignore[misc]
            count,
        )
        figures[f"plan_greedy_ms_{name(size)}"] = milliseconds(lambda one=one: plan(one, SETTINGS), count)  # type: ignore[misc]
    return figures


def one_job() -> float:
    """One job more: decided and explained on a ledger that is there, all others being placed."""
    one = fleet(*LARGEST, 0)
    ledger = Ledger(one, SETTINGS)
    order = turns(one, SETTINGS)
    for turn in order[:-1]:
        place(begin(turn, ledger, SETTINGS), ledger)
    taken = []
    for turn in order[-20:]:
        began = time.process_time()
        decision = begin(turn, ledger, SETTINGS)
        place(decision, ledger)
        finish(decision, ledger, SETTINGS, fleet_notes=())
        taken.append(1000 * (time.process_time() - began))
    return round(statistics.median(taken), 1)


def largest(_: int) -> dict[str, float]:
    """In a process of its own, so that the memory is that of this work alone."""
    figures = times((LARGEST,))
    figures[f"one_job_ms_{name(LARGEST)}"] = one_job()
    figures[f"peak_mb_{name(LARGEST)}"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    return figures


def _known(*, keep_largest: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Figures and notes of the run before: of the largest size, or of all others."""
    content = json.loads((report.RESULTS / "placement.json").read_text())

    def kept(entries: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in entries.items() if key.endswith(name(LARGEST)) == keep_largest}

    return kept(content["figures"]), kept(content["notes"])


def main() -> int:
    quick = "--quick" in sys.argv
    alone, without = "--only-largest" in sys.argv, "--without-largest" in sys.argv
    sizes = SIZES[:3] if quick else (LARGEST,) if alone else SIZES[:-1] if without else SIZES
    if not quick and json.loads(INSTANCES.read_text()) != digests():
        print("the instances differ from those whose hashes are committed", file=sys.stderr)
        return 1
    figures, notes = _known(keep_largest=without) if (alone or without) and not quick else ({}, {})
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(2, os.cpu_count() or 1)) as pool:
        for size in sizes:
            seeds = 2 if quick else SEEDS_AT.get(size, SEEDS)
            print(f"quality at {name(size)}, {seeds} seeds", flush=True)
            found = pool.map(quality, [(size, seed) for seed in range(seeds)], chunksize=1)
            figures |= shares(found)
            struck = sum(item["backstop"] for item in found)
            notes[f"share_of_bound_{name(size)}"] = f"{seeds} seeds" + (
                f", backstop struck in {struck}" if struck else ""
            )
        for size in () if alone else sizes[:2]:
            print(f"MILP at {name(size)}", flush=True)
            tasks = [(size, seed) for seed in range(1 if quick else MILP_SEEDS)]
            more, note = placement_milp.summary(name(size), pool.map(placement_milp.compare, tasks, chunksize=1))
            figures |= more
            notes[f"share_of_milp_{name(size)}"] = note
    if not alone:
        print("stale metrics", flush=True)
        figures |= placement_stale.measure(1 if quick else STALE_SEEDS)
    print("times", flush=True)
    figures |= times(tuple(size for size in sizes if size != LARGEST))
    if LARGEST in sizes:
        with context.Pool(1) as pool:
            figures |= pool.map(largest, [0])[0]
    if quick:
        print(json.dumps({"figures": figures, "notes": notes}, indent=2))
        return 0
    versions = {package: version(package) for package in ("highspy", "numpy")}
    print(report.write("placement", versions=versions, figures=figures, notes=notes).read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
