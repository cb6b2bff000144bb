"""placement.plan(Fleet) -> Plan: pure, no I/O; the same function decides in production, in tests and for what-if."""

from __future__ import annotations

from edgeward.api.reasons import Rejection
from edgeward.fleet.model import Fleet
from edgeward.placement.decide import Decision, consider_move, decide, job_plan
from edgeward.placement.hysteresis import SiteBudget
from edgeward.placement.ledger import Ledger
from edgeward.placement.model import Explanation, JobPlan, Placement, Plan
from edgeward.placement.order import Turn, turns
from edgeward.placement.settings import PlanSettings

DEFAULTS = PlanSettings()


def plan(fleet: Fleet, settings: PlanSettings = DEFAULTS) -> Plan:
    """Serve the jobs from the highest priority tier down, each on what the ones before left; then think about moves."""
    ledger = Ledger(fleet, settings)
    notes = _fleet_notes(fleet, ledger)
    budget = SiteBudget(fleet.jobs, fleet.now, settings)
    decisions: list[Decision | JobPlan] = []
    for turn in turns(fleet, settings):
        try:
            decisions.append(decide(turn, ledger, settings, fleet_notes=notes))
        except Exception as error:  # one job's odd data must not stop the others
            decisions.append(_as_it_was(turn, error))
    plans: list[JobPlan] = []
    for decision in decisions:
        if isinstance(decision, JobPlan):
            plans.append(decision)
            continue
        consider_move(decision, ledger, budget, settings, fleet_notes=notes)
        plans.append(job_plan(decision, settings))
    return Plan(
        jobs=tuple(plans),
        notes=notes,
        fresh_nodes=sum(1 for state in ledger.states if state.cpu.confidence >= 1),
        doubted_nodes=sum(1 for state in ledger.states if state.cpu.confidence < settings.doubted_below),
        known_nodes=sum(1 for state in ledger.states if state.cpu.confidence > 0),
        total_nodes=len(ledger.states),
        _by_key={job.key: job for job in plans},
    )


def _fleet_notes(fleet: Fleet, ledger: Ledger) -> tuple[str, ...]:
    notes = [fleet.metrics_problem] if fleet.metrics_problem else []
    blind = sum(1 for state in ledger.states if state.cpu.confidence == 0)
    if blind:
        notes.append(
            f"no believable cpu figure for {blind} of {len(ledger.states)} nodes; what is requested there stands in for it"
        )
    return tuple(notes)


def _as_it_was(turn: Turn, error: Exception) -> JobPlan:
    """Everything stays where it is, and the status says that the planner failed on this job."""
    job = turn.job
    placements = tuple(Placement(p.node, p.site, "", p.replicas, 0.0, p.since) for p in job.placed if p.replicas > 0)
    return JobPlan(
        key=job.key,
        priority_tier=turn.own_tier,
        p=turn.p,
        wanted=max(0, job.replicas),
        placements=placements,
        missing=max(0, job.replicas - sum(p.replicas for p in placements)),
        reason=Rejection.PENDING_EVALUATION.value,
        message=f"planning this job failed: {type(error).__name__}: {error}",
        explanation=Explanation(order=turn.note),
        exclusions=job.exclusions,
        proposed=job.proposed,
        moves=job.moves,
    )
