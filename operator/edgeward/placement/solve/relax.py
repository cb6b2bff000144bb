"""The best that a priority tier could do: an LP relaxation, its prices, and a bound that holds for any prices.

The objective of a tier is the sum of its new replicas' scores as they are when the whole tier is there. Per want i and
node n, x_in replicas:

- Load. On a node with V = sum sqrt(r_i) x_in (r: cpu requests, U = sum r_i x_in), every replica's score has fallen by at
  least b_n times what the others there request, in sum b_n (m U - sum r_i x_in) with m = sum x_in. By Cauchy and Schwarz
  m U >= V^2, so b_n (V^2 - sum r_i x_in) is a lower bound of the loss, exact for requests of one size, and convex. The LP
  takes V^2 by tangents, from below.
- Spread. k replicas of one job on one node share 1/2 (k times 1/(2k)), and so at one site: the first brings it, the
  others nothing. That is concave, so unit segments are exact. Beside replicas that stay, k/(2(h + k)) is bounded by its
  first step for each.
- Capacity: cpu, memory, pods and storage of each node. Quotas, limits of spread, exclusions to come and whole numbers
  are left out; that only raises the bound.

The bound is the Lagrangian dual at the prices: it is true for whatever prices, also when HiGHS stopped early or saw only
a short list of candidates, because each job then picks from all of its nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import highspy
import numpy as np

from edgeward.placement.columns import Floats, Rows
from edgeward.placement.ledger import Ledger
from edgeward.placement.solve.wants import Want

Clock = Callable[[], float]
"""seconds since the solve began"""
RESOURCES = 4
"""cpu, memory, pods, storage"""


@dataclass(slots=True)
class Prices:
    """What it costs to take from a node, in score: per unit of each resource, and per sqrt(millicore) for the load."""

    capacity: Floats
    """[RESOURCES, nodes]"""
    load: Floats
    """[nodes]"""

    @classmethod
    def nothing(cls, nodes: int) -> Prices:
        return cls(np.zeros((RESOURCES, nodes)), np.zeros(nodes))


@dataclass(slots=True)
class Tier:
    """Everything about the nodes that the relaxation needs."""

    wants: Sequence[Want]
    free: Floats
    """[RESOURCES, nodes]"""
    asks: Floats
    """[RESOURCES, wants]"""
    slope: Floats
    """b_n"""
    order: Rows
    """nodes by rank"""

    @property
    def nodes(self) -> int:
        return self.free.shape[1]


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
    states = ledger.states
    frees = [state.free for state in states]
    free = np.array([[f.cpu, f.memory, f.pods, f.storage] for f in frees], dtype=np.float64).T.reshape(RESOURCES, -1)
    requests = [want.decision.ask.request for want in wants]
    asks = np.array([[r.cpu, r.memory, r.pods, r.storage] for r in requests], dtype=np.float64).T.reshape(RESOURCES, -1)
    slope = np.full(len(states), np.inf)
    for want in wants:
        slope[want.rows] = np.minimum(slope[want.rows], want.slope)
    slope[~np.isfinite(slope)] = 0.0
    order = np.argsort(ledger.columns.rank, kind="stable").astype(np.intp)
    return Tier(wants, np.maximum(free, 0.0), asks, slope, order)


def reduced(tier: Tier, index: int, prices: Prices) -> tuple[Floats, Floats]:
    """What a place is worth to want `index` after its price, for the first replica on the node and for further ones,
    without the site's part."""
    want = tier.wants[index]
    price = (tier.asks[:, index] @ prices.capacity[:, want.rows]) * want.takes
    price = price + want.root * prices.load[want.rows] - want.cpu * tier.slope[want.rows]
    return want.first - price, want.further - price


def bound(tier: Tier, prices: Prices, sites: Rows) -> float:
    """No placement of the tier has a larger sum of scores. `sites`: the site of each node, as a number."""
    total = float(np.sum(prices.capacity * tier.free))
    # Of each node's load: max over V of mu V - b V^2.
    mu, b = prices.load, tier.slope
    priced = mu > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        total += float(np.sum(np.where(priced & (b > 0), mu * mu / (4 * b), 0.0)))
    for index, want in enumerate(tier.wants):
        first, further = reduced(tier, index, prices)
        if want.count == 1:
            total += max(0.0, float(np.max(first + want.site_first)))
            continue
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
    top = np.max(further + want.site_further)
    every = np.concatenate([values, np.full(want.count, top)])
    every = every[every > 0]
    if len(every) > want.count:
        every = np.partition(every, len(every) - want.count)[-want.count :]
    return float(np.sum(every))


@dataclass(frozen=True, slots=True)
class Limits:
    """Counts that end a solve; the wall clock is only a backstop."""

    candidates: int = 24
    """nodes per want in the LP, and three for each replica beyond"""
    rounds: int = 4
    """times that nodes which turn out cheap are added to the lists"""
    iterations: int = 200_000
    """of the simplex method, per LP"""
    tangents: int = 8
    """to the parabola of a node's load"""
    trials: int = 400
    """steps of the local search, per tier"""
    seconds: float = 20.0
    """the backstop"""


def relax(tier: Tier, ledger: Ledger, limits: Limits, clock: Clock) -> Relaxation:
    """The LP over short lists of candidates, which grow by what the prices show to be missing."""
    sites = ledger.columns.site
    lists = [_first_list(want, limits) for want in tier.wants]
    result = Relaxation(Prices.nothing(tier.nodes), [], False)
    for turn in range(limits.rounds):
        left = limits.seconds - clock()
        if left <= 0:
            result.struck = True
            return result
        result, worth = _solve(tier, lists, sites, limits, left)
        if not result.finished or turn + 1 == limits.rounds:
            return result
        grown = 0
        for index, want in enumerate(tier.wants):
            first, _ = reduced(tier, index, result.prices)
            missing = first + want.site_further - worth[index]
            missing[lists[index]] = -np.inf
            more = [at for at in np.argsort(-missing, kind="stable")[:4] if missing[at] > GAIN]
            if more:
                lists[index] = np.sort(np.concatenate([lists[index], np.array(more, dtype=np.intp)]))
                grown += len(more)
        if not grown:
            return result
    return result


GAIN = 1e-4
"""score below which a longer list is not worth another LP"""


def _first_list(want: Want, limits: Limits) -> Rows:
    """Positions in want.rows: the best places as they are now."""
    most = min(len(want.rows), limits.candidates + 3 * (want.count - 1))
    values = want.first + want.site_first
    return np.sort(np.argsort(-values, kind="stable")[:most]).astype(np.intp)


def _solve(tier: Tier, lists: list[Rows], sites: Rows, limits: Limits, seconds: float) -> tuple[Relaxation, Floats]:
    """Prices and amounts, and by want what its last replica is worth to it (the price of its count)."""
    model = _Model()
    number = len(tier.wants)
    used = np.unique(np.concatenate([want.rows[at] for want, at in zip(tier.wants, lists, strict=True)]))
    used = tier.order[np.isin(tier.order, used)]
    position = np.full(tier.nodes, -1, dtype=np.intp)
    position[used] = np.arange(len(used))

    count_rows = model.rows(np.array([want.count for want in tier.wants], dtype=np.float64))
    # What all of a list together may ask of a node: only where that is more than is free can a resource run out.
    demand = np.zeros((RESOURCES, tier.nodes))
    for index, want in enumerate(tier.wants):
        nodes = want.rows[lists[index]]
        demand[:, nodes] += np.outer(tier.asks[:, index] * want.count, want.takes[lists[index]])
    scale = np.maximum(tier.free, 1.0)
    capacity_rows = np.full((RESOURCES, tier.nodes), -1, dtype=np.intp)
    for resource in range(RESOURCES):
        scarce = used[demand[resource, used] > tier.free[resource, used]]
        capacity_rows[resource, scarce] = model.rows(tier.free[resource, scarce] / scale[resource, scarce])
    load_rows = np.full(tier.nodes, -1, dtype=np.intp)
    loaded = used[tier.slope[used] > 0]
    load_rows[loaded] = model.rows(np.zeros(len(loaded)))

    spans: list[tuple[int, int, int]] = []
    for index, want in enumerate(tier.wants):
        at = lists[index]
        nodes = want.rows[at]
        own = want.cpu * tier.slope[nodes]
        start = model.columns_so_far
        several = want.count > 1
        for is_first in (True, False) if several else (True,):
            gain = (want.first if is_first else want.further)[at] + own
            gain = gain + (want.site_further if several else want.site_first)[at]
            columns = model.columns(gain, np.ones(len(at)) if is_first else np.full(len(at), want.count - 1.0))
            model.entries(np.full(len(at), count_rows[index]), columns, np.ones(len(at)))
            for resource in range(RESOURCES):
                rows = capacity_rows[resource, nodes]
                amounts = tier.asks[resource, index] * want.takes[at] / scale[resource, nodes]
                model.entries(rows, columns, amounts)
            model.entries(load_rows[nodes], columns, np.full(len(at), want.root))
        spans.append((start, len(at), model.columns_so_far))
        if several:
            bonus = want.site_first - want.site_further
            where, heads, inverse = np.unique(sites[nodes], return_index=True, return_inverse=True)
            rows = model.rows(np.zeros(len(where)))
            firsts = model.columns(bonus[at][heads], np.ones(len(where)))
            model.entries(rows, firsts, np.ones(len(where)))
            for block in range(start, start + 2 * len(at), len(at)):
                model.entries(rows[inverse], np.arange(block, block + len(at)), -np.ones(len(at)))
    _tangents(model, tier, loaded, load_rows, lists, limits.tangents)

    answer = model.run(limits.iterations, seconds)
    prices = Prices.nothing(tier.nodes)
    for resource in range(RESOURCES):
        has = capacity_rows[resource] >= 0
        prices.capacity[resource, has] = (
            np.maximum(answer.duals[capacity_rows[resource, has]], 0.0) / scale[resource, has]
        )
    prices.load[loaded] = np.maximum(answer.duals[load_rows[loaded]], 0.0)
    amounts = []
    for index, (start, size, end) in enumerate(spans):
        parts = answer.values[start:end].reshape(-1, size) if size else np.zeros((1, 0))
        amounts.append((lists[index], np.asarray(parts.sum(axis=0))))
    return Relaxation(prices, amounts, answer.finished, answer.struck), np.maximum(answer.duals[:number], 0.0)


def _tangents(model: _Model, tier: Tier, loaded: Rows, load_rows: Rows, lists: list[Rows], tangents: int) -> None:
    """V of each node in segments whose cost per unit grows: b V^2 from below, by its tangents."""
    if not len(loaded):
        return
    most = np.zeros(tier.nodes)
    least = min((want.root for want in tier.wants if want.root > 0), default=1.0)
    for index, want in enumerate(tier.wants):
        most[want.rows[lists[index]]] += want.root * want.count
    # m replicas of r millicores: V = sqrt(m U), and m <= U/r.
    most = np.minimum(most, tier.free[0] / least + least)[loaded]
    at = [most * (step / tangents) ** 1.5 for step in range(tangents + 1)]
    breaks = [np.zeros(len(loaded)), *((one + other) / 2 for one, other in pairwise(at))]
    for step in range(tangents + 1):
        last = step == tangents
        width = np.full(len(loaded), np.inf) if last else breaks[step + 1] - breaks[step]
        columns = model.columns(-2.0 * tier.slope[loaded] * at[step], width)
        model.entries(load_rows[loaded], columns, -np.ones(len(loaded)))


@dataclass(slots=True)
class _Answer:
    values: Floats
    duals: Floats
    finished: bool
    struck: bool


class _Model:
    """max gain x, A x <= limits, 0 <= x <= upper; put together in columns."""

    def __init__(self) -> None:
        self._limits: list[Floats] = []
        self._gains: list[Floats] = []
        self._uppers: list[Floats] = []
        self._entries: list[tuple[Rows, Rows, Floats]] = []
        self._rows = 0
        self.columns_so_far = 0

    def rows(self, limits: Floats) -> Rows:
        start, self._rows = self._rows, self._rows + len(limits)
        self._limits.append(limits)
        return np.arange(start, self._rows, dtype=np.intp)

    def columns(self, gains: Floats, uppers: Floats) -> Rows:
        start, self.columns_so_far = self.columns_so_far, self.columns_so_far + len(gains)
        self._gains.append(gains)
        self._uppers.append(uppers)
        return np.arange(start, self.columns_so_far, dtype=np.intp)

    def entries(self, rows: Rows, columns: Rows, values: Floats) -> None:
        """A row of -1 does not exist."""
        real = (rows >= 0) & (values != 0)
        self._entries.append((rows[real], columns[real], values[real]))

    def run(self, iterations: int, seconds: float) -> _Answer:
        rows = np.concatenate([entry[0] for entry in self._entries])
        columns = np.concatenate([entry[1] for entry in self._entries])
        values = np.concatenate([entry[2] for entry in self._entries])
        order = np.lexsort((rows, columns))
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = self.columns_so_far, self._rows
        lp.col_cost_ = np.concatenate(self._gains)
        lp.col_lower_ = np.zeros(self.columns_so_far)
        lp.col_upper_ = np.concatenate(self._uppers)
        lp.row_lower_ = np.full(self._rows, -highspy.kHighsInf)
        lp.row_upper_ = np.concatenate(self._limits)
        lp.sense_ = highspy.ObjSense.kMaximize
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        lp.a_matrix_.start_ = np.searchsorted(columns[order], np.arange(self.columns_so_far + 1))
        lp.a_matrix_.index_ = rows[order]
        lp.a_matrix_.value_ = values[order]
        highs = highspy.Highs()
        for name, value in {
            "output_flag": False,
            "threads": 1,
            "parallel": "off",
            "random_seed": 1,
            "simplex_iteration_limit": iterations,
            "time_limit": seconds,
        }.items():
            highs.setOptionValue(name, value)
        highs.passModel(lp)
        highs.run()
        status = highs.getModelStatus()
        solution = highs.getSolution()
        known = len(solution.col_value) == self.columns_so_far and len(solution.row_dual) == self._rows
        return _Answer(
            values=np.array(solution.col_value) if known else np.zeros(self.columns_so_far),
            duals=np.array(solution.row_dual) if known else np.zeros(self._rows),
            finished=status == highspy.HighsModelStatus.kOptimal,
            struck=status == highspy.HighsModelStatus.kTimeLimit,
        )
