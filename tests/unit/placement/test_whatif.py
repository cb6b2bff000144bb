"""What would happen, and the least that would place all that waits: by the planner itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from hypothesis import given, settings

from edgeward.fleet.model import Fleet, Job, Live, Priority, Resources, Sample
from edgeward.placement import plan
from edgeward.placement.change import Shape, with_job, with_nodes, without_node
from edgeward.placement.extra import Search, least
from edgeward.placement.settings import PlanSettings
from edgeward.placement.whatif import Comparison, Outcome, compare, run
from tests.unit.placement.strategies import GI, NOW, fleet, fleets, inconsistencies, job, node, placed

SETTINGS = PlanSettings()
decide = partial(plan, settings=SETTINGS)
LOW, HIGH = Priority(1, 1, 1), Priority(5, 5, 5)


def told(before: Fleet, after: Fleet) -> Comparison:
    return compare(run(before, decide, SETTINGS), run(after, decide, SETTINGS))


def rows(found: Comparison) -> dict[str, tuple[str, dict[str, int], dict[str, int], int]]:
    return {row.job: (row.outcome.value, dict(row.before), dict(row.after), row.missing) for row in found.rows}


def held(name: str, at: Sequence[object], **changes: object) -> Job:
    return job(name, placed=tuple(placed(item) for item in at), replicas=len(at), **changes)  # type: ignore[arg-type]


def test_nothing_changed_is_no_difference() -> None:
    a = node("a")
    found = told(fleet([a], [held("one", [a])]), fleet([a], [held("one", [a])]))
    assert (found.rows, found.waiting, found.unchanged, found.settled) == ((), (), 1, True)


@settings(max_examples=30, deadline=None)
@given(fleets())
def test_passes_leave_a_fleet_that_can_exist(one: Fleet) -> None:
    done = run(one, decide, SETTINGS)
    assert not [text for text in inconsistencies(done.fleet) if "runs more" not in text or not inconsistencies(one)]


def test_a_removed_nodes_replicas_are_placed_anew_at_once() -> None:
    a, b = node("a"), node("b")
    one = fleet([a, b], [held("one", [a]), held("two", [b])])
    assert rows(told(one, without_node(one, "a"))) == {"test/one": ("moved", {"a": 1}, {"b": 1}, 0)}


def test_what_finds_no_place_is_refused_with_the_planners_reason() -> None:
    a = node("a", allocatable=Resources(1000, GI, 10))
    one = fleet([a], [held("one", [a])])
    found = told(one, with_job(one, job("big", request=Resources(3000, GI, 1), priority=LOW)))
    (row,) = found.rows
    assert (row.outcome, row.missing, row.reason) == (Outcome.REFUSED, 1, "TooBigForAnyNode")
    assert "lacks" in row.why


def test_a_job_of_a_higher_tier_takes_the_place_of_a_lower_one() -> None:
    a = node("a", allocatable=Resources(1000, 4 * GI, 10))
    one = fleet([a], [held("low", [a], priority=LOW, request=Resources(800, GI, 1))])
    found = told(one, with_job(one, job("high", priority=HIGH, request=Resources(800, GI, 1))))
    assert rows(found) == {
        "test/low": ("preempted", {"a": 1}, {}, 1),
        "test/high": ("placed", {}, {"a": 1}, 0),
    }
    assert found.rows[0].by == ("test/high",)
    assert found.settled


def test_what_waits_in_both_is_told_apart() -> None:
    a = node("a")
    one = fleet([a], [held("one", [a]), job("big", request=Resources(90_000, GI, 1))])
    found = told(one, with_job(one, job("new")))
    assert [row.job for row in found.rows] == ["test/new"]
    assert [(row.job, row.missing) for row in found.waiting] == [("test/big", 1)]


def test_moves_that_need_several_evaluations_are_foretold() -> None:
    """A busy node and an idle one beside it: a single pass would only propose."""
    busy = node("busy", live=Live(cpu=Sample(3.8, NOW - 10), memory=Sample(GI, NOW - 10)))
    one = fleet([busy], [held("one", [busy])])
    idle = Shape("edge", Resources(4000, 8 * GI, 110), site="shop")
    found = told(one, with_nodes(one, idle, 1, name="idle"))
    assert rows(found) == {"test/one": ("moved", {"busy": 1}, {"idle": 1}, 0)}
    assert found.rows[0].why.startswith("mean score 0.")


def test_no_herd_in_the_passes_either() -> None:
    """Twenty jobs on a busy node, one idle node that has room for all: what moved there first counts as its load."""
    busy = node("busy", live=Live(cpu=Sample(3.9, NOW - 10), memory=Sample(GI, NOW - 10)))
    small = Resources(190, 64 << 20, 1)
    one = fleet([busy], [held(f"job-{number:02}", [busy], request=small) for number in range(20)])
    idle = Shape("edge", Resources(4000, 8 * GI, 110), site="shop")
    moved = [row for row in told(one, with_nodes(one, idle, 1, name="idle")).rows if row.outcome is Outcome.MOVED]
    assert 0 < len(moved) <= SETTINGS.moves_per_site


# The least extra capacity --------------------------------------------------------------------------------------------


def waiting(one: Fleet) -> Fleet:
    return run(one, decide, SETTINGS).fleet


def searched(one: Fleet, **options: object) -> Search:
    return least(waiting(one), decide, **options)  # type: ignore[arg-type]


def counts(search: Search) -> list[list[tuple[str, str, int]]]:
    return [[(item.shape.tier, item.shape.at, item.count) for item in way.additions] for way in search.ways]


def test_no_extra_capacity_when_nothing_waits() -> None:
    a = node("a")
    found = searched(fleet([a], [held("one", [a])]))
    assert (found.waiting, found.ways, found.left) == (0, [], 0)


def test_the_least_number_of_the_most_common_nodes_of_each_tier() -> None:
    """Five replicas of 3 cores; an edge node has 4 and takes one, a cloud node has 8 and takes two."""
    a = node("a", allocatable=Resources(4000, 32 * GI, 110), foreign=Resources(3500, 0, 1))
    c = node("c", tier="cloud", site="cloud", allocatable=Resources(8000, 32 * GI, 110), foreign=Resources(7500, 0, 1))
    found = searched(fleet([a, c], [job("five", replicas=5, request=Resources(3000, GI, 1))]))
    assert found.waiting == 5
    assert counts(found) == [[("cloud", "cloud", 3)], [("edge", "shop", 5)]]
    assert all(way.exact and way.replicas == 5 for way in found.ways)
    assert (found.left, found.ended) == (0, False)


def test_one_fewer_does_not_do() -> None:
    a = node("a", allocatable=Resources(4000, 32 * GI, 110), foreign=Resources(3500, 0, 1))
    one = waiting(fleet([a], [job("some", replicas=7, request=Resources(1500, GI, 1))]))
    (way,) = least(one, decide).ways
    (item,) = way.additions
    assert item.count == 4
    for count, missing in ((3, 1), (4, 0)):
        made = decide(with_nodes(one, item.shape, count))
        assert sum(job.missing for job in made.jobs) == missing


def test_beyond_a_few_nodes_it_is_an_upper_bound_and_says_so() -> None:
    a = node("a", allocatable=Resources(1000, 32 * GI, 110), foreign=Resources(900, 0, 1))
    found = searched(fleet([a], [job("many", replicas=40, request=Resources(900, GI, 1))]))
    assert counts(found) == [[("edge", "shop", 40)]]
    assert not found.ways[0].exact
    assert found.plans < 20


def test_kinds_are_combined_when_none_alone_will_do() -> None:
    full = Resources(3900, 0, 1)
    e = node("e", foreign=full)
    c = node("c", tier="cloud", site="cloud", foreign=full)
    edge, cloud = frozenset({"edge"}), frozenset({"cloud"})
    jobs = [job("e1", replicas=2, request=Resources(3000, GI, 1), tiers=edge), job("c1", tiers=cloud)]
    found = searched(fleet([e, c], jobs))
    assert counts(found) == [[("edge", "shop", 2), ("cloud", "cloud", 1)]]
    assert (found.ways[0].exact, found.ways[0].replicas, found.left) == (False, 3, 0)


def test_what_no_number_of_nodes_places() -> None:
    a = node("a")
    found = searched(fleet([a], [job("huge", replicas=2, request=Resources(90_000, GI, 1))]))
    assert (found.waiting, found.ways, found.left) == (2, [], 2)
    found = searched(
        fleet([a], [job("huge", replicas=2, request=Resources(90_000, GI, 1))]),
        shapes=(Shape("edge", Resources(100_000, 32 * GI, 110), "shop"),),
    )
    assert counts(found) == [[("edge", "shop", 2)]]


def test_what_waits_for_no_room_is_not_counted() -> None:
    found = searched(fleet([node("a")], [job("modelless", model_digest="")]))
    assert found.waiting == 0


def test_nodes_come_where_the_waiting_job_may_run() -> None:
    sites = [node(f"n{number}", site=f"shop-{number}", foreign=Resources(3900, 0, 1)) for number in range(4)]
    bound = fleet(sites, [])
    bound = replace(
        bound, sites=tuple(replace(site, labels={"zone": "b"} if site.name == "shop-3" else {}) for site in bound.sites)
    )
    from edgeward.api.common import LabelSelector

    one = job("picky", site_selector=LabelSelector(match_labels={"zone": "b"}))
    assert counts(searched(replace(bound, jobs=(one,)))) == [[("edge", "shop-3", 1)]]


def test_the_search_is_bounded() -> None:
    a = node("a", allocatable=Resources(1000, 32 * GI, 110), foreign=Resources(900, 0, 1))
    found = searched(fleet([a], [job("many", replicas=40, request=Resources(900, GI, 1))]), most_plans=5)
    assert (found.plans, found.ended) == (5, True)
