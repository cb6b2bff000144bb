"""Nodes as knapsacks: which replicas of a tier may come to each, and how much less they are worth the fuller it gets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgeward.placement.columns import Floats, Rows
from edgeward.placement.ledger import Ledger
from edgeward.placement.solve.knapsack import COARSE, FINE, divided, whole
from edgeward.placement.solve.master import Flags
from edgeward.placement.solve.relax import Tier

LEVELS = (4, 8, 12, 16, 24, 32)
"""of load: nodes with no more than the last are solved in whole numbers, with their like"""
DIGITS = 1e-9
"""to which scores are rounded"""


@dataclass(slots=True)
class Pairs:
    """Each want on each node that may matter; sorted by node."""

    want: Rows
    node: Rows
    spot: Rows
    """the want and the site, as an index of Multipliers.spot"""
    value: Floats
    """score of the first replica when the tier begins, without the site's bonus"""
    drop: Floats
    """by which a further one is worth less"""
    most: Floats
    request: Floats
    """millicores; 0 where it is loose"""
    loose: Flags
    """where a replica may take room that is held, which adds no load"""
    others: Floats
    """shares of what is free: [OTHERS, pairs]"""

    def some(self, which: slice) -> Pairs:
        return Pairs(
            self.want[which],
            self.node[which],
            self.spot[which],
            self.value[which],
            self.drop[which],
            self.most[which],
            self.request[which],
            self.loose[which],
            self.others[:, which],
        )


@dataclass(slots=True)
class Group:
    """Nodes of about as many levels, and their pairs."""

    nodes: Rows
    room: Floats
    """by node; in levels for whole numbers, else in millicores"""
    pairs: Rows
    place: Rows
    """by pair, which of `nodes`"""
    size: Floats
    falls: Floats
    """[segments, pairs]: how much less a replica is worth at a segment's lower end"""
    small: bool

    def hold(self, left: Floats, pairs: Pairs) -> tuple[Floats, Floats]:
        """The best of each node, and how much of each pair that takes. Replicas of a want on a node are the first one
        and further ones, in bundles of 1, 2, 4... where they are whole."""
        value = left[self.pairs]
        further = value - pairs.drop[self.pairs]
        rest = np.where(further > 0, pairs.most[self.pairs] - 1.0, 0.0)
        pieces = [(np.flatnonzero(value > 0), value, np.ones(len(value)))]
        bundle = 1.0 if self.small else math.inf
        while np.any(rest > 0):
            copies = np.minimum(rest, bundle)
            pieces.append((np.flatnonzero(copies > 0), further, copies))
            rest, bundle = rest - copies, bundle * 2
        at = np.concatenate([piece[0] for piece in pieces])
        gain = np.concatenate([piece[1][piece[0]] for piece in pieces])
        copies = np.concatenate([piece[2][piece[0]] for piece in pieces])
        order = np.argsort(self.place[at], kind="stable")
        at, gain, copies = at[order], gain[order], copies[order]
        place, size = self.place[at], self.size[at]
        if self.small:
            gains = (gain[:, None] - self.falls[:, at].T) * copies[:, None]
            worth, taken = whole(place, (size * copies).astype(np.intp), gains, self.room.astype(np.intp))
            much = np.zeros(len(at))
            much[taken] = copies[taken]
        else:
            worth, much = divided(place, gain, self.falls[:, at], size, copies, self.room)
        return worth, np.asarray(np.bincount(at, weights=much, minlength=len(value)), dtype=np.float64)


def groups_of(pairs: Pairs, tier: Tier, ledger: Ledger) -> list[Group]:
    cpus = [want.cpu for want in tier.wants if want.cpu > 0]
    unit = float(math.gcd(*cpus)) if cpus else 1.0
    free = tier.free[0]
    levels = np.floor(free / unit)
    nodes = np.unique(pairs.node)
    groups = []
    for low, high in zip((-1, *LEVELS), (*LEVELS, math.inf), strict=True):
        some = nodes[(levels[nodes] > low) & (levels[nodes] <= high)]
        if not len(some):
            continue
        mine = np.flatnonzero(np.isin(pairs.node, some))
        place = np.searchsorted(some, pairs.node[mine])
        small = high <= LEVELS[-1]
        if small:
            loads = np.arange(int(levels[some].max()) + 1)[:, None] * np.full(len(some), unit)
            room, size = levels[some], np.round(pairs.request[mine] / unit)
        else:
            loads = np.arange(COARSE * FINE)[:, None] * (free[some] / (COARSE * FINE))
            room, size = free[some], pairs.request[mine]
        falls = _falls(pairs, mine, loads[:, place], tier, ledger)
        groups.append(Group(some, room, mine, place, size, falls, small))
    return groups


def _falls(pairs: Pairs, some: Rows, loads: Floats, tier: Tier, ledger: Ledger) -> Floats:
    """[segments, pairs], from the scorer itself; where a score would rise with load, it counts from there."""
    falls = np.zeros(loads.shape)
    wants = pairs.want[some]
    for index in np.unique(wants).tolist():
        mine = np.flatnonzero((wants == index) & ~pairs.loose[some])
        want, nodes = tier.wants[index], pairs.node[some[mine]]
        beside = np.maximum(loads[:, mine] - want.cpu, 0.0)
        every = np.tile(nodes, len(loads))
        scores = want.decision.scorer.column(ledger, every, (beside.ravel(), np.zeros(len(every))))
        now = want.decision.scorer.column(ledger, nodes)
        falls[:, mine] = now - scores.reshape(len(loads), -1) - DIGITS
    lowest: Floats = np.minimum.accumulate(falls[::-1])[::-1]
    return lowest
