"""The plan of one job, given what the jobs before it took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgeward.api.reasons import Rejection
from edgeward.fleet.model import Exclusion, Moves, ProposedMove
from edgeward.placement.constraints import FIT_CHECKS, SPEC_CHECKS, STATE_CHECKS, Ask, Miss, can_grow, first_miss
from edgeward.placement.explain import explain, sift, why_missing
from edgeward.placement.greedy import fill
from edgeward.placement.hysteresis import SiteBudget, judge
from edgeward.placement.incumbents import Crowd, Standing, drop_surplus, sort_out, standing_score
from edgeward.placement.ledger import Ledger, NodeState
from edgeward.placement.model import Explanation, JobPlan, Move, Placement
from edgeward.placement.order import Turn
from edgeward.placement.scaling import desired
from edgeward.placement.scoring import Scorer
from edgeward.placement.settings import PlanSettings


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
    allowed: list[NodeState] = field(default_factory=list)
    """nodes that pass what cannot change during a plan"""
    static: dict[int, Miss] = field(default_factory=dict)
    """why the other nodes do not, by index"""
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
    missing: int = 0
    reason: str = ""
    message: str = ""
    settled: bool = False
    """nothing of this job changed in this plan or is still under way, so a move may be thought about"""
    explanation: Explanation = field(default_factory=Explanation)
    notes: list[str] = field(default_factory=list)
    proposed: ProposedMove | None = None
    moves: Moves = field(default_factory=Moves)
    moved: tuple[Move, ...] = ()


def begin(turn: Turn, ledger: Ledger, settings: PlanSettings) -> Decision:
    """What stays, what is too much, and how many replicas want a place."""
    job, ask = turn.job, Ask(turn.index, turn.job, ledger.now)
    decision = Decision(turn, ask, Scorer(ask, ledger.sites, settings), moves=job.moves)
    had = sort_out(ask, ledger, settings)
    decision.standings, decision.lost, decision.notes = had.kept, had.lost, had.notes
    wanted = max(0, job.replicas)
    if job.problem is not None:
        decision.standings = had.kept + had.misplaced
        return decision

    for state in ledger.states:
        miss = first_miss(ask, state, SPEC_CHECKS) or first_miss(ask, state, STATE_CHECKS)
        if miss is None:
            decision.allowed.append(state)
        else:
            decision.static[state.index] = miss

    surplus = had.healthy - wanted
    if surplus > 0:
        decision.notes += drop_surplus(surplus, decision.standings, decision.scorer, ledger, turn.index, settings.gain)
    if wanted == 0:
        decision.lost = []
    decision.misplaced = had.misplaced
    for standing in had.misplaced:
        if standing.state is not None:
            ledger.withdraw(turn.index, standing.state, standing.count)
    need = max(0, wanted - had.healthy)
    if need:
        decision.needs = [Need(None, need)]
    decision.calm = wanted > 0 and surplus <= 0 and need == 0 and not had.misplaced and not had.lost
    return decision


def finish(decision: Decision, ledger: Ledger, settings: PlanSettings, *, fleet_notes: Sequence[str]) -> None:
    """After its whole priority tier has been placed: what is missing and why, and the scores and the explanation as
    they are now, so that no lower tier changes any of them."""
    job = decision.turn.job
    if job.problem is not None:
        decision.missing = max(0, max(0, job.replicas) - sum(s.count for s in decision.standings))
        decision.reason, decision.message = job.problem.reason, job.problem.message
        decision.explanation = Explanation(order=decision.turn.note)
        decision.placements = _placements(decision)
        return
    short = sum(need.count for need in decision.needs)
    if short:
        _say_missing(decision, short, decision.misplaced, ledger)
    decision.settled = decision.calm and _at_rest(decision)
    if not (decision.settled and job.explained):
        # The dearest part of a decision by far, and for most jobs of most plans the same as ever.
        _explain(decision, ledger, settings, fleet_notes)
    decision.placements = _placements(decision)


def place(decision: Decision, ledger: Ledger) -> None:
    """The replicas that want a place, one after the other, each where it is best off now."""
    if not decision.turn.job.model_digest:
        return
    ask = decision.ask
    for need in decision.needs:
        need.count -= _fill(
            decision, need, ledger, decision.allowed, lambda state: first_miss(ask, state, FIT_CHECKS) is None
        )


def grow(decision: Decision, ledger: Ledger) -> None:
    """What no node takes now may wait at elastic sites, whose pools get nodes for pods that wait."""
    if not decision.turn.job.model_digest:
        return
    ask = decision.ask
    for need in decision.needs:
        pools = [s for s in ledger.states if s.pool and need.site in (None, s.site.name)] if need.count else []
        before = {pool.index: pool.held[ask.index].decided if ask.index in pool.held else 0 for pool in pools}
        need.count -= _fill(decision, need, ledger, pools, lambda pool: can_grow(ask, pool))
        for pool in pools:
            held = pool.held.get(ask.index)
            waiting = held.decided - before[pool.index] if held else 0
            if waiting:
                what = "1 replica waits" if waiting == 1 else f"{waiting} replicas wait"
                decision.notes.append(f"{what} at {pool.site.name} for its pool to grow: no node that is there fits")


def _fill(
    decision: Decision, need: Need, ledger: Ledger, places: Sequence[NodeState], fits: Callable[[NodeState], bool]
) -> int:
    """How many replicas of the need found one of the places that fit."""
    ask = decision.ask
    crowd = Crowd(decision.standings)
    chosen = fill(
        need.count,
        [state for state in places if need.site in (None, state.site.name) and fits(state)],
        job=ask.index,
        scorer=decision.scorer,
        ledger=ledger,
        on_node={s.state.index: crowd.on_node[s.site, s.node] for s in decision.standings if s.state is not None},
        at_site=dict(crowd.at_site),
        fits=fits,
    )
    settle_at(decision, chosen, ledger.now)
    return len(chosen)


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


def _say_missing(decision: Decision, short: int, misplaced: list[Standing], ledger: Ledger) -> None:
    """Replicas without a better place stay where they are, even where they should not be; the rest is missing."""
    ask, job = decision.ask, decision.turn.job
    if not job.model_digest:
        decision.reason = Rejection.NO_RUNNABLE_MODEL.value
        decision.message = f"model {job.model_name or '(none)'} has no version to run yet"
    else:
        _, misses = sift(ask, ledger.states, decision.static)
        decision.reason, decision.message = why_missing(ask, ledger.states, misses)
    stayed = 0
    for standing in sorted(misplaced, key=lambda s: (-s.ready, s.since, s.state.rank if s.state else 0)):
        if stayed == short:
            break
        standing.count = min(standing.count, short - stayed)
        standing.ready = min(standing.ready, standing.count)
        stayed += standing.count
        decision.standings.append(standing)
        if standing.state is not None:
            ledger.withdraw(ask.index, standing.state, -standing.count)
        decision.notes.append(f"{standing.why}; stays there until another node fits")
    decision.missing = short - stayed
    wanted = max(0, job.replicas)
    if stayed:
        what = "1 replica stays" if stayed == 1 else f"{stayed} replicas stay"
        decision.message = f"{what} where it should not be for want of another node; {decision.message}"
    if 0 < decision.missing < wanted:
        decision.message = f"{wanted - decision.missing} of {wanted} replicas have a node; {decision.message}"


def _at_rest(decision: Decision) -> bool:
    """Every replica Ready and none leaving."""
    held = [p for p in decision.turn.job.placed if p.replicas == 0 and p.started]
    return not held and all(s.ready >= s.count and not s.ailing for s in decision.standings)


def _explain(decision: Decision, ledger: Ledger, settings: PlanSettings, fleet_notes: Sequence[str]) -> None:
    ask = decision.ask
    holding = frozenset(s.state.index for s in decision.standings if s.state is not None)
    takers, misses = sift(ask, ledger.states, decision.static, holding)
    doubted = [
        note
        for state in decision.allowed
        if state.index not in holding
        for note in (state.cpu.note, state.memory.note)
        if note
    ]
    decision.explanation = explain(
        ask,
        decision.standings,
        takers,
        decision.scorer,
        misses,
        settings,
        order=decision.turn.note,
        notes=[*decision.notes, *fleet_notes, *doubted],
    )


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
        [state for state in decision.allowed if first_miss(ask, state, FIT_CHECKS) is None],
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
        Standing(target.node.name, target.site.name, target.node.tier, target, 1, 0, ledger.now, new=True)
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
        wanted=max(0, job.replicas),
        placements=decision.placements,
        missing=decision.missing,
        reason=decision.reason,
        message=decision.message,
        explanation=decision.explanation,
        exclusions=remembered(job.exclusions, decision.ask.now, settings),
        proposed=decision.proposed,
        moves=decision.moves,
        moved=decision.moved,
        sizing=desired(job, now=decision.ask.now, settings=settings.scaling),
    )


def _placements(decision: Decision) -> tuple[Placement, ...]:
    """One per node, by site and name; the oldest `since` where an incumbent and a new replica share a node."""
    crowd = Crowd(decision.standings)
    merged: dict[tuple[str, str, bool], Placement] = {}
    for lost, standings in ((False, decision.standings), (True, decision.lost)):
        for s in standings:
            score = 0.0 if lost else standing_score(decision.scorer, crowd, s)
            before = merged.get((s.site, s.node, lost))
            merged[s.site, s.node, lost] = Placement(
                s.node,
                s.site,
                s.tier,
                s.count + (before.replicas if before else 0),
                max(score, before.score) if before else score,
                min(s.since, before.since) if before else s.since,
                lost,
            )
    return tuple(merged[key] for key in sorted(merged))


def remembered(exclusions: Sequence[Exclusion], now: float, settings: PlanSettings) -> tuple[Exclusion, ...]:
    return tuple(e for e in exclusions if e.until + settings.exclusion_memory > now)
