"""placement.plan(Fleet) -> Plan: pure, no I/O; the same function decides in production, in tests and for what-if."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import groupby

from edgeward.api.reasons import Rejection
from edgeward.fleet.model import Fleet, Job, Placed
from edgeward.placement.decide import Decision, begin, consider_move, finish, follow, grow, job_plan, place
from edgeward.placement.hysteresis import SiteBudget
from edgeward.placement.ledger import Ledger, given_up
from edgeward.placement.mend import mend
from edgeward.placement.model import Explanation, Guidance, JobPlan, Placement, Plan
from edgeward.placement.order import Turn, turns
from edgeward.placement.preemption import preempt
from edgeward.placement.settings import PlanSettings

DEFAULTS = PlanSettings()


def plan(fleet: Fleet, settings: PlanSettings = DEFAULTS, *, guidance: Guidance | None = None) -> Plan:
    """Priority tier by priority tier from the top, each on what those above left; then moves.

    Without guidance it is quick: every replica that wants a place goes, in turn, where it is best off. That suits the
    event loop, and a settled fleet costs next to nothing. `solve.solve(fleet, settings)` looks at whole tiers at once
    and takes its time (a second or more for a large fleet), so it runs elsewhere; what it returns can be pickled, is
    given here as `guidance`, with the same Fleet or a later one, and then decides where new replicas go as far as its
    advice still fits. `solve.worth_solving(fleet, settings)` says whether enough is waiting for it to pay.

    In this order: every tier's replicas get their places; preemption for those that found none; then one replica of
    each settled job may move. So a job's place never depends on a lower tier, and no move takes room that a pending
    replica could have had.
    """
    ledger = Ledger(fleet, settings)
    advice = guidance if guidance and 0 <= fleet.now - guidance.made_at <= settings.guidance_expiry else None
    notes = _fleet_notes(fleet, ledger) + ((advice.problem,) if advice and advice.problem else ())
    outcomes: list[Decision | JobPlan] = []
    for _, tier in groupby(turns(fleet, settings), key=lambda turn: turn.tier):
        outcomes += _one_tier(list(tier), ledger, settings, notes, advice)
    decisions = [outcome for outcome in outcomes if isinstance(outcome, Decision)]
    failed = preempt(decisions, ledger, settings, fleet_notes=notes)
    budget = SiteBudget(fleet.jobs, fleet.now, settings)
    for decision in decisions:
        if decision.turn.index not in failed:
            try:
                consider_move(decision, ledger, budget, settings, fleet_notes=notes)
            except Exception as error:
                failed[decision.turn.index] = error
    plans = [
        outcome
        if isinstance(outcome, JobPlan)
        else _as_it_was(outcome.turn, ledger, failed[outcome.turn.index])
        if outcome.turn.index in failed
        else job_plan(outcome, settings)
        for outcome in outcomes
    ]
    return Plan(
        jobs=tuple(plans),
        notes=notes,
        fresh_nodes=sum(1 for state in ledger.measured if state.cpu.confidence >= 1),
        doubted_nodes=sum(1 for state in ledger.measured if state.cpu.confidence < settings.doubted_below),
        doubts=_doubts(ledger, settings),
        known_nodes=sum(1 for state in ledger.measured if state.cpu.confidence > 0),
        total_nodes=len(ledger.measured),
        guidance=advice,
        _by_key={job.key: job for job in plans},
    )


def _one_tier(
    tier: list[Turn], ledger: Ledger, settings: PlanSettings, notes: tuple[str, ...], advice: Guidance | None
) -> list[Decision | JobPlan]:
    """The jobs of one priority tier, in the order of their turns. One job's odd data must not stop the others."""
    outcomes: dict[int, Decision | JobPlan] = {}
    for turn in tier:
        try:
            outcomes[turn.index] = begin(turn, ledger, settings)
        except Exception as error:
            outcomes[turn.index] = _as_it_was(turn, ledger, error)
    steps: tuple[Callable[[Decision], None], ...] = (
        lambda decision: follow(decision, advice, ledger) if advice else None,
        lambda decision: place(decision, ledger),
        lambda decision: grow(decision, ledger),
        lambda decision: mend(decision, ledger),
        lambda decision: finish(decision, ledger, settings, fleet_notes=notes),
    )
    for step in steps:
        for turn in tier:
            decision = outcomes[turn.index]
            if isinstance(decision, Decision):
                try:
                    step(decision)
                except Exception as error:
                    outcomes[turn.index] = _as_it_was(turn, ledger, error)
    return [outcomes[turn.index] for turn in tier]


def _doubts(ledger: Ledger, settings: PlanSettings) -> tuple[tuple[str, int], ...]:
    found = Counter(state.cpu.why for state in ledger.measured if state.cpu.confidence < settings.doubted_below)
    return tuple(sorted(found.items(), key=lambda entry: (-entry[1], entry[0])))


def _fleet_notes(fleet: Fleet, ledger: Ledger) -> tuple[str, ...]:
    notes = [fleet.metrics_problem] if fleet.metrics_problem else []
    blind = sum(1 for state in ledger.measured if state.cpu.confidence == 0)
    if blind:
        notes.append(
            f"no believable cpu figure for {blind} of {len(ledger.measured)} nodes; what is requested there stands in for it"
        )
    return tuple(notes)


def _as_it_was(turn: Turn, ledger: Ledger, error: Exception) -> JobPlan:
    """Everything stays where it is, a claim to room too, and the status says that the planner failed on this job."""
    job = turn.job
    placements = tuple(_kept(job, placed, ledger) for placed in job.placed if placed.replicas > 0)
    serving = sum(p.replicas for p in placements if not p.lost)
    wanted = serving if job.per_site else max(0, job.replicas)
    return JobPlan(
        key=job.key,
        priority_tier=turn.own_tier,
        p=turn.p,
        wanted=wanted,
        placements=placements,
        missing=max(0, wanted - serving),
        reason=Rejection.PENDING_EVALUATION.value,
        message=f"planning this job failed: {type(error).__name__}: {error}",
        explanation=Explanation(order=turn.note),
        exclusions=job.exclusions,
        proposed=job.proposed,
        moves=job.moves,
        nomination=job.nomination,
        learned=job.learned,
    )


def _kept(job: Job, placed: Placed, ledger: Ledger) -> Placement:
    state = ledger.find(placed.site, placed.node)
    tier = state.node.tier if state else ""
    lost = given_up(job, placed, state, ledger.now)
    return Placement(
        placed.node, placed.site, tier, placed.replicas, 0.0, placed.since, lost, moved_from=placed.moved_from
    )
