"""The same tiers with whole replicas, by HiGHS' branch and bound: how much of the distance to the bound is real.

The MILP is the solver's LP with whole numbers over all nodes, and tangents added until the load of its solution is
right. Its placement is judged by the scores, as ours is: share_of_milp. Its proved optimum still takes the fall of
scores with load from below, so it is no less than the true one: share_of_milp_bound. What is not proved in time is
counted and left out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from edgeward.placement import PlanSettings
from edgeward.placement.decide import begin, settle_at
from edgeward.placement.ledger import Ledger
from edgeward.placement.order import turns
from edgeward.placement.solve import Limits, solve
from edgeward.placement.solve.lp import Lp
from edgeward.placement.solve.packing import put, score_of, take_back
from edgeward.placement.solve.relax import tier_of
from edgeward.placement.solve.wants import Want, wants_of

from .placement_fleets import fleet

SETTINGS = PlanSettings()
SECONDS = 60.0
"""an instance"""
ROUNDS = 6


@dataclass(frozen=True)
class Comparison:
    proved: int
    """tiers that were proved"""
    tiers: int
    ours: float
    """sum of our scores over the proved tiers"""
    milp: float
    """of the MILP's placement, by the scores"""
    bound: float
    """what it proved"""
    gap: float
    """share of the top tier's replicas that the MILP places and we do not"""


def compare(task: tuple[tuple[int, int], int]) -> Comparison:
    size, seed = task
    one = fleet(*size, seed)
    advice = solve(one, SETTINGS)
    until = time.monotonic() + SECONDS
    ledger = Ledger(one, SETTINGS)
    proved, ours, milp, most, gap, tiers = 0, 0.0, 0.0, 0.0, 0.0, 0
    by_tier = {item.tier: item for item in advice.tiers}
    for tier, group in groupby(turns(one, SETTINGS), key=lambda turn: turn.tier):
        decisions = [begin(turn, ledger, SETTINGS) for turn in group]
        wants = wants_of(decisions, ledger)
        mine = by_tier.get(tier)
        if mine is None:
            continue
        tiers += 1
        found = _optimum(wants, ledger, until) if wants else (0.0, 0.0, 0)
        if found is not None:
            optimum, score, placed = found
            proved += 1
            ours += mine.score
            milp += score
            most += optimum
            if tiers == 1:
                gap = max(0, placed - mine.placed) / max(1, mine.replicas)
        # On to the next tier with what ours left.
        for decision in decisions:
            spots = advice.targets.get(decision.turn.job.key, ())
            states = []
            for site, node, count in spots:
                state = ledger.find(site, node)
                assert state is not None
                for _ in range(count):
                    ledger.place(decision.ask.index, state)
                    states.append(state)
            settle_at(decision, states, ledger.now)
    return Comparison(proved, tiers, ours, milp, most, gap)


def _optimum(wants: list[Want], ledger: Ledger, until: float) -> tuple[float, float, int] | None:
    """The proved optimum, the scores of its placement and its replicas; None when time ran out."""
    tier = tier_of(wants, ledger)
    lists = [np.arange(len(want.rows), dtype=np.intp) for want in wants]
    lp = Lp(tier, lists, ledger.columns.site, whole=True)
    lp.add(lp.first_tangents())
    for _ in range(ROUNDS):
        left = until - time.monotonic()
        if left <= 1:
            return None
        answer = lp.run(Limits().iterations, left)
        if not answer.finished:
            return None
        more = lp.wrong(answer)
        if not len(more.node):
            break
        lp.add(more)
    wish = [
        [int(row) for row, amount in zip(want.rows[at], amounts, strict=True) for _ in range(round(float(amount)))]
        for want, (at, amounts) in zip(wants, lp.amounts(answer), strict=True)
    ]
    where = put(wish, wants, ledger)
    score = score_of(where, wants, ledger)
    take_back(where, wants, ledger)
    return answer.objective, score, sum(len(nodes) for nodes in where)


def summary(size: str, found: list[Comparison]) -> tuple[dict[str, float | None], str]:
    proved = [item for item in found if item.proved]
    tiers = sum(item.proved for item in found), sum(item.tiers for item in found)
    ours, milp, most = (sum(getattr(item, what) for item in proved) for what in ("ours", "milp", "bound"))
    figures: dict[str, float | None] = {
        f"share_of_milp_{size}": round(ours / milp, 4) if proved else None,
        f"share_of_milp_bound_{size}": round(ours / most, 4) if proved else None,
        f"top_tier_fill_gap_{size}": round(max((item.gap for item in proved), default=0.0), 4),
    }
    return figures, f"{tiers[0]} of {tiers[1]} tiers of {len(found)} instances proved in {SECONDS:g} s an instance"
