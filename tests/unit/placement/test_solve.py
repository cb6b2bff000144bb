"""The solver: worked cases, and what must hold for every fleet."""

import math
import os
from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings

from edgeward.fleet.model import Fleet, Live, Node, Priority, Resources, Sample, Site
from edgeward.placement import Guidance, Plan, plan
from edgeward.placement.constraints import FIT_CHECKS, SPEC_CHECKS, STATE_CHECKS, first_miss
from edgeward.placement.decide import begin
from edgeward.placement.ledger import Ledger
from edgeward.placement.order import turns
from edgeward.placement.settings import PlanSettings
from edgeward.placement.sieve import fit_columns, fits, own_or_pool, static_misses
from edgeward.placement.solve import Limits, bounded, solve, worth_solving
from edgeward.placement.solve.lp import relax
from edgeward.placement.solve.packing import put, score_of, take_back
from edgeward.placement.solve.relax import STEPS, Prices, bound, steps, tier_of
from edgeward.placement.solve.wants import wants_of
from tests.unit.placement.strategies import GI, MI, NOW, applied, fleet, fleets, job, node, placed

few = settings(max_examples=int(os.environ.get("EDGEWARD_EXAMPLES", "10")), deadline=None, database=None)
SETTINGS = PlanSettings()


def guided(one: Fleet) -> tuple[Guidance, Plan]:
    advice = bounded(one, SETTINGS, solve(one, SETTINGS))
    return advice, plan(one, SETTINGS, guidance=advice)


def by_tier(decided: Plan) -> dict[int, float]:
    """Sum of scores of all replicas, by priority tier."""
    sums: dict[int, float] = {}
    for mine in decided.jobs:
        score = sum(p.score * p.replicas for p in mine.placements if not p.lost)
        sums[mine.priority_tier] = sums.get(mine.priority_tier, 0.0) + score
    return sums


def test_what_greedy_gives_away_the_solver_keeps() -> None:
    """The first job likes the fast node a little more; the second fits nowhere else."""
    fast = node("fast", site="a", allocatable=Resources(1000, 8 * GI, 110), speed=1.2)
    slow = node("slow", site="b", allocatable=Resources(1000, 1 * GI, 110))
    first = job("first", request=Resources(600, 256 * MI, 1), created_at=1.0)
    second = job("second", request=Resources(600, 4 * GI, 1), created_at=2.0)
    one = fleet([fast, slow], [first, second])
    assert [j.missing for j in plan(one).jobs] == [0, 1]
    advice, decided = guided(one)
    assert [j.missing for j in decided.jobs] == [0, 0]
    assert {j.key: j.placements[0].node for j in decided.jobs} == {"test/first": "slow", "test/second": "fast"}
    assert advice.share_of_bound is not None and advice.share_of_bound > 0.99
    assert decided.jobs[0].explanation.share_of_bound == advice.tiers[0].share


def test_a_higher_tier_is_not_traded_for_many_of_a_lower_one() -> None:
    spot = node(allocatable=Resources(1000, 8 * GI, 110))
    high = job("high", priority=Priority(5, 5, 5), request=Resources(900, MI, 1))
    low = [job(f"low-{at}", priority=Priority(1, 1, 1), request=Resources(100, MI, 1)) for at in range(9)]
    _, decided = guided(fleet([spot], [high, *low]))
    missing = {j.key: j.missing for j in decided.jobs}
    assert missing["test/high"] == 0
    assert sum(missing.values()) == 8


def test_advice_that_no_longer_fits_is_not_followed() -> None:
    nodes = [node(name, site=name) for name in "ab"]
    one = fleet(nodes, [job(replicas=2)])
    advice = solve(one, SETTINGS)
    full = replace(nodes[0], foreign=Resources(3900, 0, 1))
    decided = plan(fleet([full, nodes[1]], [job(replicas=2)]), SETTINGS, guidance=advice).jobs[0]
    assert [(p.node, p.replicas) for p in decided.placements] == [("b", 2)]


def test_advice_that_is_carried_out_already_is_not_followed_again() -> None:
    """It says what to add to the Fleet that was solved. Two more are wanted 20 s later: they go where they are best off."""
    nodes = [node(f"m{at}", site=f"s{at}") for at in range(4)]
    one = fleet(nodes, [job(replicas=2)])
    advice = solve(one, SETTINGS)
    later = applied(one, plan(one, SETTINGS, guidance=advice), seconds=20)
    grown = replace(later, jobs=(replace(later.jobs[0], replicas=4),))
    decided = plan(grown, SETTINGS, guidance=advice).jobs[0]
    assert [(p.node, p.replicas) for p in decided.placements] == [(f"m{at}", 1) for at in range(4)]


def test_advice_to_add_beside_what_was_there_is_carried_out_once() -> None:
    """The node's `since` is that of the first replica there; the pods' start times tell which are new."""
    spots = [node(f"m{at}", site=f"s{at}") for at in range(2)]
    advice = Guidance(made_at=NOW + 0.7, targets={"test/job": (("s0", "m0", 1),)})
    had = placed(spots[0])
    before = plan(replace(fleet(spots, [job(replicas=2, placed=(had,))]), now=NOW + 1), SETTINGS, guidance=advice)
    assert [(p.node, p.replicas) for p in before.jobs[0].placements] == [("m0", 2)]
    for started in ((NOW - 3600,), (NOW - 3600, NOW)):
        there = job(replicas=3, placed=(replace(had, replicas=2, started=started),))
        after = plan(replace(fleet(spots, [there]), now=NOW + 30), SETTINGS, guidance=advice).jobs[0]
        assert [(p.node, p.replicas) for p in after.placements] == [("m0", 2), ("m1", 1)]


def test_what_a_job_wants_at_each_site_counts_for_whether_to_solve() -> None:
    nodes = [node(f"m{at}", site=f"s{at}") for at in range(SETTINGS.worth_solving)]
    every = job(per_site=True)
    assert worth_solving(fleet(nodes, [every]), SETTINGS)
    assert not worth_solving(fleet(nodes, [replace(every, placed=(placed(nodes[0]),))]), SETTINGS)
    assert not worth_solving(fleet(nodes, [replace(every, tiers=frozenset({"cloud"}))]), SETTINGS)
    cut = tuple(Site(n.site, "edge", connected=n is not nodes[0]) for n in nodes)
    assert not worth_solving(fleet(nodes, [every], sites=cut), SETTINGS)


def test_old_advice_is_not_followed() -> None:
    one = fleet([node("a"), node("b")], [job(replicas=2)])
    old = replace(solve(one, SETTINGS), made_at=NOW - SETTINGS.guidance_expiry - 1)
    assert plan(one, SETTINGS, guidance=old) == plan(one, SETTINGS)


def test_the_backstop_leaves_a_plan_no_worse_than_greedy_and_says_so() -> None:
    one = fleet([node(f"n{at}", site=f"s{at}") for at in range(6)], [job(f"j{at}", replicas=2) for at in range(6)])
    struck = solve(one, SETTINGS, limits=Limits(seconds=5.0), clock=lambda: 6.0)
    assert struck.backstop
    assert not solve(one, SETTINGS).backstop
    without = by_tier(plan(one))
    assert by_tier(plan(one, SETTINGS, guidance=struck))[3] >= without[3] - 1e-6


def test_nothing_to_place_needs_no_solve() -> None:
    one = fleet([node("a"), node("b")], [job(replicas=2)])
    calm = applied(one, plan(one))
    assert not worth_solving(calm, SETTINGS)
    assert solve(calm, SETTINGS) == Guidance(made_at=NOW)
    assert solve(calm, SETTINGS).share_of_bound is None
    assert worth_solving(fleet([node("a")], [job(replicas=SETTINGS.worth_solving)]), SETTINGS)


def test_the_bound_is_no_less_than_the_best_of_all_placements() -> None:
    """Every way to place four replicas of unequal size on three unequal nodes, tried out."""
    nodes = [
        node(f"n{at}", site=f"s{at // 2}", allocatable=Resources(cores * 1000, 4 * GI, 110),
             live=Live(Sample(busy, NOW - 5), Sample(GI, NOW - 5)))
        for at, (cores, busy) in enumerate([(2, 0.2), (4, 2.5), (3, 0.1)])
    ]  # fmt: skip
    jobs = [job("a", replicas=2, request=Resources(1500, GI, 1)), job("b", replicas=2, request=Resources(400, GI, 1))]
    one = fleet(nodes, jobs)
    ledger = Ledger(one, SETTINGS)
    wants = wants_of([begin(turn, ledger, SETTINGS) for turn in turns(one, SETTINGS)], ledger)
    tier = tier_of(wants, ledger)
    relaxed = relax(tier, ledger, Limits(), lambda: 0.0)
    most = bound(tier, relaxed.prices, ledger.columns.site)
    best = 0.0
    for spots in product(range(-1, 3), repeat=4):
        packing = [[at for at in spots[:2] if at >= 0], [at for at in spots[2:] if at >= 0]]
        done = put(packing, wants, ledger)
        best = max(best, score_of(done, wants, ledger))
        take_back(done, wants, ledger)
    assert best <= most + 1e-9
    assert best > 0.9 * most
    assert most <= bound(tier, Prices.nothing(tier.nodes), ledger.columns.site) + 1e-9


@pytest.mark.parametrize("parts", sorted({parts for _, parts in STEPS}))
def test_shares_of_replicas_that_fit_together_do_so_after_rounding(parts: int) -> None:
    shares = np.array([0.1, 0.25, 1 / 3, 0.4, 0.5, 0.6, 2 / 3, 0.75, 1.0])
    rounded = steps(shares, parts)
    for counts in product(range(4), repeat=len(shares)):
        if float(np.dot(counts, shares)) <= 1.0 + 1e-12:
            assert float(np.dot(counts, rounded)) <= 1.0 + 1e-9


@few
@given(fleets())
def test_a_guided_plan_places_only_what_fits(one: Fleet) -> None:
    _, decided = guided(one)
    ledger = Ledger(one, SETTINGS)
    used = {(s.site.name, s.node.name): s.requested for s in ledger.states}
    held = {(j.key, p.site, p.node): p.replicas for j in one.jobs for p in j.placed}
    decisions = {turn.job.key: begin(turn, Ledger(one, SETTINGS), SETTINGS) for turn in turns(one, SETTINGS)}
    for mine in decided.jobs:
        for p in mine.placements:
            extra = p.replicas - held.get((mine.key, p.site, p.node), 0)
            if extra <= 0 or mine.moved:
                continue
            state = ledger.find(p.site, p.node)
            assert state is not None
            ask = decisions[mine.key].ask
            assert first_miss(ask, state, (*SPEC_CHECKS, *STATE_CHECKS)) is None
            used[p.site, p.node] += ask.request.times(extra)
            assert state.node.allocatable.covers(used[p.site, p.node])


@few
@given(fleets(running=False))
def test_never_below_greedy_in_the_first_tier_where_they_differ(one: Fleet) -> None:
    greedy = by_tier(plan(one, replace(SETTINGS, preemption=False)))
    better = by_tier(plan(one, replace(SETTINGS, preemption=False), guidance=solve(one, SETTINGS)))
    for tier in sorted(greedy, reverse=True):
        if abs(greedy[tier] - better[tier]) > 1e-6:
            assert better[tier] > greedy[tier]
            break


@few
@given(fleets())
def test_the_same_fleet_gets_the_same_advice(one: Fleet) -> None:
    assert solve(one, SETTINGS) == solve(one, SETTINGS)


@few
@given(fleets())
def test_the_bounds_come_later_and_change_nothing_of_the_advice(one: Fleet) -> None:
    advice = solve(one, SETTINGS)
    assert all(tier.bound is None and tier.share is None for tier in advice.tiers)
    assert not advice.tiers or advice.share_of_bound is None
    known = bounded(one, SETTINGS, advice)
    assert all(tier.bound is not None for tier in known.tiers)
    assert replace(known, tiers=()) == replace(advice, tiers=())
    assert [(t.tier, t.replicas, t.placed, t.score) for t in known.tiers] == [
        (t.tier, t.replicas, t.placed, t.score) for t in advice.tiers
    ]
    assert bounded(one, SETTINGS, advice) == known


@few
@given(fleets())
def test_no_score_is_beyond_its_bound(one: Fleet) -> None:
    for tier in bounded(one, SETTINGS, solve(one, SETTINGS)).tiers:
        assert tier.bound is not None
        assert 0 <= tier.score <= tier.bound + 1e-9
        assert tier.placed <= tier.replicas
        assert math.isfinite(tier.bound)


@few
@given(fleets(running=False))
def test_an_applied_plan_moves_nothing(one: Fleet) -> None:
    _, decided = guided(one)
    calm = applied(one, decided)
    again = plan(calm, SETTINGS, guidance=solve(calm, SETTINGS))
    for mine in calm.jobs:
        after = again.job(mine.key)
        assert after is not None
        before = Counter({(p.site, p.node): p.replicas for p in mine.placed})
        assert not before - Counter({(p.site, p.node): p.replicas for p in after.placements})


@few
@given(fleets(running=False))
def test_names_of_nodes_change_no_count_per_class(one: Fleet) -> None:
    new = {n.name: f"x{len(one.nodes) - at:03d}" for at, n in enumerate(one.nodes)}
    renamed = replace(one, nodes=tuple(replace(n, name=new[n.name]) for n in one.nodes))

    def classes(which: Fleet) -> list[object]:
        advice = solve(which, SETTINGS)
        like: dict[str, Node] = {n.name: replace(n, name="") for n in which.nodes}
        return [
            (key, sorted((site, repr(like[name]), count) for site, name, count in spots))
            for key, spots in advice.targets.items()
        ]

    assert classes(one) == classes(renamed)


@few
@given(fleets())
def test_a_tier_taken_back_leaves_the_ledger_as_it_was(one: Fleet) -> None:
    ledger, fresh = Ledger(one, SETTINGS), Ledger(one, SETTINGS)
    decisions = [begin(turn, ledger, SETTINGS) for turn in turns(one, SETTINGS)]
    for turn in turns(one, SETTINGS):
        begin(turn, fresh, SETTINGS)
    wants = wants_of(decisions, ledger)
    done = put([[int(row) for row in want.rows] for want in wants], wants, ledger)
    take_back(done, wants, ledger)
    assert [(s.requested, s.in_flight, s.held) for s in ledger.states] == [
        (s.requested, s.in_flight, s.held) for s in fresh.states
    ]
    assert [c.tolist() for c in ledger.columns] == [c.tolist() for c in fresh.columns]
    assert (ledger.site_use, ledger.spots) == (fresh.site_use, fresh.spots)


@few
@given(fleets())
def test_columns_say_what_each_node_says(one: Fleet) -> None:
    ledger = Ledger(one, SETTINGS)
    rows = np.arange(len(ledger.states), dtype=np.intp)
    for turn in turns(one, SETTINGS):
        decision = begin(turn, ledger, SETTINGS)
        ask, static = decision.ask, static_misses(decision.ask, ledger)
        column = decision.scorer.column(ledger, rows)
        room, asked = fits(ask, ledger, rows), own_or_pool(ask, ledger, rows)
        lacks = [
            (check.reason, None if found is None else np.broadcast_to(found, rows.shape))
            for check, found in fit_columns(ask, ledger, rows)
        ]
        for state in ledger.states:
            said = first_miss(ask, state, SPEC_CHECKS) or first_miss(ask, state, STATE_CHECKS)
            kind = static.get(state.index)
            assert (said and said.check.reason) == (kind and kind.check.reason)
            misses = first_miss(ask, state, FIT_CHECKS)
            assert room[state.index] == (misses is None)
            if not asked[state.index]:
                by_column = next(
                    ((why, c) for why, c in lacks if c is None or not np.isnan(c[state.index])), (None, None)
                )
                if by_column[0] is None or by_column[1] is not None:
                    assert by_column[0] == (misses and misses.check.reason)
                if misses is not None and by_column[1] is not None:
                    assert by_column[1][state.index] == misses.distance
            if ask.index not in state.held:
                base = decision.scorer.base(state, 0, present=False, stays=False)
                assert column[state.index] == pytest.approx(base, abs=1e-12)


def test_a_site_that_the_fleet_does_not_list_is_a_site() -> None:
    lone = node("n", site="unlisted")
    advice, decided = guided(Fleet(now=NOW, nodes=(lone,), sites=(Site("other", "edge"),), jobs=(job(replicas=2),)))
    assert decided.jobs[0].missing == 0
    assert advice.tiers[0].placed == 2
