"""The plan of one job, given what the jobs before it took."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgeward.api.reasons import NodeRejection, Rejection
from edgeward.fleet.model import Exclusion, Job, Moves, Nomination, ProposedMove
from edgeward.placement.ask import Ask
from edgeward.placement.claims import claim
from edgeward.placement.columns import Rows
from edgeward.placement.constraints import (
    FIT_CHECKS,
    MOVE_CHECKS,
    can_grow,
    first_miss,
    site_is_closed,
)
from edgeward.placement.explain import explain, sift, why_missing
from edgeward.placement.greedy import fill
from edgeward.placement.hysteresis import SiteBudget, judge
from edgeward.placement.incumbents import Crowd, Standing, drop_surplus, sort_out, standing_score
from edgeward.placement.ledger import Ledger, NodeState
from edgeward.placement.model import Explanation, GivesWay, Guidance, JobPlan, Move, Placement
from edgeward.placement.order import Turn
from edgeward.placement.persite import due_by_site, missing_by_site
from edgeward.placement.scaling import desired
from edgeward.placement.scoring import Scorer
from edgeward.placement.settings import PlanSettings
from edgeward.placement.sieve import StaticMisses, no_misses, static_misses, that_fit
from edgeward.placement.split import split_lines


@dataclass(slots=True)
class Need:
    """Replicas that want a place."""

    site: str | None
    """the site they must be at; None: anywhere the job allows"""
    count: int


@dataclass(slots=True)
class Decision:
    """One job between its placement and its last word: moves come after every job has had its turn."""

    turn: Turn
    ask: Ask
    scorer: Scorer
    static: StaticMisses
    """why nodes do not pass what cannot change during a plan, by index"""
    standings: list[Standing] = field(default_factory=list)
    misplaced: list[Standing] = field(default_factory=list)
    """what is where the job does not allow it any more; their replacements are among the needs"""
    needs: list[Need] = field(default_factory=list)
    """a Total job has one without a site; `place` counts them down, and what is left is missing"""
    calm: bool = False
    """nothing was lost, in surplus, misplaced or missing when its turn came"""
    placements: tuple[Placement, ...] = ()
    """with the scores as they were when this job had its turn, so that what comes after changes none of them"""
    lost: list[Standing] = field(default_factory=list)
    wanted: int = 0
    """replicas in all; of a PerSite job the sum over the sites that are due some"""
    missing: int = 0
    reason: str = ""
    message: str = ""
    settled: bool = False
    """nothing of this job changed in this plan or is still under way, so a move may be thought about"""
    explanation: Explanation = field(default_factory=Explanation)
    share_of_bound: float | None = None
    """of its priority tier, where the solver found its place"""
    notes: list[str] = field(default_factory=list)
    proposed: ProposedMove | None = None
    moves: Moves = field(default_factory=Moves)
    moved: tuple[Move, ...] = ()
    claim: NodeState | None = None
    """where room is reserved for one replica of it while others leave, by its nomination"""
    exclusions: tuple[Exclusion, ...] = ()
    """those of the job, and what this plan adds"""
    nomination: Nomination | None = None
    gives_way: tuple[GivesWay, ...] = ()

    @property
    def rows(self) -> Rows:
        """Nodes that pass what cannot change, as indices of Ledger.states; none for a job that has a problem."""
        if self.turn.job.problem is not None:
            return np.zeros(0, dtype=np.intp)
        return np.flatnonzero(self.static.passes)


def begin(turn: Turn, ledger: Ledger, settings: PlanSettings) -> Decision:
    """What stays, what is too much, and how many replicas want a place."""
    job, ask = turn.job, Ask(turn.index, turn.job, ledger)
    static = static_misses(ask, ledger) if job.problem is None else no_misses(ledger)
    decision = Decision(turn, ask, Scorer(ask, settings), static, moves=job.moves, exclusions=job.exclusions)
    had = sort_out(ask, ledger, settings)
    decision.standings, decision.lost, decision.notes = had.kept, had.lost, had.notes
    wanted = decision.wanted = max(0, job.replicas)
    if job.problem is not None:
        decision.standings = had.kept + had.misplaced
        if job.per_site:
            decision.wanted = sum(standing.count for standing in decision.standings)
        return decision

    if job.per_site:
        surplus = _share_by_site(decision, ledger, settings)
    else:
        surplus = max(0, had.healthy - wanted)
        decision.notes += drop_surplus(surplus, decision.standings, decision.scorer, ledger, turn.index, settings.gain)
        if wanted > had.healthy:
            decision.needs = [Need(None, wanted - had.healthy)]
    if wanted == 0:
        decision.lost = []
    decision.misplaced = had.misplaced
    for standing in had.misplaced:
        if standing.state is not None:
            ledger.withdraw(turn.index, standing.state, standing.count)
    for need in decision.needs:
        there = [s.site for s in _to_stay(decision, need) if s.state is not None for _ in range(s.count)]
        ledger.stay_until_replaced(turn.index, need.site, there[: need.count], need.count)
    # Before a claim takes its part of a need.
    decision.calm = wanted > 0 and not surplus and not decision.needs and not had.misplaced and not had.lost
    _claim(decision, ledger, settings)
    return decision


def _share_by_site(decision: Decision, ledger: Ledger, settings: PlanSettings) -> int:
    """The needs of each site, and what is too much at each; returns how many were. Where no site at all is due
    anything, all of one site is missing, for a reason that then is told: a selector with a slip in it should not look
    like a job that serves."""
    job = decision.turn.job
    due = due_by_site(max(0, job.replicas), decision.standings, ledger.states, decision.static)
    kept, dropped = [], 0
    for site, count in due.items():
        here = [standing for standing in decision.standings if standing.site == site]
        surplus = sum(standing.count for standing in here) - count
        if surplus > 0:
            dropped += surplus
            index, gain = decision.turn.index, settings.gain
            decision.notes += drop_surplus(surplus, here, decision.scorer, ledger, index, gain)
        elif surplus < 0:
            decision.needs.append(Need(site, -surplus))
        kept += here
    decision.standings = kept
    decision.wanted = sum(due.values())
    if not due and not decision.lost and job.replicas > 0:
        decision.wanted, decision.needs = job.replicas, [Need(None, job.replicas)]
    return dropped


def _claim(decision: Decision, ledger: Ledger, settings: PlanSettings) -> None:
    """The replica that was nominated for a node comes first of its whole tier: it goes there, or its room is kept."""
    nomination = decision.turn.job.nomination
    if nomination is None or not settings.preemption or not decision.turn.job.model_digest:
        return
    need = next((n for n in decision.needs if n.count > 0 and n.site in (None, nomination.site)), None)
    if need is None:
        return
    state, free = claim(decision.ask, ledger, settings)
    if state is not None and free:
        settle_at(decision, [state], ledger.now)
        need.count -= 1
    else:
        decision.claim = state


def finish(decision: Decision, ledger: Ledger, settings: PlanSettings, *, fleet_notes: Sequence[str]) -> None:
    """After its whole priority tier has been placed: what is missing and why, and the scores and the explanation as
    they are now, so that no lower tier changes any of them."""
    job = decision.turn.job
    if job.problem is not None:
        decision.missing = max(0, decision.wanted - sum(s.count for s in decision.standings))
        decision.reason, decision.message = job.problem.reason, job.problem.message
        decision.explanation = Explanation(order=decision.turn.note)
        decision.placements = _placements(decision)
        return
    if any(need.count for need in decision.needs):
        _say_missing(decision, ledger)
    for need in decision.needs:
        ledger.not_replaced(decision.ask.index, need.site)
    decision.settled = decision.calm and at_rest(decision)
    if not (decision.settled and job.explained):
        # The dearest part of a decision by far, and for most jobs of most plans the same as ever.
        _explain(decision, ledger, settings, fleet_notes)
    elif decision.share_of_bound is not None:
        decision.explanation = Explanation(share_of_bound=decision.share_of_bound)
    decision.placements = _placements(decision)
    decision.scorer.rest()


def follow(decision: Decision, advice: Guidance, ledger: Ledger) -> None:
    """New replicas go where the solver wants them, as far as they still fit there; `place` does the rest."""
    share = next((tier.share for tier in advice.tiers if tier.tier == decision.turn.tier), None)
    targets = advice.targets.get(decision.turn.job.key, ())
    if not targets or not decision.turn.job.model_digest:
        return
    decision.share_of_bound = share
    chosen = []
    for site, node, advised in targets:
        count = advised - _come_since(decision.turn.job, site, node, advice.made_at)
        state = ledger.find(site, node)
        if state is None or state.site.name != site or not decision.static.passes[state.index]:
            continue
        need = next((n for n in decision.needs if n.count > 0 and n.site in (None, site)), None)
        while need is not None and count > 0 and need.count > 0:
            if first_miss(decision.ask, state, FIT_CHECKS) is not None:
                break
            ledger.place(decision.ask.index, state)
            chosen.append(state)
            need.count -= 1
            count -= 1
    settle_at(decision, chosen, ledger.now)


def _come_since(job: Job, site: str, node: str, made_at: float) -> int:
    """How many replicas the job has got there since the advice: that part of it is carried out. On a node that had some
    before, those are new whose pods do not show a start before it. The API keeps whole seconds."""
    before = math.floor(made_at)
    held = next((p for p in job.placed if (p.site, p.node) == (site, node)), None)
    if held is None or held.since >= before:
        return held.replicas if held else 0
    return max(0, held.replicas - sum(1 for started in held.started if started < before))


def place(decision: Decision, ledger: Ledger) -> None:
    """The replicas that want a place, one after the other, each where it is best off now."""
    if not decision.turn.job.model_digest:
        return
    ask = decision.ask
    for need in decision.needs:
        need.count -= _fill(
            decision,
            need,
            ledger,
            that_fit(ask, ledger, decision.rows),
            lambda state: first_miss(ask, state, FIT_CHECKS) is None,
        )


def grow(decision: Decision, ledger: Ledger) -> None:
    """What no node takes now may wait at elastic sites, whose pools get nodes for pods that wait."""
    if not decision.turn.job.model_digest:
        return
    ask = decision.ask
    for need in decision.needs:
        pools = [s for s in ledger.states if s.pool and need.site in (None, s.site.name)] if need.count else []
        before = {pool.index: pool.held[ask.index].decided if ask.index in pool.held else 0 for pool in pools}
        pools = [pool for pool in pools if can_grow(ask, pool)]
        rows = np.array([pool.index for pool in pools], dtype=np.intp)
        need.count -= _fill(decision, need, ledger, rows, lambda pool: can_grow(ask, pool))
        for pool in pools:
            held = pool.held.get(ask.index)
            waiting = held.decided - before[pool.index] if held else 0
            if waiting:
                what = "1 replica waits" if waiting == 1 else f"{waiting} replicas wait"
                decision.notes.append(f"{what} at {pool.site.name} for its pool to grow: no node that is there fits")


def _fill(decision: Decision, need: Need, ledger: Ledger, rows: Rows, fits: Callable[[NodeState], bool]) -> int:
    """How many replicas of the need found one of the places that fit."""
    ask = decision.ask
    crowd = Crowd(decision.standings)
    chosen = fill(
        need.count,
        places_of(need, ledger, rows),
        job=ask.index,
        scorer=decision.scorer,
        ledger=ledger,
        on_node={s.state.index: crowd.on_node[s.site, s.node] for s in decision.standings if s.state is not None},
        at_site=dict(crowd.at_site),
        fits=fits,
        closed=lambda state: site_is_closed(ask, state),
    )
    settle_at(decision, chosen, ledger.now)
    return len(chosen)


def places_of(need: Need, ledger: Ledger, rows: Rows) -> Rows:
    """Those of the rows where replicas of the need may be."""
    if need.site is None or not len(rows):
        return rows
    at = [number for number, site in enumerate(ledger.site_list) if site.name == need.site]
    return rows[np.isin(ledger.columns.site[rows], at)]


def settle_at(decision: Decision, chosen: Sequence[NodeState], now: float) -> None:
    """New replicas of the job, which the ledger holds already, join its standings: one entry a node."""
    counts: dict[int, int] = {}
    states: dict[int, NodeState] = {}
    for state in chosen:
        counts[state.index] = counts.get(state.index, 0) + 1
        states[state.index] = state
    for index, count in counts.items():
        state = states[index]
        decision.standings.append(
            Standing(state.node.name, state.site.name, state.node.tier, state, count, 0, now, new=True)
        )


def _say_missing(decision: Decision, ledger: Ledger) -> None:
    """Replicas without a better place stay where they are, even where they should not be; the rest is missing."""
    ask, job = decision.ask, decision.turn.job
    by_site = {need.site: need.count for need in decision.needs if need.site is not None and need.count}
    if not job.model_digest:
        decision.reason = Rejection.NO_RUNNABLE_MODEL.value
        decision.message = job.pin_message or f"model {job.model_name or '(none)'} has no version to run yet"
    elif by_site:
        decision.reason, decision.message = missing_by_site(ask, ledger, decision.static, by_site)
    else:
        _, misses = sift(ask, ledger, decision.static)
        decision.reason, decision.message = why_missing(ask, ledger.states, misses)
    stayed = sum(stay(decision, need, ledger) for need in decision.needs)
    decision.missing = sum(need.count for need in decision.needs) - stayed
    tell_stays(decision, stayed)


def tell_stays(decision: Decision, stayed: int) -> None:
    """How many replicas stay where they should not be, and how many have a node, before the reason for the others."""
    wanted = decision.wanted
    if stayed:
        what = "1 replica stays" if stayed == 1 else f"{stayed} replicas stay"
        decision.message = f"{what} where it should not be for want of another node; {decision.message}"
    if any(standing.reason == NodeRejection.RESIDENCY_FORBIDS for standing in decision.standings):
        # It serves on, as everything that has no other place does, but nobody may take that for well.
        decision.reason = Rejection.RESIDENCY_FORBIDS.value
    if 0 < decision.missing < wanted:
        decision.message = f"{wanted - decision.missing} of {wanted} replicas have a node; {decision.message}"


def stay(decision: Decision, need: Need, ledger: Ledger) -> int:
    """How many misplaced replicas stay because what would replace them has no place, or lost it again."""
    stayed = 0
    left = ledger.not_replaced(decision.ask.index, need.site)
    for standing in _to_stay(decision, need):
        if stayed == need.count:
            break
        count = min(standing.count, need.count - stayed)
        if left is not None and standing.state is not None:
            count = min(count, left[standing.site])
            left[standing.site] -= count
        if count == 0:
            continue
        kept = replace(standing, count=count, ready=min(standing.ready, count))
        standing.count -= count
        standing.ready -= kept.ready
        stayed += count
        decision.standings.append(kept)
        if standing.state is not None:
            ledger.withdraw(decision.ask.index, standing.state, -count)
        decision.notes.append(f"{standing.why}; stays there until another node fits")
    return stayed


def _to_stay(decision: Decision, need: Need) -> list[Standing]:
    """Misplaced replicas that one of the need may replace, those first that should rather stay."""
    misplaced = [standing for standing in decision.misplaced if need.site in (None, standing.site)]
    return sorted(misplaced, key=lambda s: (-s.ready, s.since, s.state.rank if s.state else 0))


def at_rest(decision: Decision) -> bool:
    """Every replica Ready and none leaving."""
    held = [p for p in decision.turn.job.placed if p.replicas == 0 and p.started]
    return not held and all(s.ready >= s.count and not s.ailing for s in decision.standings)


def _explain(decision: Decision, ledger: Ledger, settings: PlanSettings, fleet_notes: Sequence[str]) -> None:
    ask = decision.ask
    holding = [s.state.index for s in decision.standings if s.state is not None]
    others = np.ones(len(ledger.states), dtype=np.bool_)
    others[holding] = False
    takers, misses = sift(ask, ledger, decision.static, np.nonzero(others)[0])
    if decision.missing:
        # A node that holds a replica and has no room for another is in the way as much as any other.
        _, misses = sift(ask, ledger, decision.static)
    doubted = [
        note
        for row in ledger.noted[(others & decision.static.passes)[ledger.noted]].tolist()
        for note in (ledger.states[row].cpu.note, ledger.states[row].memory.note)
        if note
    ]
    decision.explanation = explain(
        ask,
        decision.standings,
        takers,
        decision.scorer,
        ledger,
        misses,
        settings,
        order=decision.turn.note,
        notes=[
            *decision.notes,
            *split_lines(ask, decision.scorer, ledger.states, decision.wanted),
            *fleet_notes,
            *doubted,
        ],
    )
    if decision.share_of_bound is not None:
        decision.explanation = replace(decision.explanation, share_of_bound=decision.share_of_bound)


def consider_move(
    decision: Decision, ledger: Ledger, budget: SiteBudget, settings: PlanSettings, *, fleet_notes: Sequence[str]
) -> None:
    """After every job has been placed: one healthy replica may go where it has been better off for long enough."""
    if not decision.settled:
        return
    ask = decision.ask
    verdict = judge(
        decision.turn.job,
        decision.standings,
        (
            state
            for state in map(ledger.states.__getitem__, decision.rows)
            if first_miss(ask, state, MOVE_CHECKS) is None
        ),
        scorer=decision.scorer,
        now=ledger.now,
        budget=budget,
        settings=settings,
    )
    decision.proposed, decision.moves = verdict.proposed, verdict.moves
    if verdict.move is None:
        return
    source, target = verdict.move.source, verdict.move.target
    source.count -= 1
    source.ready -= 1
    decision.standings = [s for s in decision.standings if s.count > 0]
    decision.standings.append(
        Standing(
            target.node.name,
            target.site.name,
            target.node.tier,
            target,
            1,
            0,
            ledger.now,
            new=True,
            moved_from=source.site,
        )
    )
    if source.state is not None:
        ledger.withdraw(ask.index, source.state)
    ledger.place(ask.index, target)
    decision.notes.append(f"moved from {source.node} to {target.node.name} for {verdict.move.gain:.3f} more score")
    _explain(decision, ledger, settings, fleet_notes)
    decision.placements = _placements(decision)
    decision.moved = (Move(source.node, target.node.name, verdict.move.gain),)


def job_plan(decision: Decision, settings: PlanSettings) -> JobPlan:
    turn, job = decision.turn, decision.turn.job
    return JobPlan(
        key=job.key,
        priority_tier=turn.own_tier,
        p=turn.p,
        wanted=decision.wanted,
        placements=decision.placements,
        missing=decision.missing,
        reason=decision.reason,
        message=decision.message,
        explanation=decision.explanation,
        exclusions=remembered(decision.exclusions, decision.ask.now, settings),
        proposed=decision.proposed,
        moves=decision.moves,
        moved=decision.moved,
        nomination=decision.nomination,
        gives_way=decision.gives_way,
        sizing=desired(job, now=decision.ask.now, settings=settings.scaling),
        learned=decision.ask.learned.lesson(job),
    )


def place_elsewhere(decision: Decision, count: int, ledger: Ledger, *, site: str | None) -> int:
    """Places for replicas that have to give theirs up; how many were found. site: None when any will do."""
    need = Need(site, count)
    return _fill(
        decision, need, ledger, decision.rows, lambda state: first_miss(decision.ask, state, FIT_CHECKS) is None
    )


def retell(decision: Decision, ledger: Ledger, settings: PlanSettings, *, fleet_notes: Sequence[str]) -> None:
    """After replicas came or went since the job's own turn: placements, scores and explanation as they are now."""
    decision.standings = [s for s in decision.standings if s.count > 0]
    decision.settled = False
    _explain(decision, ledger, settings, fleet_notes)
    decision.placements = _placements(decision)


def _placements(decision: Decision) -> tuple[Placement, ...]:
    """One per node, by site and name; the oldest `since` where an incumbent and a new replica share a node, but that
    of the new one if it moved here: the budgets of moves count by it."""
    crowd = Crowd(decision.standings)
    merged: dict[tuple[str, str, bool], Placement] = {}
    for lost, standings in ((False, decision.standings), (True, decision.lost)):
        for s in standings:
            score = 0.0 if lost else standing_score(decision.scorer, crowd, s)
            before = merged.get((s.site, s.node, lost))
            since = min(s.since, before.since) if before else s.since
            if before and s.new and s.moved_from:
                since = s.since
            merged[s.site, s.node, lost] = Placement(
                s.node,
                s.site,
                s.tier,
                s.count + (before.replicas if before else 0),
                max(score, before.score) if before else score,
                since,
                lost,
                s.moved_from or (before.moved_from if before else ""),
            )
    return tuple(merged[key] for key in sorted(merged))


def remembered(exclusions: Sequence[Exclusion], now: float, settings: PlanSettings) -> tuple[Exclusion, ...]:
    return tuple(e for e in exclusions if e.until + settings.exclusion_memory > now)
