"""What happens to replicas that are there already."""

from dataclasses import replace

import pytest

from edgeward.fleet.model import Exclusion, Job, Node, Placed, Problem, Resources, Site, Taint
from edgeward.placement import JobPlan, plan
from tests.unit.placement.strategies import GI, NOW, applied, fleet, job, node, placed

A, B, C = (node(name, site=f"site-{name}") for name in "abc")


def decide(nodes: list[Node], one: Job, **changes: object) -> JobPlan:
    decided = plan(fleet(nodes, [one], **changes)).job(one.key)
    assert decided is not None
    return decided


def spots(decided: JobPlan) -> dict[str, int]:
    return {p.node: p.replicas for p in decided.placements if not p.lost}


def test_a_replica_stays_on_a_worse_node_and_keeps_its_since() -> None:
    busy = replace(A, foreign=Resources(3000, 0, 1))
    decided = decide([busy, B], job(placed=(placed(A),)))
    assert [(p.node, p.since) for p in decided.placements] == [("a", NOW - 3600)]
    assert (decided.missing, decided.reason) == (0, "")


@pytest.mark.parametrize(
    "change",
    [
        {"taints": (Taint("node.kubernetes.io/memory-pressure", "", "NoSchedule"),)},
        {"taints": (Taint("maintenance", "", "PreferNoSchedule"),)},
        {"ready": False, "not_ready_since": NOW - 30},
        {"ready": False, "not_ready_since": NOW - 30, "unschedulable": True},
        {"allocatable": Resources(100, GI, 110)},
    ],
    ids=[
        "under pressure",
        "PreferNoSchedule",
        "not ready",
        "cordoned while nothing can leave it",
        "shrunk below its own request",
    ],
)
def test_what_only_keeps_new_ones_out_moves_nothing(change: dict[str, object]) -> None:
    decided = decide([replace(A, **change), B], job(placed=(placed(A),)))  # type: ignore[arg-type]
    assert spots(decided) == {"a": 1}


@pytest.mark.parametrize("state", [{"unschedulable": True}, {"frozen": True}, {"connected": False}])
def test_site_states_move_nothing(state: dict[str, bool]) -> None:
    sites = (replace(Site("site-a", "edge"), **state), Site("site-b", "edge"))  # type: ignore[arg-type]
    assert spots(decide([A, B], job(placed=(placed(A),)), sites=sites)) == {"a": 1}


@pytest.mark.parametrize(
    ("spot", "changes"),
    [
        (A, {"node_selector": {"disk": "ssd"}}),
        (replace(A, tier="cloud"), {"tiers": frozenset({"edge"})}),
        (replace(A, arch="arm64"), {"architectures": frozenset({"amd64"})}),
        (replace(A, taints=(Taint("gone", "", "NoExecute"),)), {}),
        (replace(A, unschedulable=True), {}),
        (replace(A, taints=(Taint("maintenance", "", "NoSchedule"),)), {}),
    ],
    ids=["node selector", "tier", "architecture", "NoExecute", "cordoned", "NoSchedule"],
)
def test_a_spec_that_no_longer_allows_the_node_places_anew(spot: Node, changes: dict[str, object]) -> None:
    other = replace(B, labels={"disk": "ssd"})
    one = job(placed=(placed(A),), **changes)
    decided = decide([spot, other], one)
    assert spots(decided) == {"b": 1}
    assert decided.placements[0].since == NOW
    assert (decided.missing, decided.reason) == (0, "")

    alone = decide([spot], one)
    assert spots(alone) == {"a": 1}, "with no other place it stays"
    assert alone.missing == 0
    assert alone.reason in (
        "NodeSelectorMismatch",
        "TierMismatch",
        "ArchMismatch",
        "UntoleratedTaint",
        "NodeUnschedulable",
    )
    assert alone.message.startswith(
        "1 replica stays where it should not be for want of another node; 0/1 nodes fit: 1 "
    )
    assert any("stays there until another node fits" in note for note in alone.explanation.notes)


def test_a_frozen_site_keeps_even_what_is_not_allowed_or_not_wanted() -> None:
    sites = (Site("site-a", "edge", frozen=True), Site("site-b", "edge"))
    one = job(placed=(placed(A, 2),), node_selector={"disk": "ssd"}, replicas=1)
    decided = decide([A, replace(B, labels={"disk": "ssd"})], one, sites=sites)
    assert spots(decided) == {"a": 2}
    assert "1 replicas more than wanted stay at frozen sites" in decided.explanation.notes


def test_a_problem_keeps_everything_and_counts_what_is_missing() -> None:
    problem = Problem("FeatureNotYetAvailable", "spec.data.residency is not available yet", "spec.data.residency")
    one = job(placed=(placed(A),), replicas=3, problem=problem, node_selector={"disk": "ssd"})
    decided = decide([A, B], one)
    assert spots(decided) == {"a": 1}
    assert (decided.missing, decided.reason, decided.message) == (2, problem.reason, problem.message)


def test_without_a_model_what_runs_stays_and_nothing_new_comes() -> None:
    decided = decide([A, B], job(placed=(placed(A),), replicas=2, model_digest="", model_name="reader"))
    assert spots(decided) == {"a": 1}
    assert (decided.missing, decided.reason) == (1, "NoRunnableModel")
    assert decided.message == "1 of 2 replicas have a node; model reader has no version to run yet"


def test_without_a_model_an_idle_complete_job_has_nothing_to_say() -> None:
    decided = decide([A], job(placed=(placed(A),), model_digest=""))
    assert (decided.missing, decided.reason, decided.message) == (0, "", "")


def test_raising_replicas_adds_and_keeps() -> None:
    decided = decide([A, B, C], job(placed=(placed(A),), replicas=3))
    assert spots(decided) == {"a": 1, "b": 1, "c": 1}


def test_lowering_drops_the_ailing_then_the_starting_then_the_worst() -> None:
    hot = replace(C, live=replace(C.live, cpu=replace(C.live.cpu, value=3.9)))  # type: ignore[type-var]
    sick = node("d", ready=False, not_ready_since=NOW - 20)
    one = job(
        placed=(
            placed(A),
            placed(B, ready=0, since=NOW - 7000),
            placed(hot, since=NOW - 9000),
            placed(sick, lost_since=NOW - 20),
        ),
    )
    kept = [set(spots(decide([A, B, hot, sick], replace(one, replicas=n)))) for n in (4, 3, 2, 1, 0)]
    assert kept == [{"a", "b", "c", "d"}, {"a", "b", "c"}, {"a", "c"}, {"a"}, set()]


def test_among_equals_the_newer_goes() -> None:
    one = job(placed=(placed(A, since=NOW - 100), placed(B, since=NOW - 5000)))
    assert spots(decide([A, B], one)) == {"b": 1}


def test_a_node_that_is_away_for_less_than_lost_after_changes_nothing() -> None:
    away = replace(A, ready=False, not_ready_since=NOW - 299)
    decided = decide([away, B], job(placed=(placed(A, ready=0, lost_since=NOW - 299),)))
    assert spots(decided) == {"a": 1}
    assert decided.missing == 0


def test_after_lost_after_it_is_replaced_and_stays_listed() -> None:
    away = replace(A, ready=False, not_ready_since=NOW - 300)
    decided = decide([away, B], job(placed=(placed(A, ready=0, lost_since=NOW - 300),)))
    assert [(p.node, p.replicas, p.lost) for p in decided.placements] == [("a", 1, True), ("b", 1, False)]
    assert decided.missing == 0


def test_a_lost_replica_without_a_replacement_is_missing() -> None:
    away = replace(A, ready=False, not_ready_since=NOW - 300)
    decided = decide([away], job(placed=(placed(A, ready=0, lost_since=NOW - 300),)))
    assert [(p.node, p.lost) for p in decided.placements] == [("a", True)]
    assert (decided.missing, decided.reason) == (1, "NodeNotReady")


def test_when_the_lost_one_is_back_the_older_ready_one_stays() -> None:
    one = job(placed=(placed(A, since=NOW - 9000), placed(B, since=NOW - 400)))
    assert spots(decide([A, B], one)) == {"a": 1}


def test_when_the_lost_one_is_back_but_not_ready_its_replacement_stays() -> None:
    one = job(placed=(placed(A, ready=0, since=NOW - 9000), placed(B, since=NOW - 400)))
    assert spots(decide([A, B], one)) == {"b": 1}


@pytest.mark.parametrize(("away", "listed"), [(599.0, True), (600.0, False)])
def test_a_node_that_is_gone_for_ten_minutes_loses_what_it_held(away: float, listed: bool) -> None:
    one = job(placed=(placed(A, ready=0, started=(), lost_since=NOW - away),), lost_after=1e9)
    decided = decide([B], one)
    assert spots(decided) == ({"a": 1} if listed else {"b": 1})


def test_what_the_scheduler_refused_is_placed_elsewhere_and_its_ready_twin_stays() -> None:
    refusal = Exclusion("a", "Unschedulable", "0/3 nodes are available", 1, NOW + 60)
    one = job(placed=(placed(A, 2, ready=1),), replicas=2, exclusions=(refusal,))
    decided = decide([A, B], one)
    assert spots(decided) == {"a": 1, "b": 1}
    assert decided.exclusions == (refusal,)

    alone = decide([A], one)
    assert spots(alone) == {"a": 2}, "with no other place it waits where it is"
    assert alone.reason == "NoCapacity"
    assert (
        "Excluded (nearest: a refused it (Unschedulable: 0/3 nodes are available), tried again at 1970-01-12T13:47:40Z)"
        in (alone.message)
    )


def test_refusals_by_every_node_end_without_a_loop() -> None:
    refusals = tuple(Exclusion(n.name, "Unschedulable", "", 1, NOW + 60) for n in (A, B))
    one = fleet([A, B], [job(placed=(placed(A, ready=0),), exclusions=refusals)])
    first = plan(one)
    assert plan(applied(one, first)).jobs[0].placements == first.jobs[0].placements


def test_a_node_that_is_held_only_until_its_successor_is_ready_is_no_incumbent() -> None:
    """The publisher keeps the old replica while the new one starts; the Fleet shows it with 0 assigned. Its room is
    taken, but it must not count, or the new one would be surplus and the move would never end."""
    leaving = Placed("a", "site-a", 0, ready=1, started=(NOW - 3600,), since=NOW - 3600)
    starting = placed(B, ready=0, started=(), since=NOW - 5)
    one = job(placed=(leaving, starting), request=Resources(2500, GI, 1))
    assert spots(decide([A, B], one)) == {"b": 1}
    other = job("other", request=Resources(2500, GI, 1))
    squeezed = plan(fleet([A, B], [one, other])).job("test/other")
    assert squeezed is not None
    assert squeezed.message == "0/2 nodes fit: 2 InsufficientCpu (nearest: a lacks 1 cpu)"


def test_a_leaving_replica_may_come_back_into_its_own_room() -> None:
    leaving = Placed("a", "site-a", 0, ready=1, started=(NOW - 3600,), since=NOW - 3600)
    one = job(placed=(leaving,), request=Resources(2500, GI, 1))
    assert spots(decide([A], one)) == {"a": 1}


def test_what_was_dropped_leaves_no_empty_placement_beside_a_frozen_one() -> None:
    sites = (Site("site-a", "edge", frozen=True), Site("site-b", "edge"))
    decided = decide([A, B], job(placed=(placed(A), placed(B)), replicas=0), sites=sites)
    assert spots(decided) == {"a": 1}


def test_a_node_that_is_there_is_not_lost_whatever_the_last_report_said() -> None:
    """Else its own replacement could be placed beside it."""
    decided = decide([A, B], job(placed=(placed(A, lost_since=NOW - 9000),)))
    assert [(p.node, p.replicas, p.lost) for p in decided.placements] == [("a", 1, False)]


def test_a_slightly_better_score_does_not_beat_the_older_right() -> None:
    """What came back is a little busier than where its replacement went; less than a move's gain decides nothing."""
    busier = replace(A, live=replace(A.live, cpu=replace(B.live.cpu, value=0.9)))  # type: ignore[type-var]
    one = job(placed=(placed(busier, since=NOW - 9000), placed(B, since=NOW - 400)))
    assert spots(decide([busier, B], one)) == {"a": 1}


def test_when_none_is_wanted_a_lost_one_goes_too() -> None:
    away = replace(A, ready=False, not_ready_since=NOW - 400)
    decided = decide([away, B], job(placed=(placed(A, ready=0, lost_since=NOW - 400),), replicas=0))
    assert (decided.placements, decided.missing) == ((), 0)


def test_of_two_that_are_starting_the_newer_goes() -> None:
    one = job(placed=(placed(A, ready=0, since=NOW - 9000), placed(B, ready=0, since=NOW - 400)))
    assert spots(decide([A, B], one)) == {"a": 1}


def at(site: str, count: int) -> list[Node]:
    return [node(f"{site}{i}", site=site) for i in range(count)]


def test_fewer_replicas_still_stand_at_as_many_sites_as_min_sites_asks_for() -> None:
    """The newest stands alone at its site: one of the two that share a site goes instead."""
    a0, a1, b0 = *at("a", 2), *at("b", 1)
    had = (placed(a0, since=NOW - 7200), placed(a1, since=NOW - 7100), placed(b0))
    assert spots(decide([a0, a1, b0], job(replicas=2, min_sites=2, placed=had))) == {"a0": 1, "b0": 1}
    assert spots(decide([a0, a1, b0], job(replicas=1, min_sites=2, placed=had))) == {"a0": 1}
    assert spots(decide([a0, a1, b0], job(replicas=2, placed=had))) == {"a0": 1, "a1": 1}


def test_hundreds_too_many_leave_the_last_of_each_site_that_min_sites_needs() -> None:
    nodes = [*at("a", 1), *at("b", 1), *at("c", 1)]
    tiny = Resources(1, 1, 1)
    had = (placed(nodes[0], 60), placed(nodes[1], 60), placed(nodes[2], 1))
    one = job(replicas=3, min_sites=3, request=tiny, placed=had)
    assert spots(decide([replace(n, allocatable=Resources(4000, 8 * GI, 200)) for n in nodes], one)) == {
        "a0": 1,
        "b0": 1,
        "c0": 1,
    }


def test_what_stands_at_too_few_sites_is_mended_once_another_site_has_room() -> None:
    a0, a1, b0 = *at("a", 2), *at("b", 1)
    one = job(replicas=2, min_sites=2, placed=(placed(a0), placed(a1)))
    full = replace(b0, foreign=Resources(4000, 0, 1))
    assert spots(decide([a0, a1, full], one)) == {"a0": 1, "a1": 1}
    seen = fleet([a0, a1, b0], [one])
    for _ in range(4):
        decided = plan(seen).jobs[0]
        assert (sorted(p.site for p in decided.placements), decided.missing) == (["a", "b"], 0)
        seen = applied(seen, plan(seen), seconds=60)
    assert seen.jobs[0].moves.count == 0


def test_it_is_mended_one_at_a_time_and_never_while_something_changes() -> None:
    a0, b0, c0 = *at("a", 1), *at("b", 1), *at("c", 1)
    one = job(replicas=3, min_sites=3, placed=(placed(a0, 3),))
    decided = decide([a0, b0, c0], one)
    assert sorted(spots(decided).values()) == [1, 2]
    assert "as spread.minSites asks for another site" in " ".join(decided.explanation.notes)
    starting = replace(one, placed=(placed(a0, 2), placed(b0, ready=0)))
    assert spots(decide([a0, b0, c0], starting)) == {"a0": 2, "b0": 1}
    leaving = replace(one, placed=(placed(a0, 2), placed(b0), placed(node("x", site="a"), 0, started=(NOW - 90,))))
    assert spots(decide([a0, b0, c0], leaving)) == {"a0": 2, "b0": 1}


@pytest.mark.parametrize("state", [{"frozen": True}, {"connected": False}])
def test_a_spread_is_not_mended_out_of_a_site_where_nothing_can_be_told_to_go(state: dict[str, bool]) -> None:
    a0, b0 = *at("a", 1), *at("b", 1)
    sites = (replace(Site("a", "edge"), **state), Site("b", "edge"))  # type: ignore[arg-type]
    assert spots(decide([a0, b0], job(replicas=2, min_sites=2, placed=(placed(a0, 2),)), sites=sites)) == {"a0": 2}


def test_a_node_that_is_not_seen_at_a_site_that_is_cut_off_is_unknown_and_not_gone() -> None:
    """With disconnect.replace false it goes on counting, however long; once the site is back without it, it is gone."""
    was = Placed("x", "site-a", 1, 1, (NOW - 3600,), since=NOW - 3600, lost_since=NOW - 7000)
    one = job(replace_lost=False, placed=(was,))
    cut = (Site("site-a", "edge", connected=False), Site("site-b", "edge"))
    assert spots(decide([B], one, sites=cut)) == {"x": 1}
    back = (Site("site-a", "edge"), Site("site-b", "edge"))
    assert spots(decide([B], one, sites=back)) == {"b": 1}
