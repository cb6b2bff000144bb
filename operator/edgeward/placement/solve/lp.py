"""The LP of a priority tier, over short lists of candidates, put together in columns and solved by HiGHS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import highspy
import numpy as np

from edgeward.placement.columns import Floats, Rows
from edgeward.placement.ledger import Ledger
from edgeward.placement.solve.highs import maximum
from edgeward.placement.solve.packing import Where
from edgeward.placement.solve.relax import (
    LINES,
    RESOURCES,
    Clock,
    Limits,
    Prices,
    Relaxation,
    Tier,
    reduced,
)
from edgeward.placement.solve.wants import Want, lines_of

GAIN = 1e-4
"""score below which neither a longer list nor another tangent is worth another LP"""


def relax(tier: Tier, ledger: Ledger, limits: Limits, clock: Clock, known: Where | None = None) -> Relaxation:
    """Prices and amounts. The lists grow by what the prices show to be missing, the tangents where they are needed.

    `known`: a packing whose places are in the lists too. Most jobs think best of the same few nodes; where those are full
    already when the last of them has its turn, only a packing tells.
    """
    sites = ledger.columns.site
    longest = [min(len(w.rows), limits.candidates + 3 * (w.count - 1)) for w in tier.wants]
    scale = min(1.0, limits.columns / max(1, sum(longest)))
    lists = [
        _first_list(want, size, scale, () if known is None else known[index])
        for index, (want, size) in enumerate(zip(tier.wants, longest, strict=True))
    ]
    tangents: Tangents | None = None
    result = Relaxation(Prices.nothing(tier.nodes), [], False)
    rounds, cuts = (limits.rounds, limits.cuts) if scale == 1.0 else (1, 1)
    for turn in range(rounds):
        lp = Lp(tier, lists, sites)
        lp.add(lp.first_tangents() if tangents is None else tangents)
        for _ in range(cuts + 1):
            left = limits.seconds - clock()
            if left <= 0:
                result.struck = True
                return result
            answer = lp.run(limits.iterations, left)
            result = Relaxation(lp.prices(answer), lp.amounts(answer), answer.finished, answer.struck)
            more = lp.wrong(answer)
            if not answer.finished or not len(more.node):
                break
            lp.add(more)
        tangents = lp.tangents()
        if not result.finished or turn + 1 == rounds or not _lengthen(lists, tier, result.prices, lp.worth(answer)):
            break
    return result


def _first_list(want: Want, size: int, scale: float, known: Sequence[int]) -> Rows:
    """Positions in want.rows: the best places as they are now, never fewer than its replicas need, and the known ones."""
    most = min(len(want.rows), max(int(size * scale), want.count + 4))
    values = want.first + want.site_first
    listed = np.isin(want.rows, np.array(known, dtype=np.intp))
    listed[np.argsort(-values, kind="stable")[:most]] = True
    return np.flatnonzero(listed)


def _lengthen(lists: list[Rows], tier: Tier, prices: Prices, worth: Floats) -> bool:
    grown = False
    for index, want in enumerate(tier.wants):
        first, _ = reduced(tier, index, prices)
        missing = first + want.site_further - worth[index]
        missing[lists[index]] = -np.inf
        more = [at for at in np.argsort(-missing, kind="stable")[:8] if missing[at] > GAIN]
        if more:
            lists[index] = np.sort(np.concatenate([lists[index], np.array(more, dtype=np.intp)]))
            grown = True
    return grown


@dataclass(slots=True)
class Tangents:
    """z_n >= 2 t V_k - t^2 - (what the replicas take themselves), for node n and line k."""

    node: Rows
    line: Rows
    at: Floats
    """t"""

    def and_also(self, other: Tangents) -> Tangents:
        return Tangents(
            np.concatenate([self.node, other.node]),
            np.concatenate([self.line, other.line]),
            np.concatenate([self.at, other.at]),
        )


@dataclass(slots=True)
class Answer:
    values: Floats
    duals: Floats
    objective: float
    finished: bool
    struck: bool


class Lp:
    """max gain x, A x <= limits, 0 <= x <= upper. First the wants' columns, then the sites' and the nodes' loads z."""

    def __init__(self, tier: Tier, lists: list[Rows], sites: Rows, *, whole: bool = False) -> None:
        """`whole`: replicas are not divided; that is for comparison, as it takes minutes."""
        self.tier, self.lists = tier, lists
        self._gains: list[Floats] = []
        self._uppers: list[Floats] = []
        self._limits: list[Floats] = []
        self._entries: list[tuple[Rows, Rows, Floats]] = []
        self._rows = self._columns = 0
        self._lines = [lines_of(want, tier.ledger, at) for want, at in zip(tier.wants, lists, strict=True)]
        self._shares: list[Floats] = []
        """by want, on the nodes of its list"""
        self.used = tier.order[np.isin(tier.order, np.unique(np.concatenate(self._nodes())))]
        self._counts = self._new_rows(np.array([want.count for want in tier.wants], dtype=np.float64))
        self._capacity_rows()
        self._want_columns(sites)
        self._loads = np.full(tier.nodes, -1, dtype=np.intp)
        self._loads[self.used] = self._new_columns(np.full(len(self.used), -1.0), np.full(len(self.used), np.inf))
        self._cuts = Tangents(np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp), np.zeros(0))
        self._first_cut = self._rows
        self._by_node = self._order_by_node()
        self._highs = self._model(whole)

    def _nodes(self) -> list[Rows]:
        return [want.rows[at] for want, at in zip(self.tier.wants, self.lists, strict=True)]

    def _new_rows(self, limits: Floats) -> Rows:
        start, self._rows = self._rows, self._rows + len(limits)
        self._limits.append(limits)
        return np.arange(start, self._rows, dtype=np.intp)

    def _new_columns(self, gains: Floats, uppers: Floats) -> Rows:
        start, self._columns = self._columns, self._columns + len(gains)
        self._gains.append(gains)
        self._uppers.append(uppers)
        return np.arange(start, self._columns, dtype=np.intp)

    def _enter(self, rows: Rows, columns: Rows, values: Floats) -> None:
        """A row of -1 does not exist."""
        real = (rows >= 0) & (values != 0)
        self._entries.append((rows[real], columns[real], values[real]))

    def _capacity_rows(self) -> None:
        """Only where all that the lists may ask of a node is more than is free, can a resource run out."""
        tier = self.tier
        demand = np.zeros((RESOURCES, tier.nodes))
        for index, (want, at, nodes) in enumerate(zip(tier.wants, self.lists, self._nodes(), strict=True)):
            self._shares.append(tier.shares(index, at))
            demand[:, nodes] += self._shares[-1] * want.most[at]
        self._capacity = np.full((RESOURCES, tier.nodes), -1, dtype=np.intp)
        for resource in range(RESOURCES):
            scarce = self.used[demand[resource, self.used] > 1.0]
            self._capacity[resource, scarce] = self._new_rows(np.ones(len(scarce)))

    def _want_columns(self, sites: Rows) -> None:
        """For each want a block of first replicas on its nodes and, if it has several, one of further ones."""
        tier = self.tier
        self._spans: list[tuple[int, int, int]] = []
        for index, (want, at, nodes) in enumerate(zip(tier.wants, self.lists, self._nodes(), strict=True)):
            start, several = self._columns, want.count > 1
            for gains in (want.first, want.further) if several else (want.first,):
                is_first = gains is want.first
                gain = gains[at] + (want.site_further if several else want.site_first)[at]
                upper = np.ones(len(at)) if is_first else np.asarray(want.most[at] - 1.0, dtype=np.float64)
                columns = self._new_columns(gain, upper)
                self._enter(np.full(len(at), self._counts[index]), columns, np.ones(len(at)))
                for resource in range(RESOURCES):
                    self._enter(self._capacity[resource, nodes], columns, self._shares[index][resource])
            self._spans.append((start, len(at), self._columns))
            if several:
                self._site_columns(want, at, sites[nodes], range(start, self._columns, len(at)))

    def _site_columns(self, want: Want, at: Rows, sites: Rows, blocks: range) -> None:
        """What the first replica at a site brings, once; and at most maxPerSite of them."""
        where, heads, inverse = np.unique(sites, return_index=True, return_inverse=True)
        rows = self._new_rows(np.zeros(len(where)))
        firsts = self._new_columns((want.site_first - want.site_further)[at][heads], np.ones(len(where)))
        self._enter(rows, firsts, np.ones(len(where)))
        limit = want.decision.turn.job.max_per_site
        most = None
        if limit is not None:
            most = self._new_rows(np.array([max(0.0, limit - want.stays_at(int(site))) for site in where]))
        for block in blocks:
            columns = np.arange(block, block + len(at), dtype=np.intp)
            self._enter(rows[inverse], columns, -np.ones(len(at)))
            if most is not None:
                self._enter(most[inverse], columns, np.ones(len(at)))

    def _order_by_node(self) -> tuple[Rows, Rows, Rows, Rows, Rows]:
        """All wants' columns, sorted by node: starts per node, column, want, position in want.rows."""
        nodes, columns, wants = [], [], []
        for index, (want, at) in enumerate(zip(self.tier.wants, self.lists, strict=True)):
            start, size, end = self._spans[index]
            for block in range(start, end, size):
                nodes.append(want.rows[at])
                columns.append(np.arange(block, block + size, dtype=np.intp))
                wants.append(np.full(size, index, dtype=np.intp))
        node = np.concatenate(nodes)
        order = np.argsort(node, kind="stable")
        starts = np.searchsorted(node[order], np.arange(self.tier.nodes + 1)).astype(np.intp)
        roots = np.concatenate([self._lines[of[0]].roots for of in wants], axis=1)
        own = np.concatenate([self._lines[of[0]].own for of in wants], axis=1)
        self._roots, self._own = roots[:, order], own[:, order]
        return starts, np.concatenate(columns)[order], node[order], order, np.concatenate(wants)[order]

    def _model(self, whole: bool) -> highspy.Highs:
        entries = [np.concatenate(column) for column in zip(*self._entries, strict=True)]
        return maximum(
            gains=np.concatenate(self._gains),
            uppers=np.concatenate(self._uppers),
            limits=np.concatenate(self._limits),
            entries=(entries[0], entries[1], entries[2]),
            whole=max((end for _, _, end in self._spans), default=0) if whole else 0,
        )

    def first_tangents(self) -> Tangents:
        """At the load of a third and of two thirds of what is free, if the tier's replicas were all alike there."""
        tier, middle = self.tier, LINES // 2
        roots, cpu = np.zeros(tier.nodes), np.ones(tier.nodes)
        for want, lines, rows in zip(tier.wants, self._lines, self._nodes(), strict=True):
            better = lines.roots[middle] > roots[rows]
            roots[rows[better]], cpu[rows[better]] = lines.roots[middle][better], max(1, want.cpu)
        nodes = tier.order[roots[tier.order] > 0]
        full = (roots * tier.free[0] / cpu)[nodes]
        both = np.concatenate([full / 3, full * 2 / 3])
        return Tangents(np.concatenate([nodes, nodes]), np.full(2 * len(nodes), middle, dtype=np.intp), both)

    def add(self, more: Tangents) -> None:
        """2 t V - own - z <= t^2, V and own being sums over the columns of the node."""
        starts, columns = self._by_node[0], self._by_node[1]
        known = self._loads[more.node] >= 0
        more = Tangents(more.node[known], more.line[known], more.at[known])
        sizes = starts[more.node + 1] - starts[more.node]
        index = np.concatenate([[*columns[starts[n] : starts[n + 1]], self._loads[n]] for n in more.node] or [[]])
        values = np.concatenate(
            [
                np.append(
                    2 * t * self._roots[k, starts[n] : starts[n + 1]] - self._own[k, starts[n] : starts[n + 1]], -1.0
                )
                for n, k, t in zip(more.node, more.line, more.at, strict=True)
            ]
            or [np.zeros(0)]
        )
        begins = np.concatenate([[0], np.cumsum(sizes + 1)[:-1]]).astype(np.int32)
        if len(more.node):
            self._highs.addRows(
                len(more.node),
                np.full(len(more.node), -highspy.kHighsInf),
                more.at**2,
                len(values),
                begins,
                index.astype(np.int32),
                values,
            )
        self._cuts = self._cuts.and_also(more)

    def run(self, iterations: int, seconds: float) -> Answer:
        highs = self._highs
        highs.setOptionValue("simplex_iteration_limit", iterations)
        highs.setOptionValue("time_limit", float(highs.getRunTime() + seconds))
        highs.run()
        status, solution = highs.getModelStatus(), highs.getSolution()
        rows = self._first_cut + len(self._cuts.node)
        known = len(solution.col_value) == self._columns
        return Answer(
            values=np.array(solution.col_value) if known else np.zeros(self._columns),
            duals=np.maximum(np.array(solution.row_dual), 0.0) if len(solution.row_dual) == rows else np.zeros(rows),
            objective=float(highs.getInfo().objective_function_value),
            finished=known and status == highspy.HighsModelStatus.kOptimal,
            struck=status == highspy.HighsModelStatus.kTimeLimit,
        )

    def wrong(self, answer: Answer) -> Tangents:
        """A tangent for each node whose load the LP takes for less than it is, at the line that says most."""
        columns, node = self._by_node[1:3]
        x = answer.values[columns]
        v = np.array([np.bincount(node, weights=self._roots[k] * x, minlength=self.tier.nodes) for k in range(LINES)])
        own = np.array([np.bincount(node, weights=self._own[k] * x, minlength=self.tier.nodes) for k in range(LINES)])
        loss = v * v - own
        line = np.argmax(loss, axis=0)
        most = loss[line, np.arange(self.tier.nodes)]
        z = np.zeros(self.tier.nodes)
        z[self.used] = answer.values[self._loads[self.used]]
        wrong = self.used[most[self.used] > z[self.used] + GAIN]
        return Tangents(wrong, line[wrong].astype(np.intp), v[line[wrong], wrong])

    def tangents(self) -> Tangents:
        return self._cuts

    def worth(self, answer: Answer) -> Floats:
        """By want: what its last replica brings, the price of its count."""
        return answer.duals[self._counts]

    def prices(self, answer: Answer) -> Prices:
        prices = Prices.nothing(self.tier.nodes)
        for resource in range(RESOURCES):
            has = self._capacity[resource] >= 0
            prices.capacity[resource, has] = answer.duals[self._capacity[resource, has]]
        weights = answer.duals[self._first_cut :]
        np.add.at(prices.part, (self._cuts.line, self._cuts.node), weights)
        np.add.at(prices.pull, (self._cuts.line, self._cuts.node), 2 * weights * self._cuts.at)
        # The duals of a node's tangents sum to at most 1 (the cost of z), but for the last digits.
        over = np.maximum(prices.part.sum(axis=0), 1.0)
        prices.part /= over
        prices.pull /= over
        return prices

    def amounts(self, answer: Answer) -> list[tuple[Rows, Floats]]:
        found = []
        for (start, size, end), at in zip(self._spans, self.lists, strict=True):
            found.append((at, np.asarray(answer.values[start:end].reshape(-1, size).sum(axis=0))))
        return found
