"""The best that a priority tier could do: an LP relaxation, its prices, and a bound that holds for any prices.

The objective of a tier is the sum of its new replicas' scores as they are when the whole tier is there. Per want i and
node n, x_in replicas:

- Load. A replica's score falls by at least c U - d when the others on its node request U in sum (wants.Lines, several
  lines (c, d) for each want and node). Over all replicas of a node that is, with r_i their requests,
  sum c_i x_i sum r_j x_j - sum (c_i r_i + d_i) x_i, and by Cauchy and Schwarz the product is at least V^2 with
  V = sum sqrt(c_i r_i) x_i: exact for replicas that are alike, and convex. The LP takes V^2 by tangents, from below,
  which are added where it is wrong.
- Spread. k replicas of one job on one node share 1/2 (k times 1/(2k)), and so at one site: the first brings it, the
  others nothing. That is concave, so unit segments are exact. Beside replicas that stay, k/(2(h + k)) is bounded by its
  first step for each.
- Capacity: cpu, memory, pods and storage of each node, and maxPerSite. Quotas, minSites, what else changes while
  replicas are placed, and whole numbers are left out; that only raises the bound.

The bound is the Lagrangian dual at the prices: it is true for whatever prices, also when HiGHS stopped early or saw only
a short list of candidates, because each job then picks from all of its nodes. bound.py has a tighter one, which begins at
these prices; the least is published.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeward.placement.columns import Floats, Rows
from edgeward.placement.ledger import Ledger
from edgeward.placement.solve.wants import FRACTIONS, Want, lines_of

Clock = Callable[[], float]
"""seconds since the solve began"""
LINES = len(FRACTIONS)
AMOUNTS = 4
"""cpu, memory, pods, storage"""
STEPS = ((0, 1), (0, 2), (0, 3), (1, 1), (1, 2))
"""of which amount, and into how many parts: see `steps`"""
RESOURCES = AMOUNTS + len(STEPS)


@dataclass(slots=True)
class Prices:
    """What it costs to take from a node, in score."""

    capacity: Floats
    """of all that is free of each resource: [RESOURCES, nodes]"""
    pull: Floats
    """A of A V - A^2/(4B), the tangent to B V^2 that holds for a node's load: [lines, nodes]"""
    part: Floats
    """B: how much each line counts, at most 1 in sum: [lines, nodes]"""

    @classmethod
    def nothing(cls, nodes: int) -> Prices:
        return cls(np.zeros((RESOURCES, nodes)), np.zeros((LINES, nodes)), np.zeros((LINES, nodes)))


@dataclass(slots=True)
class Tier:
    """Everything about the nodes that the relaxation needs."""

    wants: Sequence[Want]
    free: Floats
    """[AMOUNTS, nodes]"""
    asks: Floats
    """[AMOUNTS, wants]"""
    usual: Floats
    """score that each millicore on a node takes from every replica there, about: [nodes]"""
    order: Rows
    """nodes by rank"""
    ledger: Ledger
    """as it is when the tier's turn begins, as long as nothing is placed"""

    @property
    def nodes(self) -> int:
        return int(self.free.shape[1])

    def shares(self, index: int, at: Rows | slice = slice(None)) -> Floats:
        """What one replica of a want takes of what is free on its nodes: [RESOURCES, nodes]. Its shares and those of all
        others that come there sum to at most 1 in each."""
        want = self.wants[index]
        nodes = want.rows[at]
        asks = self.asks[:, index, None]
        amounts = np.where(asks > 0, asks / np.maximum(self.free[:, nodes], 1e-9), 0.0) * want.takes[at]
        return np.concatenate([amounts, *(steps(amounts[which], parts)[None, :] for which, parts in STEPS)])


@dataclass(slots=True)
class Relaxation:
    prices: Prices
    amounts: list[tuple[Rows, Floats]]
    """by want: nodes and how many replicas the LP puts there"""
    finished: bool
    """False when a limit stopped it"""
    struck: bool = False
    """the wall clock did"""


def tier_of(wants: Sequence[Want], ledger: Ledger) -> Tier:
    table = ledger.columns
    free = np.array(
        [
            table.allocatable_cpu - table.requested_cpu,
            table.allocatable_memory - table.requested_memory,
            table.allocatable_pods - table.requested_pods,
            table.allocatable_storage - table.requested_storage,
        ]
    )
    requests = [want.decision.ask.request for want in wants]
    asks = np.array([[r.cpu, r.memory, r.pods, r.storage] for r in requests], dtype=np.float64).T.reshape(AMOUNTS, -1)
    usual = np.full(len(ledger.states), np.inf)
    for want in wants:
        usual[want.rows] = np.minimum(usual[want.rows], want.usual)
    usual[~np.isfinite(usual)] = 0.0
    order = np.argsort(ledger.columns.rank, kind="stable").astype(np.intp)
    return Tier(wants, np.maximum(free, 0.0), asks, usual, order, ledger)


def steps(share: Floats, parts: int) -> Floats:
    """Whole replicas leave gaps: of those that take more than half of a node there is one, of those above a third two.

    A dual feasible function (Fekete and Schepers, 2001): f(x) = x where (k + 1) x is whole, else floor((k + 1) x)/k.
    If the shares of some replicas sum to at most 1, so do their f.
    """
    scaled = share * (parts + 1)
    whole = np.abs(scaled - np.round(scaled)) < 1e-9
    return np.minimum(np.where(whole, share, np.floor(scaled) / parts), 1.0)


def reduced(tier: Tier, index: int, prices: Prices) -> tuple[Floats, Floats]:
    """What a place is worth to want `index` after its price, for the first replica on the node and for further ones,
    without the site's part."""
    want = tier.wants[index]
    price = np.sum(tier.shares(index) * prices.capacity[:, want.rows], axis=0)
    at = np.flatnonzero(np.any(prices.part[:, want.rows] > 0, axis=0))
    if len(at):
        lines, nodes = lines_of(want, tier.ledger, at), want.rows[at]
        price[at] += np.sum(prices.pull[:, nodes] * lines.roots - prices.part[:, nodes] * lines.own, axis=0)
    return want.first - price, want.further - price


def bound(tier: Tier, prices: Prices, sites: Rows) -> float:
    """No placement of the tier has a larger sum of scores. `sites`: the site of each node, as a number."""
    total = float(np.sum(prices.capacity))
    used = prices.part > 0
    total += float(np.sum(prices.pull[used] ** 2 / (4.0 * prices.part[used])))
    for index, want in enumerate(tier.wants):
        first, further = reduced(tier, index, prices)
        if want.count == 1:
            total += max(0.0, float(np.max(first + want.site_first)))
        else:
            total += _best_of(want, first, further, sites[want.rows])
    return total


def _best_of(want: Want, first: Floats, further: Floats, sites: Rows) -> float:
    """At most `count` replicas where they are worth most: a node's first, its further ones, a site's first on top."""
    values = first + want.site_further
    bonus = want.site_first - want.site_further
    best: dict[int, int] = {}
    for at in np.argsort(-values, kind="stable"):
        best.setdefault(int(sites[at]), int(at))
    values = values.copy()
    heads = np.fromiter(best.values(), dtype=np.intp)
    values[heads] += bonus[heads]
    limit = want.decision.turn.job.max_per_site
    if limit is not None:
        return _best_within(want, values, further + want.site_further, sites, limit)
    every = np.concatenate([values, np.repeat(further + want.site_further, want.most - 1)])
    every = every[every > 0]
    if len(every) > want.count:
        every = np.partition(every, len(every) - want.count)[-want.count :]
    return float(np.sum(every))


def _best_within(want: Want, values: Floats, further: Floats, sites: Rows, limit: int) -> float:
    """The same with at most `limit` at a site, those that stay counted."""
    names = {int(site): number for number, site in enumerate(np.unique(sites))}
    pool: list[list[float]] = [[] for _ in names]
    rows = zip(values.tolist(), further.tolist(), want.most.tolist(), sites.tolist(), strict=True)
    for value, more, most, site in rows:
        pool[names[site]] += [value, *[more] * (min(most, limit) - 1)]
    chosen: list[float] = []
    for site, number in names.items():
        left = min(want.count, limit - want.stays_at(site))
        if left > 0:
            chosen += sorted(pool[number], reverse=True)[:left]
    return sum(sorted((value for value in chosen if value > 0), reverse=True)[: want.count])


@dataclass(frozen=True, slots=True)
class Limits:
    """Counts that end a solve; the wall clock is only a backstop."""

    candidates: int = 24
    """nodes per want in the LP, and three for each replica beyond the first"""
    columns: int = 20_000
    """of all lists together; a larger tier gets shorter lists and only one LP"""
    rounds: int = 1
    """times that nodes which turn out cheap are added to the lists"""
    iterations: int = 200_000
    """of the simplex method, per LP"""
    cuts: int = 0
    """times that tangents are added where the LP takes the load of a node for too little, per list of candidates"""
    choices: int = 10
    """rounds of better prices for what nodes choose (bound.py), fewer for a large tier"""
    prices: int = 30
    """the same for the bound, which nobody waits for"""
    trials: int = 600
    """steps of the local search, per tier, and half of one more for each replica"""
    seconds: float = 50.0
    """the backstop"""
