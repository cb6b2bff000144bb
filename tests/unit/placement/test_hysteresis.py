"""Moves: only for a gain that holds, seldom, and never on stale data."""

from collections import Counter
from dataclasses import replace

import pytest

from edgeward.fleet.model import Fleet, Job, Live, Moves, Node, Placed, ProposedMove, Resources, Sample, Site
from edgeward.placement import JobPlan, PlanSettings, plan
from tests.unit.placement.strategies import GI, NOW, applied, fleet, job, node, placed


def cpu(spot: Node, cores: float, age: float = 10.0) -> Node:
    return replace(spot, live=Live(cpu=Sample(cores, NOW - age)))


HOT = cpu(node("hot", site="a"), 3.9)
COOL = cpu(node("cool", site="b"), 0.2)
TWICE = ProposedMove("hot", "cool", 2, NOW - 15)


def decide(nodes: list[Node], one: Job, settings: PlanSettings | None = None, **changes: object) -> JobPlan:
    decided = plan(fleet(nodes, [one], **changes), settings or PlanSettings()).job(one.key)
    assert decided is not None
    assert decided.reason == ""
    return decided


def spots(decided: JobPlan) -> dict[str, int]:
    return {p.node: p.replicas for p in decided.placements}


def test_the_third_evaluation_in_a_row_moves() -> None:
    """And not the first or the second, nor one that comes before the interval is over."""
    one = fleet([HOT, COOL], [job(placed=(placed(HOT),))])
    seen = []
    for seconds in (0, 15, 3, 12):
        decided = plan(one).jobs[0]
        seen.append((spots(decided), decided.proposed))
        later = applied(one, plan(one), seconds=seconds)
        age_kept = tuple(replace(n, live=Live(cpu=Sample(n.live.cpu.value, later.now - 10))) for n in one.nodes
                         if n.live.cpu)  # fmt: skip
        one = replace(later, nodes=age_kept)
    moved = plan(one).jobs[0]
    stays = {"hot": 1}
    assert seen == [
        (stays, ProposedMove("hot", "cool", 1, NOW)),
        (stays, ProposedMove("hot", "cool", 1, NOW)),
        (stays, ProposedMove("hot", "cool", 2, NOW + 15)),
        (stays, ProposedMove("hot", "cool", 2, NOW + 15)),
    ]
    assert spots(moved) == {"cool": 1}
    assert moved.placements[0].since == NOW + 30
    assert moved.moves == Moves(NOW + 30, 1)
    assert moved.proposed is None
    (move,) = moved.moved
    assert (move.source, move.target) == ("hot", "cool")
    assert move.gain > 0.15


def test_the_move_happens_with_the_proposal_seen_twice() -> None:
    """The base of the refusals below: with everything right, it moves."""
    assert spots(decide([HOT, COOL], job(placed=(placed(HOT),), proposed=TWICE))) == {"cool": 1}


def test_a_gain_that_vanishes_resets_the_count() -> None:
    warm = cpu(HOT, 0.6)
    decided = decide([warm, COOL], job(placed=(placed(warm),), proposed=TWICE))
    assert (spots(decided), decided.proposed) == ({"hot": 1}, None)


def test_another_target_starts_anew_but_an_equal_one_does_not_replace_the_proposed() -> None:
    twin = cpu(node("a-twin", site="0"), 0.2)
    decided = decide([HOT, COOL, twin], job(placed=(placed(HOT),), proposed=TWICE))
    assert spots(decided) == {"cool": 1}
    cordoned = replace(COOL, unschedulable=True)
    decided = decide([HOT, cordoned, twin], job(placed=(placed(HOT),), proposed=TWICE))
    assert spots(decided) == {"hot": 1}
    assert decided.proposed == ProposedMove("hot", "a-twin", 1, NOW)


@pytest.mark.parametrize(
    ("nodes", "changes"),
    [
        ([HOT, COOL], {"placed": (placed(HOT, since=NOW - 599),)}),
        ([HOT, COOL], {"placed": (placed(HOT, ready=0),)}),
        ([HOT, COOL], {"placed": (placed(HOT), placed(node("x", site="b"), 0, started=(NOW - 900,)))}),
        ([HOT, COOL], {"moves": Moves(NOW - 100, 2)}),
        ([cpu(HOT, 3.9, 40), COOL], {}),
        ([HOT, cpu(COOL, 0.2, 40)], {}),
        ([replace(HOT, live=Live()), COOL], {}),
        ([HOT, replace(COOL, live=Live())], {}),
        ([HOT, cpu(COOL, float("nan"))], {}),
        ([replace(HOT, ready=False), COOL], {}),
        ([HOT, replace(COOL, ready=False)], {}),
        ([HOT, COOL], {"model_digest": "", "replicas": 2}),
    ],
    ids=[
        "dwell",
        "not ready",
        "another replica is still leaving",
        "budget of the job",
        "source sample old",
        "target sample old",
        "source unknown",
        "target unknown",
        "target rubbish",
        "source node not ready",
        "target node not ready",
        "replicas missing",
    ],
)
def test_it_does_not_move(nodes: list[Node], changes: dict[str, object]) -> None:
    one = job(**{"placed": (placed(HOT),), "proposed": TWICE, **changes})
    decided = plan(fleet(nodes, [one])).jobs[0]
    assert decided.moved == ()
    assert {p.node for p in decided.placements} == {"hot"}


def with_memory(spot: Node, bytes_: float | None, age: float = 10.0) -> Node:
    return replace(spot, live=replace(spot.live, memory=None if bytes_ is None else Sample(bytes_, NOW - age)))


@pytest.mark.parametrize(
    ("source", "target", "moves"),
    [
        ((GI, 10), (GI, 10), 1),
        ((GI, 10), (GI, 40), 0),
        ((GI, 40), (GI, 10), 0),
        ((GI, 10), (None, 0), 0),
        ((None, 0), (GI, 10), 0),
        ((GI, 10), (float("nan"), 10), 0),
        ((GI, 400), (GI, 400), 0),
        ((None, 0), (None, 0), 1),
    ],
    ids=["fresh", "old there", "old here", "none there", "none here", "rubbish", "old everywhere", "never measured"],
)
def test_a_move_needs_fresh_memory_at_both_ends_unless_nothing_measures_it(
    source: tuple[float | None, float], target: tuple[float | None, float], moves: int
) -> None:
    """With an old figure, requests stand in for the memory there: a node that is full of other things looks free."""
    one = job(placed=(placed(HOT),), proposed=TWICE)
    decided = decide([with_memory(HOT, *source), with_memory(COOL, *target)], one)
    assert len(decided.moved) == moves


@pytest.mark.parametrize("where", ["a", "b"])
@pytest.mark.parametrize("state", [{"frozen": True}, {"connected": False}])
def test_nothing_comes_to_or_goes_from_a_frozen_or_disconnected_site(where: str, state: dict[str, bool]) -> None:
    sites = tuple(Site(s, "edge", **(state if s == where else {})) for s in ("a", "b"))  # type: ignore[arg-type]
    decided = decide([HOT, COOL], job(placed=(placed(HOT),), proposed=TWICE), sites=sites)
    assert (spots(decided), decided.moved) == ({"hot": 1}, ())


def test_the_job_budget_renews_with_its_window() -> None:
    decided = decide([HOT, COOL], job(placed=(placed(HOT),), proposed=TWICE, moves=Moves(NOW - 3600, 2)))
    assert spots(decided) == {"cool": 1}
    assert decided.moves == Moves(NOW, 1)


def test_a_proposal_that_waits_for_its_budget_is_not_rewritten() -> None:
    """Else its status would change at every evaluation."""
    full = ProposedMove("hot", "cool", 3, NOW - 500)
    decided = decide([HOT, COOL], job(placed=(placed(HOT),), proposed=full, moves=Moves(NOW - 100, 2)))
    assert decided.proposed == full


@pytest.mark.parametrize(("came", "left"), [("b", "x"), ("x", "a"), ("b", "a")], ids=["came", "left", "both"])
def test_moves_of_other_jobs_that_came_to_or_left_a_site_use_its_budget(came: str, left: str) -> None:
    """Ten an hour: read from the Assignments, so that the next leader counts them too."""
    spot = {"a": HOT, "b": COOL, "x": cpu(node("far", site="x"), 0.4)}
    tiny = job().request.__class__(10, 10, 1)
    others = [
        job(f"o{i}", request=tiny, placed=(placed(spot[came], since=NOW - 50, moved_from=left),)) for i in range(10)
    ]
    nodes, one = list(spot.values()), job(placed=(placed(HOT),), proposed=TWICE, tiers=frozenset({"edge"}))
    for moved, jobs in (
        (0, [one, *others]),
        (1, [one, *others[:9]]),
        (1, [one, *others[:9], replace(others[9], placed=(placed(spot[came], moved_from=left, since=NOW - 3600),))]),
    ):
        decided = plan(fleet(nodes, jobs)).job(one.key)
        assert decided is not None
        assert len(decided.moved) == moved


def test_a_move_whose_status_was_never_written_counts_all_the_same() -> None:
    """The leader died between the Assignment and the status: twice, so the job's budget is used up."""
    spots_ = [cpu(node(f"was-{i}", site=f"s{i}"), 0.3) for i in range(2)]
    came = tuple(placed(s, since=NOW - 700, moved_from="elsewhere") for s in spots_)
    one = job(replicas=3, placed=(placed(HOT), *came), proposed=TWICE)
    decided = decide([HOT, COOL, *spots_], one)
    assert decided.moved == ()
    assert decided.moves == Moves(NOW - 700, 2)
    once = decide([HOT, COOL, *spots_], replace(one, placed=(placed(HOT), came[0], placed(spots_[1]))))
    assert (len(once.moved), once.moves) == (1, Moves(NOW - 700, 2))


def test_a_move_says_where_it_came_from_and_goes_on_saying_so() -> None:
    one = fleet([HOT, COOL], [job(placed=(placed(HOT),), proposed=TWICE)])
    moved = plan(one).jobs[0]
    assert [(p.node, p.moved_from) for p in moved.placements] == [("cool", "a")]
    running = replace(one.jobs[0], proposed=None, placed=(placed(COOL, since=NOW, started=(NOW,), moved_from="a"),))
    again = plan(replace(one, now=NOW + 60, jobs=(running,))).jobs[0]
    assert [(p.node, p.moved_from) for p in again.placements] == [("cool", "a")]


def test_a_leader_killed_halfway_through_its_moves_repeats_none() -> None:
    """Half of the moves reached the Assignments. The next leader makes the other half and leaves those alone, whether
    the new pods serve or are still starting."""
    hot = [cpu(node(f"hot-{i}", site="a"), 3.9) for i in range(6)]
    cool = [cpu(node(f"cool-{i}", site="b"), 0.2) for i in range(6)]
    jobs = [
        job(f"j{i}", placed=(placed(spot),), proposed=ProposedMove(spot.name, cool[i].name, 2, NOW - 15))
        for i, spot in enumerate(hot)
    ]
    one = fleet([*hot, *cool], jobs)
    first = plan(one)
    assert [len(j.moved) for j in first.jobs] == [1] * 6
    for ready in (0, 1):
        halfway = []
        for index, was in enumerate(jobs):
            target = first.jobs[index].placements[0]
            new = Placed(target.node, target.site, 1, ready, (NOW,), since=NOW, moved_from="a")
            halfway.append(replace(was, placed=(replace(was.placed[0], replicas=0), new)) if index < 3 else was)
        second = plan(replace(one, jobs=tuple(halfway)))
        assert [len(j.moved) for j in second.jobs] == [0, 0, 0, 1, 1, 1]
        assert [spots(j) for j in second.jobs] == [spots(j) for j in first.jobs]


def test_a_site_gives_and_takes_no_more_than_its_budget_in_one_plan() -> None:
    """Twelve nodes of one site are hot, twelve of another cool, every job could move: ten do."""
    hot = [cpu(node(f"hot-{i}", site="a"), 3.9) for i in range(12)]
    cool = [cpu(node(f"cool-{i}", site="b"), 0.2) for i in range(12)]
    jobs = [
        job(f"j{i}", placed=(placed(spot),), proposed=ProposedMove(spot.name, cool[i].name, 2, NOW - 15))
        for i, spot in enumerate(hot)
    ]
    assert sum(len(j.moved) for j in plan(fleet([*hot, *cool], jobs)).jobs) == 10
    assert sum(len(j.moved) for j in plan(fleet([*hot, *cool], jobs), PlanSettings(moves_per_site=99)).jobs) == 12


def test_one_leaves_a_node_at_a_time() -> None:
    """Ten jobs on the hot node all want to go; one goes, and nothing more until what it frees shows."""
    jobs = [
        job(f"j{i}", placed=(placed(HOT),), proposed=TWICE, request=job().request.__class__(100, 1000, 1))
        for i in range(10)
    ]
    one = fleet([HOT, COOL], jobs)
    decided = plan(one)
    assert sum(len(j.moved) for j in decided.jobs) == 1
    mover = next(j for j in decided.jobs if j.moved)
    under_way = tuple(
        replace(
            j,
            proposed=TWICE,
            placed=(replace(j.placed[0], replicas=0), Placed("cool", "b", 1, since=NOW))
            if j.key == mover.key
            else j.placed,
        )
        for j in jobs
    )
    assert sum(len(j.moved) for j in plan(replace(one, jobs=under_way)).jobs) == 0


def test_a_move_only_one_replica_of_a_job_at_a_time() -> None:
    other = cpu(node("other", site="c"), 0.2)
    decided = decide([HOT, COOL, other], job(placed=(placed(HOT, 3),), replicas=3, proposed=TWICE))
    assert spots(decided) == {"hot": 2, "cool": 1}


def test_after_a_move_it_does_not_come_back() -> None:
    """With the load following it: the dwell holds it, and the former node is free now."""
    one = fleet([HOT, COOL], [job(placed=(placed(HOT),), proposed=TWICE)])
    there = applied(one, plan(one), seconds=60)
    nodes = (cpu(HOT, 0.1, -50), cpu(COOL, 3.9, -50))
    for seconds in range(0, 500, 20):
        now = there.now + seconds
        fresh = tuple(replace(n, live=Live(cpu=Sample(n.live.cpu.value, now - 5))) for n in nodes if n.live.cpu)
        there = applied(replace(there, now=now, nodes=fresh), plan(replace(there, now=now, nodes=fresh)))
        assert [p.node for p in there.jobs[0].placed] == ["cool"]
        if now - NOW > 590:
            break


def test_noise_moves_nothing() -> None:
    """Load that wanders by a third of a node, unseen by requests, over two hours: no replica moves."""
    nodes = [node(f"n{i}", site=f"s{i}") for i in range(3)]
    one: Fleet = fleet(nodes, [job(placed=(placed(nodes[0]),))])
    for step in range(480):
        now = NOW + step * 15
        shaken = tuple(cpu_at(n, 1.0 + 1.2 * ((step * 7 + i * 5) % 11) / 10, now) for i, n in enumerate(nodes))
        one = replace(one, now=now, nodes=shaken)
        decided = plan(one)
        assert decided.jobs[0].moved == ()
        one = applied(one, decided)


def cpu_at(spot: Node, cores: float, now: float) -> Node:
    return replace(spot, live=Live(cpu=Sample(cores, now - 5)))


def test_after_a_move_the_explanation_is_of_where_it_is_now() -> None:
    decided = decide([HOT, COOL], job(placed=(placed(HOT),), proposed=TWICE))
    assert decided.explanation.node == "cool"
    assert decided.explanation.runners_up[0].node == "hot"
    assert decided.explanation.notes[0].startswith("moved from hot to cool for 0.")


def test_a_proposed_move_needs_its_full_gain_every_time() -> None:
    warm = cpu(HOT, 1.5)
    decided = decide([warm, COOL], job(placed=(placed(warm),), proposed=TWICE))
    assert 0 < decided.explanation.runners_up[0].score - decided.placements[0].score < 0.15
    assert (spots(decided), decided.proposed) == ({"hot": 1}, None)


def test_a_replica_that_is_stuck_on_a_node_does_not_hold_others_there() -> None:
    """It was to be placed anew and found no other node, so it is not leaving."""
    stuck = job("stuck", placed=(placed(HOT),), node_selector={"disk": "ssd"})
    decided = plan(fleet([HOT, COOL], [stuck, job(placed=(placed(HOT),), proposed=TWICE)])).job("test/job")
    assert decided is not None
    assert spots(decided) == {"cool": 1}


# No herd ----------------------------------------------------------------------------------------------------------


def shares(decided: list[dict[str, int]]) -> Counter[str]:
    return sum((Counter(d) for d in decided), Counter())


def herd() -> tuple[list[Node], list[Job]]:
    """One node looks idle, nine look half busy, all are the same size; a hundred jobs come inside one scrape."""
    idle = cpu(node("idle", site="s0", allocatable=Resources(32000, 64 * GI, 110)), 0.0)
    busy = [
        cpu(node(f"busy-{i}", site=f"s{i}", allocatable=Resources(32000, 64 * GI, 110)), 14.0) for i in range(1, 10)
    ]
    return [idle, *busy], [job(f"j{i}", request=Resources(500, 256 << 20, 1)) for i in range(100)]


def test_a_hundred_jobs_in_one_plan_do_not_land_on_the_one_node_that_looked_idle() -> None:
    nodes, jobs = herd()
    where = shares([spots(j) for j in plan(fleet(nodes, jobs)).jobs])
    assert where.total() == 100
    # 14 cores of head start are 28 jobs; what is left over is dealt out to all ten.
    assert 25 <= where["idle"] <= 45
    assert all(where[n.name] >= 5 for n in nodes[1:])


@pytest.mark.parametrize("visible", [False, True], ids=["not a pod is seen yet", "pods are seen, the sample is older"])
def test_nor_do_a_hundred_that_come_one_plan_after_the_other_on_the_same_sample(visible: bool) -> None:
    nodes, jobs = herd()
    there: list[Job] = []
    for one in jobs:
        decided = plan(fleet(nodes, [*there, one])).job(one.key)
        assert decided is not None
        (spot,) = decided.placements
        started = (NOW,) if visible else ()
        there.append(replace(one, explained=True, placed=(Placed(spot.node, spot.site, 1, 0, started, since=NOW),)))
    where = Counter(j.placed[0].node for j in there)
    assert 25 <= where["idle"] <= 45
    assert all(where[n.name] >= 5 for n in nodes[1:])


def test_nor_do_a_hundred_that_would_all_gain_by_moving_there() -> None:
    """Each of them sees the gain; what has moved already counts, and a node loses one at a time."""
    nodes, jobs = herd()
    hot = [cpu(n, 31.0) for n in nodes[1:]]
    settled = [
        replace(one, placed=(placed(hot[i % 9]),), proposed=ProposedMove(hot[i % 9].name, "idle", 2, NOW - 15))
        for i, one in enumerate(jobs)
    ]
    decided = plan(fleet([nodes[0], *hot], settled), PlanSettings(moves_per_site=100))
    moved = [m for j in decided.jobs for m in j.moved]
    assert len(moved) == len({m.source for m in moved}) == 9
