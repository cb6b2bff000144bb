"""Who holds what where, as far as it might have to give way; and what a place lacks for one more replica."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgeward.fleet.model import Resources
from edgeward.placement.constraints import CHECKS, Check, can_grow, first_miss
from edgeward.placement.decide import Decision
from edgeward.placement.incumbents import Standing
from edgeward.placement.ledger import Ledger, NodeState
from edgeward.placement.order import HIGHEST
from edgeward.placement.quotas import Usage
from edgeward.placement.settings import PlanSettings
from edgeward.placement.victims import Victim

ELSEWHERE = 100
"""replicas of other nodes that are looked at when a quota of the site or the namespace is in the way"""
SITE_QUOTA, NAMESPACE_QUOTA = "edgeward.dev/site-quota", "edgeward.dev/namespace-quota"
"""what a quota lacks, as if it were resources of the node: so that the fewest victims bring that too"""


class Holders:
    def __init__(self, decisions: Iterable[Decision], ledger: Ledger, settings: PlanSettings) -> None:
        self._ledger = ledger
        self._now = ledger.now
        self._settings = settings
        self._known: dict[int, list[Victim]] = {}
        """by index of the node, until some are taken there"""
        self._by_site: dict[str, list[NodeState]] = {}
        for state in ledger.states:
            self._by_site.setdefault(state.site.name, []).append(state)
        self._most: NDArray[np.float64] | None = None
        self._at: dict[int, list[tuple[Decision, Standing]]] = {}
        for decision in decisions:
            self.add(decision)

    def add(self, decision: Decision) -> None:
        """What the job has now; what was added before is known already."""
        for standing in decision.standings:
            if standing.state is not None and standing.count > 0:
                here = self._at.setdefault(standing.state.index, [])
                if not any(known is standing for _, known in here):
                    here.append((decision, standing))
                    self.changed(standing.state)

    def changed(self, state: NodeState) -> None:
        """Replicas came to this node or left it."""
        self._known.pop(state.index, None)
        if self._most is not None:
            self._sum_up(state, self._most)

    def victims(
        self, decision: Decision, state: NodeState, *, only: Collection[str] | None = None, shielded: bool = False
    ) -> list[Victim]:
        """Replicas of lower tiers, the first to be taken first: those on the node, and where a quota is in the way
        also those elsewhere that count towards it."""
        here = self._eligible(decision, self._replicas_at(state), only, shielded)
        short = dict(self.lack(decision, state).extended)
        of_site = any(name.startswith(SITE_QUOTA) and amount > 0 for name, amount in short.items())
        of_namespace = any(name.startswith(NAMESPACE_QUOTA) and amount > 0 for name, amount in short.items())
        if not of_site and not of_namespace:
            return here
        elsewhere = [
            victim
            for other in (self._ledger.states if of_namespace else self._by_site[state.site.name])
            if other is not state and other.index in self._at
            for victim in self._eligible(decision, self._replicas_at(other), only, shielded)
            if (of_site and other.site.name == state.site.name)
            or (of_namespace and victim.owner.turn.job.namespace == decision.turn.job.namespace)
        ]
        elsewhere.sort(key=lambda victim: (not victim.standing.new, *_first(victim)))
        return here + elsewhere[:ELSEWHERE]

    def _eligible(
        self, decision: Decision, found: Sequence[Victim], only: Collection[str] | None, shielded: bool
    ) -> list[Victim]:
        tier = decision.turn.own_tier
        return [
            victim
            for victim in found
            if victim.tier < tier
            and (shielded or not victim.shield)
            and (only is None or victim.owner.turn.job.key in only)
        ]

    def _replicas_at(self, state: NodeState) -> list[Victim]:
        known = self._known.get(state.index)
        if known is None:
            found = [
                victim
                for owner, standing in self._at.get(state.index, ())
                if standing.count > 0
                for victim in self._replicas(owner, standing, state)
            ]
            known = self._known[state.index] = sorted(found, key=_first)
        return known

    def _replicas(self, owner: Decision, standing: Standing, state: NodeState) -> list[Victim]:
        if standing.new:
            return [Victim(owner, standing, state, self._now) for _ in range(standing.count)]
        job = owner.turn.job
        placed = next((p for p in job.placed if (p.site, p.node) == (standing.site, standing.node)), None)
        starts = sorted(placed.started, reverse=True) if placed else []
        victims = []
        for number in range(standing.count):
            begun = max(standing.since, starts[number]) if number < len(starts) else standing.since
            shield = ""
            if job.problem is not None:
                shield = f"{job.key} is left as it is ({job.problem.reason})"
            elif self._now - begun < self._settings.min_run_time:
                shield = f"{job.key} has run there for less than {self._settings.min_run_time:.0f} s"
            elif placed is not None and placed.protected:
                shield = f"{job.key} is protected: {placed.protected}"
            victims.append(Victim(owner, standing, state, begun, shield))
        return victims

    def promising(self, decision: Decision, *, shielded: bool) -> set[int]:
        """Nodes, by index, where cpu and memory would do if all of lower tiers gave way: a look at all at once, which
        may say yes too often and leaves the rest to those that look closer. Of a pool only they can tell."""
        if self._most is None:
            self._most = np.zeros((2, 2, HIGHEST + 2, len(self._ledger.states)))
            for state in self._ledger.states:
                self._sum_up(state, self._most)
        cpu, memory = self._most[1 if shielded else 0, :, decision.turn.own_tier]
        need = decision.ask.request
        found = set(np.flatnonzero((cpu >= need.cpu) & (memory >= need.memory)).tolist())
        return found | {state.index for state in self._ledger.states if state.pool}

    def _sum_up(self, state: NodeState, sums: NDArray[np.float64]) -> None:
        spare = state.free + self.going(state)
        sums[:, 0, :, state.index] = spare.cpu
        sums[:, 1, :, state.index] = spare.memory
        for victim in self._replicas_at(state):
            first = 1 if victim.shield else 0
            sums[first:, 0, victim.tier + 1 :, state.index] += victim.request.cpu
            sums[first:, 1, victim.tier + 1 :, state.index] += victim.request.memory

    def going(self, state: NodeState) -> Resources:
        total = Resources()
        for index, held in state.held.items():
            if held.room > held.decided:
                total += self._ledger.requests[index].times(held.room - held.decided)
        return total

    def leaving(self, decisions: Iterable[Decision], state: NodeState, *, below: int) -> set[str]:
        """Jobs of lower tiers that are leaving the node already, and may be waiting for their replacement."""
        indices = {index for index, held in state.held.items() if held.room > held.decided}
        return {owner.turn.job.key for owner in decisions if owner.ask.index in indices and owner.turn.own_tier < below}

    def lack(self, decision: Decision, state: NodeState) -> Resources:
        """What is too little for one more replica once all that is leaving is gone; negative: to spare. A pool grows:
        it lacks what a quota lacks, and nothing else that others could leave to it."""
        ask = decision.ask
        node = Resources() if state.pool else ask.request - (state.free + self.going(state))
        quotas = (
            *_short(SITE_QUOTA, ask.site_use[state.site.name], ask.request.cpu),
            *_short(NAMESPACE_QUOTA, ask.namespace_use, ask.request.cpu),
        )
        return node + Resources(extended=quotas) if quotas else node

    def short_of_quota(self, decision: Decision) -> set[str]:
        """Sites where a quota of theirs or of the namespace is in the way of one more replica."""
        ask = decision.ask
        everywhere = ask.namespace_use.lacks(ask.request.cpu) is not None
        return {name for name, use in ask.site_use.items() if everywhere or use.lacks(ask.request.cpu) is not None}

    def brings(self, decision: Decision, state: NodeState, victim: Victim) -> Resources:
        """What a victim leaves of that: its room if it is there, and its part of the quotas."""
        cpu, extended = victim.request.cpu, []
        if victim.state.site.name == state.site.name:
            extended += [(f"{SITE_QUOTA}.replicas", 1), (f"{SITE_QUOTA}.cpu", cpu)]
        if victim.owner.turn.job.namespace == decision.turn.job.namespace:
            extended += [(f"{NAMESPACE_QUOTA}.replicas", 1), (f"{NAMESPACE_QUOTA}.cpu", cpu)]
        room = victim.request if victim.state is state and not state.pool else Resources()
        return room + Resources(extended=tuple(extended))

    def fits_without(
        self, decision: Decision, state: NodeState, chosen: Sequence[Victim], checks: Sequence[Check] = CHECKS
    ) -> bool:
        """Whether one more replica of the job would pass once these, and all that is leaving already, are gone."""
        undone = []
        for victim in chosen:
            if victim.standing.new:
                undone.append(self._ledger.take_back(victim.owner.ask.index, victim.state))
            else:
                self._ledger.withdraw(victim.owner.ask.index, victim.state)
        requested, cpu, going = state.requested, state.cpu, self.going(state)
        state.requested = requested - going
        # What they use is in the live figure still; nobody knows how much, so it is taken for what they request.
        state.cpu = replace(cpu, value=max(0.0, cpu.value - going.cpu / 1000))
        passes = first_miss(decision.ask, state, checks) is None or (state.pool and can_grow(decision.ask, state))
        state.requested, state.cpu = requested, cpu
        for victim in reversed(chosen):
            if victim.standing.new:
                self._ledger.put_back(victim.owner.ask.index, victim.state, undone.pop())
            else:
                self._ledger.withdraw(victim.owner.ask.index, victim.state, -1)
        return passes


def _first(victim: Victim) -> tuple[int, float, int]:
    return victim.tier, -victim.begun, -victim.owner.turn.position


def _short(name: str, usage: Usage, cpu: int) -> list[tuple[str, int]]:
    replicas = 0 if usage.max_replicas is None else usage.replicas + 1 - usage.max_replicas
    over = 0 if usage.max_cpu is None or cpu <= 0 else usage.cpu + cpu - usage.max_cpu
    return [(f"{name}.{what}", by) for what, by in (("cpu", over), ("replicas", replicas)) if by > 0]
