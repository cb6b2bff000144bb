"""Whole replicas out of a mixture: node by node one of the choices that the master LP mixes, the surest first.

The master (bound.py) says in which parts each node is to be filled in which way. Where it mixes little the choice is
clear; it is kept, the node's other choices are taken out, and the LP mixes anew what is left, a counted number of times
(diving, as in branch and price without going back). What no choice covers is placed by round_up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeward.placement.columns import Floats, Rows
from edgeward.placement.solve.master import Master

SHARE = 0.34
"""of the nodes that are still open, for which a choice is kept at a time"""
SURE = 0.999
DIVES = 8
"""times that the LP is solved again"""
PRESENT = 1e-6


@dataclass(slots=True)
class Choices:
    """All choices that the master knows, one a column; entries sorted by column."""

    node: Rows
    """by column"""
    starts: Rows
    """by column, its first entry; one more at the end"""
    want: Rows
    amount: Floats

    def of(self, column: int) -> tuple[Rows, Floats]:
        here = slice(int(self.starts[column]), int(self.starts[column + 1]))
        return self.want[here], self.amount[here]


def dive(master: Master, choices: Choices, counts: Floats, iterations: int) -> list[tuple[int, int, float]]:
    """(want, node, amount) of the choices kept. The master is spent afterwards."""
    left = counts.copy()
    open_ = np.ones(len(choices.node), dtype=np.bool_)
    by_node = np.argsort(choices.node, kind="stable")
    begins = np.searchsorted(choices.node[by_node], np.arange(int(choices.node.max(initial=-1)) + 2))
    kept: list[int] = []
    for turn in range(DIVES):
        share = master.mixture()
        best = _best_by_node(choices.node, np.where(open_, share, 0.0))
        most = len(best) if turn + 1 == DIVES else max(int(np.sum(share[best] > SURE)), int(np.ceil(len(best) * SHARE)))
        out: list[int] = []
        for column in best[:most].tolist():
            want, amount = choices.of(column)
            needs = np.bincount(want, weights=amount, minlength=len(left))
            if np.any(needs > left + PRESENT):
                open_[column] = False
                out.append(column)
                continue
            left -= needs
            kept.append(column)
            node = int(choices.node[column])
            here = by_node[begins[node] : begins[node + 1]]
            open_[here] = False
            out += [other for other in here.tolist() if other != column]
        if not out or not open_.any() or turn + 1 == DIVES:
            break
        if not master.without(np.array(out, dtype=np.int32), iterations):
            break
    return [
        (int(want), int(choices.node[column]), float(amount))
        for column in sorted(kept)
        for want, amount in zip(*choices.of(column), strict=True)
    ]


def _best_by_node(node: Rows, share: Floats) -> Rows:
    """Of each node the column that has the largest part in the mixture, the surest node first."""
    share = np.round(share, 9)
    some = np.flatnonzero(share > PRESENT)
    some = some[np.lexsort((some, -share[some], node[some]))]
    if not len(some):
        return some
    first = np.append(True, node[some][1:] != node[some][:-1])
    best = some[first]
    found: Rows = best[np.lexsort((best, -share[best]))]
    return found
