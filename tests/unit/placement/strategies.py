"""Fleets for property tests: drawn small and crowded, so that refusals, ties and shortages are common, and checked
for consistency, so that no property is ever shown on a fleet that cannot exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import strategies as st

from edgeward.api.common import LabelSelector
from edgeward.fleet.model import (
    Fleet,
    Job,
    Live,
    Namespace,
    Node,
    Placed,
    Priority,
    Resources,
    Sample,
    Site,
    Taint,
    Toleration,
)
from edgeward.fleet.names import is_pool
from edgeward.placement.model import Plan

NOW = 1_000_000.0
MI = 1 << 20
GI = 1 << 30
TIERS = ("edge", "fog", "cloud")
DIGESTS = ("sha256:a", "sha256:b")


def node(name: str = "n", **changes: object) -> Node:
    """A calm edge node with 4 cores and 8Gi, its own site, measured 10 s ago."""
    known: dict[str, object] = {
        "site": "shop",
        "tier": "edge",
        "allocatable": Resources(4000, 8 * GI, 110),
        "live": Live(cpu=Sample(0.4, NOW - 10), memory=Sample(1.0 * GI, NOW - 10)),
    }
    return Node(name=name, **{**known, **changes})  # type: ignore[arg-type]


def job(name: str = "job", **changes: object) -> Job:
    """One replica of 500m and 512Mi with a model to run."""
    known: dict[str, object] = {
        "namespace": "test",
        "uid": f"uid-{name}",
        "request": Resources(500, 512 * MI, 1),
        "model_name": "m",
        "model_digest": DIGESTS[0],
    }
    return Job(name=name, **{**known, **changes})  # type: ignore[arg-type]


def fleet(nodes: Sequence[Node] = (), jobs: Sequence[Job] = (), **changes: object) -> Fleet:
    """With a plain connected Site for every site that a node names, unless `sites` says otherwise."""
    named = {n.site: Site(n.site, n.tier) for n in reversed(nodes)}
    known: dict[str, object] = {"now": NOW, "sites": tuple(named[name] for name in sorted(named))}
    return Fleet(nodes=tuple(nodes), jobs=tuple(jobs), **{**known, **changes})  # type: ignore[arg-type]


def placed(node: Node, replicas: int = 1, **changes: object) -> Placed:
    """Ready for an hour."""
    known: dict[str, object] = {
        "ready": replicas,
        "started": (NOW - 3600,) * replicas,
        "since": NOW - 3600,
    }
    return Placed(node.name, node.site, replicas, **{**known, **changes})  # type: ignore[arg-type]


def applied(before: Fleet, plan: Plan, *, seconds: float = 0.0) -> Fleet:
    """The Fleet once the cluster did what the plan says and everything is Ready; live figures are left as they were.

    Pods of replicas that stay keep their start times, new ones started now, pods that were dropped are gone.
    """
    now = before.now + seconds
    jobs = []
    for one in before.jobs:
        decided = plan.job(one.key)
        assert decided is not None
        old = {(p.site, p.node): p for p in one.placed}
        now_placed = []
        for placement in decided.placements:
            was = old.get((placement.site, placement.node))
            started = (was.started if was else ())[: placement.replicas]
            started += (now,) * (placement.replicas - len(started))
            now_placed.append(
                Placed(
                    placement.node,
                    placement.site,
                    placement.replicas,
                    ready=0 if placement.lost else placement.replicas,
                    started=started,
                    since=placement.since,
                    lost_since=was.lost_since if was else None,
                )
            )
        jobs.append(
            replace(
                one,
                placed=tuple(now_placed),
                exclusions=decided.exclusions,
                proposed=decided.proposed,
                moves=decided.moves,
                nomination=decided.nomination,
                preempted=decided.message.partition("; ")[0] if decided.reason == "Preempted" else "",
            )
        )
    return replace(before, now=now, jobs=tuple(jobs))


def inconsistencies(one: Fleet) -> list[str]:
    """Why this fleet cannot exist; empty when it can."""
    wrong = []
    names = [n.name for n in one.nodes]
    sites = {s.name for s in one.sites}
    keys = [j.key for j in one.jobs]
    by_name = {n.name: n for n in one.nodes}
    if len(set(names)) < len(names):
        wrong.append("two nodes of one name")
    if len(set(keys)) < len(keys):
        wrong.append("two jobs of one name")
    if any(n.site not in sites for n in one.nodes):
        wrong.append("a node at a site that is not there")
    used = {n.name: n.foreign for n in one.nodes}
    for j in one.jobs:
        spots = [(p.site, p.node) for p in j.placed]
        if len(set(spots)) < len(spots):
            wrong.append(f"{j.key} is placed twice on one node")
        for p in j.placed:
            if p.ready > len(p.started):
                wrong.append(f"{j.key} has more ready than visible pods on {p.node}")
            if p.since > one.now or any(start > one.now for start in p.started):
                wrong.append(f"{j.key} was placed or started in the future")
            if is_pool(p.node):
                continue  # of some node of its site
            if p.node not in by_name:
                if p.lost_since is None:
                    wrong.append(f"{j.key} is on {p.node}, which is gone, and nobody noticed")
                continue
            if by_name[p.node].site != p.site:
                wrong.append(f"{j.key} is on {p.node} at a site that the node is not of")
            used[p.node] += j.request.times(len(p.started))
    wrong += [f"{n.name} runs more than it has" for n in one.nodes if not n.allocatable.covers(used[n.name])]
    return wrong


def _samples(capacity: float) -> st.SearchStrategy[Sample | None]:
    """Mostly sound; also old, absent, and every kind of rubbish."""
    sound = st.builds(Sample, st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]).map(lambda f: f * capacity), st.just(NOW - 10))
    old = st.builds(Sample, st.just(0.3 * capacity), st.sampled_from([NOW - 60, NOW - 179, NOW - 5000]))
    rubbish = st.builds(
        Sample,
        st.sampled_from([float("nan"), float("inf"), -1.0, capacity * 1000]),
        st.sampled_from([NOW, NOW + 9999, float("nan")]),
    )
    return st.one_of(sound, sound, sound, old, st.none(), rubbish)


@st.composite
def fleets(draw: st.DrawFn, *, max_nodes: int = 6, max_jobs: int = 5, running: bool = True) -> Fleet:
    """A whole fleet; with `running`, some jobs hold replicas that were allowed when they were placed."""
    site_names = [f"site-{i}" for i in range(draw(st.integers(1, 3)))]
    sites = tuple(
        Site(
            name,
            draw(st.sampled_from(TIERS)),
            connected=draw(st.sampled_from([True, True, True, False])),
            unschedulable=draw(st.sampled_from([False, False, False, True])),
            frozen=draw(st.sampled_from([False, False, False, True])),
            bandwidth=draw(st.sampled_from([None, 1e6, 1e8])),
            rtt=draw(st.sampled_from([None, 0.01, 0.2])),
            labels=draw(st.sampled_from([{}, {"zone": "a"}, {"zone": "b"}])),
            quota_replicas=draw(st.sampled_from([None, None, None, 1, 3])),
        )
        for name in site_names
    )
    nodes = tuple(_node(draw, i, sites) for i in range(draw(st.integers(0, max_nodes))))
    jobs = [_job(draw, i) for i in range(draw(st.integers(0, max_jobs)))]
    if running and nodes:
        room = {n.name: n.allocatable - n.foreign for n in nodes}
        jobs = [_run(draw, j, nodes, room) for j in jobs]
    most = draw(st.sampled_from([None, None, None, 1, 4]))
    one = Fleet(now=NOW, nodes=nodes, sites=sites, jobs=tuple(jobs), namespaces=(Namespace("test", max_replicas=most),))
    assert not inconsistencies(one), inconsistencies(one)
    return one


def _node(draw: st.DrawFn, index: int, sites: Sequence[Site]) -> Node:
    site = draw(st.sampled_from(sites))
    cpu = draw(st.sampled_from([1000, 2000, 4000]))
    memory = draw(st.sampled_from([1, 2, 8])) * GI
    return Node(
        name=f"node-{index}",
        site=site.name,
        tier=site.tier,
        arch=draw(st.sampled_from(["amd64", "amd64", "arm64"])),
        labels=draw(st.sampled_from([{}, {"disk": "ssd"}])),
        taints=draw(st.sampled_from([(), (), (), (Taint("gpu", "", "NoSchedule"),), (Taint("x", "", "NoExecute"),)])),
        ready=draw(st.sampled_from([True, True, True, True, False])),
        unschedulable=draw(st.sampled_from([False, False, False, True])),
        allocatable=Resources(cpu, memory, draw(st.sampled_from([2, 5, 110]))),
        foreign=Resources(draw(st.sampled_from([0, 300, 1000])), draw(st.sampled_from([0, GI])), 1),
        live=Live(cpu=draw(_samples(cpu / 1000)), memory=draw(_samples(memory))),
        models=frozenset(draw(st.sampled_from([(), DIGESTS[:1]]))),
        speed=draw(st.sampled_from([1.0, 1.0, 0.5, 3.0])),
    )


def _job(draw: st.DrawFn, index: int) -> Job:
    marks = st.integers(1, 5)
    return Job(
        namespace="test",
        name=f"job-{index}",
        uid=f"uid-{index}",
        created_at=NOW - draw(st.sampled_from([10.0, 1000.0])),
        priority=Priority(draw(marks), draw(marks), draw(marks)),
        replicas=draw(st.integers(0, 4)),
        request=Resources(draw(st.sampled_from([100, 400, 900, 5000])), draw(st.sampled_from([64 * MI, GI])), 1),
        tiers=draw(st.sampled_from([frozenset(TIERS), frozenset(TIERS), frozenset({"edge"}), frozenset({"cloud"})])),
        site_selector=draw(
            st.sampled_from([LabelSelector(), LabelSelector(), LabelSelector(match_labels={"zone": "a"})])
        ),
        node_selector=draw(st.sampled_from([{}, {}, {"disk": "ssd"}])),
        tolerations=draw(st.sampled_from([(), (Toleration(operator="Exists"),)])),
        architectures=draw(st.sampled_from([frozenset({"amd64", "arm64"}), frozenset({"amd64"})])),
        request_bytes=draw(st.sampled_from([None, 150_000])),
        source_selector=draw(st.sampled_from([None, LabelSelector()])),
        service_seconds=draw(st.sampled_from([None, 0.05])),
        per_site=draw(st.sampled_from([False, False, False, True])),
        min_sites=draw(st.sampled_from([None, None, None, 2])),
        model_name="m",
        model_digest=draw(st.sampled_from([*DIGESTS, *DIGESTS, ""])),
    )


def _run(draw: st.DrawFn, one: Job, nodes: Sequence[Node], room: dict[str, Resources]) -> Job:
    """Give the job some replicas where there is room, whether or not the spec of today allows the node."""
    spots = draw(st.lists(st.sampled_from(nodes), max_size=2, unique_by=lambda n: n.name))
    held = []
    for spot in spots:
        if not room[spot.name].covers(one.request):
            continue
        room[spot.name] -= one.request
        since = NOW - draw(st.sampled_from([100.0, 5000.0]))
        ready = draw(st.sampled_from([1, 1, 1, 0]))
        away = None if spot.ready else NOW - draw(st.sampled_from([50.0, 2000.0]))
        held.append(Placed(spot.name, spot.site, 1, ready, (since,), since=since, lost_since=away))
    return replace(one, placed=tuple(held))
