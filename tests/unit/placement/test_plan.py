"""The whole plan: order, independence of jobs, odd input."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from edgeward.api.common import LabelSelector
from edgeward.fleet.model import Fleet, Job, Live, Namespace, Nomination, Priority, Resources, Sample, Site
from edgeward.placement import Weights, plan, preemption
from edgeward.placement.decide import Decision
from edgeward.placement.order import Turn, ordinal, turns
from edgeward.placement.settings import PlanSettings
from tests.unit.placement.strategies import DIGESTS, GI, MI, NOW, fleet, job, node, placed


def order_of(jobs: Sequence[Job], **known: Any) -> tuple[Turn, ...]:
    return turns(Fleet(now=NOW, jobs=tuple(jobs), **known), PlanSettings())


def test_the_order_of_the_worked_answer() -> None:
    marks = [(3, 5, 4), (2, 3, 5), (5, 2, 3), (4, 4, 2), (1, 1, 1)]
    jobs = [job(f"t{i}", priority=Priority(*m)) for i, m in enumerate(marks, start=1)]
    assert [turn.job.name for turn in order_of(jobs)] == ["t1", "t4", "t2", "t3", "t5"]
    first = order_of(jobs)[0]
    assert (first.p, first.tier) == (Fraction(4, 5), 4)
    assert first.note == "priority tier 4, P 0.8000, 1st of 5"


def test_ties_in_order() -> None:
    """Shortfall when measured, then the product (equal here), then age, then uid."""
    jobs = [
        job("late", created_at=5.0),
        job("uid-2", created_at=1.0, uid="b"),
        job("uid-1", created_at=1.0, uid="a"),
        job("short", created_at=9.0, satisfaction_shortfall=0.2),
        job("shorter", created_at=9.0, satisfaction_shortfall=0.4),
    ]
    assert [turn.job.name for turn in order_of(jobs)] == ["shorter", "short", "uid-1", "uid-2", "late"]


def test_a_higher_tier_goes_before_a_larger_p() -> None:
    """P may rank a job of a lower tier higher (here B's column is small); the tier decides first."""
    jobs = [job("low", priority=Priority(1, 5, 1)), *(job(f"h{i}", priority=Priority(5, 1, 5)) for i in range(9))]
    ranked = order_of(jobs)
    assert ranked[-1].job.name == "low"
    assert ranked[-1].p > ranked[0].p


def test_who_waits_ten_minutes_is_served_one_tier_higher_and_keeps_his_own() -> None:
    """(2,2,2) is tier 2, (3,3,3) tier 3. One second short of ten minutes lifts nobody."""
    waits = job("waits", priority=Priority(2, 2, 2), waiting_since=NOW - 600)
    nearly = job("nearly", priority=Priority(2, 2, 2), waiting_since=NOW - 599)
    other = job("other", priority=Priority(3, 3, 3))
    first, second, third = order_of([nearly, other, waits])
    assert [turn.job.name for turn in (first, second, third)] == ["other", "waits", "nearly"]
    assert [(turn.tier, turn.own_tier) for turn in (first, second, third)] == [(3, 3), (3, 2), (2, 2)]
    assert second.note.startswith("priority tier 2 (served in 3, as it waits so long), P ")


def test_in_the_tier_that_he_is_lifted_to_p_decides() -> None:
    """Tiers 3 and 4. A is rare: 5/14 + 1/46 + 1/37 = .406 beside 1/14 + 5/46 + 4/37 = .288."""
    others = [job(f"o{i}", priority=Priority(1, 5, 4)) for i in range(9)]
    waits = job("waits", priority=Priority(5, 1, 1))
    assert order_of([*others, waits])[-1].job.name == "waits"
    first = order_of([*others, replace(waits, waiting_since=NOW - 3600)])[0]
    assert (first.job.name, first.tier, first.own_tier) == ("waits", 4, 3)


def test_no_wait_lifts_a_job_over_its_namespaces_limit_or_over_the_highest_tier() -> None:
    waits = job("waits", priority=Priority(2, 2, 2), waiting_since=NOW - 6000)
    assert [turn.tier for turn in order_of([waits], namespaces=(Namespace("test", max_priority_tier=2),))] == [2]
    assert [turn.tier for turn in order_of([waits], namespaces=(Namespace("test", max_priority_tier=3),))] == [3]
    assert [turn.tier for turn in order_of([waits], max_priority_tier=2)] == [2]
    assert [turn.tier for turn in order_of([waits], namespaces=(Namespace("other", max_priority_tier=1),))] == [3]
    top = job("top", priority=Priority(5, 5, 5), waiting_since=NOW - 6000)
    assert [turn.tier for turn in order_of([top])] == [5]
    over = job("over", priority=Priority(5, 5, 5), waiting_since=NOW - 6000)
    assert [(turn.tier, turn.own_tier) for turn in order_of([over], max_priority_tier=3)] == [(5, 5)]


def test_ordinals() -> None:
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 102, 111)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th"
    ]  # fmt: skip


def test_the_last_place_goes_to_the_higher_tier_whatever_the_names_and_ages() -> None:
    spot = node(allocatable=Resources(600, GI, 110))
    low = job("a-first", priority=Priority(1, 1, 1), created_at=1.0)
    high = job("z-last", priority=Priority(5, 5, 5), created_at=900.0)
    decided = plan(fleet([spot], [low, high]))
    winner, loser = decided.job("test/z-last"), decided.job("test/a-first")
    assert winner is not None and loser is not None
    assert (winner.missing, loser.missing, loser.reason) == (0, 1, "NoCapacity")
    assert [j.key for j in decided.jobs] == ["test/z-last", "test/a-first"]


def test_nothing_at_all() -> None:
    empty = plan(Fleet(now=NOW))
    assert (empty.jobs, empty.job("test/none")) == ((), None)
    assert plan(fleet([node()], [])).jobs == ()


def test_ten_thousand_replicas_fill_the_fleet_and_the_rest_is_missing() -> None:
    nodes = [node(f"n{i}", site=f"s{i % 7}") for i in range(40)]
    decided = plan(fleet(nodes, [job(replicas=10_000, request=Resources(10, MI, 1))])).jobs[0]
    assert sum(p.replicas for p in decided.placements) == 40 * 110
    assert decided.missing == 10_000 - 40 * 110
    assert decided.reason == "NoCapacity"
    assert decided.message.startswith("4400 of 10000 replicas have a node; 0/40 nodes fit: 40 InsufficientPods")


def test_lowering_ten_thousand_replicas() -> None:
    nodes = [node(f"n{i}", site=f"s{i % 7}") for i in range(100)]
    held = tuple(placed(n, 100) for n in nodes)
    decided = plan(fleet(nodes, [job(replicas=3, request=Resources(10, MI, 1), placed=held)])).jobs[0]
    assert sum(p.replicas for p in decided.placements) == 3


def test_absurd_numbers_and_odd_names() -> None:
    jobs = [
        job("negative", replicas=-5),
        job("nothing", request=Resources(0, 0, 0)),
        job("minus", request=Resources(-100, -100, -1)),
        job("huge", request=Resources(10**18, 10**30, 1)),
        job("ünï/☃ \n%s{}", node_selector={"": "", "%s": "{}"}),
        job("n" * 253, tiers=frozenset(), architectures=frozenset()),
        job("endless", service_seconds=float("inf")),
        job("instant", service_seconds=0.0),
        job("not a number", service_seconds=float("nan"), satisfaction_shortfall=0.0),
        job("zero marks", priority=Priority(0, 0, 0)),
    ]
    nodes = [
        node("", site="", tier=""),
        node("{}%s☃", allocatable=Resources(0, 0, 0)),
        node("broken", allocatable=Resources(-1, -1, -1), speed=0.0),
        node("ok", speed=float("nan")),
    ]
    decided = plan(fleet(nodes, jobs))
    assert len(decided.jobs) == len(jobs)
    assert {j.reason for j in decided.jobs} <= {
        "", "TooBigForAnyNode", "NodeSelectorMismatch", "TierMismatch", "NoCapacity"
    }  # fmt: skip
    nothing = decided.job("test/nothing")
    assert nothing is not None and nothing.missing == 0
    for one in decided.jobs:
        assert all(0.0 <= p.score <= 1.0 for p in one.placements), one


def test_one_job_that_breaks_the_planner_does_not_stop_the_others() -> None:
    class Broken(dict[str, str]):
        def items(self) -> object:  # type: ignore[override]
            raise ValueError("a selector that cannot be read")

    good, bad = job("good"), job("bad", node_selector=Broken(a="b"), placed=(placed(node()),), replicas=2)
    decided = plan(fleet([node()], [bad, good]))
    kept, fine = decided.job("test/bad"), decided.job("test/good")
    assert kept is not None and fine is not None
    assert fine.missing == 0
    assert [(p.node, p.replicas) for p in kept.placements] == [("n", 1)]
    assert (kept.reason, kept.missing) == ("PendingEvaluation", 1)
    assert kept.message == "planning this job failed: ValueError: a selector that cannot be read"


class Unreadable:
    """Raises at whatever is asked of it."""

    def __getattr__(self, name: str) -> object:
        raise ValueError(f"no {name} can be read")


def test_a_job_that_breaks_the_planner_keeps_its_claim_its_way_here_and_its_lost_ones() -> None:
    claim = Nomination("shop", "n", ("test/low",), NOW + 60)
    away = node("away", ready=False)
    spots = (placed(node(), moved_from="far"), placed(away, ready=0, lost_since=NOW - 9000))
    bad = job("bad", site_selector=Unreadable(), placed=spots, replicas=2, nomination=claim)
    kept = plan(fleet([node(), away], [bad])).job("test/bad")
    assert kept is not None and kept.reason == "PendingEvaluation"
    assert kept.nomination == claim
    assert [(p.node, p.lost, p.moved_from, p.tier) for p in kept.placements] == [
        ("n", False, "far", "edge"),
        ("away", True, "", "edge"),
    ]
    assert (kept.wanted, kept.missing) == (2, 1), "what is lost serves nobody"


def test_a_job_that_breaks_at_its_move_stops_nobody_else() -> None:
    good, bad = job("good"), job("bad", explained=True, proposed=Unreadable(), placed=(placed(node()),))
    far = node("far", site="far", live=Live(cpu=Sample(0.0, NOW - 10), memory=Sample(1.0 * GI, NOW - 10)))
    hot = node(live=Live(cpu=Sample(3.9, NOW - 10), memory=Sample(1.0 * GI, NOW - 10)))
    decided = plan(fleet([hot, far], [good, bad]))
    kept, fine = decided.job("test/bad"), decided.job("test/good")
    assert kept is not None and fine is not None
    assert (fine.missing, kept.reason) == (0, "PendingEvaluation")
    assert [(p.node, p.replicas) for p in kept.placements] == [("n", 1)]


def test_a_victim_that_breaks_when_it_is_placed_anew_stops_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(decision: Decision, *_: object, **__: object) -> int:
        raise ValueError(f"{decision.turn.job.key} is odd")

    monkeypatch.setattr(preemption, "place_elsewhere", odd)
    low = job("low", priority=Priority(1, 1, 1), request=Resources(3800, GI, 1), placed=(placed(node()),))
    high = job("high", priority=Priority(5, 5, 5), request=Resources(3800, GI, 1))
    decided = plan(fleet([node()], [low, high]))
    loser, winner = decided.job("test/low"), decided.job("test/high")
    assert loser is not None and winner is not None
    assert [(p.node, p.replicas) for p in loser.placements] == [("n", 1)]
    assert loser.message == "planning this job failed: ValueError: test/low is odd"
    assert winner.nomination is not None


def test_a_node_at_a_site_that_the_fleet_does_not_list() -> None:
    decided = plan(fleet([node()], [job()], sites=())).jobs[0]
    assert [p.site for p in decided.placements] == ["shop"]


def test_the_model_in_the_store_decides_between_equals() -> None:
    nodes = [node("a", site="a"), node("b", site="b", models=frozenset(DIGESTS[:1]))]
    assert plan(fleet(nodes, [job()])).jobs[0].placements[0].node == "b"


def test_a_faster_node_wins_and_a_far_one_loses() -> None:
    slow, fast = node("a", site="a"), node("b", site="b", speed=2.0)
    assert plan(fleet([slow, fast], [job(service_seconds=0.1)])).jobs[0].placements[0].node == "b"
    near, far = Site("z", "edge", bandwidth=1e6, rtt=0.01), Site("a", "edge", bandwidth=1e6, rtt=0.2)
    one = job(
        service_seconds=0.1,
        request_bytes=100_000,
        source_selector=LabelSelector(match_labels={"edgeward.dev/site": "z"}),
    )
    decided = plan(fleet([node("a", site="a"), node("z", site="z")], [one], sites=(near, far))).jobs[0]
    assert decided.placements[0].node == "z"
    completion = next(t for t in decided.explanation.runners_up[0].terms if t.name == "completion")
    assert completion.value < 0.1, "0.2 + 0.01 s of rtt and 0.8 s of sending against 0.1 s of work"
    assert completion.confidence == 1.0


def test_unknown_links_cost_confidence_and_reject_nothing() -> None:
    one = job(
        service_seconds=0.1, request_bytes=1000, source_selector=LabelSelector(match_labels={"edgeward.dev/site": "s"})
    )
    decided = plan(fleet([node()], [one], sites=(Site("shop", "edge"), Site("s", "edge")))).jobs[0]
    assert decided.missing == 0
    assert next(t for t in decided.explanation.terms if t.name == "completion").confidence == 0.0


def test_replicas_spread_over_sites_first() -> None:
    nodes = [node(f"{site}{i}", site=site) for site in "ab" for i in range(2)]
    decided = plan(fleet(nodes, [job(replicas=2)])).jobs[0]
    assert len({p.site for p in decided.placements}) == 2


def test_weights_can_be_set_and_are_normalised() -> None:
    """Headroom alone prefers the node with more free by requests, load alone the one that is idle by metrics."""
    free = node("free", site="a", live=Live(cpu=Sample(3.9, NOW)))
    idle = node("idle", site="b", foreign=Resources(3000, 0, 1), live=Live(cpu=Sample(0.0, NOW)))
    zero = dict.fromkeys(("headroom", "load", "completion", "model", "spread", "stay"), 0.0)
    for name, winner in (("headroom", "free"), ("load", "idle")):
        settings = PlanSettings(weights=Weights(**{**zero, name: 7.0}))
        decided = plan(fleet([free, idle], [job()]), settings).jobs[0]
        assert decided.placements[0].node == winner
        assert sum(t.weight for t in decided.explanation.terms) == 1.0
    nothing = plan(fleet([free, idle], [job()]), PlanSettings(weights=Weights(**zero))).jobs[0]
    assert (nothing.missing, nothing.placements[0].score) == (0, 0.0)


def test_the_plan_is_the_same_in_any_order_of_input() -> None:
    nodes = [node(f"n{i}", site=f"s{i % 2}", speed=1 + i % 3) for i in range(6)]
    jobs = [job(f"j{i}", replicas=2, priority=Priority(1 + i % 5, 3, 3)) for i in range(6)]
    one = fleet(nodes, jobs)
    other = replace(one, nodes=one.nodes[::-1], jobs=one.jobs[::-1], sites=one.sites[::-1])
    assert plan(one) == plan(other)


def test_a_decision_does_not_change_with_the_weather() -> None:
    """What a status follows is the same when only samples and the hour changed."""
    n = node()
    one = fleet([n], [job(placed=(placed(n),))])
    later = replace(one, now=NOW + 15, nodes=(replace(n, live=Live(cpu=Sample(1.7, NOW + 10))),))
    before, after = plan(one).jobs[0], plan(later).jobs[0]
    assert before != after
    assert before.decision == after.decision


def test_a_large_fleet() -> None:
    nodes = [
        node(f"n{i}", site=f"s{i % 50}", tier="edge" if i % 10 < 7 else "cloud",
             allocatable=Resources(2000 + 1000 * (i % 5), 8 * GI, 110), live=Live(cpu=Sample((i % 17) / 10, NOW - 9)))
        for i in range(250)
    ]  # fmt: skip
    jobs = [
        job(f"j{i}", replicas=1 + i % 9, priority=Priority(1 + i % 5, 1 + i % 4, 1 + i % 3),
            request=Resources(100 + 200 * (i % 7), 128 * MI, 1))
        for i in range(100)
    ]  # fmt: skip
    decided = plan(fleet(nodes, jobs))
    assert sum(sum(p.replicas for p in j.placements) + j.missing for j in decided.jobs) == sum(j.replicas for j in jobs)
    assert sum(j.missing for j in decided.jobs) == 0


def test_ties_fall_to_the_kind_of_node_and_not_to_its_name() -> None:
    """Two nodes that score alike but are not alike (one has a label that another job may need): swapping their names
    must not swap which kind is used."""
    chosen = []
    for plain, special in (("a", "b"), ("b", "a")):
        nodes = [node(plain), node(special, labels={"camera": "yes"})]
        (spot,) = plan(fleet(nodes, [job()])).jobs[0].placements
        chosen.append("plain" if spot.node == plain else "special")
    assert chosen[0] == chosen[1]


def test_a_job_that_comes_later_in_the_order_changes_no_score_that_was_given() -> None:
    high, low = job("high", priority=Priority(5, 5, 5)), job("low", priority=Priority(1, 1, 1))
    alone, beside = plan(fleet([node()], [high])), plan(fleet([node()], [high, low]))
    assert alone.jobs[0].placements == beside.jobs[0].placements
