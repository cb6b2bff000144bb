"""What must hold of preemption for every fleet that can exist; looked at from outside, by sums over nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeward.fleet.model import Fleet, Job, Live, Namespace, Node, Placed, Priority, Problem, Resources, Sample, Site
from edgeward.fleet.names import is_pool, pool_name
from edgeward.placement import JobPlan, Plan, plan
from edgeward.placement.ask import Ask
from edgeward.placement.constraints import SPEC_CHECKS, STATE_CHECKS, first_miss
from edgeward.placement.formulas import priority_tier
from edgeward.placement.ledger import Ledger, bounded_request
from edgeward.placement.settings import PlanSettings
from tests.unit.placement.strategies import GI, MI, NOW, applied, inconsistencies

few = settings(database=None)
SETTINGS = PlanSettings()


@st.composite
def crowded(draw: st.DrawFn) -> Fleet:
    """Up to three nodes and sometimes a pool, filled with replicas of all tiers, some fresh, some protected, and jobs
    that want a place; with quotas, nodes that are hot or cordoned, and jobs that wait so long that they come earlier."""
    quota = st.sampled_from([None, None, None, 1, 2, 4])
    sites = tuple(
        Site(
            name,
            "edge",
            frozen=draw(st.sampled_from([False] * 5 + [True])),
            elastic=name == "pool",
            quota_replicas=draw(quota),
            quota_cpu=draw(st.sampled_from([None, None, None, 1000])),
        )
        for name in ("a", "b", "pool")
    )
    nodes = tuple(
        _node(draw, f"node-{index}", draw(st.sampled_from(["a", "b"]))) for index in range(draw(st.integers(1, 3)))
    )
    room = {node.name: node.allocatable - node.foreign for node in nodes}
    jobs = [_resident(draw, index, nodes, room) for index in range(draw(st.integers(1, 8)))]
    if draw(st.sampled_from([False, False, True])):
        member = _node(draw, "member", "pool")
        nodes = (*nodes, member)
        jobs[0] = _in_pool(jobs[0], member)
    jobs += [_urgent(draw, index) for index in range(draw(st.integers(1, 2)))]
    limits = (Namespace("test", max_replicas=draw(st.sampled_from([None, None, None, 3, 6]))),)
    one = Fleet(now=NOW, nodes=nodes, sites=sites, jobs=tuple(jobs), namespaces=limits)
    assert not inconsistencies(one), inconsistencies(one)
    return one


def _node(draw: st.DrawFn, name: str, site: str) -> Node:
    cpu = draw(st.sampled_from([1000, 2000]))
    used = draw(st.sampled_from([None, None, 0.2, 0.97]))
    return Node(
        name=name,
        site=site,
        tier="edge",
        unschedulable=draw(st.sampled_from([False] * 5 + [True])),
        allocatable=Resources(cpu, draw(st.sampled_from([2, 4])) * GI, 20),
        foreign=Resources(draw(st.sampled_from([0, 0, 300])), 0, 1),
        live=Live() if used is None else Live(Sample(used * cpu / 1000, NOW - 10), Sample(1.0 * GI, NOW - 10)),
    )


def _in_pool(job: Job, member: Node) -> Job:
    """Its replicas are where the pool's node is, as far as that has room."""
    held = [p for p in job.placed if (member.allocatable - member.foreign).covers(job.request)][:1]
    spots = tuple(Placed(pool_name("pool"), "pool", 1, 1, p.started[:1], (member.name,), p.since) for p in held)
    return replace(job, placed=spots, replicas=max(1, len(spots)))


def _request(draw: st.DrawFn, *cpu: int) -> Resources:
    return Resources(draw(st.sampled_from(cpu)), draw(st.sampled_from([64 * MI, GI])), 1)


def _urgent(draw: st.DrawFn, index: int) -> Job:
    return Job(
        namespace="test",
        name=f"urgent-{index}",
        uid=f"urgent-{index}",
        priority=draw(st.sampled_from([Priority(5, 5, 5), Priority(4, 4, 3), Priority(3, 3, 3)])),
        replicas=draw(st.integers(1, 2)),
        request=_request(draw, 300, 500, 800),
        waiting_since=draw(st.sampled_from([None, NOW - 5000])),
        per_site=draw(st.sampled_from([False, False, False, True])),
        service_seconds=0.02,
        slo_latency=draw(st.sampled_from([None, None, 0.06])),
        model_digest="sha256:a",
    )


def _resident(draw: st.DrawFn, index: int, nodes: Sequence[Node], room: dict[str, Resources]) -> Job:
    request, held = _request(draw, 100, 200, 300, 500), []
    for node in draw(st.lists(st.sampled_from(nodes), min_size=1, max_size=3, unique_by=lambda n: n.name)):
        count = draw(st.integers(1, 3))
        while count and not room[node.name].covers(request.times(count)):
            count -= 1
        if count:
            room[node.name] -= request.times(count)
            since = NOW - draw(st.sampled_from([100.0, 1000.0, 5000.0, 9000.0]))
            shield = draw(st.sampled_from([""] * 5 + ["a budget"]))
            held.append(Placed(node.name, node.site, count, count, (since,) * count, since=since, protected=shield))
    return Job(
        namespace="test",
        name=f"job-{index}",
        uid=f"uid-{index}",
        priority=draw(st.sampled_from([Priority(1, 1, 1), Priority(2, 2, 1), Priority(3, 3, 3), Priority(5, 4, 4)])),
        replicas=sum(p.replicas for p in held) + draw(st.sampled_from([0, 0, 1])),
        waiting_since=draw(st.sampled_from([None, None, NOW - 5000])),
        request=request,
        model_digest="sha256:a",
        problem=draw(st.sampled_from([None] * 9 + [Problem("InvalidSpec", "x")])),
        placed=tuple(held),
    )


def tier(job: Job) -> int:
    return priority_tier(job.priority.importance, job.priority.urgency, job.priority.satisfaction)


def of(decided: Plan, job: Job) -> JobPlan:
    found = decided.job(job.key)
    assert found is not None
    assert found.reason != "PendingEvaluation"
    return found


def free(one: Fleet, decided: Plan, node: Node, *, besides: str = "") -> Resources:
    """What is free once all is as planned and every nomination is met, but that of `besides`."""
    left = node.allocatable - node.foreign
    for job in one.jobs:
        mine = of(decided, job)
        here = sum(p.replicas for p in mine.placements if (p.site, p.node) == (node.site, node.name))
        here += int(mine.nomination is not None and mine.nomination.node == node.name and job.key != besides)
        left -= bounded_request(job).times(here)
    return left


def replicas(one: Fleet, decided: Plan, node: Node, below: int) -> Iterator[tuple[Job, bool]]:
    """Replicas of lower tiers that stay on the node by this plan, and whether they might have been taken."""
    for job in one.jobs:
        for placed in job.placed:
            if tier(job) < below and placed.node == node.name:
                stay = sum(p.replicas for p in of(decided, job).placements if p.node == node.name and not p.lost)
                begun = max([placed.since, *placed.started])
                loose = not placed.protected and NOW - begun >= SETTINGS.min_run_time and job.problem is None
                for _ in range(min(stay, placed.replicas)):
                    yield job, loose


def over_quota(one: Fleet, decided: Plan, site: Site, need: Resources, *, besides: str, without: Sequence[Job]) -> bool:
    """Whether one more such replica at the site is more than a quota allows once all is as planned, every nomination is
    met but that of `besides`, and one replica each of `without` is gone."""
    at_site, in_namespace, cpu = 1, 1, need.cpu
    for job in one.jobs:
        mine = of(decided, job)
        claimed = mine.nomination if job.key != besides else None
        spots = [(p.site, p.replicas) for p in mine.placements if not p.lost]
        spots += [(claimed.site, 1)] if claimed and mine.missing else []
        in_namespace += sum(count for _, count in spots)
        at_site += sum(count for name, count in spots if name == site.name)
        cpu += job.request.cpu * sum(count for name, count in spots if name == site.name)
    at_site, in_namespace = at_site - len(without), in_namespace - len(without)
    cpu -= sum(job.request.cpu for job in without)
    limits = (site.quota_replicas, site.quota_cpu, one.namespaces[0].max_replicas)
    return any(
        limit is not None and used > limit for limit, used in zip(limits, (at_site, cpu, in_namespace), strict=True)
    )


def open_nodes(one: Fleet, job: Job) -> list[Node]:
    ledger = Ledger(one, SETTINGS)
    ask = Ask(one.jobs.index(job), job, ledger)
    return [s.node for s in ledger.states if first_miss(ask, s, (*SPEC_CHECKS, *STATE_CHECKS)) is None]


def limited(one: Fleet) -> list[int]:
    """The quotas that there are."""
    found = [limit for site in one.sites for limit in (site.quota_replicas, site.quota_cpu)]
    return [limit for limit in (*found, one.namespaces[0].max_replicas) if limit is not None]


@few
@given(crowded())
def test_victims_are_of_lower_tiers_on_one_node_not_fresh_not_protected_and_none_is_spare(one: Fleet) -> None:
    decided = plan(one)
    jobs = {job.key: job for job in one.jobs}
    nodes = {node.name: node for node in one.nodes}
    for job in one.jobs:
        nomination = of(decided, job).nomination
        if nomination is None:
            continue
        assert of(decided, job).reason == "WaitingForPreemption"
        site = next(s for s in one.sites if s.name == nomination.site)
        need, pool = bounded_request(job), is_pool(nomination.node)
        room = Resources() if pool else free(one, decided, nodes[nomination.node], besides=job.key)
        assert pool or room.covers(need), "when they are gone it fits"
        assert not over_quota(one, decided, site, need, besides=job.key, without=())
        for key in nomination.victims:
            victim = jobs[key]
            assert tier(victim) < tier(job)
            for gives in [g for g in of(decided, victim).gives_way if g.winner == job.key and g.taken]:
                here = gives.node == nomination.node
                assert here or gives.site == site.name or one.namespaces[0].max_replicas, "or a quota of both"
                back = over_quota(one, decided, site, need, besides=job.key, without=()) or (
                    here and not pool and not (room - bounded_request(victim)).covers(need)
                )
                if job.slo_latency is None and site.quota_replicas is None and site.quota_cpu is None:
                    assert back or one.namespaces[0].max_replicas, "each of them is needed"
                for placed in victim.placed:
                    if placed.node == gives.node:
                        assert not placed.protected
                        assert NOW - max([placed.since, *placed.started]) >= SETTINGS.min_run_time
        assert not site.frozen


@few
@given(crowded())
def test_who_misses_a_place_could_have_taken_none_or_says_what_protects_them(one: Fleet) -> None:
    decided = plan(one)
    for job in one.jobs:
        mine = of(decided, job)
        if not mine.missing or mine.nomination is not None or job.problem is not None or not job.model_digest:
            continue
        if any(gives.taken for gives in mine.gives_way):
            continue  # it lost its place in this very plan, and looks for another in the next
        need, behind_a_shield = bounded_request(job), False
        for node in open_nodes(one, job):
            site = next(s for s in one.sites if s.name == node.site)
            held = sum(p.replicas for p in of(decided, job).placements if p.site == node.site)
            if job.slo_latency is not None or (job.per_site and held >= job.replicas):
                continue  # its load may be too long whoever leaves; or the site has what is due to it
            room = free(one, decided, node)
            quota = over_quota(one, decided, site, need, besides="", without=())
            if room.covers(need) and not quota:
                continue  # what leaves by itself will do
            near = [n for n in one.nodes if n.site == node.site]
            loose_ones = [lower for n in near for lower, loose in replicas(one, decided, n, tier(job)) if loose]
            if over_quota(one, decided, site, need, besides="", without=loose_ones):
                continue
            for lower, loose in replicas(one, decided, node, tier(job)):
                room += bounded_request(lower).times(int(loose))
            if quota and sum(1 for _ in loose_ones) == 0:
                continue
            assert not room.covers(need), f"{job.key} misses a place and {node.name} could have made one"
            for lower, loose in replicas(one, decided, node, tier(job)):
                room += bounded_request(lower).times(int(not loose))
            behind_a_shield = behind_a_shield or room.covers(need)
        if behind_a_shield and not any(limited(one)):
            assert "lower priority tiers hold what it needs" in mine.message


@few
@given(crowded())
def test_nothing_is_given_up_but_for_a_nomination_and_what_has_a_place_keeps_it_without_one(one: Fleet) -> None:
    """Against the same plan without preemption: only victims lose what is there. What only the plan placed may go."""
    with_it, without = plan(one), plan(one, replace(SETTINGS, preemption=False))
    named = {key for job in one.jobs if (n := of(with_it, job).nomination) for key in n.victims}
    for job in one.jobs:
        if job.key not in named:
            now = {(p.site, p.node): p.replicas for p in of(with_it, job).placements}
            served = {(p.site, p.node) for p in job.placed}
            for before in of(without, job).placements:
                if (before.site, before.node) in served and before.since < NOW:
                    kept = next(p.replicas for p in job.placed if (p.site, p.node) == (before.site, before.node))
                    assert now.get((before.site, before.node), 0) >= min(before.replicas, kept)


@few
@given(crowded())
def test_it_comes_to_rest(one: Fleet) -> None:
    """Everything asked for happens at once. A victim may itself be more urgent than others, and what it takes their
    place from must have run for its minimum time; after as many rounds as there are tiers there is nobody left."""
    told = 0
    for number in range(40):
        decided = plan(one)
        new = [job.key for job in one.jobs if (n := of(decided, job).nomination) and n != job.nomination]
        told += len(new)
        assert number < 30 or not new, new
        one = applied(one, decided, seconds=60)
    assert told <= 5 * sum(max(1, job.replicas) for job in one.jobs)
