"""The bound that is published: no packing of a tier scores more. Each node is a knapsack whose values fall as it fills.

Prices are asked only for what ties nodes together: p for each want's count, q for what the first replica at a site adds,
m for maxPerSite, and e for memory, pods and storage of a node. For any p, q, m, e >= 0 the sum over nodes of the best
that each can hold at these prices, plus what the prices bring in, is at least the score of every packing (Lagrange).

The best that a node can hold: let the tier add U millicores to it in the end. Whatever U is, it lies in one of a few
segments [lo, hi]. Scores fall with U and are judged at the end, so a replica of r millicores brings at most its score
beside lo - r others, and together they request at most hi. So the node's best is at most the largest, over its
segments, of a knapsack of size hi with values taken at lo. Two kinds of nodes:

- Small: all requests are multiples of their greatest common divisor, so U is one of a few levels, each a segment of its
  own with lo = hi. The knapsack is solved in whole numbers, which an LP over the fleet cannot do.
- Large: even segments, refined where they decide, and replicas that may be divided; of many none matters much.

The prices begin at those of the LP (relax.py). Then what the nodes chose goes as columns into a master LP (Dantzig and
Wolfe, 1960), whose duals, drawn toward the best prices so far (Wentges, 1997), are the next. Every round gives a bound,
and the least holds. What still may lie above the truth: what memory does to headroom, quotas, minSites, whole numbers
across nodes and on large ones.

The plan uses the same rounds: what the master mixes is rounded to whole replicas (dive.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.placement.columns import Floats, Rows
from edgeward.placement.ledger import Ledger
from edgeward.placement.solve.dive import Choices, dive
from edgeward.placement.solve.master import Master, Multipliers
from edgeward.placement.solve.nodes import DIGITS, Pairs, groups_of
from edgeward.placement.solve.packing import Where
from edgeward.placement.solve.relax import AMOUNTS, STEPS, Prices, Tier, reduced
from edgeward.placement.solve.wants import Want

MARGINS = (0.12, 0.05, 0.02, 0.0)
"""of score: pairs of want and node that are so far from their price at the start are left out, and no price may fall
so low that they would matter; the first with no more than PAIRS of them"""
DRAWN = 0.4
"""how far the next prices go from the best ones to the master's"""
PAIRS = 80_000
"""pairs at most; a tier with more gets one bound, at the prices to begin with"""
PLACES, PART = 60_000, 40_000
"""wants times nodes from which on a tier is too large for rounds, and pairs at a time then"""
WORK, BEHIND = 240_000, 400_000
"""pairs times rounds: for the choices that advice waits for, and for the bound, which is computed behind it"""
FEWEST = 4
"""rounds before the master's prices are better than those to begin with: with fewer, only the latter are tried"""
ENOUGH = 5e-4
"""of the bound: when the master shows that no prices lower it by more, that is the end"""
WHOLE = 1e-6
"""what a whole number may lack"""
OTHERS = (1, 2, 3, *(AMOUNTS + at for at, (amount, _) in enumerate(STEPS) if amount > 0))
"""resources whose sums the knapsack does not know"""


@dataclass(slots=True)
class Choice:
    """What the nodes choose at some prices."""

    bound: float
    amounts: Floats
    """by pair"""
    worth: Floats
    """by node, after prices"""


def tight_bound(tier: Tier, prices: Prices, ledger: Ledger, *, rounds: int, iterations: int) -> float:
    """For any prices no packing of the tier has a larger sum of scores. `rounds` of better prices, fewer where the next
    would not help; `iterations` of the simplex method for each."""
    if not tier.wants:
        return 0.0
    if _places(tier) <= PLACES:
        dual = Dual(tier, prices, ledger)
        size = len(dual.pairs.node)
        if size <= PAIRS:
            return dual.better(_rounds(rounds, size, BEHIND) or 1, iterations, learn_last=False)
    return Dual(tier, prices, ledger, once=True).bound_in_parts()


def choices_of_nodes(tier: Tier, prices: Prices, ledger: Ledger, *, rounds: int, iterations: int) -> Where | None:
    """What the nodes choose at prices that fit together, in whole replicas; None for a tier that is too large."""
    if _places(tier) > PLACES:
        return None
    dual = Dual(tier, prices, ledger)
    size = len(dual.pairs.node)
    few = _rounds(rounds, size, WORK) if size <= PAIRS else 0
    if not few or not size:
        return None
    dual.better(few, iterations, learn_last=True)
    where: Where = [[] for _ in tier.wants]
    for want, node, amount in dive(dual.master, dual.choices(), dual.counts, iterations):
        where[want] += [node] * int(amount + WHOLE)
    return [nodes[: want.count] for want, nodes in zip(tier.wants, where, strict=True)]


def _places(tier: Tier) -> int:
    return sum(len(want.rows) for want in tier.wants)


def _rounds(rounds: int, size: int, work: int) -> int:
    """As many as a bounded work allows; 0 when those are too few to come to anything."""
    rounds = min(rounds, work // max(1, size))
    return rounds if rounds >= FEWEST else 0


class Dual:
    def __init__(self, tier: Tier, prices: Prices, ledger: Ledger, *, once: bool = False) -> None:
        """`once`: for `bound_in_parts`, which has no other prices than those to begin with."""
        self.tier, self.ledger = tier, ledger
        self.sites = ledger.columns.site
        self._learned: list[tuple[Rows, Rows, Floats, Rows]] = []
        """of each round: by entry the choice, the pair and the amount; and by choice the node"""
        self.counts = np.array([want.count for want in tier.wants], dtype=np.float64)
        self._spots(prices)
        self.pairs = self._candidates(once)
        if once or len(self.pairs.node) > PAIRS:
            return
        self.groups = groups_of(self.pairs, tier, ledger)
        demand = np.zeros((len(OTHERS), tier.nodes))
        for at in range(len(OTHERS)):
            weights = self.pairs.others[at] * self.pairs.most
            demand[at] = np.bincount(self.pairs.node, weights=weights, minlength=tier.nodes)
        self.seen = np.isin(np.arange(len(self.bonus)), self.pairs.spot)
        bonus, limits = np.where(self.seen, self.bonus, 0.0), np.where(self.seen, self.limits, np.inf)
        self.master = Master(self.counts, bonus, limits, demand > 1.0)

    def better(self, rounds: int, iterations: int, *, learn_last: bool) -> float:
        """The least bound of so many prices; fewer when the next would not lower it. `learn_last`: the master gets to
        know the last choices too, for whoever asks it for the mixture."""
        best, at = math.inf, self.begin
        trial = at
        for turn in range(rounds):
            choice = self.choose(trial)
            if choice.bound < best:
                best, at = choice.bound, trial
            if turn + 1 == rounds and not learn_last:
                break
            answer = self.learn(choice, trial, iterations)
            if answer is None or best - answer[0] <= ENOUGH * best:
                break
            trial = self.lifted(at.toward(answer[1], DRAWN))
        return best

    def choices(self) -> Choices:
        """All that the master learned."""
        columns, pairs, amounts, nodes = [], [], [], []
        start = 0
        for column, pair, amount, node in self._learned:
            columns.append(column + start)
            pairs.append(pair)
            amounts.append(amount)
            nodes.append(node)
            start += len(node)
        column_ = np.concatenate(columns) if columns else np.zeros(0, dtype=np.intp)
        order = np.argsort(column_, kind="stable")
        starts = np.searchsorted(column_[order], np.arange(start + 1)).astype(np.intp)
        pair_ = np.concatenate(pairs)[order] if pairs else column_
        amount_ = np.concatenate(amounts)[order] if amounts else np.zeros(0)
        node_ = np.concatenate(nodes) if nodes else column_
        return Choices(node_, starts, self.pairs.want[pair_], amount_)

    def _spots(self, prices: Prices) -> None:
        """Wants and sites, and the prices to begin with: at the LP's prices of nodes, what each want would pay for its
        last replica, and what of a site's bonus is needed to make its best node worth that."""
        number = int(self.sites.max()) + 1
        keys = [index * number + self.sites[want.rows] for index, want in enumerate(self.tier.wants)]
        known, where = np.unique(np.concatenate(keys), return_inverse=True)
        ends = np.cumsum([len(want.rows) for want in self.tier.wants])[:-1]
        self.spot_of = np.split(where.astype(np.intp), ends)
        self.bonus, self.limits = np.zeros(len(known)), np.full(len(known), np.inf)
        pay, part = np.zeros(len(self.tier.wants)), np.zeros(len(known))
        for index, (want, spot) in enumerate(zip(self.tier.wants, self.spot_of, strict=True)):
            first, further = reduced(self.tier, index, prices)
            if want.count > 1:
                self.bonus[spot] = want.site_first - want.site_further
            limit = want.decision.turn.job.max_per_site
            if limit is not None:
                for one in np.unique(spot).tolist():
                    self.limits[one] = max(0.0, limit - want.stays_at(int(known[one] % number)))
            plain = first + self._site(want)
            heads = np.full(len(known), -np.inf)
            np.maximum.at(heads, spot, plain)
            with_bonus = np.where(plain >= heads[spot], plain + self.bonus[spot], plain)
            more = np.repeat(further + self._site(want), np.maximum(want.most - 1, 0))
            every = np.concatenate([with_bonus, more])
            if len(every) >= want.count:
                pay[index] = max(0.0, float(np.partition(every, -want.count)[-want.count]))
            part[spot] = np.clip(pay[index] - heads[spot], 0.0, self.bonus[spot])
        self.begin = Multipliers(pay, part, np.zeros(len(known)), prices.capacity[list(OTHERS)])

    @staticmethod
    def _site(want: Want) -> Floats:
        """What the site adds for sure; more for the first one there is the bonus."""
        return want.site_first if want.count == 1 else want.site_further

    def _candidates(self, once: bool) -> Pairs:
        """All pairs whose value comes near its price; what the others would bring at most is kept by want and site.
        `once`: all that bring anything at the prices to begin with."""
        held: dict[int, list[int]] = {}
        for state in self.ledger.states:
            for job, mine in state.held.items():
                if mine.decided < mine.room:
                    held.setdefault(job, []).append(state.index)
        pay, part = self.begin.want, self.begin.spot
        over = [
            want.first + self._site(want) + part[spot] - pay[index]
            for index, (want, spot) in enumerate(zip(self.tier.wants, self.spot_of, strict=True))
        ]
        sizes = [sum(int(np.count_nonzero(one > -margin)) for one in over) for margin in MARGINS]
        margin = (
            MARGINS[-1]
            if once
            else next((m for m, size in zip(MARGINS, sizes, strict=True) if size <= PAIRS), MARGINS[-1])
        )
        self.outside = np.full(len(self.bonus), -np.inf)
        columns: list[tuple[NDArray[Any], ...]] = []
        for index, (want, spot) in enumerate(zip(self.tier.wants, self.spot_of, strict=True)):
            value = want.first + self._site(want)
            near = over[index] > -margin
            np.maximum.at(self.outside, spot[~near], value[~near])
            at = np.flatnonzero(near)
            nodes = want.rows[at]
            loose = (want.takes[at] <= 0) | np.isin(nodes, held.get(want.decision.ask.index, []))
            columns.append(
                (
                    np.full(len(at), index),
                    nodes,
                    spot[at],
                    value[at],
                    (want.first - want.further)[at],
                    np.minimum(want.most[at], want.count),
                    np.where(loose, 0.0, float(want.cpu)),
                    loose,
                    *self.tier.shares(index, at)[list(OTHERS)],
                )
            )
        whole_ = [np.concatenate(column) for column in zip(*columns, strict=True)]
        order = np.argsort(whole_[1], kind="stable")
        want_, node, spot_, value, drop, most, request, loose = (column[order] for column in whole_[:8])
        others = np.array([column[order] for column in whole_[8:]])
        return Pairs(want_.astype(np.intp), node.astype(np.intp), spot_.astype(np.intp), value, drop,
                     most.astype(np.float64), request, loose > 0, others)  # fmt: skip

    def lifted(self, prices: Multipliers) -> Multipliers:
        """With every want's price so high that no pair which was left out would bring anything."""
        least = self.outside + prices.spot - prices.limit
        want = prices.want.copy()
        for index, spot in enumerate(self.spot_of):
            want[index] = max(want[index], float(np.max(least[spot], initial=0.0)))
        return Multipliers(want, prices.spot, prices.limit, prices.node)

    def choose(self, prices: Multipliers) -> Choice:
        pairs = self.pairs
        left = pairs.value - self._paid(pairs, prices)
        total = self._brought_in(prices)
        amounts, worth = np.zeros(len(left)), np.zeros(self.tier.nodes)
        for group in self.groups:
            mine, much = group.hold(left, pairs)
            worth[group.nodes] = mine
            amounts[group.pairs] = much
        return Choice(total + float(np.sum(worth)), amounts, worth)

    def bound_in_parts(self) -> float:
        """The bound at the prices to begin with, some nodes at a time, since a large tier would need too much memory."""
        pairs, prices = self.pairs, self.begin
        left = pairs.value - self._paid(pairs, prices)
        total = self._brought_in(prices)
        ends = np.searchsorted(pairs.node, np.arange(self.tier.nodes), side="right")
        start = 0
        while start < len(left):
            # Whole nodes, at least one.
            end = int(ends[np.searchsorted(ends, start + PART, side="right") - 1])
            end = end if end > start else int(ends[pairs.node[start]])
            part = pairs.some(slice(start, end))
            for group in groups_of(part, self.tier, self.ledger):
                worth, _ = group.hold(left[start:end], part)
                total += float(np.sum(worth))
            start = end
        return total

    def _paid(self, pairs: Pairs, prices: Multipliers) -> Floats:
        """By pair, what a replica costs there."""
        paid = prices.want[pairs.want] - prices.spot[pairs.spot] + prices.limit[pairs.spot]
        costs: Floats = paid + np.sum(pairs.others * prices.node[:, pairs.node], axis=0)
        return costs

    def _brought_in(self, prices: Multipliers) -> float:
        """What the prices bring in, whatever the nodes choose."""
        total = float(prices.want @ self.counts + np.sum(prices.node)) + DIGITS * float(np.sum(self.counts))
        total += float(np.sum(np.maximum(self.bonus - prices.spot, 0.0)))
        bounded = np.isfinite(self.limits)
        return total + float(prices.limit[bounded] @ self.limits[bounded])

    def learn(self, choice: Choice, prices: Multipliers, iterations: int) -> tuple[float, Multipliers] | None:
        """Gives the master what each node chose."""
        pairs, master = self.pairs, self.master
        used = np.flatnonzero(choice.amounts > 0)
        nodes, column = np.unique(pairs.node[used], return_inverse=True)
        much = choice.amounts[used]
        node, spot, want = pairs.node[used], pairs.spot[used], pairs.want[used]
        paid = prices.want[want] - prices.spot[spot] + prices.limit[spot]
        paid = paid + np.sum(pairs.others[:, used] * prices.node[:, node], axis=0)
        worth = choice.worth[nodes] + np.bincount(column, weights=paid * much, minlength=len(nodes))
        others = master.other.reshape(len(OTHERS), -1)
        rows = [master.want[want], master.spot[spot], master.limit[spot], *others[:, node], master.node[nodes]]
        values = [much, -much, much, *(pairs.others[:, used] * much), np.ones(len(nodes))]
        columns = [*[column] * (3 + len(OTHERS)), np.arange(len(nodes))]
        self._learned.append((column, used, much, nodes))
        master.add(worth, np.concatenate(rows), np.concatenate(columns), np.concatenate(values))
        answer = master.solve(iterations)
        if answer is None:
            return None
        most, new = answer
        unseen = ~self.seen
        spot_prices = np.where(unseen, self.begin.spot, new.spot)
        most += float(np.sum(np.maximum(self.bonus - self.begin.spot, 0.0)[unseen]))
        return most, Multipliers(new.want, spot_prices, new.limit, new.node)
