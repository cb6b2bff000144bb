"""Fleets to measure placement on, drawn from the distributions below; the same seed gives the same fleet anywhere.

    python -m tests.bench.placement_fleets           # sha256 of every instance, as results/placement-instances.json holds

Only `random.Random(seed)` is used, whose sequence Python keeps between versions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any

from edgeward.api.common import LabelSelector
from edgeward.fleet.model import Fleet, Job, Live, Node, Priority, Resources, Sample, Site, Taint, Toleration

SIZES = ((20, 50), (50, 100), (100, 200), (200, 500), (1000, 5000))
"""jobs, nodes"""
SEEDS = 20
NOW = 1_700_000_000.0
MI, GI = 1 << 20, 1 << 30
INSTANCES = Path(__file__).parent / "results" / "placement-instances.json"

TIERS = {
    # share of the nodes, nodes per site, cores, GiB of memory, GiB of storage, speed, uplink in Mbit/s, rtt to the hub in s
    "edge": (0.70, (3, 8), (2, 4, 4, 8), (4, 8, 8, 16), (16, 32), (0.5, 1.0), (5, 50), (0.02, 0.12)),
    "fog": (0.20, (4, 10), (8, 16), (16, 32), (64, 128), (1.0, 1.5), (100, 500), (0.005, 0.03)),
    "cloud": (0.10, (10, 40), (16, 32, 64), (64, 128), (200, 400), (1.5, 3.0), (1000, 10000), (0.001, 0.005)),
}
CPU = (250, 250, 500, 500, 750, 1000, 1000, 1500, 2000)
"""millicores of a replica"""
MEMORY = (128, 256, 512, 512, 1024, 2048)
"""MiB"""
STORAGE = (0, 100, 500, 1000, 4000)
"""MiB"""
LOAD = 0.85
"""of all cpu is requested once every replica has a place, foreign pods included"""
MODELS = 40


def fleet(jobs: int, nodes: int, seed: int) -> Fleet:
    """A fleet in which nothing is placed yet."""
    draw = random.Random(f"{jobs}x{nodes}/{seed}")
    sites, places = _places(draw, nodes)
    wanted = LOAD * sum(n.allocatable.cpu for n in places) - sum(n.foreign.cpu for n in places)
    shapes = [(draw.choice(CPU), min(8.0, draw.expovariate(0.7) + 0.2)) for _ in range(jobs)]
    scale = wanted / sum(cpu * weight for cpu, weight in shapes)
    tasks = tuple(
        _job(draw, index, cpu, max(1, round(weight * scale)), [site.name for site in sites if site.tier == "edge"])
        for index, (cpu, weight) in enumerate(shapes)
    )
    return Fleet(now=NOW, nodes=tuple(places), sites=tuple(sites), jobs=tasks)


def _places(draw: random.Random, count: int) -> tuple[list[Site], list[Node]]:
    sites: list[Site] = []
    nodes: list[Node] = []
    for tier, (share, per_site, cores, memory, storage, speed, uplink, rtt) in TIERS.items():
        left = round(share * count)
        while left > 0:
            size = min(left, draw.randint(*per_site))
            left -= size
            name = f"{tier}-{len(sites):04d}"
            region = draw.choice(("north", "south", "east", "west"))
            sites.append(
                Site(
                    name,
                    tier,
                    region=region,
                    bandwidth=1e6 * draw.uniform(*uplink) if draw.random() < 0.9 else None,
                    rtt=draw.uniform(*rtt) if draw.random() < 0.9 else None,
                    cost_cpu_hour=draw.choice((None, 0.02, 0.05, 0.1)),
                    watts_per_cpu=draw.choice((None, 5.0, 15.0)),
                    quota_replicas=size * 6 if draw.random() < 0.05 else None,
                )
            )
            kind, fast = (draw.choice(cores), draw.choice(memory), draw.choice(storage)), draw.uniform(*speed)
            nodes += [_node(draw, f"{name}-{at:02d}", sites[-1], kind, fast) for at in range(size)]
    return sites, nodes


def _node(draw: random.Random, name: str, site: Site, kind: tuple[int, int, int], speed: float) -> Node:
    """Live load has little to do with what is requested: between a third and twice of it; one in twenty has no sample."""
    cores, memory, storage = kind
    allocatable = Resources(cores * 1000 - 100, memory * GI - 256 * MI, 110, storage * GI)
    busy = draw.uniform(0.2, 0.6)
    foreign = Resources(
        int(allocatable.cpu * busy), int(allocatable.memory * busy * draw.uniform(0.5, 1.2)), draw.randint(2, 8),
        int(allocatable.storage * draw.uniform(0.05, 0.3)),
    )  # fmt: skip
    live = min(0.98, busy * draw.uniform(0.35, 2.0)) * allocatable.cpu / 1000
    at = NOW - draw.uniform(1, 29)
    return Node(
        name=name,
        site=site.name,
        tier=site.tier,
        arch="arm64" if site.tier == "edge" and draw.random() < 0.4 else "amd64",
        labels={"disk": "ssd"} if draw.random() < 0.5 else {},
        taints=(Taint("dedicated", "vision", "NoSchedule"),) if draw.random() < 0.1 else (),
        allocatable=allocatable,
        foreign=foreign,
        live=_measured(live, foreign.memory * draw.uniform(0.5, 1.1), at, missing=draw.random() < 0.05),
        models=frozenset(f"sha256:{draw.randrange(MODELS):02d}" for _ in range(draw.randint(0, 3))),
        speed=round(speed, 3),
    )


def _measured(cpu: float, memory: float, at: float, *, missing: bool) -> Live:
    return Live() if missing else Live(cpu=Sample(cpu, at), memory=Sample(memory, at))


def _job(draw: random.Random, index: int, cpu: int, replicas: int, edge_sites: list[str]) -> Job:
    model = draw.randrange(MODELS)
    where = draw.random()
    tiers = (
        frozenset({"edge"}) if where < 0.25
        else frozenset({"fog", "cloud"}) if where < 0.4
        else frozenset({"edge", "fog", "cloud"})
    )  # fmt: skip
    selector = LabelSelector()
    if draw.random() < 0.15:
        some = draw.sample(("north", "south", "east", "west"), 2)
        selector = LabelSelector.model_validate(
            {"matchExpressions": [{"key": "topology.kubernetes.io/region", "operator": "In", "values": some}]}
        )
    source = None
    if draw.random() < 0.5:
        source = LabelSelector.model_validate({"matchLabels": {"edgeward.dev/site": draw.choice(edge_sites)}})
    return Job(
        namespace=f"team-{index % 7}",
        name=f"job-{index:04d}",
        uid=f"uid-{index:04d}",
        created_at=NOW - draw.randint(1, 10_000),
        priority=Priority(draw.randint(1, 5), draw.randint(1, 5), draw.randint(1, 5)),
        replicas=replicas,
        request=Resources(cpu, draw.choice(MEMORY) * MI, 1, draw.choice(STORAGE) * MI),
        tiers=tiers,
        site_selector=selector,
        node_selector={"disk": "ssd"} if draw.random() < 0.1 else {},
        tolerations=(Toleration("dedicated", "Exists"),) if draw.random() < 0.3 else (),
        architectures=frozenset({"amd64"}) if draw.random() < 0.15 else frozenset({"amd64", "arm64"}),
        request_bytes=draw.choice((2_000, 150_000, 2_000_000)) if source else None,
        response_bytes=2_000 if source else None,
        source_selector=source,
        service_seconds=draw.choice((0.005, 0.02, 0.1, 0.5)) if draw.random() < 0.6 else None,
        max_per_site=draw.choice((1, 2, 4)) if draw.random() < 0.15 else None,
        model_name=f"model-{model:02d}",
        model_digest=f"sha256:{model:02d}",
    )


def digest(one: Fleet) -> str:
    """Of all that the generator drew, to the last digit; a field that is left at its default does not count, so that a
    new one in the Fleet changes no hash."""
    text = json.dumps([_drawn(one.sites), _drawn(one.nodes), _drawn(one.jobs)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _drawn(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        bare = {f.name: f.default for f in dataclasses.fields(value)}
        kept = {name: getattr(value, name) for name in bare}
        return {name: _drawn(mine) for name, mine in kept.items() if mine != bare[name]}
    if isinstance(value, LabelSelector):
        return value.model_dump_json()
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, dict):
        return {key: _drawn(value[key]) for key in sorted(value)}
    return [_drawn(item) for item in value] if isinstance(value, tuple) else value


def digests() -> dict[str, list[str]]:
    return {f"{jobs}x{nodes}": [digest(fleet(jobs, nodes, seed)) for seed in range(SEEDS)] for jobs, nodes in SIZES}


def main() -> int:
    INSTANCES.write_text(json.dumps(digests(), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
