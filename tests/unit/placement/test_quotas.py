"""Limits over several nodes: of a site, of a namespace, of one job over the sites, and what is not replaced."""

from collections import Counter
from dataclasses import replace

import pytest

from edgeward.fleet.model import Job, Live, Namespace, Node, Priority, Problem, Resources, Sample, Site
from edgeward.placement import JobPlan, Plan, plan
from tests.unit.placement.strategies import GI, NOW, applied, fleet, job, node, placed

BIG = Resources(64000, 256 * GI, 500)


def at(*sites: str) -> list[Node]:
    return [node(f"{site}-1", site=site, allocatable=BIG) for site in sites]


def using(cores: float, *, at: float = NOW - 10) -> Live:
    return Live(cpu=Sample(cores, at), memory=Sample(GI, at))


def one(decided: Plan, name: str = "job") -> JobPlan:
    found = decided.job(f"test/{name}")
    assert found is not None
    return found


def by_site(decided: JobPlan) -> dict[str, int]:
    return dict(Counter({p.site: p.replicas for p in decided.placements}))


# Site.spec.quota -----------------------------------------------------------------------------------------------------


def test_a_sites_quota_of_replicas_holds_for_all_jobs_together() -> None:
    sites = (Site("a", "edge", quota_replicas=3),)
    first = job("first", replicas=2, priority=Priority(5, 5, 5))
    decided = plan(fleet(at("a"), [first, job("second", replicas=2)], sites=sites))
    assert (one(decided, "first").missing, one(decided, "second").missing) == (0, 1)
    second = one(decided, "second")
    assert second.reason == "QuotaExceeded"
    assert "1 SiteQuotaExceeded (nearest: site a: quota.replicas is 3, 3 used, 1 more wanted)" in second.message


def test_a_sites_quota_of_cpu() -> None:
    """500m each: three fit in 1500m, and a fourth would make 2."""
    decided = one(plan(fleet(at("a"), [job(replicas=4)], sites=(Site("a", "edge", quota_cpu=1500),))))
    assert (decided.missing, decided.reason) == (1, "QuotaExceeded")
    assert "site a: quota.cpu is 1500m, 1500m used, 500m more wanted" in decided.message


def test_where_there_is_room_elsewhere_a_full_quota_is_no_obstacle() -> None:
    decided = one(
        plan(fleet(at("a", "b"), [job(replicas=5)], sites=(Site("a", "edge", quota_replicas=1), Site("b", "edge"))))
    )
    assert by_site(decided) == {"a": 1, "b": 4}


def test_a_full_node_elsewhere_keeps_it_a_matter_of_room() -> None:
    """A freed core there would do, so nobody has to be asked for more quota."""
    full = node("b-1", site="b", foreign=Resources(3800, 0, 1))
    decided = one(
        plan(fleet([*at("a"), full], [job()], sites=(Site("a", "edge", quota_replicas=0), Site("b", "edge"))))
    )
    assert decided.reason == "NoCapacity"


def test_a_quota_that_comes_down_evicts_nobody() -> None:
    (spot,) = at("a")
    held = job(replicas=3, placed=(placed(spot, 3),))
    decided = one(plan(fleet([spot], [held], sites=(Site("a", "edge", quota_replicas=1, quota_cpu=100),))))
    assert (by_site(decided), decided.missing) == ({"a": 3}, 0)


@pytest.mark.parametrize("limit", ["namespace", "site"])
def test_what_must_leave_and_finds_no_other_node_counts_while_it_stays(limit: str) -> None:
    """Its node is cordoned and no other will do, so it stays; the next job of its tier must not take its quota."""
    shop = Site("shop", "edge", quota_replicas=1 if limit == "site" else None)
    spaces = (Namespace("test", max_replicas=1),) if limit == "namespace" else ()
    closed, open_ = node("closed", labels={"disk": "ssd"}, unschedulable=True), node("open")
    stuck = job("stuck", created_at=1.0, node_selector={"disk": "ssd"}, placed=(placed(closed),))
    decided = plan(fleet([closed, open_], [stuck, job(created_at=2.0)], sites=(shop,), namespaces=spaces))
    assert [p.node for p in one(decided, "stuck").placements] == ["closed"]
    assert one(decided, "stuck").reason == "NodeUnschedulable"
    assert (one(decided).missing, one(decided).reason) == (1, "QuotaExceeded")


def test_a_full_quota_is_shared_by_what_stays_and_what_replaces_it() -> None:
    """Three are wanted and one is there already, on a cordoned node, under a limit of two: one replaces it and one more
    comes. Where the limit is one, it moves and nothing is added."""
    closed, spot = node("closed", unschedulable=True), node("open")
    held = job(replicas=3, placed=(placed(closed),))
    for most in (1, 2):
        decided = one(plan(fleet([closed, spot], [held], namespaces=(Namespace("test", max_replicas=most),))))
        assert ({p.node: p.replicas for p in decided.placements}, decided.missing) == ({"open": most}, 3 - most)


def test_where_room_is_short_and_quota_is_not_what_must_leave_stays_beside_what_is_new() -> None:
    closed = node("closed", unschedulable=True)
    spot = node("open", allocatable=Resources(600, 8 * GI, 110))
    held = job(replicas=3, placed=(placed(closed),))
    decided = one(plan(fleet([closed, spot], [held], namespaces=(Namespace("test", max_replicas=3),))))
    assert ({p.node: p.replicas for p in decided.placements}, decided.missing) == ({"closed": 1, "open": 1}, 1)


def test_a_replica_that_must_leave_makes_room_for_its_successor_in_the_quota() -> None:
    """The node is of another tier now. Both exist for a moment; the one that leaves does not count."""
    old, new = node("old", site="a", tier="cloud"), node("new", site="a")
    held = job(tiers=frozenset({"edge"}), placed=(placed(old),))
    decided = one(plan(fleet([old, new], [held], sites=(Site("a", "edge", quota_replicas=1),))))
    assert [p.node for p in decided.placements] == ["new"]


def test_what_is_lost_counts_for_no_quota() -> None:
    gone = node("gone", site="a", ready=False, not_ready_since=NOW - 900)
    held = job(placed=(placed(gone, ready=0, lost_since=NOW - 900),))
    space = Namespace("test", max_replicas=1)
    decided = one(plan(fleet([gone, *at("b")], [held], namespaces=(space,))))
    assert {p.node: p.lost for p in decided.placements} == {"gone": True, "b-1": False}


# Namespace labels ----------------------------------------------------------------------------------------------------


def test_a_namespaces_quota_names_itself_what_is_used_and_what_was_wanted() -> None:
    space = Namespace("test", max_replicas=3)
    decided = plan(fleet(at("a"), [job("first", replicas=2), job("second", replicas=2)], namespaces=(space,)))
    short = next(j for j in decided.jobs if j.missing)
    assert (short.missing, short.reason) == (1, "QuotaExceeded")
    assert "namespace test: edgeward.dev/max-replicas is 3, 3 used, 1 more wanted; 0/1 nodes fit" in short.message


def test_a_namespaces_quota_of_cpu_takes_the_small_where_the_big_does_not_fit() -> None:
    space = Namespace("test", max_cpu=2000)
    big = job("big", request=Resources(1900, GI, 1), priority=Priority(4, 4, 4))
    decided = plan(
        fleet(at("a"), [big, job("half"), job("little", request=Resources(100, GI, 1))], namespaces=(space,))
    )
    assert [one(decided, name).missing for name in ("big", "half", "little")] == [0, 1, 0]
    assert "edgeward.dev/max-cpu is 2, 2 used, 500m more wanted" in one(decided, "half").message


def test_a_namespaces_quota_is_the_reason_even_where_every_node_is_full() -> None:
    """More nodes would not help, and the person who can help is another one."""
    full = node(foreign=Resources(4000, 0, 1))
    decided = one(plan(fleet([full], [job()], namespaces=(Namespace("test", max_replicas=0),))))
    assert decided.reason == "QuotaExceeded"


def test_another_namespaces_quota_is_none_of_ours() -> None:
    decided = one(plan(fleet(at("a"), [job(replicas=5)], namespaces=(Namespace("other", max_replicas=0),))))
    assert decided.missing == 0


def test_a_full_namespace_may_still_move_its_own() -> None:
    """3.9 of 4 cores in use beside an idle node: the third look in a row moves it, quota or not."""
    busy = node("busy", site="a", live=using(3.9))
    held = job(placed=(placed(busy),), explained=True)
    now = fleet([busy, node("idle", site="b")], [held], namespaces=(Namespace("test", max_replicas=1),))
    for _ in range(3):
        decided = plan(now)
        now = applied(now, decided, seconds=15)
        cores = {"busy": 3.9, "idle": 0.4}
        now = replace(now, nodes=tuple(replace(n, live=using(cores[n.name], at=now.now - 5)) for n in now.nodes))
    assert [p.node for p in one(decided).placements] == ["idle"]


# spec.placement.spread -----------------------------------------------------------------------------------------------


def test_max_per_site() -> None:
    decided = one(plan(fleet(at("a", "b"), [job(replicas=5, max_per_site=2)])))
    assert (by_site(decided), decided.missing) == ({"a": 2, "b": 2}, 1)
    assert "2 SpreadExceeded (nearest: site " in decided.message
    assert "has 2 of at most 2 replicas (spread.maxPerSite)" in decided.message


@pytest.mark.parametrize(
    ("replicas", "least", "sites", "used", "missing"),
    [
        (4, 2, ("a", "b"), 2, 0),
        (4, 3, ("a", "b", "c"), 3, 0),
        (3, 3, ("a", "b"), 2, 1),  # each of three sites needs one; the two that there are get theirs
        (6, 3, ("a", "b"), 2, 1),  # 6 - 3 = 3 may share: 2 + 3 = 5 places
        (2, 5, ("a", "b", "c"), 2, 0),  # two replicas cannot be at five sites; each has its own
    ],
)
def test_min_sites(replicas: int, least: int, sites: tuple[str, ...], used: int, missing: int) -> None:
    decided = one(plan(fleet(at(*sites), [job(replicas=replicas, min_sites=least)])))
    assert (len(by_site(decided)), decided.missing) == (used, missing)
    if missing:
        assert f"of at least {least} sites are used (spread.minSites)" in decided.message


def test_min_sites_keeps_a_place_for_the_other_site_even_where_one_is_much_better() -> None:
    """b is nearly full by its live figures; without the bound both go to a."""
    busy = node("b-1", site="b", allocatable=BIG, live=using(62.0))
    loose, bound = job(replicas=2), job(replicas=2, min_sites=2)
    idle = at("a")
    assert by_site(one(plan(fleet([*idle, busy], [loose])))) == {"a": 2}
    assert by_site(one(plan(fleet([*idle, busy], [bound])))) == {"a": 1, "b": 1}


# spec.disconnect.replace ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("again", "nodes"), [(True, ["spare-1"]), (False, ["gone"])])
def test_what_is_lost_is_started_elsewhere_unless_the_job_says_no(again: bool, nodes: list[str]) -> None:
    gone = node("gone", site="a", ready=False, not_ready_since=NOW - 900)
    held = job(replace_lost=again, placed=(placed(gone, ready=0, lost_since=NOW - 900),))
    decided = one(plan(fleet([gone, *at("spare")], [held])))
    assert [p.node for p in decided.placements if not p.lost] == nodes
    assert decided.missing == 0
    if not again:
        assert "gone is away for 900 s; nothing takes its place (disconnect.replace)" in decided.explanation.notes


def test_a_lost_one_that_is_not_replaced_stays_where_it_is_whatever_its_node_looks_like() -> None:
    gone = node("gone", site="a", tier="cloud", ready=False, not_ready_since=NOW - 900)
    held = job(replace_lost=False, tiers=frozenset({"edge"}), placed=(placed(gone, ready=0, lost_since=NOW - 900),))
    decided = one(plan(fleet([gone, *at("spare")], [held])))
    assert [p.node for p in decided.placements] == ["gone"]


def test_beside_a_lost_one_that_is_not_replaced_a_job_may_still_grow() -> None:
    gone = node("gone", site="a", ready=False, not_ready_since=NOW - 900)
    held = job(replace_lost=False, replicas=2, placed=(placed(gone, ready=0, lost_since=NOW - 900),))
    assert sorted(p.node for p in one(plan(fleet([gone, *at("spare")], [held]))).placements) == ["gone", "spare-1"]


def with_problem(name: str) -> Job:
    return job(name, problem=Problem("PolicyForbids", "too high"), placed=(placed(at("a")[0]),))


def test_what_a_forbidden_job_runs_stays_and_counts() -> None:
    decided = plan(
        fleet(at("a"), [with_problem("forbidden"), job("other")], namespaces=(Namespace("test", max_replicas=1),))
    )
    assert [p.node for p in one(decided, "forbidden").placements] == ["a-1"]
    assert (one(decided, "other").missing, one(decided, "other").reason) == (1, "QuotaExceeded")
