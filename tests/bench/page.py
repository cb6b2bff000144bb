"""docs/benchmarks.md and its plot, written from tests/bench/results/*.json, so that the page cannot say anything else.

python -m tests.bench.page [--check]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from . import page_release
from .report import RESULTS

DOCS = Path(__file__).parents[2] / "docs"
PAGE, PLOT = DOCS / "benchmarks.md", DOCS / "benchmarks-main.svg"
RELEASE_PLOT = DOCS / "benchmarks-release.svg"
PLACEMENT_PLOT = DOCS / "benchmarks-placement.svg"

AIMS = {
    "apply_to_bound_p50_ratio": ("2", "an InferenceJob's apply to its pod bound, over a bare Deployment's, median"),
    "apply_to_bound_p99_ratio": ("3", "the same, 99th percentile"),
    "cpu_us_added_tiny": ("60", "CPU per request beyond session.run, tiny model, binary, us"),
    "cpu_us_mlserver": ("", "the same for MLServer"),
    "cpu_us_kserve": ("", "the same for KServe's Python server"),
    "pss_mb_runtime": ("80", "memory of the runtime with a 3 MB model, PSS over all processes, MiB"),
    "pss_mb_operator": ("150", "memory of the operator, MiB"),
    "demo_cold_s": ("1500", "make demo with nothing cached, s"),
    "demo_warm_s": ("240", "make demo after that, s"),
    "demo_failed_requests": ("0", "requests that failed while the model changed under load"),
}


def page(result: dict[str, Any]) -> str:
    figures, notes, machine = result["figures"], result["notes"], result["machine"]
    rows = [
        f"| `{name}` | {page_release.text(figures.get(name))} | {aim or '-'} | {what} | {notes.get(name, '')} |"
        for name, (aim, what) in AIMS.items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result["versions"].items()))
    others = ", ".join(
        f"`{name}` {page_release.text(value)}"
        for name, value in sorted(figures.items())
        if name not in AIMS and value is not None
    )
    return f"""# Benchmarks

Written by `python -m tests.bench.page` from [tests/bench/results](../tests/bench/results); `make bench-main` measures
anew. Ratios are within one run, since machines differ and are noisy; a figure without its baseline says little.

Machine: {machine["cpu"]}, {machine["cores"]} cores, {machine["memory_gib"]} GiB, Linux {machine["kernel"]}, Python
{machine["python"]}. Versions: {versions}.

## The main job

| figure | measured | aim | what it is | note |
|---|---|---|---|---|
{chr(10).join(rows)}

Also measured: {others}.

![CPU per small request](benchmarks-main.svg)

How: `apply_to_bound` posts an InferenceJob and a bare Deployment in turns, a hundred times each on an otherwise idle
control plane (real kube-apiserver, etcd, controller-manager and scheduler; the nodes are simulated, since binding needs
no kubelet), and takes the time to the watch event that shows the pod on a node. The operator runs with its default
settings and holds all the jobs made before. CPU per request is the server processes' user and system time over the
requests of one keep-alive client, the server pinned to one core and the client to the other, less a bare `session.run` in
a loop. MLServer and KServe's server run the same model, each in an environment of its own, with the settings that their
documentation gives for production; command and version are in the results.
"""


PLACEMENT_SIZES = ("20x50", "50x100", "100x200", "200x500", "1000x5000")
PLACEMENT_AIMS = {
    **{f"share_of_bound_{size}": ".985" if size in ("100x200", "200x500") else ".97" for size in PLACEMENT_SIZES},
    **{f"share_of_milp_{size}": ".99" for size in PLACEMENT_SIZES[:2]},
    **{f"top_tier_fill_gap_{size}": "0" for size in PLACEMENT_SIZES[:2]},
    "plan_ms_100x200": "300",
    "plan_ms_1000x5000": "5000",
    "one_job_ms_1000x5000": "50",
    "peak_mb_1000x5000": "600",
}
CHOICES = {
    "share_of_bound": "Edgeward",
    "share_greedy": "one after the other",
    "share_missing_is_zero": "missing is zero",
    "share_least_allocated": "LeastAllocated",
    "share_target_load": "target load",
    "share_random": "random",
    "share_most_allocated": "MostAllocated",
}
"""whose shares of the bound are compared"""


def placement(result: dict[str, Any]) -> str:
    figures, notes = result["figures"], result["notes"]

    def table(rows: list[tuple[str, str]]) -> str:
        head = f"| | {' | '.join(PLACEMENT_SIZES)} |\n|---|{'---|' * len(PLACEMENT_SIZES)}"
        lines = [
            f"| {what} | {' | '.join(_cell(figures, key, size) for size in PLACEMENT_SIZES)} |" for key, what in rows
        ]
        return "\n".join([head, *lines])

    quality = [*CHOICES.items(), ("share_of_bound_worst_tier", "Edgeward, worst tier of all")]
    quality += [
        ("share_of_milp", "Edgeward over the plan of a proved MILP"),
        ("share_of_milp_bound", "Edgeward over what that MILP proved"),
        ("top_tier_fill_gap", "top tier, MILP fills more by"),
    ]
    times = [("plan_ms", "solve and plan, CPU ms"), ("plan_greedy_ms", "plan alone, CPU ms")]
    times += [("bound_ms", "the bound, after the advice, CPU ms")]
    times += [("one_job_ms", "one job more, CPU ms"), ("peak_mb", "memory, MiB")]
    ages = sorted({int(key.split("_")[2]) for key in figures if key.startswith("stale_misses_")})
    kinds = {"": "Edgeward", "_missing_is_zero": "missing is zero", "_age_ignored": "age ignored"}
    stale = [
        f"| {what} | {' | '.join(page_release.text(figures.get(f'stale_misses_{a}{k}')) for a in ages)} |"
        for k, what in kinds.items()
    ]
    missed = [f"`{key}` {page_release.text(figures.get(key))} (aim {aim})" for key, aim in PLACEMENT_AIMS.items()]
    told = [f"`{key}`: {note}" for key, note in sorted(notes.items())]
    return f"""
## Placement

`make bench-placement`. Fleets of jobs x nodes from [a generator](../tests/bench/placement_fleets.py) with fixed hashes:
70% of the nodes edge; cpu, memory and storage; 85% of all cpu requested once everything has a place; live load that has
little to do with requests; selectors, taints, architectures, data sources, quotas and limits of spread mixed in; one
node in twenty without a sample.

Share of the bound: the sum of the scores, as they are when a whole priority tier is there, over the sum of the upper bounds of
each tier, each on what our higher tiers left. Others choose under the same constraints and tiers and are judged by the same
scores. The bound is the Lagrangian dual at the solver's prices ([why it is optimistic](adr/0005-solver.md)); it is computed
after the advice is out, so its time is beside that of the plan. Memory is that of one process which does all of it.
The MILP takes the fall of scores with load from below, and its plan is judged by the true scores, as ours is: ours may be
the better one.

{table(quality)}

![Share of the bound](benchmarks-placement.svg)

{table(times)}

One job more is decided on a ledger of the nodes that is there. The operator makes its ledger anew in each pass and keeps
none: what a node has free follows from how old each sample is by now, from failures that fade and from what is not visible
yet, so that any entry may be another one a second later, and a kept one would have to be proved equal. A pass over an
unchanged fleet costs little by other means: objects are read once a version, and only what is new is explained.

Jobs of 100 that metrics of some age, in seconds, send where they are worse off by more than what is worth a move:

| | {" | ".join(str(age) for age in ages)} |
|---|{"---|" * len(ages)}
{chr(10).join(stale)}

Aims: {", ".join(missed)}. Notes: {"; ".join(told)}.
"""


LIVE_AIMS = {
    "hot_replicas_edgeward": ("0", "replicas on nodes above 90% live while a cooler one has room"),
    "hot_replicas_kube_scheduler": ("", "the same by kube-scheduler, on the same nodes"),
    "bound_per_second_ratio": (".5", "one-replica jobs bound in a second, over bare Deployments"),
    "bound_per_second_jobs": ("", "jobs in a second"),
    "bound_per_second_deployments": ("", "bare Deployments in a second"),
    "moves_per_hour_noisy": ("", "moves in an hour of noise, all jobs together"),
    "moves_undisturbed": ("", "moves once half of the nodes in use are overloaded"),
    "moves_leader_killed": ("", "the same with the leader killed over and over"),
    "moves_leader_killed_ratio": ("1.0", "the one over the other"),
}


def live(result: dict[str, Any]) -> str:
    figures, notes = result["figures"], result["notes"]
    rows = [
        f"| `{name}` | {page_release.text(figures.get(name))} | {aim or '-'} | {what} | {notes.get(name, '')} |"
        for name, (aim, what) in LIVE_AIMS.items()
    ]
    failed = [text for name, text in sorted(notes.items()) if name not in LIVE_AIMS]
    told = f"\n{'. '.join(failed)}.\n" if failed else ""
    return f"""
## Placement by the whole operator

`make bench-placement-live`: real kube-apiserver, etcd, controller-manager and scheduler; the nodes are simulated, and so
is the Prometheus that tells their live load. Everything shares the machine's two cores, so that a job's own objects (its
Assignment, ConfigMap, Service, budget and statuses) take the time of the pods'.

| figure | measured | aim | what it is | note |
|---|---|---|---|---|
{chr(10).join(rows)}
{told}"""


def _cell(figures: dict[str, Any], key: str, size: str) -> str:
    value = figures.get(f"{key}_{size}")
    return "-" if value is None else f"{value:g}"


def placement_plot(result: dict[str, Any]) -> str:
    """One group of bars a size, each a share of the bound."""
    figures, parts = result["figures"], []
    shades = ("#0b6e4f", "#4f9d84", "#c98b2b", "#9aa5b1", "#7d8a97", "#b9c1c9", "#d8dde2")
    for column, size in enumerate(PLACEMENT_SIZES):
        x = 50 + 150 * column
        parts.append(f'<text x="{x + 56}" y="262" text-anchor="middle">{size}</text>')
        for number, key in enumerate(CHOICES):
            value = figures.get(f"{key}_{size}")
            if value is not None:
                height = 200 * value
                parts.append(
                    f'<rect x="{x + 16 * number}" y="{245 - height:.1f}" width="14" height="{height:.1f}" '
                    f'fill="{shades[number]}"/>'
                )
    for number, what in enumerate(CHOICES.values()):
        x, y = 50 + 190 * (number % 4), 284 + 20 * (number // 4)
        parts.append(f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{shades[number]}"/>')
        parts.append(f'<text x="{x + 18}" y="{y}">{what}</text>')
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="820" height="320" font-family="sans-serif" font-size="13">'
        '<rect width="820" height="320" fill="white"/>'
        '<text x="10" y="22" font-weight="bold">Sum of scores, share of the upper bound (jobs x nodes)</text>'
        '<line x1="45" y1="45" x2="810" y2="45" stroke="#444"/><text x="40" y="49" text-anchor="end">1</text>'
        '<line x1="45" y1="245" x2="810" y2="245" stroke="#444"/><text x="40" y="249" text-anchor="end">0</text>'
        + "".join(parts)
        + "</svg>\n"
    )


def plot(result: dict[str, Any]) -> str:
    """Horizontal bars, as SVG by hand: three numbers are not worth a plotting library."""
    figures = result["figures"]
    bars = [
        ("Edgeward", figures.get("cpu_us_added_tiny")),
        ("KServe", figures.get("cpu_us_kserve")),
        ("MLServer", figures.get("cpu_us_mlserver")),
    ]
    most = max((value for _, value in bars if value), default=1)
    rows = []
    for number, (name, value) in enumerate(bars):
        y = 40 + 34 * number
        width = 420 * (value or 0) / most
        label = f"{value:g} us" if value is not None else "could not be run"
        rows.append(
            f'<text x="90" y="{y + 16}" text-anchor="end">{name}</text>'
            f'<rect x="100" y="{y}" width="{width:.1f}" height="22" fill="{"#0b6e4f" if number == 0 else "#9aa5b1"}"/>'
            f'<text x="{106 + width:.1f}" y="{y + 16}">{label}</text>'
        )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="640" height="160" font-family="sans-serif" font-size="13">'
        '<rect width="640" height="160" fill="white"/>'
        '<text x="10" y="22" font-weight="bold">CPU per small request beyond the model (less is better)</text>'
        + "".join(rows)
        + "</svg>\n"
    )


RUNTIME_PLOT = DOCS / "benchmarks-runtime.svg"
RUNTIME_AIMS = {
    "cpu_us_added_tiny": ("50", "CPU of a request beyond session.run, tiny model, one row, binary, us"),
    "cpu_us_floor": ("", "of which a server that only answers as many bytes takes: the kernel and the event loop, us"),
    "cpu_us_mlserver": ("8 times ours", "the same for MLServer, us"),
    "cpu_us_kserve": ("8 times ours", "the same for KServe's Python server, us"),
    "throughput_share_magika": (".95", "16 clients' rows a second over a bare loop of session.run at the same batch"),
    "batching_gain_mid": ("2", "16 clients' rows a second, with batching over without, middling model"),
    "idle_added_ms": (".3", "what batching adds to the median of one client, ms"),
    "swaps": ("50", "new versions under constant load"),
    "swap_failed": ("0", "requests that failed meanwhile"),
    "swap_misrouted": ("0", "answers that were not of the version that they name"),
    "swap_p99_ratio": ("", "99th percentile of the time with swaps over that without"),
    "pss_mb_idle": ("80", "memory with a 3 MB model, PSS over all processes, MB"),
    "pss_ratio_after_200_swaps": ("1.2", "memory after 200 new versions over that after the first"),
    "fuzz_bodies": ("100000", "wrong bodies of every kind, in ten minutes"),
    "fuzz_crashes": ("0", "of these answered by 500 or not at all"),
    "image_mb_compressed": ("120", "the image in a registry, MB"),
    "image_mb_unpacked": ("350", "the image on a node, MB"),
    "conformance_passed": ("all", "cases of the protocol's conformance suite passed"),
    "conformance_total": ("", "of so many"),
    "conformance_passed_mlserver": ("", "the same for MLServer"),
    "conformance_passed_kserve": ("", "the same for KServe's server"),
    "json_over_binary_224": ("", "time of a 1x3x224x224 float picture as JSON over that as binary"),
    "grpc_over_rest_cpu": ("", "CPU of a row beyond session.run, gRPC over REST in binary"),
}


def runtime(result: dict[str, Any]) -> str:
    figures, notes = result["figures"], result["notes"]
    rows = [
        f"| `{name}` | {page_release.text(figures.get(name))} | {aim or '-'} | {what} | {_short(notes.get(name, ''))} |"
        for name, (aim, what) in RUNTIME_AIMS.items()
    ]
    others = ", ".join(
        f"`{name}` {page_release.text(value)}"
        for name, value in sorted(figures.items())
        if name not in RUNTIME_AIMS and isinstance(value, int | float)
    )
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result["versions"].items()))
    return f"""
## The runtime

`make bench-runtime`. The server is pinned to one core and the load to the other, {result["machine"]["cpu"]}. {versions}.

| figure | measured | aim | what it is | note |
|---|---|---|---|---|
{chr(10).join(rows)}

![CPU of a small request](benchmarks-runtime.svg)

Also measured: {others}.

How: CPU is the time that the scheduler says the server's threads ran. The models are networks of dense layers, 64-32-10
(tiny, 5 us a run) and 784-1024-1024-1024-10 (middling), and [magika](../tests/demo/models.py)'s. Requests come over kept
connections, the next as soon as the last is answered; batching is compared in turns on two servers that run side by side.
In the run with swaps each answer is checked against what the version that it names must give. MLServer and KServe's
server run the same models, from hash-pinned locks (requirements/bench-*.txt), with the settings that their documentation
gives for production.
"""


def _short(note: str) -> str:
    """A list of what failed is for the results' file; here its beginning shows of what kind it is."""
    return note if len(note) <= 160 else f"{note[:160].rpartition(', ')[0]} and others"


def runtime_plot(result: dict[str, Any]) -> str:
    figures = result["figures"]
    bars = [
        ("Edgeward", figures.get("cpu_us_added_tiny")),
        ("its floor", figures.get("cpu_us_floor")),
        ("gRPC", _beyond_run(figures, "cpu_us_request_grpc")),
        ("KServe", figures.get("cpu_us_kserve")),
        ("MLServer", figures.get("cpu_us_mlserver")),
    ]
    most = max((value for _, value in bars if value), default=1)
    rows = []
    for number, (name, value) in enumerate(bars):
        y, width = 40 + 30 * number, 420 * (value or 0) / most
        label = f"{value:g} us" if value is not None else "could not be run"
        rows.append(
            f'<text x="90" y="{y + 15}" text-anchor="end">{name}</text>'
            f'<rect x="100" y="{y}" width="{width:.1f}" height="20" fill="{"#0b6e4f" if number == 0 else "#9aa5b1"}"/>'
            f'<text x="{106 + width:.1f}" y="{y + 15}">{label}</text>'
        )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="640" height="200" font-family="sans-serif" font-size="13">'
        '<rect width="640" height="200" fill="white"/>'
        '<text x="10" y="22" font-weight="bold">CPU of a small request beyond the model (less is better)</text>'
        + "".join(rows)
        + "</svg>\n"
    )


def _beyond_run(figures: dict[str, Any], name: str) -> float | None:
    value, run = figures.get(name), figures.get("cpu_us_session_run")
    return None if value is None or run is None else round(value - run, 1)


def main() -> int:
    result = json.loads((RESULTS / "main.json").read_text())
    wanted = {PAGE: page(result), PLOT: plot(result)}
    for name, section in (
        ("placement", placement),
        ("placement-live", live),
        ("runtime", runtime),
        ("release", page_release.section),
    ):
        measured = RESULTS / f"{name}.json"
        if measured.exists():
            wanted[PAGE] += section(json.loads(measured.read_text()))
    if (RESULTS / "placement.json").exists():
        wanted[PLACEMENT_PLOT] = placement_plot(json.loads((RESULTS / "placement.json").read_text()))
    if (RESULTS / "runtime.json").exists():
        wanted[RUNTIME_PLOT] = runtime_plot(json.loads((RESULTS / "runtime.json").read_text()))
    if (RESULTS / "release.json").exists():
        wanted[RELEASE_PLOT] = page_release.plot(json.loads((RESULTS / "release.json").read_text()))
    if "--check" in sys.argv:
        stale = [path.name for path, text in wanted.items() if not path.exists() or path.read_text() != text]
        if stale:
            print(f"{', '.join(stale)} differ from the results: run python -m tests.bench.page", file=sys.stderr)
        return bool(stale)
    for path, text in wanted.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
