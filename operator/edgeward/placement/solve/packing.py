"""Placing a tier's replicas for good or on trial: by prices, and better step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from edgeward.placement.columns import Floats
from edgeward.placement.constraints import FIT_CHECKS, first_miss, site_is_closed
from edgeward.placement.decide import Decision
from edgeward.placement.greedy import fill
from edgeward.placement.incumbents import Crowd, Standing, standing_score
from edgeward.placement.ledger import Ledger
from edgeward.placement.sieve import that_fit
from edgeward.placement.solve.relax import Tier

Where = list[list[int]]
"""by want, the node of each of its replicas that has one, as an index of Ledger.states"""


class Decided(Protocol):
    """A Want, or whatever else belongs to the decision about one job."""

    @property
    def decision(self) -> Decision: ...


def take_back(packing: Where, wants: Sequence[Decided], ledger: Ledger) -> None:
    for want, nodes in zip(wants, packing, strict=True):
        for node in nodes:
            ledger.take_back(want.decision.ask.index, ledger.states[node])


def put(packing: Where, wants: Sequence[Decided], ledger: Ledger) -> Where:
    """Places what still fits; returns what it placed."""
    placed: Where = []
    for want, nodes in zip(wants, packing, strict=True):
        ask, done = want.decision.ask, []
        for node in nodes:
            state = ledger.states[node]
            if first_miss(ask, state, FIT_CHECKS) is None:
                ledger.place(ask.index, state)
                done.append(node)
        placed.append(done)
    return placed


def score_of(packing: Where, wants: Sequence[Decided], ledger: Ledger) -> float:
    """Sum of the scores of the new replicas, as they are now that all of them are in the ledger."""
    by_decision: dict[int, tuple[Decided, list[int]]] = {}
    for want, nodes in zip(wants, packing, strict=True):
        by_decision.setdefault(want.decision.ask.index, (want, []))[1].extend(nodes)
    total = 0.0
    for want, nodes in by_decision.values():
        total += sum(count * score for _, count, score in scores_of(want, nodes, ledger))
    return total


def scores_of(want: Decided, nodes: Sequence[int], ledger: Ledger) -> list[tuple[int, int, float]]:
    """(node, replicas, score of one of them) for the new replicas of one job."""
    counts: dict[int, int] = {}
    for node in nodes:
        counts[node] = counts.get(node, 0) + 1
    fresh = [
        Standing(state.node.name, state.site.name, state.node.tier, state, count, 0, ledger.now, new=True)
        for state, count in ((ledger.states[node], count) for node, count in counts.items())
    ]
    crowd = Crowd([*want.decision.standings, *fresh])
    return [
        (standing.state.index, standing.count, standing_score(want.decision.scorer, crowd, standing))
        for standing in fresh
        if standing.state is not None
    ]


@dataclass(slots=True)
class Guide:
    """What rounding goes by: the price of each node for each want, and how many of the tier are on each node so far."""

    tier: Tier
    prices: Floats
    """[RESOURCES, nodes]"""
    arrived: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.arrived = np.zeros(self.tier.nodes)

    def cost(self, index: int) -> Floats:
        """By row of the want: what is taken from others, by their capacity and by the load that they then see."""
        want = self.tier.wants[index]
        taken = np.sum(self.tier.shares(index) * self.prices[:, want.rows], axis=0)
        cost: Floats = taken + want.cpu * self.tier.usual[want.rows] * self.arrived[want.rows]
        return cost


def round_up(tier: Tier, ledger: Ledger, prices: Floats, wish: Where | None = None) -> Where:
    """Every replica in the order of turns: first where the LP has it whole (`wish`), then where its score now, less
    what it takes from others, is largest; last, what found nothing worth its price goes wherever it fits.

    The score is that of the ledger, with everything that was placed before, so no burst herds on one idle node.
    """
    guide = Guide(tier, prices)
    packing: Where = [[] for _ in tier.wants]
    if wish is not None:
        for index, nodes in enumerate(put(wish, tier.wants, ledger)):
            packing[index] = nodes
            for node in nodes:
                guide.arrived[node] += 1
    for free_of_price in (False, True):
        for index, want in enumerate(tier.wants):
            short = want.count - len(packing[index])
            if short > 0:
                _pick(index, short, packing[index], guide, ledger, free_of_price)
    return packing


def _pick(index: int, need: int, nodes: list[int], guide: Guide, ledger: Ledger, free_of_price: bool) -> None:
    """Adds to `nodes` at most `need` places, and to the ledger."""
    want = guide.tier.wants[index]
    ask = want.decision.ask
    rows = that_fit(ask, ledger, want.rows)
    on_node, at_site = dict(want.on_node), dict(want.at_site)
    for node in nodes:
        on_node[node] = on_node.get(node, 0) + 1
        site = ledger.states[node].site.name
        at_site[site] = at_site.get(site, 0) + 1
    cost = growth = None
    if not free_of_price:
        at = np.isin(want.rows, rows)
        cost, growth = guide.cost(index)[at], want.cpu * guide.tier.usual[want.rows[at]]
    chosen = fill(
        need,
        rows,
        job=ask.index,
        scorer=want.decision.scorer,
        ledger=ledger,
        on_node=on_node,
        at_site=at_site,
        fits=lambda state: first_miss(ask, state, FIT_CHECKS) is None,
        closed=lambda state: site_is_closed(ask, state),
        cost=cost,
        growth=growth,
    )
    for state in chosen:
        nodes.append(state.index)
        guide.arrived[state.index] += 1
