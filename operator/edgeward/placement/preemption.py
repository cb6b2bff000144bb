"""Preemption: the last resort of a job that found no place, after every priority tier had its turn.

A job may take the room of jobs of a strictly lower priority tier of their own, on one node at a time. It takes the
fewest replicas that make it fit, of these the lowest tiers, of these the newest, and none that it can do without. What
has just begun is left alone, and so is what a PodDisruptionBudget of the user's holds. Pods that are not Edgeward's are
never touched: they are no standing of any job here.

What is taken leaves first; the winner keeps a claim to the room (claims.py) until it serves there or the claim expires.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import combinations, islice

import numpy as np
from numpy.typing import NDArray

from edgeward.api.conditions import Reason
from edgeward.api.reasons import NodeRejection, Rejection
from edgeward.fleet.model import Nomination, Resources
from edgeward.placement.claims import CLAIM_CHECKS, arriving, fulfilled, holds, with_unmet
from edgeward.placement.constraints import CHECKS, Check, first_miss
from edgeward.placement.decide import Decision, place_elsewhere, retell
from edgeward.placement.explain import sift, why_missing
from edgeward.placement.incumbents import Standing
from edgeward.placement.ledger import Ledger, NodeState
from edgeward.placement.model import GivesWay
from edgeward.placement.order import HIGHEST
from edgeward.placement.room import cpu_text, memory_text
from edgeward.placement.settings import PlanSettings
from edgeward.placement.victims import Victim, amounts, covered, least_of, part, without_unneeded, worth

NEW_AT_ONCE = 20
"""nominations that one plan makes; the next plan, seconds later, makes the next ones"""
LOOKED_AT = 500
"""nodes whose victims are compared; more are looked at only if none of these will do"""
TRIED_SETS = 400
"""sets of one size that are tried on a node, beyond which the choice is greedy"""
EXPLAINED_AT = 20
"""nodes that are looked at to say what stood in the way"""
HOPELESS = (Rejection.TOO_BIG_FOR_ANY_NODE, Rejection.NO_RUNNABLE_MODEL)
"""reasons that no room on a node would remove"""
AS_IF_NOT_FROZEN = tuple(check for check in CHECKS if check.reason is not NodeRejection.SITE_FROZEN)


def preempt(
    decisions: Sequence[Decision], ledger: Ledger, settings: PlanSettings, *, fleet_notes: Sequence[str]
) -> dict[int, Exception]:
    """Nominations go on, end or begin; victims lose their place here and get another one where there is room.

    Returns what failed at the last, by index of the job: these are best left as they were."""
    waiting = [d for d in decisions if d.missing or d.turn.job.nomination is not None]
    if not waiting or not settings.preemption:
        return {}
    board = _Board(decisions, ledger, settings)
    for decision in sorted(waiting, key=lambda d: (-d.turn.own_tier, d.turn.position)):
        try:
            board.serve(decision)
        except Exception as error:  # one job's odd data must not stop the others
            said = f"looking for room by preemption failed: {type(error).__name__}: {error}"
            decision.message = f"{decision.message}; {said}"
            decision.nomination = decision.turn.job.nomination
    return board.settle(fleet_notes)


class _Board:
    def __init__(self, decisions: Sequence[Decision], ledger: Ledger, settings: PlanSettings) -> None:
        self._decisions = decisions
        self._ledger = ledger
        self._settings = settings
        self._now = ledger.now
        self._by_key = {decision.turn.job.key: decision for decision in decisions}
        self._nominated = 0
        self._taken: dict[int, list[tuple[Victim, NodeState]]] = {}
        """by index of the job that loses them"""
        self._known: dict[int, list[Victim]] = {}
        """by index of the node, until some are taken there"""
        self._most: NDArray[np.float64] | None = None
        self._at: dict[int, list[tuple[Decision, Standing]]] = {}
        for decision in decisions:
            for standing in decision.standings:
                if standing.state is not None and standing.count > 0:
                    self._at.setdefault(standing.state.index, []).append((decision, standing))

    # One job that waits ------------------------------------------------------------------------------------------

    def serve(self, decision: Decision) -> None:
        job, nomination = decision.turn.job, decision.turn.job.nomination
        if job.problem is not None or not job.model_digest:
            return
        barred = ""
        if nomination is not None:
            under_way = arriving(job, nomination) or _just_placed(decision, nomination)
            if holds(job, nomination, self._now, self._settings):
                if under_way or (decision.missing and self._carry_on(decision, nomination)):
                    decision.nomination = nomination
                    return
                failed = decision.missing > 0 and decision.claim is not None
            else:
                failed = decision.missing > 0 and not under_way and not fulfilled(job, nomination, self._settings)
            if failed:
                decision.exclusions = with_unmet(decision.exclusions, nomination.node, self._now)
                barred = nomination.node
            decision.claim = None
        # Of a PerSite job that is the worst over its sites: what one can never hold, another may.
        if decision.missing and (job.per_site or decision.reason not in HOPELESS):
            self._nominate(decision, barred)

    def _carry_on(self, decision: Decision, nomination: Nomination) -> bool:
        """Whether the claim can still be met: by what is leaving, or by those of its victims that are still there, as
        when the leader died between telling the winner and telling them."""
        state = decision.claim
        if state is None:
            return False
        self._ledger.reserve(decision.ask.index, state, -1)
        chosen = self._choose(decision, state, self._victims(decision, state, only=nomination.victims), CLAIM_CHECKS)
        if chosen is None:
            return False
        self._take(decision, state, chosen, nomination)
        return True

    def _nominate(self, decision: Decision, barred: str) -> None:
        if self._nominated == NEW_AT_ONCE:
            return
        places = self._candidates(decision, barred)
        for start in range(0, len(places), LOOKED_AT):
            best = self._best(decision, places[start : start + LOOKED_AT])
            if best is not None:
                break
        else:
            self._say_what_stands_in_the_way(decision, barred)
            return
        state, chosen = best
        victims = {victim.owner.turn.job.key for victim in chosen} or self._leaving(decision, state)
        if not victims:
            return  # what is leaving is as high as itself: the room comes free, and its turn comes first
        nomination = Nomination(
            site=state.site.name,
            node=state.node.name,
            victims=tuple(sorted(victims)),
            until=float(int(self._now + self._settings.nomination_ttl)),
        )
        self._take(decision, state, chosen, nomination)
        decision.nomination = nomination
        self._nominated += 1

    def _best(self, decision: Decision, places: Sequence[NodeState]) -> tuple[NodeState, list[Victim]] | None:
        """The place where the fewest give way, then the lowest tiers, then the newest."""
        counted = []
        for state in places:
            lower = [victim.request for victim in self._victims(decision, state)]
            least = least_of(self._lack(decision, state), lower)
            if least is not None:
                counted.append((least, state))
        best: tuple[tuple[object, ...], NodeState, list[Victim]] | None = None
        for least, state in sorted(counted, key=lambda entry: (entry[0], entry[1].rank)):
            if best is not None and least > len(best[2]):
                break
            chosen = self._choose(decision, state, self._victims(decision, state))
            if chosen is not None:
                key = (len(chosen), *worth(chosen), state.rank)
                if best is None or key < best[0]:
                    best = key, state, chosen
        return best[1:] if best else None

    def _leaving(self, decision: Decision, state: NodeState) -> set[str]:
        """Jobs of lower tiers that are leaving the node already, and may be waiting for their replacement."""
        indices = {index for index, held in state.held.items() if held.room > held.decided}
        return {
            owner.turn.job.key
            for owner in self._decisions
            if owner.ask.index in indices and owner.turn.own_tier < decision.turn.own_tier
        }

    def _candidates(self, decision: Decision, barred: str) -> list[NodeState]:
        """Nodes where taking everything of lower tiers might do, in the stable order of nodes."""
        sites = {need.site for need in decision.needs if need.count > 0}
        promising = self._promising(decision, shielded=False)
        return self._ledger.ranked(
            state
            for state in decision.allowed
            if state.index in promising
            and not state.pool
            and state.node.name != barred
            and {None, state.site.name} & sites
        )

    # Victims -----------------------------------------------------------------------------------------------------

    def _victims(
        self, decision: Decision, state: NodeState, *, only: Collection[str] | None = None, shielded: bool = False
    ) -> list[Victim]:
        """Replicas of lower tiers on the node, the first to be taken first."""
        tier = decision.turn.own_tier
        return [
            victim
            for victim in self._replicas_at(state)
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
                for victim in self._replicas(owner, standing)
            ]
            known = sorted(found, key=lambda v: (v.tier, -v.begun, -v.owner.turn.position))
            self._known[state.index] = known
        return known

    def _promising(self, decision: Decision, *, shielded: bool) -> set[int]:
        """Nodes, by index, where cpu and memory would do if all of lower tiers gave way: a look at all at once, which
        may say yes too often and leaves the rest to those that look closer."""
        if self._most is None:
            sums = np.zeros((2, 2, HIGHEST + 2, len(self._ledger.states)))
            for state in self._ledger.states:
                spare = state.free + self._going(state)
                sums[:, 0, :, state.index] = spare.cpu
                sums[:, 1, :, state.index] = spare.memory
                for victim in self._replicas_at(state):
                    first = 1 if victim.shield else 0
                    sums[first:, 0, victim.tier + 1 :, state.index] += victim.request.cpu
                    sums[first:, 1, victim.tier + 1 :, state.index] += victim.request.memory
            self._most = sums
        cpu, memory = self._most[1 if shielded else 0, :, decision.turn.own_tier]
        need = decision.ask.request
        return set(np.flatnonzero((cpu >= need.cpu) & (memory >= need.memory)).tolist())

    def _replicas(self, owner: Decision, standing: Standing) -> list[Victim]:
        if standing.new:
            return [Victim(owner, standing, self._now) for _ in range(standing.count)]
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
            victims.append(Victim(owner, standing, begun, shield))
        return victims

    def _choose(
        self, decision: Decision, state: NodeState, victims: list[Victim], checks: Sequence[Check] = CHECKS
    ) -> list[Victim] | None:
        """The victims after which one more replica fits, none when what is leaving suffices; None when none suffice."""

        def fits(chosen: Sequence[Victim]) -> bool:
            return self._fits_without(decision, state, chosen, checks)

        if fits(()):
            return []
        if not victims or not fits(victims):
            return None
        lack = self._lack(decision, state)
        least = max(1, least_of(lack, [victim.request for victim in victims]) or 1)
        for size in (least, least + 1):
            tried = islice(combinations(victims, size), TRIED_SETS)
            enough = [s for s in tried if covered(lack, [v.request for v in s]) and fits(s)]
            if enough:
                return without_unneeded(min(enough, key=worth), fits)
        by_weight = sorted(enumerate(victims), key=lambda entry: (-part(lack, entry[1].request), entry[0]))
        return without_unneeded([victim for _, victim in by_weight], fits)

    def _fits_without(
        self, decision: Decision, state: NodeState, chosen: Sequence[Victim], checks: Sequence[Check]
    ) -> bool:
        """Whether one more replica of the job would pass once these, and all that is leaving already, are gone."""
        for victim in chosen:
            self._ledger.withdraw(victim.owner.ask.index, state)
        requested, cpu, going = state.requested, state.cpu, self._going(state)
        state.requested = requested - going
        # What they use is in the live figure still; nobody knows how much, so it is taken for what they request.
        state.cpu = replace(cpu, value=max(0.0, cpu.value - going.cpu / 1000))
        passes = first_miss(decision.ask, state, checks) is None
        state.requested, state.cpu = requested, cpu
        for victim in chosen:
            self._ledger.withdraw(victim.owner.ask.index, state, -1)
        return passes

    def _going(self, state: NodeState) -> Resources:
        total = Resources()
        for index, held in state.held.items():
            if held.room > held.decided:
                total += self._ledger.requests[index].times(held.room - held.decided)
        return total

    def _lack(self, decision: Decision, state: NodeState) -> Resources:
        """What the node has too little of for one more replica once all that is leaving is gone; negative: to spare."""
        return decision.ask.request - (state.free + self._going(state))

    def _take(self, decision: Decision, state: NodeState, chosen: list[Victim], nomination: Nomination) -> None:
        needed = _needed(decision, state)
        self._known.pop(state.index, None)
        for victim in chosen:
            index = victim.owner.ask.index
            victim.standing.count -= 1
            victim.standing.ready = min(victim.standing.ready, victim.standing.count)
            self._ledger.withdraw(index, state)
            state.yielding.add(index)
            self._taken.setdefault(index, []).append((victim, state))
        self._ledger.reserve(decision.ask.index, state)
        decision.claim = state
        decision.settled = False
        self._tell_victims(decision, nomination, needed, Counter(v.owner.turn.job.key for v in chosen))
        who = ", ".join(nomination.victims[:3]) + (" and others" if len(nomination.victims) > 3 else "")
        text = f"waits for {who} to give way on {state.node.name}"
        more = f"; {decision.missing - 1} more wait for their turn" if decision.missing > 1 else ""
        decision.reason, decision.message = Rejection.WAITING_FOR_PREEMPTION.value, text + more

    def _tell_victims(self, winner: Decision, nomination: Nomination, needed: str, taken: Counter[str]) -> None:
        turn = winner.turn
        patient = self._now < nomination.until - self._settings.nomination_ttl / 2
        why = f"{turn.job.key} (priority tier {turn.own_tier}) needed {needed} on {nomination.node}"
        for key in nomination.victims:
            victim = self._by_key.get(key)
            if victim is not None:
                gives = GivesWay(nomination.site, nomination.node, turn.job.key, why, taken[key], patient)
                victim.gives_way = (*victim.gives_way, gives)

    # The end -----------------------------------------------------------------------------------------------------

    def settle(self, fleet_notes: Sequence[str]) -> dict[int, Exception]:
        """Another place for what was taken, if there is one; and why a job is without one."""
        failed: dict[int, Exception] = {}
        for decision in self._decisions:
            lost = self._taken.get(decision.ask.index, [])
            if lost:
                try:
                    self._resettle(decision, [state.site.name for _, state in lost])
                    retell(decision, self._ledger, self._settings, fleet_notes=fleet_notes)
                except Exception as error:
                    failed[decision.turn.index] = error
            told = decision.gives_way[0].why if decision.gives_way else decision.turn.job.preempted
            if decision.missing and told and decision.reason == Rejection.NO_CAPACITY:
                decision.reason, decision.message = Reason.PREEMPTED.value, f"{told}; {decision.message}"
        return failed

    def _resettle(self, decision: Decision, sites: list[str]) -> None:
        job, found = decision.turn.job, 0
        for site, count in Counter(sites).items() if job.per_site else [(None, len(sites))]:
            found += place_elsewhere(decision, count, self._ledger, site=site)
        if found == len(sites):
            return
        decision.missing += len(sites) - found
        _, misses = sift(decision.ask, self._ledger.states, decision.static)
        decision.reason, decision.message = why_missing(decision.ask, self._ledger.states, misses)
        wanted = decision.wanted
        if 0 < decision.missing < wanted:
            decision.message = f"{wanted - decision.missing} of {wanted} replicas have a node; {decision.message}"

    def _say_what_stands_in_the_way(self, decision: Decision, barred: str) -> None:
        """Where room could be made if it were allowed, and what does not allow it."""
        best: tuple[tuple[int, int, int], NodeState, list[str]] | None = None
        for state in islice(self._shielded_places(decision, barred), EXPLAINED_AT):
            victims = self._victims(decision, state, shielded=True)
            chosen = self._choose(decision, state, victims, AS_IF_NOT_FROZEN)
            if not chosen:
                continue
            shields = sorted({victim.shield for victim in chosen if victim.shield})
            if state.site.frozen:
                shields.insert(0, f"site {state.site.name} is frozen")
            key = (len(shields), len(chosen), state.rank)
            if shields and (best is None or key < best[0]):
                best = key, state, shields
        if best is not None:
            _, state, shields = best
            text = f"lower priority tiers hold what it needs on {state.node.name}, but {' and '.join(shields[:3])}"
            decision.message = f"{decision.message}; {text}"

    def _shielded_places(self, decision: Decision, barred: str) -> Iterable[NodeState]:
        promising = self._promising(decision, shielded=True)
        frozen = [s for s in self._ledger.states if s.site.frozen and s.index in decision.static]
        for state in self._ledger.ranked(s for s in [*decision.allowed, *frozen] if s.index in promising):
            if state.pool or state.node.name == barred:
                continue
            lower = [victim.request for victim in self._victims(decision, state, shielded=True)]
            if lower and least_of(self._lack(decision, state), lower) is not None:
                yield state


def _just_placed(decision: Decision, nomination: Nomination) -> bool:
    return any(
        s.new and s.count > 0 and (s.site, s.node) == (nomination.site, nomination.node) for s in decision.standings
    )


def _needed(decision: Decision, state: NodeState) -> str:
    """What the winner needs of what the node has too little of; all that it asks for when that is a matter of quotas."""
    need, free = decision.ask.request, state.free
    short = {name for name, amount in amounts(need - free).items() if amount > 0}
    texts = {"cpu": f"{cpu_text(need.cpu)} cpu", "memory": f"{memory_text(need.memory)} memory", "pods": "a pod"}
    named = [texts.get(name, f"{amount} {name}") for name, amount in amounts(need).items() if name in short]
    return " and ".join(named) or f"{texts['cpu']} and {texts['memory']}"
