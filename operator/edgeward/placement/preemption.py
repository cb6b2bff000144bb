"""Preemption: the last resort of a job that found no place, after every priority tier had its turn.

A job may take the room of jobs of a strictly lower priority tier of their own, on one node at a time. It takes the
fewest replicas that make it fit, of these the lowest tiers, of these the newest, and none that it can do without. What
has just begun is left alone, and so is what a PodDisruptionBudget of the user's holds. Pods that are not Edgeward's are
never touched: they are no standing of any job here.

What is taken leaves first; the winner keeps a claim to the room (claims.py) until it serves there or the claim expires.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

from edgeward.api.conditions import Reason
from edgeward.api.reasons import NodeRejection, Rejection
from edgeward.fleet.model import Nomination
from edgeward.placement.claims import CLAIM_CHECKS, arriving, fulfilled, holds, with_unmet
from edgeward.placement.constraints import CHECKS, Check, first_miss
from edgeward.placement.decide import Decision, Need, place_elsewhere, retell, settle_at, stay, tell_stays
from edgeward.placement.explain import sift, why_missing
from edgeward.placement.holders import NAMESPACE_QUOTA, SITE_QUOTA, Holders
from edgeward.placement.ledger import Ledger, NodeState, Raised
from edgeward.placement.model import GivesWay
from edgeward.placement.room import cpu_text, memory_text
from edgeward.placement.settings import PlanSettings
from edgeward.placement.victims import Victim, amounts, choose, fresh_and_solid, least_of, worth

NEW_AT_ONCE = 20
"""nominations that one plan makes; the next plan, seconds later, makes the next ones"""
LOOKED_AT = 500
"""nodes whose victims are compared; more are looked at only if none of these will do"""
EXPLAINED_AT = 20
"""nodes that are looked at to say what stood in the way"""
HOPELESS = (Rejection.TOO_BIG_FOR_ANY_NODE, Rejection.NO_RUNNABLE_MODEL)
"""reasons that no room on a node would remove"""
BUT_FOR_QUOTAS = tuple(
    check
    for check in CHECKS
    if check.reason not in (NodeRejection.SITE_QUOTA_EXCEEDED, NodeRejection.NAMESPACE_QUOTA_EXCEEDED)
)
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
    # All of them: one that has its place may lose it again to one that comes before it here, and be next to look.
    for decision in sorted(decisions, key=lambda d: (-d.turn.own_tier, d.turn.position)):
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
        self._taken: dict[int, list[str]] = {}
        """the sites where they were, by index of the job that loses them"""
        self._undone: dict[int, list[tuple[Victim, Raised]]] = {}
        """the same of what only this plan had placed"""
        self._retold: set[int] = set()
        """jobs whose replicas are others than when they had their turn"""
        self._holders = Holders(decisions, ledger, settings)

    # One job that waits ------------------------------------------------------------------------------------------

    def serve(self, decision: Decision) -> None:
        job, nomination = decision.turn.job, decision.turn.job.nomination
        if decision.ask.index in self._undone:
            self._resettle(decision)
        if not decision.missing and nomination is None:
            return
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
        victims = self._holders.victims(decision, state, only=nomination.victims)
        victims = [victim for victim in victims if not victim.standing.new]
        chosen = self._choose(decision, state, victims, CLAIM_CHECKS)
        if chosen is None:
            return False
        self._take(decision, state, chosen, nomination)
        return True

    def _nominate(self, decision: Decision, barred: str) -> None:
        while decision.missing and self._nominated < NEW_AT_ONCE:
            places = self._candidates(decision, barred)
            for start in range(0, len(places), LOOKED_AT):
                best = self._best(decision, places[start : start + LOOKED_AT])
                if best is not None:
                    break
            else:
                self._say_what_stands_in_the_way(decision, barred)
                return
            if not self._make_room(decision, *best):
                return
            self._nominated += 1
            if decision.nomination is not None:
                return

    def _make_room(self, decision: Decision, state: NodeState, chosen: list[Victim]) -> bool:
        """By a nomination, or at once where only what this plan placed is in the way; False: by neither."""
        fresh, solid = fresh_and_solid(chosen)
        for victim in fresh:
            self._undo(victim)
        if fresh and not solid and (first_miss(decision.ask, state, CHECKS) is None or state.pool):
            self._place(decision, state)
            return True
        tier = decision.turn.own_tier
        victims = {victim.owner.turn.job.key for victim in solid}
        victims = victims or self._holders.leaving(self._decisions, state, below=tier)
        if not victims:
            self._redo(fresh)
            return False  # what is leaving is as high as itself: the room comes free, and its turn comes first
        nomination = Nomination(
            site=state.site.name,
            node=state.node.name,
            victims=tuple(sorted(victims)),
            until=float(int(self._now + self._settings.nomination_ttl)),
        )
        self._take(decision, state, solid, nomination)
        decision.nomination = nomination
        return True

    def _best(self, decision: Decision, places: Sequence[NodeState]) -> tuple[NodeState, list[Victim]] | None:
        """The place where the fewest give way, then the lowest tiers, then the newest."""
        counted = []
        for state in places:
            fresh, solid = fresh_and_solid(self._holders.victims(decision, state))
            lack = self._holders.lack(decision, state)
            for victim in fresh:
                lack -= self._holders.brings(decision, state, victim)
            least = least_of(lack, [self._holders.brings(decision, state, victim) for victim in solid])
            if least is not None:
                counted.append((least, state))
        best: tuple[tuple[object, ...], NodeState, list[Victim]] | None = None
        fewest = 0
        for least, state in sorted(counted, key=lambda entry: (entry[0], entry[1].rank)):
            if best is not None and least > fewest:
                break
            chosen = self._choose(decision, state, self._holders.victims(decision, state))
            if chosen is not None:
                fresh, solid = fresh_and_solid(chosen)
                key = (len(solid), *worth(solid), len(fresh), state.rank)
                if best is None or key < best[0]:
                    best, fewest = (key, state, chosen), len(solid)
        return best[1:] if best else None

    def _candidates(self, decision: Decision, barred: str) -> list[NodeState]:
        """Nodes where taking everything of lower tiers might do, in the stable order of nodes."""
        sites = {need.site for need in decision.needs if need.count > 0}
        promising = self._holders.promising(decision, shielded=False)
        ranked = self._ledger.ranked(
            state
            for state in map(self._ledger.states.__getitem__, decision.rows)
            if state.index in promising and state.node.name != barred and {None, state.site.name} & sites
        )
        return self._by_quota(decision, ranked)

    def _by_quota(self, decision: Decision, ranked: list[NodeState]) -> list[NodeState]:
        """Where nothing but a quota is in the way, one node of the site speaks for all of them, as those that may give
        way are the same; and where that of the namespace is, one of all."""
        found: list[NodeState] = []
        spoken_for: dict[str, NodeState] = {}
        short = self._holders.short_of_quota(decision)
        for state in ranked:
            if state.site.name not in short:
                if not state.pool:  # which grows
                    found.append(state)
                continue
            lack = self._holders.lack(decision, state)
            names = {name for name, amount in amounts(lack).items() if amount > 0}
            quotas = {name for name in names if name.startswith((SITE_QUOTA, NAMESPACE_QUOTA))}
            if names - quotas or not self._fits_but_for_quotas(decision, state):
                found.append(state)
                continue
            if not any(name.startswith(SITE_QUOTA) for name in quotas):
                return [state]
            spoken_for.setdefault(state.site.name, state)
        return self._ledger.ranked([*(s for s in found if s.site.name not in spoken_for), *spoken_for.values()])

    def _fits_but_for_quotas(self, decision: Decision, state: NodeState) -> bool:
        return state.pool or self._holders.fits_without(decision, state, (), BUT_FOR_QUOTAS)

    # Victims -----------------------------------------------------------------------------------------------------

    def _choose(
        self, decision: Decision, state: NodeState, victims: list[Victim], checks: Sequence[Check] = CHECKS
    ) -> list[Victim] | None:
        return choose(
            victims,
            lack=self._holders.lack(decision, state),
            brings=lambda victim: self._holders.brings(decision, state, victim),
            fits=lambda chosen: self._holders.fits_without(decision, state, chosen, checks),
        )

    def _undo(self, victim: Victim) -> None:
        """What only this plan placed there goes without a word: it serves nobody yet."""
        index = victim.owner.ask.index
        victim.standing.count -= 1
        undone = self._ledger.take_back(index, victim.state)
        victim.state.yielding.add(index)
        self._undone.setdefault(index, []).append((victim, undone))
        self._holders.changed(victim.state)

    def _redo(self, victims: Sequence[Victim]) -> None:
        for victim in reversed(victims):
            index = victim.owner.ask.index
            victim.standing.count += 1
            self._ledger.put_back(index, victim.state, self._undone[index].pop()[1])
            self._holders.changed(victim.state)

    def _place(self, decision: Decision, state: NodeState) -> None:
        """One replica of the job there and now."""
        self._ledger.place(decision.ask.index, state)
        settle_at(decision, [state], self._ledger.now)
        need = next(n for n in decision.needs if n.count > 0 and n.site in (None, state.site.name))
        need.count -= 1
        decision.missing -= 1
        self._holders.add(decision)
        self._retold.add(decision.ask.index)
        self._say_missing(decision)

    def _take(self, decision: Decision, state: NodeState, chosen: list[Victim], nomination: Nomination) -> None:
        needed = _needed(decision, state)
        for victim in chosen:
            index = victim.owner.ask.index
            victim.standing.count -= 1
            victim.standing.ready = min(victim.standing.ready, victim.standing.count)
            self._ledger.withdraw(index, victim.state)
            victim.state.yielding.add(index)
            self._taken.setdefault(index, []).append(victim.state.site.name)
        self._ledger.reserve(decision.ask.index, state)
        for place in (state, *(victim.state for victim in chosen)):
            self._holders.changed(place)
        decision.claim = state
        decision.settled = False
        self._tell_victims(decision, nomination, needed, chosen)
        who = ", ".join(nomination.victims[:3]) + (" and others" if len(nomination.victims) > 3 else "")
        text = f"waits for {who} to give way on {state.node.name}"
        more = f"; {decision.missing - 1} more wait for their turn" if decision.missing > 1 else ""
        decision.reason, decision.message = Rejection.WAITING_FOR_PREEMPTION.value, text + more

    def _tell_victims(self, winner: Decision, nomination: Nomination, needed: str, chosen: Sequence[Victim]) -> None:
        """Each at the places that it leaves, which for a quota may be others than the winner's."""
        turn = winner.turn
        patient = self._now < nomination.until - self._settings.nomination_ttl / 2
        why = f"{turn.job.key} (priority tier {turn.own_tier}) needed {needed} on {nomination.node}"
        taken = Counter((v.owner.turn.job.key, v.state.site.name, v.state.node.name) for v in chosen)
        places = {key: [at[1:] for at in sorted(taken) if at[0] == key] for key in nomination.victims}
        for key in nomination.victims:
            victim = self._by_key.get(key)
            for site, node in places[key] or [(nomination.site, nomination.node)]:
                if victim is not None:
                    gives = GivesWay(site, node, turn.job.key, why, taken[key, site, node], patient)
                    victim.gives_way = (*victim.gives_way, gives)

    # The end -----------------------------------------------------------------------------------------------------

    def settle(self, fleet_notes: Sequence[str]) -> dict[int, Exception]:
        """Another place for what was taken, if there is one; and why a job is without one."""
        failed: dict[int, Exception] = {}
        for decision in self._decisions:
            index = decision.ask.index
            try:
                self._resettle(decision)
                if index in self._retold:
                    retell(decision, self._ledger, self._settings, fleet_notes=fleet_notes)
            except Exception as error:
                failed[index] = error
            told = decision.gives_way[0].why if decision.gives_way else decision.turn.job.preempted
            if decision.missing and told and decision.reason == Rejection.NO_CAPACITY:
                decision.reason, decision.message = Reason.PREEMPTED.value, f"{told}; {decision.message}"
        return failed

    def _resettle(self, decision: Decision) -> None:
        """What was taken or undone goes elsewhere, or what it was to replace stays where it is."""
        index, stayed = decision.ask.index, 0
        sites = self._taken.pop(index, [])
        for victim, undone in self._undone.pop(index, []):
            self._ledger.lets_go(index, undone)
            sites.append(victim.state.site.name)
        if not sites:
            return
        self._retold.add(index)
        for site, count in Counter(sites).items() if decision.turn.job.per_site else [(None, len(sites))]:
            placed = place_elsewhere(decision, count, self._ledger, site=site)
            kept = stay(decision, Need(site, count - placed), self._ledger)
            lacking = count - placed - kept
            stayed += kept
            decision.missing += lacking
            decision.needs.append(Need(site, lacking))
        self._holders.add(decision)
        if decision.missing or stayed:
            self._say_missing(decision)

    def _say_missing(self, decision: Decision) -> None:
        """What the job lacks now; nothing when all its replicas are where they should be."""
        stays = sum(standing.count for standing in decision.standings if standing.reason)
        if not decision.missing and not stays:
            decision.reason = decision.message = ""
            return
        _, misses = sift(decision.ask, self._ledger, decision.static)
        decision.reason, decision.message = why_missing(decision.ask, self._ledger.states, misses)
        tell_stays(decision, stays)

    def _say_what_stands_in_the_way(self, decision: Decision, barred: str) -> None:
        """Where room could be made if it were allowed, and what does not allow it."""
        best: tuple[tuple[int, int, int], NodeState, list[str]] | None = None
        for state in islice(self._shielded_places(decision, barred), EXPLAINED_AT):
            victims = self._holders.victims(decision, state, shielded=True)
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
        promising = self._holders.promising(decision, shielded=True)
        frozen = [s for s in self._ledger.states if s.site.frozen and s.index in decision.static]
        places = self._ledger.ranked(
            s for s in [*map(self._ledger.states.__getitem__, decision.rows), *frozen] if s.index in promising
        )
        for state in self._by_quota(decision, [place for place in places if place.node.name != barred]):
            lower = self._holders.victims(decision, state, shielded=True)
            brought = [self._holders.brings(decision, state, victim) for victim in lower]
            if lower and least_of(self._holders.lack(decision, state), brought) is not None:
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
