"""docs/benchmarks.md and its plot, written from tests/bench/results/*.json, so that the page cannot say anything else.

python -m tests.bench.page [--check]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .report import RESULTS

DOCS = Path(__file__).parents[2] / "docs"
PAGE, PLOT = DOCS / "benchmarks.md", DOCS / "benchmarks-main.svg"

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
        f"| `{name}` | {_text(figures.get(name))} | {aim or '-'} | {what} | {notes.get(name, '')} |"
        for name, (aim, what) in AIMS.items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result["versions"].items()))
    others = ", ".join(
        f"`{name}` {_text(value)}" for name, value in sorted(figures.items()) if name not in AIMS and value is not None
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


def _text(value: Any) -> str:
    return "not measured" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def main() -> int:
    result = json.loads((RESULTS / "main.json").read_text())
    wanted = {PAGE: page(result), PLOT: plot(result)}
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
