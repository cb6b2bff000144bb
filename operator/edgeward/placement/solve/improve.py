"""Local search: one replica at a time goes where the tier as a whole is better off, if need be in exchange for another.

Steps are counted, not timed. Each is judged by the scores themselves: what everybody on the touched nodes and everybody
of the touched jobs gains or loses.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgeward.placement.constraints import FIT_CHECKS, first_miss
from edgeward.placement.ledger import Ledger
from edgeward.placement.scoring import Company, Values
from edgeward.placement.solve.packing import Where
from edgeward.placement.solve.relax import Tier

GAIN = 1e-6
TARGETS = 3
"""places looked at for each replica"""
VICTIMS = 4
"""replicas that may be asked to make room at each place"""


def improve(packing: Where, tier: Tier, ledger: Ledger, trials: int) -> int:
    """Changes `packing` and the ledger with it; returns how many trials of the allowed ones are left."""
    search = _Search(packing, tier, ledger, trials)
    while search.trials > 0:
        changed = False
        for index in range(len(tier.wants)):
            changed = search.better(index) or changed
            if search.trials <= 0:
                break
        if not changed:
            break
    return search.trials


class _Search:
    def __init__(self, packing: Where, tier: Tier, ledger: Ledger, trials: int) -> None:
        self.packing, self.tier, self.ledger, self.trials = packing, tier, ledger, trials
        self.on: dict[int, dict[int, int]] = {}
        """replicas by node and want"""
        self.arrived = np.zeros(tier.nodes)
        """replicas of the tier by node"""
        self.site = ledger.columns.site.tolist()
        self.held = [(dict(w.on_node), {site: count for site, count in w.stays.items() if count}) for w in tier.wants]
        """replicas of each want's job, those that stay included: by node, and by the number of the site"""
        self.known: dict[tuple[int, ...], Values] = {}
        """what the terms are worth to a replica, by want, node and all of it that changes here"""
        for index, nodes in enumerate(packing):
            for node in nodes:
                here = self.on.setdefault(node, {})
                here[index] = here.get(index, 0) + 1
                self.arrived[node] += 1
                self._count(index, node, 1)

    def _count(self, index: int, node: int, more: int) -> None:
        on_node, at_site = self.held[index]
        on_node[node] = on_node.get(node, 0) + more
        site = self.site[node]
        at_site[site] = at_site.get(site, 0) + more

    def better(self, index: int) -> bool:
        """One improvement for one want: a missing replica placed, or one relocated."""
        want = self.tier.wants[index]
        if len(self.packing[index]) < want.count:
            return self._try(index, None)
        changed = False
        for node in sorted(set(self.packing[index]), key=lambda node: self.ledger.states[node].rank):
            changed = self._try(index, node) or changed
        return changed

    def _try(self, index: int, source: int | None) -> bool:
        if self.trials <= 0:
            return False
        before_here = 0.0 if source is None else self._worth(index, source)
        if source is not None:
            self._drop(index, source)
        targets = self._targets(index, before_here)
        for target in targets:
            if target == source:
                continue
            self.trials -= 1
            if self._go(index, source, target):
                return True
            if self.trials <= 0:
                break
        if source is not None:
            self._add(index, source)
        return False

    def _worth(self, index: int, node: int) -> float:
        """What one replica brings where it is: its score, less what it takes from the others there."""
        want, here = self.tier.wants[index], self.on[node]
        others = sum(here.values()) - 1
        return self._score(index, node) - want.cpu * float(self.tier.usual[node]) * others

    def _targets(self, index: int, bar: float) -> list[int]:
        """The nodes that look best for one more replica now, whether they have room or not."""
        want = self.tier.wants[index]
        value = want.decision.scorer.column(self.ledger, want.rows)
        on_node, at_site = np.zeros(self.tier.nodes), np.zeros(len(self.ledger.site_list))
        for counts, by in zip((on_node, at_site), self.held[index], strict=True):
            counts[list(by.keys())] = list(by.values())
        weight = 0.5 * want.decision.scorer.weights["spread"]
        sites = self.ledger.columns.site[want.rows]
        value = value - weight + weight / (1 + on_node[want.rows]) + weight / (1 + at_site[sites])
        value = value - want.cpu * self.tier.usual[want.rows] * self.arrived[want.rows]
        better = np.nonzero(value > bar + GAIN)[0]
        best = better[np.argsort(-np.round(value[better], 9), kind="stable")[:TARGETS]]
        found: list[int] = want.rows[best].tolist()
        return found

    def _go(self, index: int, source: int | None, target: int) -> bool:
        """`index` has been taken from `source` already. True when it went to `target` for good."""
        ask, state = self.tier.wants[index].decision.ask, self.ledger.states[target]
        if first_miss(ask, state, FIT_CHECKS) is None:
            return self._keep_if_better([(index, source, target)])
        cpu = self.tier.wants[index].cpu
        here = sorted(self.on.get(target, {}), key=lambda other: (abs(self.tier.wants[other].cpu - cpu), other))
        for other in here[:VICTIMS]:
            if other == index:
                continue
            self.trials -= 1
            self._drop(other, target)
            if first_miss(ask, state, FIT_CHECKS) is None:
                self._add(index, target)
                spot = self._spot(other, target)
                self._drop(index, target)
                if spot is not None:
                    self._add(other, target)
                    if self._keep_if_better([(other, target, spot), (index, source, target)]):
                        return True
                    continue
            self._add(other, target)
        return False

    def _spot(self, index: int, without: int) -> int | None:
        ask = self.tier.wants[index].decision.ask
        for node in self._targets(index, -np.inf):
            if node != without and first_miss(ask, self.ledger.states[node], FIT_CHECKS) is None:
                return node
        return None

    def _keep_if_better(self, steps: list[tuple[int, int | None, int]]) -> bool:
        """Steps (want, from, to), the last one's replica taken from its source already."""
        index, source, _ = steps[-1]
        if source is not None:
            self._add(index, source)
        nodes = {node for _, start, end in steps for node in (start, end) if node is not None}
        wants = {want for want, _, _ in steps}
        before = self._sum(wants, nodes)
        for want, start, _ in steps:
            if start is not None:
                self._drop(want, start)
        done: list[tuple[int, int]] = []
        for want, _, end in reversed(steps):
            if first_miss(self.tier.wants[want].decision.ask, self.ledger.states[end], FIT_CHECKS) is not None:
                break
            self._add(want, end)
            done.append((want, end))
        if len(done) == len(steps) and self._sum(wants, nodes) > before + GAIN:
            return True
        for want, end in reversed(done):
            self._drop(want, end)
        for want, start, _ in steps[:-1]:
            if start is not None:
                self._add(want, start)
        return False

    def _sum(self, wants: Iterable[int], nodes: Iterable[int]) -> float:
        """Scores of all replicas of these wants, and of the others on these nodes."""
        mine = set(wants)
        total = 0.0
        for index in mine:
            for node in set(self.packing[index]):
                total += self.on[node][index] * self._score(index, node)
        for node in nodes:
            for index, count in self.on.get(node, {}).items():
                if index not in mine:
                    total += count * self._score(index, node)
        return total

    def _score(self, index: int, node: int) -> float:
        scorer, state = self.tier.wants[index].decision.scorer, self.ledger.states[node]
        used, flying = state.requested, state.in_flight
        key = (index, node, used.cpu, used.memory, flying.cpu, flying.memory)
        values = self.known.get(key)
        if values is None:
            values = self.known[key] = scorer.values(state, present=True)
        on_node, at_site = self.held[index]
        company = Company(on_node[node] - 1, at_site[self.site[node]] - 1)
        return scorer.total(values, company, stays=False)

    def _add(self, index: int, node: int) -> None:
        self.ledger.place(self.tier.wants[index].decision.ask.index, self.ledger.states[node])
        self.packing[index].append(node)
        here = self.on.setdefault(node, {})
        here[index] = here.get(index, 0) + 1
        self.arrived[node] += 1
        self._count(index, node, 1)

    def _drop(self, index: int, node: int) -> None:
        self.ledger.take_back(self.tier.wants[index].decision.ask.index, self.ledger.states[node])
        self.packing[index].remove(node)
        self.arrived[node] -= 1
        self._count(index, node, -1)
        here = self.on[node]
        here[index] -= 1
        if not here[index]:
            del here[index]
