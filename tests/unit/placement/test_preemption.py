"""Preemption: the last resort, one node at a time, the fewest victims, and a claim that ends."""

from dataclasses import replace

import pytest

from edgeward.fleet.model import (
    Exclusion,
    Fleet,
    Job,
    Live,
    Namespace,
    Node,
    Nomination,
    Placed,
    Priority,
    Problem,
    Resources,
    Sample,
    Site,
)
from edgeward.fleet.names import pool_name
from edgeward.placement import JobPlan, Plan, PlanSettings, plan
from edgeward.placement.claims import UNMET
from tests.unit.placement.strategies import GI, NOW, applied, fleet, job, node, placed

HIGH, MIDDLE, LOW = Priority(5, 5, 4), Priority(3, 3, 3), Priority(1, 1, 1)
"""priority tiers 5, 3 and 1"""
EDGE = node("edge-3", allocatable=Resources(1000, 8 * GI, 110))


def need(cpu: int) -> Resources:
    return Resources(cpu, GI, 1)


def low(name: str, spot: Node = EDGE, cpu: int = 400, age: float = 3600, **changes: object) -> Job:
    """A job of priority tier 1 that has run on this node for so long."""
    since = NOW - age
    known: dict[str, object] = {"priority": LOW, "placed": (placed(spot, since=since, started=(since,)),)}
    return job(name, request=need(cpu), **{**known, **changes})


def high(cpu: int = 500, **changes: object) -> Job:
    return job("sign-reader", namespace="shop", **{"priority": HIGH, "request": need(cpu), **changes})


def of(decided: Plan, key: str) -> JobPlan:
    found = decided.job(key)
    assert found is not None
    return found


def winner(decided: Plan) -> JobPlan:
    return of(decided, "shop/sign-reader")


def victims(decided: Plan) -> tuple[str, ...]:
    nomination = winner(decided).nomination
    assert nomination is not None
    return nomination.victims


def spots(mine: JobPlan) -> dict[str, int]:
    return {p.node: p.replicas for p in mine.placements}


def test_a_job_without_a_place_takes_that_of_a_lower_tier_and_both_are_told() -> None:
    decided = plan(fleet([EDGE], [low("a"), low("b"), high()]))
    mine = winner(decided)
    assert mine.nomination == Nomination("shop", "edge-3", ("test/b",), NOW + 120) or victims(decided) == ("test/a",)
    (key,) = victims(decided)
    assert (mine.missing, mine.reason) == (1, "WaitingForPreemption")
    assert mine.message == f"waits for {key} to give way on edge-3"
    loser = of(decided, key)
    assert (loser.placements, loser.missing, loser.reason) == ((), 1, "Preempted")
    assert loser.message.startswith("shop/sign-reader (priority tier 5) needed 500m cpu on edge-3; 0/1 nodes fit")
    (gives,) = loser.gives_way
    assert (gives.node, gives.winner, gives.taken, gives.patient) == ("edge-3", "shop/sign-reader", 1, True)
    other = of(decided, "test/a" if key == "test/b" else "test/b")
    assert spots(other) == {"edge-3": 1}
    assert other.gives_way == ()


def test_nothing_is_taken_while_something_else_fits() -> None:
    spare = node("spare", site="far", allocatable=Resources(600, 8 * GI, 110))
    decided = plan(fleet([EDGE, spare], [low("a", cpu=900), high()]))
    assert spots(winner(decided)) == {"spare": 1}
    assert spots(of(decided, "test/a")) == {"edge-3": 1}


@pytest.mark.parametrize("marks", [HIGH, Priority(5, 5, 5)], ids=["the same", "a larger P in the same"])
def test_nobody_takes_from_the_same_tier(marks: Priority) -> None:
    decided = plan(fleet([EDGE], [low("a", cpu=900, priority=HIGH), high(priority=marks)]))
    assert winner(decided).nomination is None
    assert winner(decided).reason == "NoCapacity"
    assert spots(of(decided, "test/a")) == {"edge-3": 1}


def test_a_job_that_aged_into_a_higher_tier_takes_from_no_one_it_could_not_take_from_before() -> None:
    aged = high(priority=MIDDLE, waiting_since=NOW - 5000)
    decided = plan(fleet([EDGE], [low("a", cpu=900, priority=MIDDLE), aged]))
    assert winner(decided).nomination is None
    assert spots(of(decided, "test/a")) == {"edge-3": 1}


def test_one_victim_is_better_than_two_even_of_a_higher_tier() -> None:
    jobs = [low("a", cpu=250), low("b", cpu=250), low("c", cpu=500, priority=MIDDLE), high(500)]
    assert victims(plan(fleet([EDGE], jobs))) == ("test/c",)


def test_of_as_many_victims_the_lowest_tier_gives_way_then_the_newest() -> None:
    jobs = [low("a", age=4000), low("b", age=1000, priority=MIDDLE), high(500)]
    assert victims(plan(fleet([EDGE], jobs))) == ("test/a",)
    jobs = [low("a", age=4000), low("b", age=1000), high(500)]
    assert victims(plan(fleet([EDGE], jobs))) == ("test/b",)


def test_what_turns_out_unneeded_stays() -> None:
    """Two of 200m would do nothing that the one of 450m does not do alone."""
    jobs = [low("a", cpu=200), low("b", cpu=200), low("c", cpu=450), high(600)]
    assert victims(plan(fleet([EDGE], jobs))) == ("test/c",)


def test_many_small_ones_give_way_when_it_takes_them() -> None:
    jobs = [low(f"s{i}", cpu=100, age=1000 + i) for i in range(9)]
    assert victims(plan(fleet([EDGE], [*jobs, high(650)]))) == tuple(f"test/s{i}" for i in range(6))


def test_all_victims_are_on_one_node() -> None:
    other = node("other", site="far", allocatable=Resources(1000, 8 * GI, 110))
    jobs = [low("a", cpu=900), low("b", other, cpu=450, age=1000), low("c", other, cpu=450), high(950)]
    decided = plan(fleet([EDGE, other], jobs))
    assert victims(decided) == ("test/a",), "one on edge-3, not two on the other"


def test_only_replicas_that_are_needed_leave_of_a_job_with_several() -> None:
    many = low("a", cpu=200, replicas=4, placed=(placed(EDGE, 4),))
    decided = plan(fleet([EDGE], [many, high(500)]))
    assert spots(of(decided, "test/a")) == {"edge-3": 2}
    assert (of(decided, "test/a").missing, of(decided, "test/a").gives_way[0].taken) == (2, 2)
    assert "2 of 4 replicas have a node" in of(decided, "test/a").message


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"age": 299}, "test/a has run there for less than 300 s"),
        (
            {"placed": (placed(EDGE, started=(NOW - 60,)),)},
            "test/a has run there for less than 300 s",
        ),
        (
            {"placed": (placed(EDGE, protected="PodDisruptionBudget test/keep allows no disruption now"),)},
            "test/a is protected: PodDisruptionBudget test/keep allows no disruption now",
        ),
        ({"problem": Problem("InvalidSpec", "x")}, "test/a is left as it is (InvalidSpec)"),
    ],
    ids=["just decided", "just started", "protected by a budget", "has a problem"],
)
def test_what_may_not_be_taken_is_left_and_the_reason_says_so(changes: dict[str, object], why: str) -> None:
    decided = plan(fleet([EDGE], [low("a", cpu=900, **changes), high()]))  # type: ignore[arg-type]
    assert spots(of(decided, "test/a")) == {"edge-3": 1}
    mine = winner(decided)
    assert (mine.nomination, mine.reason) == (None, "NoCapacity")
    assert mine.message.endswith(f"; lower priority tiers hold what it needs on edge-3, but {why}")


def test_a_frozen_site_is_left_alone_and_the_reason_says_so() -> None:
    decided = plan(fleet([EDGE], [low("a", cpu=900), high()], sites=(Site("shop", "edge", frozen=True),)))
    assert spots(of(decided, "test/a")) == {"edge-3": 1}
    assert winner(decided).nomination is None
    assert "but site shop is frozen" in winner(decided).message


def test_a_protected_one_is_passed_over_for_one_that_may_be_taken() -> None:
    jobs = [low("a", age=100), low("b"), high(500)]
    assert victims(plan(fleet([EDGE], jobs))) == ("test/b",)


def test_foreign_pods_are_no_victims() -> None:
    full = replace(EDGE, foreign=Resources(900, 0, 1))
    decided = plan(fleet([full], [high()]))
    assert (winner(decided).nomination, winner(decided).reason) == (None, "NoCapacity")


def test_it_can_be_switched_off() -> None:
    one = fleet([EDGE], [low("a", cpu=900), high(nomination=Nomination("shop", "edge-3", ("test/a",), NOW + 60))])
    decided = plan(one, PlanSettings(preemption=False))
    assert (winner(decided).nomination, winner(decided).reason) == (None, "NoCapacity")
    assert spots(of(decided, "test/a")) == {"edge-3": 1}


def test_what_must_not_be_placed_takes_nothing() -> None:
    for changes in ({"problem": Problem("InvalidSpec", "x")}, {"model_digest": ""}):
        decided = plan(fleet([EDGE], [low("a", cpu=900), high(**changes)]))
        assert winner(decided).nomination is None
        assert spots(of(decided, "test/a")) == {"edge-3": 1}


def test_a_victim_goes_elsewhere_where_there_is_room_for_it() -> None:
    """Too small for the winner, large enough for the victim."""
    small = node("small", site="far", allocatable=Resources(450, 8 * GI, 110))
    decided = plan(
        fleet(
            [EDGE, small], [low("a", cpu=400), low("b", cpu=500, priority=HIGH), high(500, tiers=frozenset({"edge"}))]
        )
    )
    loser = of(decided, "test/a")
    assert (spots(loser), loser.missing, loser.reason) == ({"small": 1}, 0, "")
    assert loser.gives_way[0].taken == 1


# The claim --------------------------------------------------------------------------------------------------------


def leaving(spot: Node) -> Placed:
    return placed(spot, 0, ready=0, started=(NOW - 3600,))


CLAIM = Nomination("shop", "edge-3", ("test/a",), NOW + 100)


def test_while_the_victim_leaves_the_claim_stands_and_nothing_more_is_taken() -> None:
    jobs = [low("a", cpu=500, placed=(leaving(EDGE),)), low("b", cpu=450), high(500, nomination=CLAIM)]
    decided = plan(fleet([EDGE], jobs))
    assert winner(decided).nomination == CLAIM
    assert (winner(decided).missing, winner(decided).reason) == (1, "WaitingForPreemption")
    assert spots(of(decided, "test/b")) == {"edge-3": 1}
    assert (of(decided, "test/a").missing, of(decided, "test/a").reason) == (1, "Preempted")
    assert [(g.taken, g.patient) for g in of(decided, "test/a").gives_way] == [(0, True)]


def test_the_victim_does_not_come_back_into_the_room_that_it_leaves() -> None:
    jobs = [low("a", cpu=500, placed=(leaving(EDGE),)), high(900, nomination=CLAIM)]
    decided = plan(fleet([EDGE], jobs))
    assert of(decided, "test/a").placements == ()


def test_nobody_else_of_its_tier_or_below_gets_the_room_but_a_higher_tier_does() -> None:
    """The room is free by now; the other job comes first in its tier."""
    for marks, gets in ((Priority(5, 4, 5), False), (MIDDLE, False), (Priority(5, 5, 5), True)):
        other = job("other", priority=marks, request=need(700), created_at=1.0)
        mine = high(700, priority=Priority(4, 4, 3), nomination=replace(CLAIM, victims=()))
        if marks == Priority(5, 4, 5):
            mine = replace(mine, priority=Priority(5, 4, 4))
        decided = plan(fleet([EDGE], [other, mine]))
        assert bool(spots(of(decided, "test/other"))) is gets, marks
        assert bool(spots(winner(decided))) is not gets, marks


def test_it_is_placed_on_the_nominated_node_once_the_room_is_free_and_keeps_the_claim_until_ready() -> None:
    one = fleet([EDGE], [low("a", cpu=500, preempted="because"), low("b", cpu=450), high(500, nomination=CLAIM)])
    one = replace(one, jobs=(replace(one.jobs[0], placed=()), *one.jobs[1:]))
    decided = plan(one)
    assert (spots(winner(decided)), winner(decided).nomination) == ({"edge-3": 1}, CLAIM)
    starting = replace(one.jobs[2], placed=(placed(EDGE, ready=0, started=(NOW,), since=NOW),))
    again = plan(replace(one, jobs=(*one.jobs[:2], starting)))
    assert (spots(winner(again)), winner(again).nomination) == ({"edge-3": 1}, CLAIM)
    serving = replace(starting, placed=(placed(EDGE, started=(NOW,), since=NOW),))
    done = plan(replace(one, jobs=(*one.jobs[:2], serving)))
    assert (spots(winner(done)), winner(done).nomination) == ({"edge-3": 1}, None)
    assert (of(done, "test/a").reason, of(done, "test/a").message[:9]) == ("Preempted", "because; ")


def test_a_claim_that_is_not_met_in_time_ends_and_the_node_is_left_out_for_a_while() -> None:
    late = high(500, nomination=replace(CLAIM, until=NOW - 1))
    one = fleet([EDGE], [low("a", cpu=900), late])
    decided = plan(one)
    assert winner(decided).nomination is None
    assert spots(of(decided, "test/a")) == {"edge-3": 1}, "not taken again at once"
    (exclusion,) = winner(decided).exclusions
    assert (exclusion.node, exclusion.reason, exclusion.count, exclusion.until) == ("edge-3", UNMET, 1, NOW + 60)
    again = replace(late, exclusions=(replace(exclusion, until=NOW - 1),))
    (second,) = winner(plan(replace(one, jobs=(one.jobs[0], again)))).exclusions
    assert (second.count, second.until) == (2, NOW + 120)


def test_another_node_is_tried_after_a_claim_failed() -> None:
    other = node("other", site="far", allocatable=Resources(1000, 8 * GI, 110))
    late = high(500, nomination=replace(CLAIM, until=NOW - 1))
    decided = plan(fleet([EDGE, other], [low("a", cpu=900), low("b", other, cpu=900), late]))
    assert victims(decided) == ("test/b",)


def test_a_claim_ends_when_the_room_went_to_somebody_else_for_good() -> None:
    """A foreign pod took it: none of the victims is there any more, and taking more was not agreed."""
    taken = replace(EDGE, foreign=Resources(550, 0, 1))
    decided = plan(fleet([taken], [low("b", cpu=400), high(500, nomination=CLAIM)]))
    assert (winner(decided).nomination, winner(decided).exclusions[0].reason) == (None, UNMET)
    assert spots(of(decided, "test/b")) == {"edge-3": 1}


def test_a_node_that_is_no_place_any_more_ends_the_claim_at_once() -> None:
    decided = plan(fleet([replace(EDGE, unschedulable=True)], [high(500, nomination=CLAIM)]))
    assert (winner(decided).nomination, winner(decided).exclusions) == (None, ())


def test_a_claim_is_carried_out_by_the_next_leader_when_its_victims_were_never_told() -> None:
    decided = plan(fleet([EDGE], [low("a", cpu=450), low("b", cpu=450), high(500, nomination=CLAIM)]))
    assert winner(decided).nomination == CLAIM
    assert of(decided, "test/a").placements == ()
    assert spots(of(decided, "test/b")) == {"edge-3": 1}


def test_in_its_second_half_the_claim_does_not_wait_for_the_victims_replacement() -> None:
    small = node("small", site="far", allocatable=Resources(450, 8 * GI, 110))
    moving = low("a", placed=(leaving(EDGE), placed(small, ready=0, started=(), since=NOW)))
    for left, patient in ((61, True), (60, False)):
        mine = high(700, nomination=replace(CLAIM, until=NOW + left))
        decided = plan(fleet([EDGE, small], [moving, low("b", cpu=250), mine]))
        assert [g.patient for g in of(decided, "test/a").gives_way] == [patient]


def test_a_second_replica_waits_for_its_turn() -> None:
    jobs = [low("a", age=1000), low("b"), high(500, replicas=2)]
    decided = plan(fleet([EDGE], jobs))
    assert victims(decided) == ("test/a",)
    assert winner(decided).message.endswith("; 1 more wait for their turn")


def test_a_whole_preemption_settles_and_then_changes_nothing() -> None:
    one = fleet([EDGE], [low("a"), low("b"), high()])
    seen = []
    for _ in range(6):
        decided = plan(one)
        seen.append(winner(decided).decision)
        one = applied(one, decided, seconds=15)
        one = replace(one, nodes=tuple(replace(n, live=EDGE.live) for n in one.nodes))
    assert spots(winner(plan(one))) == {"edge-3": 1}
    assert winner(plan(one)).nomination is None
    assert seen[-1] == seen[-2]
    assert [j.reason for j in plan(one).jobs if j.reason] == ["Preempted"]


def test_two_jobs_that_wait_do_not_count_on_the_same_room() -> None:
    jobs = [low("a", cpu=450, age=1000), low("b", cpu=450), high(500), high(500)]
    jobs[3] = replace(jobs[3], name="second", uid="2")
    decided = plan(fleet([EDGE], jobs))
    both = [n.victims for j in decided.jobs if (n := j.nomination)]
    assert both == [("test/a",), ("test/b",)]


def test_what_is_leaving_makes_room_before_anybody_is_taken() -> None:
    """A lower tier's replica is on its way out; the claim names it, so that it does not wait for its replacement."""
    moving = low("a", cpu=600, placed=(leaving(EDGE),), replicas=0)
    decided = plan(fleet([EDGE], [moving, low("b", cpu=350), high(500)]))
    assert victims(decided) == ("test/a",)
    assert spots(of(decided, "test/b")) == {"edge-3": 1}


def test_an_excluded_node_is_no_place_to_make_room() -> None:
    refused = Exclusion("edge-3", "Unschedulable", "m", 1, NOW + 50)
    decided = plan(fleet([EDGE], [low("a", cpu=900), high(exclusions=(refused,))]))
    assert winner(decided).nomination is None
    assert spots(of(decided, "test/a")) == {"edge-3": 1}


def test_a_quota_of_the_site_is_room_too() -> None:
    limited = Site("shop", "edge", quota_replicas=1)
    decided = plan(fleet([EDGE], [low("a", cpu=100), high(500)], sites=(limited,)))
    assert victims(decided) == ("test/a",)


@pytest.mark.parametrize(
    ("used", "taken"), [(3800, True), (2000, True), (200, False)], ids=["all", "half", "not by it"]
)
def test_a_node_that_only_the_victims_keep_busy_is_not_too_busy_without_them(used: int, taken: bool) -> None:
    """Beside 2000m of it there is room for the winner: the backlog alone is in the way. Once they are told to leave the
    claim is met as soon as there is room, with a figure that still shows them; so nobody can come back before."""
    busy = node("n", live=Live(cpu=Sample(3.95, NOW - 10), memory=Sample(1.0 * GI, NOW - 10)))
    mine = high(3000 if used > 2000 else 1000, slo_latency=0.06, service_seconds=0.02)
    one = fleet([busy], [low("a", busy, cpu=used), mine])
    first = plan(one)
    assert (winner(first).nomination is not None) is taken
    for _ in range(4):
        one = applied(one, plan(one), seconds=15)
    assert spots(winner(plan(one))) == ({"n": 1} if taken else {})
    assert winner(plan(one)).nomination is None


def test_a_site_that_is_too_small_does_not_keep_a_job_from_making_room_at_another() -> None:
    small, large = node("small", site="a", allocatable=Resources(1000, 8 * GI, 110)), node("large", site="b")
    decided = plan(fleet([small, large], [low("a", large, cpu=3800), high(3000, per_site=True)]))
    assert winner(decided).nomination == Nomination("b", "large", ("test/a",), NOW + 120)


def settled(one: Fleet, rounds: int = 5) -> Plan:
    for _ in range(rounds):
        one = applied(one, plan(one), seconds=15)
    return plan(one)


def test_a_quota_of_the_site_that_is_held_on_another_node_is_room_too() -> None:
    """The winner keeps its own place; the victim leaves from where it is."""
    mine, other = node("mine", arch="arm64"), node("other")
    jobs = [low("a", other, architectures=frozenset({"amd64"})), high(architectures=frozenset({"arm64"}))]
    one = fleet([mine, other], jobs, sites=(Site("shop", "edge", quota_replicas=1),))
    decided = plan(one)
    assert winner(decided).nomination == Nomination("shop", "mine", ("test/a",), NOW + 120)
    (gives,) = of(decided, "test/a").gives_way
    assert (gives.site, gives.node, gives.taken) == ("shop", "other", 1)
    assert of(decided, "test/a").placements == ()
    after = settled(one)
    assert (spots(winner(after)), winner(after).nomination) == ({"mine": 1}, None)
    assert of(after, "test/a").placements == ()


def test_a_cpu_quota_takes_as_few_elsewhere_as_it_can() -> None:
    mine, other = node("mine"), node("other")
    jobs = [low("a", other, cpu=200), low("b", other, cpu=300, age=4000), low("c", other, cpu=200), high(500)]
    one = fleet([mine, other], jobs, sites=(Site("shop", "edge", quota_cpu=900),))
    assert victims(plan(one)) == ("test/b",)


def test_a_quota_of_the_namespace_takes_from_lower_tiers_of_the_same_namespace_alone() -> None:
    small, large = node("small", allocatable=Resources(1000, 8 * GI, 110)), node("large", site="far")
    stranger = low("stranger", small, cpu=100, age=1000, namespace="other")
    jobs = [stranger, low("a", small, cpu=100, namespace="shop"), high(3000)]
    one = fleet([small, large], jobs, namespaces=(Namespace("shop", max_replicas=1),))
    decided = plan(one)
    assert winner(decided).nomination == Nomination("far", "large", ("shop/a",), NOW + 120)
    assert spots(of(decided, "other/stranger")) == {"small": 1}
    assert [(g.site, g.node) for g in of(decided, "shop/a").gives_way] == [("shop", "small")]
    assert spots(winner(settled(one))) == {"large": 1}


def test_a_quota_is_held_by_what_is_protected_and_the_reason_says_so() -> None:
    mine, other = node("mine"), node("other")
    jobs = [low("a", other, placed=(placed(other, protected="a budget"),)), high(3800)]
    decided = plan(fleet([mine, other], jobs, sites=(Site("shop", "edge", quota_replicas=1),)))
    assert winner(decided).nomination is None
    assert winner(decided).message.endswith("but test/a is protected: a budget")


def test_in_an_elastic_site_a_quota_is_taken_and_room_is_not() -> None:
    member, pool = node("member", site="far"), pool_name("far")
    spot = Placed(pool, "far", 1, 1, (NOW - 3600,), ("member",), NOW - 3600)
    for limit, taken in ((1, True), (None, False)):
        site = Site("far", "edge", elastic=True, quota_replicas=limit)
        one = fleet([member], [low("a", cpu=3900, placed=(spot,)), high(500)], sites=(site,))
        decided = plan(one)
        assert (winner(decided).nomination is not None) is taken
        assert spots(winner(settled(one))) == {pool: 1}
        assert spots(of(settled(one), "test/a")) == ({} if taken else {pool: 1})


def test_the_replacement_of_what_serves_on_a_cordoned_node_is_taken_back_and_what_serves_stays() -> None:
    cordoned, full = node("cordoned", unschedulable=True), node("full")
    leaves = low("leaves", cordoned, placed=(placed(cordoned, protected="a budget"),))
    decided = plan(fleet([cordoned, full], [low("a", full, cpu=3000), leaves, high(4000)]))
    assert victims(decided) == ("test/a",)
    kept = of(decided, "test/leaves")
    assert (spots(kept), kept.missing, kept.gives_way) == ({"cordoned": 1}, 0, ())
    assert kept.message.startswith("1 replica stays where it should not be for want of another node; 0/2 nodes fit")


def test_what_only_this_plan_placed_is_taken_back_at_once_and_is_no_victim() -> None:
    """Served a tier higher for its wait, it came first; it may not keep that from one whose own tier this is."""
    lifted = job("lifted", priority=MIDDLE, request=need(800), waiting_since=NOW - 9999)
    mine = high(800, priority=Priority(4, 5, 1))
    spread = [job(f"f{i}", priority=Priority(5, 5, 1), replicas=0) for i in range(10)]
    decided = plan(fleet([EDGE], [lifted, mine, *spread]))
    assert winner(decided).priority_tier > of(decided, "test/lifted").priority_tier
    assert (spots(winner(decided)), winner(decided).missing, winner(decided).reason) == ({"edge-3": 1}, 0, "")
    assert [j.nomination for j in decided.jobs if j.nomination] == []
    back = of(decided, "test/lifted")
    assert (back.placements, back.missing, back.reason, back.gives_way) == ((), 1, "NoCapacity", ())


def test_what_was_taken_back_may_take_from_those_below_it_in_the_same_plan() -> None:
    other = node("other", site="far", allocatable=Resources(900, 8 * GI, 110))
    lifted = job("lifted", priority=MIDDLE, request=need(800), waiting_since=NOW - 9999)
    mine = high(1000, priority=Priority(4, 5, 1))
    spread = [job(f"f{i}", priority=Priority(5, 5, 1), replicas=0) for i in range(10)]
    decided = plan(fleet([EDGE, other], [low("a", other, cpu=800), lifted, mine, *spread]))
    assert spots(winner(decided)) == {"edge-3": 1}
    claim = of(decided, "test/lifted").nomination
    assert claim is not None
    assert (claim.node, claim.victims) == ("other", ("test/a",))


def unchanged(one: Fleet) -> bool:
    return plan(one) == plan(one)


def test_it_is_deterministic() -> None:
    assert unchanged(fleet([EDGE], [low("a"), low("b"), high()]))


def test_a_plan_makes_so_many_nominations_and_the_next_one_the_next() -> None:
    nodes = [node(f"n{i}", site=f"s{i}", allocatable=Resources(1000, 8 * GI, 110)) for i in range(25)]
    lows = [low(f"l{i}", spot, cpu=900) for i, spot in enumerate(nodes)]
    urgent = [replace(high(), name=f"h{i}", uid=f"h{i}") for i in range(25)]
    one = fleet(nodes, [*lows, *urgent])
    first = plan(one)
    assert sum(j.nomination is not None for j in first.jobs) == 20
    second = plan(applied(one, first, seconds=5))
    assert {j.key for j in second.jobs if j.missing and j.priority_tier == 5} == {
        j.key for j in second.jobs if j.nomination and j.reason == "WaitingForPreemption"
    }
    assert sum(j.reason == "WaitingForPreemption" for j in second.jobs) == 5
