"""replicaScope PerSite: each site that the job may use has its own number, and loses or gains only that."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgeward.api.common import LabelSelector
from edgeward.fleet.model import Fleet, Job, Node, Placed, Resources, Site
from edgeward.fleet.names import pool_name
from edgeward.placement import JobPlan, plan
from tests.unit.placement.strategies import NOW, applied, fleet, fleets, job, node, placed
from tests.unit.placement.test_properties import few, healthy, settled

SHOPS = [node(f"{site}-{number}", site=site) for site in ("a", "b", "c") for number in (1, 2)]


def everywhere(name: str = "job", **changes: object) -> Job:
    return replace(job(name, **changes), per_site=True)


def decided(one: Fleet, key: str = "test/job") -> JobPlan:
    found = plan(one).job(key)
    assert found is not None
    return found


def by_site(one: JobPlan) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for p in one.placements:
        if not p.lost:
            counts[p.site] += p.replicas
    return dict(counts)


def test_each_site_has_its_own() -> None:
    mine = decided(fleet(SHOPS, [everywhere(replicas=2)]))
    assert by_site(mine) == {"a": 2, "b": 2, "c": 2}
    assert (mine.wanted, mine.missing) == (6, 0)


def test_only_sites_that_the_job_may_use_count() -> None:
    nodes = [*SHOPS, node("far", site="d", tier="cloud"), node("odd", site="e", arch="s390x")]
    sites = (*(Site(n, "edge", labels={"open": "yes"}) for n in "ace"), Site("b", "edge"), Site("d", "cloud"))
    chosen = everywhere(tiers=frozenset({"edge"}), site_selector=LabelSelector(match_labels={"open": "yes"}))
    mine = decided(fleet(nodes, [chosen], sites=sites))
    assert by_site(mine) == {"a": 1, "c": 1} and mine.wanted == 2 and mine.missing == 0


def test_an_elastic_site_is_a_site_like_any_other_and_may_grow() -> None:
    sites = (Site("a", "edge"), Site("burst", "cloud", elastic=True))
    mine = decided(fleet([node("a-1", site="a")], [everywhere(replicas=2)], sites=sites))
    assert {p.node: p.replicas for p in mine.placements} == {"a-1": 2, pool_name("burst"): 2}


def test_what_is_missing_is_said_by_site() -> None:
    full = Resources(3800, 0, 1)
    nodes = [node("a-1", site="a"), node("b-1", site="b", foreign=full), node("c-1", site="c", foreign=full)]
    mine = decided(fleet(nodes, [everywhere(replicas=2)]))
    assert by_site(mine) == {"a": 2} and (mine.wanted, mine.missing, mine.reason) == (6, 4, "NoCapacity")
    assert mine.message == (
        "2 of 6 replicas have a node; "
        "b lacks 2: 0/1 nodes fit: 1 InsufficientCpu (nearest: b-1 lacks 300m cpu); "
        "c lacks 2: 0/1 nodes fit: 1 InsufficientCpu (nearest: c-1 lacks 300m cpu)"
    )


def test_of_many_sites_that_lack_some_five_are_told() -> None:
    nodes = [node(f"n{i}", site=f"s{i}", foreign=Resources(4000, 0, 1)) for i in range(7)]
    message = decided(fleet(nodes, [everywhere()])).message
    assert "s4 lacks 1" in message and "s5" not in message and message.endswith("; and 2 more sites")


def test_a_selector_that_matches_no_site_is_told_and_is_no_success() -> None:
    mine = decided(fleet(SHOPS, [everywhere(replicas=2, site_selector=LabelSelector(match_labels={"x": "y"}))]))
    assert (mine.wanted, mine.missing, mine.reason) == (2, 2, "SiteMismatch")


@pytest.mark.parametrize("closed", [{"unschedulable": True}, {"frozen": True}, {"connected": False}])
def test_a_site_that_takes_nothing_new_is_due_what_it_has(closed: dict[str, object]) -> None:
    sites = (Site("a", "edge", **closed), Site("b", "edge"))  # type: ignore[arg-type]
    here = [n for n in SHOPS if n.site != "c"]
    fresh = decided(fleet(here, [everywhere(replicas=2)], sites=sites))
    assert by_site(fresh) == {"b": 2} and fresh.wanted == 2 and fresh.missing == 0
    running = everywhere(replicas=2, placed=(placed(here[0]),))
    mine = decided(fleet(here, [running], sites=sites))
    assert by_site(mine) == {"a": 1, "b": 2} and mine.wanted == 3 and mine.missing == 0


def test_fewer_are_taken_from_each_site() -> None:
    running = everywhere(replicas=1, placed=tuple(placed(n) for n in SHOPS))
    assert by_site(decided(fleet(SHOPS, [running]))) == {"a": 1, "b": 1, "c": 1}


def test_none_wanted_is_none_anywhere() -> None:
    mine = decided(fleet(SHOPS, [everywhere(replicas=0, placed=(placed(SHOPS[0]),))]))
    assert (mine.placements, mine.wanted, mine.missing) == ((), 0, 0)


def test_a_lost_node_is_replaced_at_its_own_site_and_nowhere_else() -> None:
    down = [replace(n, ready=False, not_ready_since=NOW - 900) if n.name in ("a-1", "b-1", "b-2") else n for n in SHOPS]
    sites = (Site("a", "edge"), Site("b", "edge", connected=False), Site("c", "edge"))
    held = tuple(
        placed(n, ready=0 if not n.ready else 1, lost_since=n.not_ready_since)
        for n in down
        if n.name in ("a-1", "b-1", "c-1")
    )
    mine = decided(fleet(down, [everywhere(placed=held)], sites=sites))
    assert {p.node for p in mine.placements if not p.lost} == {"a-2", "c-1"}
    assert {p.node for p in mine.placements if p.lost} == {"a-1", "b-1"} and mine.missing == 0


def test_a_move_stays_at_its_site() -> None:
    """b is far better than where the replica of a is; it goes there never."""
    from edgeward.fleet.model import Live, ProposedMove, Sample

    busy = node("a-1", site="a", live=Live(cpu=Sample(4.0, NOW - 5), memory=Sample(1e9, NOW - 5)))
    idle = [node("b-1", site="b"), node("b-2", site="b")]
    running = everywhere(
        placed=(placed(busy), placed(idle[0])), proposed=ProposedMove("a-1", "b-2", 3, NOW - 60), explained=True
    )
    total = replace(running, per_site=False, replicas=2)
    assert decided(fleet([busy, *idle], [total])).moved
    mine = decided(fleet([busy, *idle], [running]))
    assert not mine.moved and mine.proposed is None


# Over all fleets -----------------------------------------------------------------------------------------------------


def per_site(one: Fleet) -> Fleet:
    """Without limits on a namespace, which join what is asked for at one site to what is had at another."""
    return replace(one, namespaces=(), jobs=tuple(replace(j, per_site=True, min_sites=None) for j in one.jobs))


def without(one: Fleet, site: str) -> Fleet:
    """The site, its nodes and what was there are no more."""
    return replace(
        one,
        sites=tuple(s for s in one.sites if s.name != site),
        nodes=tuple(n for n in one.nodes if n.site != site),
        jobs=tuple(replace(j, placed=tuple(p for p in j.placed if p.site != site)) for j in one.jobs),
    )


def at(j: Job, *, besides: str = "") -> set[tuple[str, str, int]]:
    return {(p.site, p.node, p.replicas) for p in j.placed if p.site != besides}


@few
@given(fleets(), st.data())
def test_a_removed_site_loses_only_its_own(one: Fleet, data: st.DataObject) -> None:
    calm = settled(per_site(one))
    assume(len(calm.sites) > 1)
    site = data.draw(st.sampled_from([s.name for s in calm.sites]))
    rest = without(calm, site)
    after = applied(rest, healthy(rest))
    for before, now in zip(calm.jobs, after.jobs, strict=True):
        assert at(now) == at(before, besides=site)


@few
@given(fleets())
def test_a_site_that_comes_gets_its_own_and_nobody_else_anything(one: Fleet) -> None:
    calm = settled(per_site(one))
    room = Resources(64_000, 512 << 30, 500)
    grown = replace(
        calm,
        sites=(*calm.sites, Site("new", "edge")),
        nodes=(*calm.nodes, Node("new-1", "new", "edge", allocatable=room)),
    )
    after = applied(grown, healthy(grown))
    for before, now in zip(calm.jobs, after.jobs, strict=True):
        welcome = before.model_digest and "edge" in before.tiers and "amd64" in before.architectures
        due = before.replicas if welcome and not before.node_selector and not before.site_selector.match_labels else 0
        told = healthy(calm).job(before.key)
        if told is None or "should not be" in told.message:
            continue  # no site at all is due any of it; what stays for want of a place goes once there is one
        assert at(now, besides="new") == at(before, besides="new")
        assert sum(count for site, _, count in at(now) if site == "new") == due


@few
@given(fleets())
def test_no_site_has_more_than_its_number_and_every_replica_is_accounted_for(one: Fleet) -> None:
    wide = per_site(one)
    frozen = {s.name for s in wide.sites if s.frozen}
    for j in wide.jobs:
        mine = healthy(wide).job(j.key)
        assert mine is not None
        counts = by_site(mine)
        assert all(count <= max(0, j.replicas) for site, count in counts.items() if site not in frozen)
        assert mine.missing == mine.wanted - sum(counts.values())
        assert bool(mine.missing) <= bool(mine.reason) and bool(mine.reason) == bool(mine.message)


@few
@given(fleets())
def test_an_applied_plan_is_its_own_next_plan(one: Fleet) -> None:
    calm = settled(per_site(one))
    assert [j.placed for j in applied(calm, healthy(calm)).jobs] == [j.placed for j in calm.jobs]


def test_a_site_whose_object_is_gone_keeps_what_it_has_until_its_nodes_are_gone_for_long() -> None:
    gone = Placed("z-1", "z", 1, 0, since=NOW - 9000, lost_since=NOW - 700)
    waits = replace(gone, lost_since=NOW - 30)
    shops = [n for n in SHOPS if n.site == "a"]
    assert by_site(decided(fleet(shops, [everywhere(placed=(placed(shops[0]), gone))]))) == {"a": 1}
    mine = decided(fleet(shops, [everywhere(placed=(placed(shops[0]), waits))]))
    assert by_site(mine) == {"a": 1, "z": 1} and mine.missing == 0


def test_where_no_site_is_due_any_what_runs_stays_until_one_is() -> None:
    moved_on = everywhere(site_selector=LabelSelector(match_labels={"x": "y"}), placed=(placed(SHOPS[0]),))
    mine = decided(fleet(SHOPS, [moved_on]))
    assert by_site(mine) == {"a": 1} and (mine.missing, mine.reason) == (0, "SiteMismatch")
    sites = (Site("a", "edge"), Site("b", "edge", labels={"x": "y"}), Site("c", "edge"))
    assert by_site(decided(fleet(SHOPS, [moved_on], sites=sites))) == {"b": 1}
