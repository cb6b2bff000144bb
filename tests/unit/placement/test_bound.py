"""The published bound: knapsacks against every choice tried out, and bounds against every packing that anyone reaches."""

import os
import random
from itertools import groupby, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeward.fleet.model import Fleet, Live, Resources, Sample
from edgeward.placement.decide import begin, settle_at
from edgeward.placement.ledger import Ledger
from edgeward.placement.order import turns
from edgeward.placement.settings import PlanSettings
from edgeward.placement.solve import Limits, bounded, solve
from edgeward.placement.solve import bound as bound_module
from edgeward.placement.solve.bound import Dual, choices_of_nodes, tight_bound
from edgeward.placement.solve.knapsack import COARSE, FINE, divided, whole
from edgeward.placement.solve.lp import relax
from edgeward.placement.solve.master import Multipliers
from edgeward.placement.solve.packing import Where, put, score_of, take_back
from edgeward.placement.solve.relax import Prices, Tier, bound, tier_of
from edgeward.placement.solve.wants import Want, wants_of
from tests.bench import placement_fleets
from tests.unit.placement.strategies import GI, MI, NOW, fleet, fleets, job, node

few = settings(max_examples=int(os.environ.get("EDGEWARD_EXAMPLES", "10")), deadline=None, database=None)
SETTINGS = PlanSettings()
LIMITS = Limits()


def tight(tier: Tier, prices: Prices, ledger: Ledger) -> float:
    return tight_bound(tier, prices, ledger, rounds=6, iterations=10_000)


def scattered(wants: list[Want], ledger: Ledger, draw: random.Random) -> Where:
    """Replicas in any order, each on any node where it fits."""
    where: Where = [[] for _ in wants]
    every = [index for index, want in enumerate(wants) for _ in range(want.count)]
    draw.shuffle(every)
    for index in every:
        spot = int(draw.choice(wants[index].rows.tolist()))
        where[index] += put([[spot]], [wants[index]], ledger)[0]
    return where


def check(one: Fleet, seed: int) -> None:
    """Tier by tier on what our plan leaves, as the solver goes."""
    advice = bounded(one, SETTINGS, solve(one, SETTINGS))
    ours = {tier.tier: tier for tier in advice.tiers}
    ledger = Ledger(one, SETTINGS)
    draw = random.Random(seed)
    for number, group in groupby(turns(one, SETTINGS), key=lambda turn: turn.tier):
        decisions = [begin(turn, ledger, SETTINGS) for turn in group]
        wants = wants_of(decisions, ledger)
        if wants:
            tier = tier_of(wants, ledger)
            nothing = Prices.nothing(tier.nodes)
            relaxed = relax(tier, ledger, LIMITS, lambda: 0.0)
            bounds = [tight(tier, prices, ledger) for prices in (relaxed.prices, nothing)]
            assert ours[number].score <= min(bounds) + 1e-9
            old = min(bound(tier, prices, ledger.columns.site) for prices in (relaxed.prices, nothing))
            most = ours[number].bound
            assert most is not None and most <= max(old, ours[number].score) + 1e-9
            for _ in range(3):
                where = scattered(wants, ledger, draw)
                score = score_of(where, wants, ledger)
                take_back(where, wants, ledger)
                assert score <= min(bounds) + 1e-9
        for decision in decisions:
            states = []
            for site, name, count in advice.targets.get(decision.turn.job.key, ()):
                state = ledger.find(site, name)
                assert state is not None
                for _ in range(count):
                    ledger.place(decision.ask.index, state)
                    states.append(state)
            settle_at(decision, states, ledger.now)


@few
@given(fleets(), st.integers(0, 1000))
def test_no_packing_is_beyond_the_bound(one: Fleet, seed: int) -> None:
    check(one, seed)


@pytest.mark.parametrize("size", [(6, 12), (12, 30), (20, 50)])
def test_no_packing_of_the_bench_is_beyond_the_bound(size: tuple[int, int]) -> None:
    check(placement_fleets.fleet(*size, 3), 0)


def crowded(seed: int) -> Fleet:
    """Two jobs of two replicas each on three nodes at two sites, of which one is large."""
    draw = random.Random(seed)
    nodes = [
        node(
            f"n{at}",
            site=f"s{at // 2}",
            allocatable=Resources(cores * 1000, 4 * GI, 110),
            live=Live(Sample(draw.uniform(0, 1.5), NOW - 5), Sample(GI, NOW - 5)),
        )
        for at, cores in enumerate((2, draw.choice((3, 4)), draw.choice((4, 40))))
    ]
    sizes = [draw.choice((333, 400, 800, 1000, 1500)) for _ in range(2)]
    return fleet(
        nodes,
        [
            job(name, replicas=2, request=Resources(cpu, draw.choice((64 * MI, GI, 2 * GI)), 1),
                max_per_site=draw.choice((None, 1)))
            for name, cpu in zip("ab", sizes, strict=True)
        ],
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_the_bound_is_no_less_than_the_best_of_all_packings(seed: int) -> None:
    ledger = Ledger(crowded(seed), SETTINGS)
    wants = wants_of([begin(turn, ledger, SETTINGS) for turn in turns(crowded(seed), SETTINGS)], ledger)
    tier = tier_of(wants, ledger)
    relaxed = relax(tier, ledger, LIMITS, lambda: 0.0)
    best = 0.0
    for spots in product(range(-1, 3), repeat=4):
        packing = [[at for at in spots[:2] if at >= 0], [at for at in spots[2:] if at >= 0]]
        done = put(packing, wants, ledger)
        best = max(best, score_of(done, wants, ledger))
        take_back(done, wants, ledger)
    most = tight(tier, relaxed.prices, ledger)
    assert best <= most + 1e-9
    assert best > 0.9 * most
    # Any prices will do, also those that nobody would choose.
    dual, draw = Dual(tier, relaxed.prices, ledger), np.random.default_rng(seed)
    for _ in range(5):
        strange = Multipliers(
            draw.uniform(0, 1, len(wants)),
            draw.uniform(0, 1, len(dual.bonus)) * dual.bonus,
            np.where(np.isfinite(dual.limits), draw.uniform(0, 0.2, len(dual.limits)), 0.0),
            draw.uniform(0, 0.2, dual.begin.node.shape),
        )
        assert dual.choose(dual.lifted(strange)).bound >= best - 1e-9


def test_whole_numbers_and_the_fall_of_scores_make_it_tighter() -> None:
    """Three replicas of 600m on two nodes of one core: an LP divides the third."""
    nodes = [node(name, site=name, allocatable=Resources(1000, 8 * GI, 110)) for name in "ab"]
    one = fleet(nodes, [job(replicas=3, request=Resources(600, MI, 1))])
    ledger = Ledger(one, SETTINGS)
    wants = wants_of([begin(turn, ledger, SETTINGS) for turn in turns(one, SETTINGS)], ledger)
    tier = tier_of(wants, ledger)
    most = tight(tier, relax(tier, ledger, LIMITS, lambda: 0.0).prices, ledger)
    done = put([[0, 1]], wants, ledger)
    assert most == pytest.approx(score_of(done, wants, ledger), abs=1e-4)


def tried(size: list[int], gains: np.ndarray, levels: int) -> float:
    best = 0.0
    for which in product((False, True), repeat=len(size)):
        load = sum(one for one, yes in zip(size, which, strict=True) if yes)
        for segment in range(load, levels + 1):
            best = max(best, sum(gains[at, segment] for at, yes in enumerate(which) if yes))
    return best


@few
@given(st.integers(0, 10_000))
def test_knapsacks_take_what_is_best(seed: int) -> None:
    draw = np.random.default_rng(seed)
    levels = draw.integers(0, 7, size=3)
    node_ = np.sort(draw.integers(0, 3, size=8))
    size = draw.integers(0, 5, size=8)
    value, steep = draw.uniform(0, 1, 8), draw.uniform(0, 0.2, 8)
    gains = value[:, None] - steep[:, None] * np.arange(int(levels.max()) + 1)
    worth, taken = whole(node_, size, gains, levels)
    fine = np.arange(COARSE * FINE)[:, None]
    falls = steep[None, :] * fine * (levels[node_] / (COARSE * FINE))[None, :]
    loose, amounts = divided(node_, value, falls, size.astype(float), np.ones(8), levels.astype(float))
    for one in range(3):
        mine = np.flatnonzero(node_ == one)
        best = tried(size[mine].tolist(), gains[mine], int(levels[one]))
        assert worth[one] == pytest.approx(best)
        assert loose[one] >= best - 1e-6
        chosen = taken[node_[taken] == one]
        assert size[chosen].sum() <= levels[one]
        assert amounts[mine] @ size[mine] <= levels[one] + 1e-6
    assert len(set(taken.tolist())) == len(taken)


def test_a_bound_in_parts_is_the_bound_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a tier gets that is too large for more than one look."""
    monkeypatch.setattr(bound_module, "PART", 7)
    ledger = Ledger(placement_fleets.fleet(20, 50, 1), SETTINGS)
    order = turns(placement_fleets.fleet(20, 50, 1), SETTINGS)
    wants = wants_of([begin(turn, ledger, SETTINGS) for turn in order], ledger)
    tier = tier_of(wants, ledger)
    prices = relax(tier, ledger, LIMITS, lambda: 0.0).prices
    known = Dual(tier, prices, ledger)
    most = known.choose(known.begin).bound
    assert Dual(tier, prices, ledger, once=True).bound_in_parts() == pytest.approx(most, abs=1e-9)
    monkeypatch.setattr(bound_module, "PLACES", 0)
    assert tight(tier, prices, ledger) == pytest.approx(most, abs=1e-9)


def test_what_nodes_choose_fits_together_and_is_worth_more_than_the_whole_part_of_the_lp() -> None:
    one = placement_fleets.fleet(20, 50, 1)
    ledger = Ledger(one, SETTINGS)
    wants = wants_of([begin(turn, ledger, SETTINGS) for turn in turns(one, SETTINGS)], ledger)
    tier = tier_of(wants, ledger)
    prices = relax(tier, ledger, LIMITS, lambda: 0.0).prices
    chosen = choices_of_nodes(tier, prices, ledger, rounds=10, iterations=10_000)
    assert chosen is not None
    placed = put(chosen, wants, ledger)
    assert sum(map(len, placed)) >= 0.95 * sum(map(len, chosen)) > 0, "all but what only the checks know about"
    for want, nodes in zip(wants, chosen, strict=True):
        assert len(nodes) <= want.count and set(nodes) <= set(want.rows.tolist())

    def score(choices: int) -> float:
        return sum(tier.score for tier in solve(one, SETTINGS, limits=Limits(choices=choices)).tiers)

    assert score(10) > 1.002 * score(0)
