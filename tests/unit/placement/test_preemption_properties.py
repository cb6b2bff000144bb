"""What must hold of preemption for every fleet that can exist; looked at from outside, by sums over nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeward.fleet.model import Fleet, Job, Node, Placed, Priority, Problem, Resources, Site
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
    """Up to three nodes, filled with replicas of all tiers, some fresh, some protected, and jobs that want a place."""
    sites = tuple(Site(name, "edge", frozen=draw(st.sampled_from([False] * 5 + [True]))) for name in ("a", "b"))
    nodes = tuple(
        Node(
            name=f"node-{index}",
            site=draw(st.sampled_from(sites)).name,
            tier="edge",
            allocatable=Resources(draw(st.sampled_from([1000, 2000])), draw(st.sampled_from([2, 4])) * GI, 20),
            foreign=Resources(draw(st.sampled_from([0, 0, 300])), 0, 1),
        )
        for index in range(draw(st.integers(1, 3)))
    )
    room = {node.name: node.allocatable - node.foreign for node in nodes}
    jobs = [_resident(draw, index, nodes, room) for index in range(draw(st.integers(1, 8)))]
    jobs += [_urgent(draw, index) for index in range(draw(st.integers(1, 2)))]
    one = Fleet(now=NOW, nodes=nodes, sites=sites, jobs=tuple(jobs))
    assert not inconsistencies(one), inconsistencies(one)
    return one


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
        replicas=sum(p.replicas for p in held),
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


def open_nodes(one: Fleet, job: Job) -> list[Node]:
    ledger = Ledger(one, SETTINGS)
    ask = Ask(one.jobs.index(job), job, ledger)
    return [s.node for s in ledger.states if first_miss(ask, s, (*SPEC_CHECKS, *STATE_CHECKS)) is None]


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
        node = nodes[nomination.node]
        assert of(decided, job).reason == "WaitingForPreemption"
        room, need = free(one, decided, node, besides=job.key), bounded_request(job)
        assert room.covers(need), "when they are gone it fits"
        for key in nomination.victims:
            victim = jobs[key]
            assert tier(victim) < tier(job)
            (gives,) = [g for g in of(decided, victim).gives_way if g.winner == job.key]
            assert (gives.node, gives.site) == (nomination.node, nomination.site)
            if gives.taken:
                assert not (room - bounded_request(victim)).covers(need), "each of them is needed"
            for placed in victim.placed:
                if placed.node == node.name and gives.taken:
                    assert not placed.protected
                    assert NOW - max([placed.since, *placed.started]) >= SETTINGS.min_run_time
        site = next(s for s in one.sites if s.name == nomination.site)
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
            room = free(one, decided, node)
            if room.covers(need):
                continue  # what leaves by itself will do
            for lower, loose in replicas(one, decided, node, tier(job)):
                room += bounded_request(lower).times(int(loose))
            assert not room.covers(need), f"{job.key} misses a place and {node.name} could have made one"
            for lower, loose in replicas(one, decided, node, tier(job)):
                room += bounded_request(lower).times(int(not loose))
            behind_a_shield = behind_a_shield or room.covers(need)
        if behind_a_shield:
            assert "lower priority tiers hold what it needs" in mine.message


@few
@given(crowded())
def test_nothing_is_given_up_but_for_a_nomination_and_what_has_a_place_keeps_it_without_one(one: Fleet) -> None:
    """Against the same plan without preemption: only victims lose, and no winner has less than before."""
    with_it, without = plan(one), plan(one, replace(SETTINGS, preemption=False))
    named = {key for job in one.jobs if (n := of(with_it, job).nomination) for key in n.victims}
    for job in one.jobs:
        if job.key not in named:
            assert of(with_it, job).placements == of(without, job).placements
            assert of(with_it, job).missing == of(without, job).missing


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
