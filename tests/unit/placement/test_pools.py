"""Elastic sites: one place each, made of the nodes that are there, and of those that may come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward.fleet.model import Exclusion, Fleet, Job, Live, Node, Placed, Resources, Sample, Site, Taint
from edgeward.fleet.names import is_pool, pool_name
from edgeward.placement import Plan, plan
from edgeward.placement.freshness import Reading
from edgeward.placement.ledger import Ledger
from edgeward.placement.pools import pool_reading
from edgeward.placement.settings import PlanSettings
from edgeward.placement.solve import solve
from tests.unit.placement.strategies import GI, MI, NOW, applied, fleet, fleets, job, node
from tests.unit.placement.test_properties import few, healthy, settled

BURST = pool_name("burst")


def member(name: str, cores: int = 4, **changes: object) -> Node:
    known: dict[str, object] = {"site": "burst", "tier": "cloud", "allocatable": Resources(cores * 1000, 8 * GI, 110)}
    return node(name, **{**known, **changes})


def world(nodes: Sequence[Node], jobs: Sequence[Job], **site: object) -> Fleet:
    """`nodes` of the elastic site burst and of fixed ones."""
    sites = {n.site: Site(n.site, n.tier) for n in nodes}
    sites["burst"] = Site("burst", "cloud", elastic=True, **site)  # type: ignore[arg-type]
    return fleet(nodes, jobs, sites=tuple(sites[name] for name in sorted(sites)))


def spots(one: Plan, key: str = "test/job") -> dict[str, int]:
    found = one.job(key)
    assert found is not None
    return {p.node: p.replicas for p in found.placements}


def at_pool(replicas: int, *on: str, ready: int | None = None) -> Placed:
    """Replicas of a pool whose bound pods are on these nodes."""
    served = len(on) if ready is None else ready
    return Placed(BURST, "burst", replicas, served, (NOW - 3600,) * len(on), on, since=NOW - 3600)


def test_a_pool_is_one_place_whatever_its_nodes_are_called() -> None:
    nodes = [member("m1"), member("m2")]
    assert spots(plan(world(nodes, [job(replicas=3)]))) == {BURST: 3}


def test_a_replica_fits_when_one_node_takes_it_and_not_by_the_sum() -> None:
    full = Resources(3000, 0, 1)
    nodes = [member("m1", foreign=full), member("m2", foreign=full), node("fixed")]
    big = job(request=Resources(1500, 512 * MI, 1))
    assert spots(plan(world(nodes, [big]))) == {"fixed": 1}
    assert spots(plan(world(nodes[:2], [replace(big, request=Resources(1000, 512 * MI, 1))]))) == {BURST: 1}


def test_a_pool_grows_only_when_no_node_anywhere_fits_and_says_so() -> None:
    big = Resources(3000, 512 * MI, 1)
    nodes = [member("m1"), node("fixed")]
    decided = plan(world(nodes, [job(replicas=4, request=big)]))
    assert spots(decided) == {BURST: 3, "fixed": 1}
    mine = decided.job("test/job")
    assert mine is not None and mine.missing == 0
    assert "2 replicas wait at burst for its pool to grow: no node that is there fits" in mine.explanation.notes


def test_growth_scores_below_a_node_that_has_room() -> None:
    roomy, none = (plan(world(nodes, [job()])).job("test/job") for nodes in ([member("m1")], []))
    assert roomy is not None and none is not None
    assert none.placements[0].score < roomy.placements[0].score - 0.15


def test_a_pool_without_nodes_takes_what_its_site_allows() -> None:
    assert spots(plan(world([], [job(replicas=2)]))) == {BURST: 2}
    refused = plan(world([], [job(tiers=frozenset({"edge"}))])).job("test/job")
    assert refused is not None and (refused.missing, refused.reason) == (1, "TierMismatch")


@pytest.mark.parametrize(
    ("changes", "grows"),
    [
        ({"unschedulable": True}, True),
        ({"ready": False}, True),
        ({"foreign": Resources(4000, 0, 1)}, True),
        ({"taints": (Taint("gpu", "", "NoSchedule"),)}, False),
        ({"arch": "s390x"}, False),
        ({"allocatable": Resources(400, 8 * GI, 110)}, False),
    ],
)
def test_it_grows_where_a_node_like_its_own_would_do(changes: dict[str, object], grows: bool) -> None:
    found = spots(plan(world([member("m1", **changes)], [job()])))
    assert found == ({BURST: 1} if grows else {})


def test_a_closed_site_does_not_grow() -> None:
    for closed in ({"unschedulable": True}, {"frozen": True}, {"quota_replicas": 0}):
        assert spots(plan(world([], [job()], **closed))) == {}


def test_a_quota_bounds_growth() -> None:
    decided = plan(world([member("m1", cores=1)], [job(replicas=9)], quota_replicas=3))
    mine = decided.job("test/job")
    assert spots(decided) == {BURST: 3} and mine is not None and mine.missing == 6


def test_what_waited_in_vain_goes_elsewhere_and_what_serves_stays() -> None:
    refused = Exclusion(BURST, "Unschedulable", "0/1 nodes are available", 1, NOW + 600)
    waiting = job(replicas=3, placed=(at_pool(3, "m1", "m1"),), exclusions=(refused,))
    crowded = member("m1", foreign=Resources(2900, 0, 1))
    assert spots(plan(world([crowded, node("fixed")], [waiting]))) == {BURST: 2, "fixed": 1}
    stays = plan(world([crowded], [waiting])).job("test/job")
    assert stays is not None and stays.missing == 0 and {p.node: p.replicas for p in stays.placements} == {BURST: 3}


def test_bound_pods_take_the_room_of_their_own_node() -> None:
    """2 x 1500m on m1 leave 1 core there; m2 is free. By the sum three more would fit, one by one only two do."""
    request = Resources(1500, 512 * MI, 1)
    placed = job("old", request=request, replicas=2, placed=(at_pool(2, "m1", "m1"),))
    new = job("new", request=request, replicas=3)
    mine = plan(world([member("m1"), member("m2")], [placed, new])).job("test/new")
    assert mine is not None and [p.replicas for p in mine.placements] == [3]
    assert any(note.startswith("1 replica waits at burst") for note in mine.explanation.notes)


def test_nodes_that_go_change_nothing_that_was_decided() -> None:
    running = job(replicas=2, placed=(at_pool(2, "m1", "m2"),), explained=True)
    before = world([member("m1"), member("m2")], [running])
    gone = replace(running, placed=(at_pool(2, "m1", ready=1),))
    after = world([member("m1")], [gone])
    first, second = plan(before).job("test/job"), plan(after).job("test/job")
    assert first is not None and second is not None and first.decision == second.decision
    empty = plan(world([], [replace(running, placed=(at_pool(2, ready=0),))])).job("test/job")
    assert empty is not None and empty.decision == first.decision


def test_a_node_of_a_pool_that_is_lost_or_cordoned_loses_nothing() -> None:
    running = job(replicas=2, placed=(at_pool(2, "m1", "m2"),))
    for changes in ({"ready": False, "not_ready_since": NOW - 9000}, {"unschedulable": True}):
        found = plan(world([member("m1", **changes), node("fixed")], [running]))
        assert spots(found) == {BURST: 2}


def test_a_pool_whose_nodes_all_fail_the_job_is_left_and_one_of_them_is_named() -> None:
    choosy = job(placed=(at_pool(1, "m1"),), node_selector={"disk": "ssd"})
    found = plan(world([member("m1"), node("fixed", labels={"disk": "ssd"})], [choosy]))
    assert spots(found) == {"fixed": 1}
    stays = plan(world([member("m1")], [choosy])).job("test/job")
    assert stays is not None and "m1 has no label disk, not disk=ssd; stays" in " ".join(stays.explanation.notes)


def test_a_site_that_turns_elastic_has_its_replicas_placed_anew_and_back() -> None:
    pinned = job(placed=(Placed("m1", "burst", 1, 1, (NOW - 3600,), since=NOW - 3600),))
    assert spots(plan(world([member("m1")], [pinned]))) == {BURST: 1}
    pooled = job(placed=(at_pool(1, "m1"),))
    fixed = fleet([member("m1")], [pooled])
    assert spots(plan(fixed)) == {"m1": 1}
    nowhere = fleet([], [pooled])
    assert spots(plan(nowhere)) == {BURST: 1}, "what has no other place stays"


def test_figures_of_a_pool_are_those_of_its_nodes() -> None:
    busy = Live(cpu=Sample(3.0, NOW - 10), memory=Sample(1.0 * GI, NOW - 10))
    old = Live(cpu=Sample(1.0, NOW - 500), memory=Sample(1.0 * GI, NOW - 500))
    pool = Ledger(world([member("m1", live=busy), member("m2", cores=12, live=old)], []), PlanSettings()).states[0]
    assert pool.cpu.value == pytest.approx(12.0), "as busy as the part that is believed, on all 16 cores"
    assert pool.cpu.confidence == pytest.approx(0.25) and pool.cpu.age == 10
    assert "500 s old" in pool.cpu.note


@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0]), st.floats(0.1, 64)), min_size=1, max_size=5)
)
def test_a_pools_figure_is_between_those_of_its_nodes(parts: list[tuple[float, float, float]]) -> None:
    capacities = [capacity for _, _, capacity in parts]
    readings = [Reading(use * capacity, confidence, 5.0, NOW) for use, confidence, capacity in parts]
    whole = pool_reading(readings, capacities)
    believed = [use for use, confidence, _ in parts if confidence]
    assert 0 <= whole.confidence <= 1
    if believed:
        assert min(believed) - 1e-9 <= whole.value / sum(capacities) <= max(believed) + 1e-9
    else:
        assert whole.confidence == 0


# Over all fleets -----------------------------------------------------------------------------------------------------


@st.composite
def elastic_fleets(draw: st.DrawFn) -> Fleet:
    """Some sites are elastic; what ran on their nodes belongs to the pool."""
    one = draw(fleets())
    turned = {site.name for site in one.sites if draw(st.booleans())}
    sites = tuple(replace(s, elastic=True, connected=True) if s.name in turned else s for s in one.sites)
    jobs = []
    for each in one.jobs:
        kept = [p for p in each.placed if p.site not in turned]
        for site in sorted(turned):
            mine = [p for p in each.placed if p.site == site]
            if mine:
                on = tuple(p.node for p in mine for _ in p.started)
                started = tuple(start for p in mine for start in p.started)
                total, ready = sum(p.replicas for p in mine), sum(p.ready for p in mine)
                kept.append(Placed(pool_name(site), site, total, ready, started, on, since=mine[0].since))
        jobs.append(replace(each, placed=tuple(kept)))
    return replace(one, sites=sites, jobs=tuple(jobs))


@few
@given(elastic_fleets())
def test_no_plan_names_a_node_of_a_pool(one: Fleet) -> None:
    elastic = {site.name for site in one.sites if site.elastic}
    for decided in healthy(one).jobs:
        assert all(is_pool(p.node) == (p.site in elastic) for p in decided.placements)


@few
@given(elastic_fleets())
def test_an_applied_plan_with_pools_is_its_own_next_plan(one: Fleet) -> None:
    calm = settled(one)
    again = healthy(calm)
    assert [j.placed for j in applied(calm, again).jobs] == [j.placed for j in calm.jobs]


@few
@given(elastic_fleets())
def test_nobody_is_missing_where_a_pool_may_grow(one: Fleet) -> None:
    """With a pool that takes any job, only a job without a model or a place to ask for stays missing; limits on
    how many there may be are left out."""
    anything = Site("anything", "cloud", elastic=True)
    fits_all = Resources(64_000, 512 * GI, 110)
    grown = replace(
        one,
        sites=(*one.sites, anything),
        nodes=(*one.nodes, Node("any-1", "anything", "cloud", allocatable=fits_all, foreign=fits_all)),
        namespaces=(),
        jobs=tuple(replace(each, per_site=False, min_sites=None) for each in one.jobs),
    )
    for each, decided in ((each, healthy(grown).job(each.key)) for each in grown.jobs):
        assert decided is not None
        may_ask = each.model_digest and "cloud" in each.tiers and not each.node_selector
        open_to_all = not each.site_selector.match_labels
        if may_ask and open_to_all and "amd64" in each.architectures:
            assert decided.missing == 0, decided.message


@few
@given(elastic_fleets())
def test_the_solvers_advice_holds_with_pools_too(one: Fleet) -> None:
    advice = solve(one, PlanSettings())
    decided = plan(one, guidance=advice)
    assert not [j.message for j in decided.jobs if j.reason == "PendingEvaluation"]
    elastic = {site.name for site in one.sites if site.elastic}
    for mine in decided.jobs:
        assert all(is_pool(p.node) == (p.site in elastic) for p in mine.placements)


def test_what_is_taken_back_leaves_the_nodes_of_a_pool_as_they_were() -> None:
    one = world([member("m1"), member("m2", cores=8)], [job(request=Resources(3000, 512 * MI, 1))])
    ledger = Ledger(one, PlanSettings())
    (pool,) = ledger.states
    before = [m.requested for m in pool.members], pool.requested
    for _ in range(5):
        ledger.place(0, pool)
    assert sorted(m.requested.cpu for m in pool.members) == [3000, 6000], "two of five wait for a node"
    for _ in range(5):
        ledger.take_back(0, pool)
    assert ([m.requested for m in pool.members], pool.requested) == before
