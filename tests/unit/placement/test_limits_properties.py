"""No plan breaks a constraint: each is worked out here anew, from the Fleet and the placements alone, by nobody's checks
but this file's own."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeward.api.common import LabelSelector
from edgeward.fleet.model import Fleet, Job, Namespace, Node, Priority, Resources, Site
from edgeward.placement import Plan, plan
from tests.unit.placement.strategies import GI, MI, fleet, fleets, inconsistencies, job, node, placed

few = settings(database=None)
SOURCES = (
    None,
    LabelSelector(),
    LabelSelector(match_labels={"zone": "a"}),
    LabelSelector(match_labels={"zone": "none"}),
)


@st.composite
def bounded_fleets(draw: st.DrawFn) -> Fleet:
    """`fleets` with every limit that there is, each now and then."""
    base = draw(fleets())
    maybe = st.sampled_from
    sites = tuple(
        replace(
            site,
            region=draw(maybe(["", "north", "south"])),
            rtt=draw(maybe([None, 0.0, 0.02, 0.2])),
            bandwidth=draw(maybe([None, 1e6, 2e7, 1e9])),
            cost_cpu_hour=draw(maybe([None, None, 0.02, 0.2])),
            watts_per_cpu=draw(maybe([None, None, 3.0])),
            quota_replicas=draw(maybe([None, None, 0, 1, 3])),
            quota_cpu=draw(maybe([None, None, 500, 2000])),
        )
        for site in base.sites
    )
    nodes = tuple(
        replace(
            one,
            allocatable=replace(
                one.allocatable, storage=draw(maybe([GI, 4 * GI])), extended=draw(maybe([(), (("x.io/npu", 2),)]))
            ),
        )
        for one in base.nodes
    )
    jobs = tuple(
        replace(
            one,
            namespace=draw(maybe(["test", "other"])),
            request=one.request
            if one.placed
            else replace(
                one.request,
                storage=draw(maybe([0, 0, GI])),
                extended=draw(maybe([(), (), (("x.io/npu", 1),)])),
            ),
            memory_peak=draw(maybe([None, None, 2 * GI])),
            source_selector=draw(maybe(SOURCES)),
            residency=draw(maybe(["Anywhere", "Anywhere", "Site", "Region"])),
            slo_latency=draw(maybe([None, None, 0.03, 0.3])),
            slo_throughput=draw(maybe([None, 2.0, 50.0])),
            max_drain=draw(maybe([None, None, 0.2, 5.0])),
            min_bandwidth=draw(maybe([None, None, 5e6])),
            max_per_site=draw(maybe([None, None, 1, 2])),
            min_sites=draw(maybe([None, None, 2, 3])),
            replace_lost=draw(maybe([True, True, False])),
        )
        for one in base.jobs
    )
    spaces = (
        Namespace("test", max_replicas=draw(maybe([None, None, 1, 4])), max_cpu=draw(maybe([None, None, 900, 3000]))),
    )
    whole = replace(base, sites=sites, nodes=nodes, jobs=jobs, namespaces=spaces)
    assert not inconsistencies(whole), inconsistencies(whole)
    return whole


class Judge:
    """What is wrong with a plan, in words; nothing when all is well."""

    def __init__(self, one: Fleet, decided: Plan) -> None:
        self.fleet = one
        self.sites = {site.name: site for site in one.sites}
        self.nodes = {spot.name: spot for spot in one.nodes}
        self.before = {(j.key, p.node): p.replicas for j in one.jobs for p in j.placed}
        self.placed = [
            (j, p.node, p.site, p.replicas, p.replicas - self.before.get((j.key, p.node), 0))
            for j in one.jobs
            for p in (decided.job(j.key) or decided.jobs[0]).placements
            if not p.lost
        ]

    def wrong(self) -> Iterator[str]:
        """Only what came is judged one by one; what was there may stay under a limit that is newer than itself."""
        for one, name, site, _, new in self.placed:
            if new > 0:
                yield from self._place(one, self.nodes[name], self.sites[site])
        yield from self._rooms()
        yield from self._together()

    def _place(self, one: Job, spot: Node, site: Site) -> Iterator[str]:
        sources = [
            s
            for s in self.fleet.sites
            if one.source_selector is not None
            and one.source_selector.matches({"edgeward.dev/site": s.name, **s.labels})
        ]
        local = site in sources
        regions = {s.region for s in sources if s.region}
        if one.residency == "Site" and not local:
            yield f"{one.key} left its site for {site.name}"
        if one.residency == "Region" and not local and site.region not in regions:
            yield f"{one.key} left its region for {site.name}"
        if one.min_bandwidth and site.bandwidth is not None and site.bandwidth < one.min_bandwidth:
            yield f"{one.key} is at {site.name} with too thin a link"
        ways = [self._way(one, source, site) for source in sources] if not local else [0.0]
        quickest = min(ways, default=0.0) + (one.service_seconds or 0.0) / spot.speed
        if one.slo_latency is not None and quickest > one.slo_latency + 1e-9:
            yield f"{one.key} cannot answer in time from {spot.name}"
        if one.max_drain is not None and one.request_bytes and sources and not local:
            drains = []
            for source in sources:
                links = [b for b in (source.bandwidth, site.bandwidth) if b]
                amount = 8.0 * one.request_bytes * (one.slo_throughput or 1.0)
                drains.append(amount / min(links) if links else 0.0)
            if min(drains) > one.max_drain:
                yield f"{one.key} drains too slowly to {site.name}"
        if one.max_per_site is not None:
            there = sum(count for j, _, s, count, _ in self.placed if j is one and s == site.name)
            had = sum(p.replicas for p in one.placed if p.site == site.name)
            if there > max(one.max_per_site, had):
                yield f"{one.key} has {there} at {site.name}"
        if one.memory_peak and one.memory_peak > spot.allocatable.memory:
            yield f"{one.key} may need more memory than {spot.name} has"

    @staticmethod
    def _way(one: Job, source: Site, site: Site) -> float:
        links = [b for b in (source.bandwidth, site.bandwidth) if b]
        size = 8.0 * ((one.request_bytes or 0) + (one.response_bytes or 0))
        return (source.rtt or 0.0) + (site.rtt or 0.0) + (size / min(links) if links else 0.0)

    def _rooms(self) -> Iterator[str]:
        """What is on a node when the pods that leave are still there beside those that came."""
        used = {name: spot.foreign for name, spot in self.nodes.items()}
        touched = set()
        for one, name, _, count, new in self.placed:
            if name in used:
                seen = next((len(p.started) for p in one.placed if p.node == name), 0)
                used[name] += one.request.times(max(count, seen))
                touched |= {name} if new > 0 else set()
        for name in touched:
            if not self.nodes[name].allocatable.covers(used[name]):
                yield f"{name} is asked for more than it has"

    def _together(self) -> Iterator[str]:
        came = Counter[str]()
        for one, _, site, _, new in self.placed:
            if new > 0:
                came[site] += new
                came[f"namespace {one.namespace}"] += new
        for site in self.fleet.sites:
            count = sum(n for _, _, s, n, _ in self.placed if s == site.name)
            cpu = sum(n * j.request.cpu for j, _, s, n, _ in self.placed if s == site.name)
            if came[site.name] and site.quota_replicas is not None and count > site.quota_replicas:
                yield f"{site.name} has {count} replicas"
            if came[site.name] and site.quota_cpu is not None and cpu > site.quota_cpu:
                yield f"{site.name} has {cpu}m"
        for space in self.fleet.namespaces:
            count = sum(n for j, _, _, n, _ in self.placed if j.namespace == space.name)
            cpu = sum(n * j.request.cpu for j, _, _, n, _ in self.placed if j.namespace == space.name)
            if came[f"namespace {space.name}"] and space.max_replicas is not None and count > space.max_replicas:
                yield f"{space.name} has {count} replicas"
            if came[f"namespace {space.name}"] and space.max_cpu is not None and cpu > space.max_cpu:
                yield f"{space.name} has {cpu}m"
        for one in self.fleet.jobs:
            spots = Counter[str]()
            arrived = 0
            for j, _, site_name, n, new in self.placed:
                if j is one:
                    spots[site_name] += n
                    arrived += max(0, new)
            sharing = sum(spots.values()) - len(spots)
            if (
                arrived
                and one.min_sites
                and sharing
                > max(
                    one.replicas - min(one.min_sites, one.replicas),
                    sum(p.replicas for p in one.placed) - len({p.site for p in one.placed if p.replicas}),
                )
            ):
                yield f"{one.key} crowds at {len(spots)} sites"


@few
@given(bounded_fleets())
def test_no_plan_breaks_a_limit(one: Fleet) -> None:
    decided = plan(one)
    assert not [j.message for j in decided.jobs if j.reason == "PendingEvaluation"]
    assert list(Judge(one, decided).wrong()) == []


@few
@given(bounded_fleets())
def test_what_is_missing_says_why_and_the_reasons_are_words_that_status_knows(one: Fleet) -> None:
    for j in plan(one).jobs:
        assert bool(j.missing) <= bool(j.reason and j.message)
        assert all(r.nearest_miss for r in j.explanation.rejected)


@few
@given(
    bounded_fleets(),
    st.sampled_from(["site replicas", "site cpu", "namespace replicas", "namespace cpu"]),
    st.integers(0, 3),
)
def test_a_higher_quota_never_places_less_of_the_job_that_is_served_first(one: Fleet, which: str, more: int) -> None:
    first = job("first", priority=Priority(5, 5, 5), replicas=5, request=Resources(400, 64 * MI, 1), max_per_site=3)
    calm = replace(one, jobs=(first, *(replace(j, placed=(), priority=Priority(1, 1, 1)) for j in one.jobs)))

    def raised(limit: int | None, step: int) -> int | None:
        return None if limit is None or more == 3 else limit + more * step

    (space,) = calm.namespaces
    if which == "site replicas":
        looser = replace(calm, sites=tuple(replace(s, quota_replicas=raised(s.quota_replicas, 1)) for s in calm.sites))
    elif which == "site cpu":
        looser = replace(calm, sites=tuple(replace(s, quota_cpu=raised(s.quota_cpu, 400)) for s in calm.sites))
    elif which == "namespace replicas":
        looser = replace(calm, namespaces=(replace(space, max_replicas=raised(space.max_replicas, 1)),))
    else:
        looser = replace(calm, namespaces=(replace(space, max_cpu=raised(space.max_cpu, 400)),))
    before, after = plan(calm).job(first.key), plan(looser).job(first.key)
    assert before is not None and after is not None
    assert after.missing <= before.missing


SHOP = Site("shop", "edge", region="south", bandwidth=1e6, rtt=0.1, quota_replicas=1, quota_cpu=600)
AWAY = Site("away", "edge", region="north", bandwidth=1e6, rtt=0.1)
FROM_SHOP = LabelSelector(match_labels={"edgeward.dev/site": "shop"})


@pytest.mark.parametrize(
    ("changes", "site", "replicas", "words"),
    [
        ({"source_selector": FROM_SHOP, "residency": "Site"}, AWAY, 1, "left its site"),
        ({"source_selector": FROM_SHOP, "residency": "Region"}, AWAY, 1, "left its region"),
        ({"min_bandwidth": 2e6}, SHOP, 1, "too thin a link"),
        ({"source_selector": FROM_SHOP, "slo_latency": 0.1}, AWAY, 1, "cannot answer in time"),
        ({"source_selector": FROM_SHOP, "max_drain": 0.1, "request_bytes": 100_000}, AWAY, 1, "drains too slowly"),
        ({"max_per_site": 1}, AWAY, 2, "has 2 at away"),
        ({"memory_peak": 9 * GI}, AWAY, 1, "more memory than"),
        ({"request": Resources(500, 9 * GI, 1)}, AWAY, 1, "asked for more than it has"),
        ({}, SHOP, 2, "shop has 2 replicas"),
        ({"request": Resources(700, GI, 1)}, SHOP, 1, "shop has 700m"),
        ({"namespace": "small"}, AWAY, 3, "small has 3 replicas"),
        ({"namespace": "small", "request": Resources(1200, GI, 1)}, AWAY, 2, "small has 2400m"),
        ({"min_sites": 2, "replicas": 2}, AWAY, 2, "crowds at 1 sites"),
    ],
)
def test_the_judge_sees_each_breach(changes: dict[str, object], site: Site, replicas: int, words: str) -> None:
    """A checker that finds nothing proves nothing until it has found everything once."""
    spot = node("n", site=site.name)
    one = job(**{"replicas": replicas, **changes})
    world = fleet([spot], [one], sites=(SHOP, AWAY), namespaces=(Namespace("small", max_replicas=2, max_cpu=2000),))
    bare = replace(one, source_selector=None, residency="Anywhere", min_bandwidth=None, slo_latency=None, max_drain=None,
                   max_per_site=None, min_sites=None, memory_peak=None, namespace=one.namespace,
                   request=Resources(1, 1, 1))  # fmt: skip
    unbound = replace(world, jobs=(bare,), namespaces=(), sites=tuple(
        replace(s, quota_replicas=None, quota_cpu=None) for s in world.sites
    ))  # fmt: skip
    decided = plan(unbound)
    assert [(p.node, p.replicas) for p in decided.jobs[0].placements] == [("n", replicas)]
    assert any(words in said for said in Judge(world, decided).wrong())


def test_the_judge_lets_stay_what_was_there_before_the_limit() -> None:
    spot = node("n", site="shop")
    held = job(replicas=3, max_per_site=1, placed=(placed(spot, 3),))
    world = fleet([spot], [held], sites=(SHOP, AWAY))
    assert list(Judge(world, plan(world)).wrong()) == []
