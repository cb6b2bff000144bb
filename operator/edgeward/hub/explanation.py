"""Why a job is where it is and not elsewhere, as its status tells: the figures of the decision, in words and numbers."""

from __future__ import annotations

from collections.abc import Iterable

from edgeward.api.common import format_decimal, format_duration, format_time
from edgeward.api.inferencejob import (
    Explanation,
    Figures,
    Rejected,
    RunnerUp,
    Term,
)
from edgeward.placement import model as plan_model
from edgeward.placement.model import JobPlan

LONGEST_MESSAGE = 4096


def explanation(plan: JobPlan, *, now: float) -> Explanation:
    said = plan.explanation
    return Explanation(
        node=said.node,
        decided_at=format_time(now),
        figures=_figures(said.figures, now=now),
        notes=tuple(note[:512] for note in said.notes[:10]),
        summary=summary(said),
        terms=_terms(said.terms),
        share_of_bound=None if said.share_of_bound is None else per_mille(said.share_of_bound),
        runners_up=tuple(
            RunnerUp(
                node=item.node,
                site=item.site,
                score=per_mille(item.score),
                reason=item.why[:256],
                terms=_terms(item.terms),
                figures=_figures(item.figures, now=now),
            )
            for item in said.runners_up[:3]
        ),
        rejected=tuple(
            Rejected(reason=item.reason, count=item.count, nearest_miss=item.nearest_miss[:256])
            for item in said.rejected[:10]
        ),
        data_age=format_duration(max(round(said.data_age), 0)) if said.data_age is not None else None,
        order=said.order[:256],
        message=plan.message[:LONGEST_MESSAGE],
    )


def summary(said: plan_model.Explanation) -> tuple[str, ...]:
    """The decision in lines that a person can read off `kubectl describe`."""
    lines = []
    if said.node:
        lines.append(f"{said.node}: {_sum(said.terms)}{_live(said.figures)}")
    lines += [f"not {item.node}: {item.score:.3f}, {item.why}{_live(item.figures)}" for item in said.runners_up[:3]]
    lines += [
        f"not {item.count} {'node' if item.count == 1 else 'nodes'}: {item.reason}, {item.nearest_miss}"
        for item in said.rejected[:10]
    ]
    return tuple(line[:512] for line in lines)


def _sum(terms: Iterable[plan_model.Term]) -> str:
    shown = list(terms)
    total = sum(item.weight * item.value for item in shown)
    parts = " + ".join(f"{item.name} {item.weight:.3f} x {item.value:.3f}" for item in shown if item.weight)
    return f"{total:.3f} = {parts}"


def _live(figures: plan_model.Figures | None) -> str:
    if figures is None:
        return ""
    if figures.live_cores is None or figures.live_age is None:
        return f"; live cpu unknown, {figures.requested.cpu / 1000:g} of {figures.cores:g} cores requested"
    used = f"{figures.live_cores:.2f} of {figures.cores:g} cores in use {figures.live_age:.0f} s before"
    return f"; {used}, {figures.requested.cpu / 1000:g} requested"


def _terms(terms: Iterable[plan_model.Term]) -> tuple[Term, ...]:
    return tuple(Term(name=item.name, weight=per_mille(item.weight), value=per_mille(item.value)) for item in terms)


def _figures(figures: plan_model.Figures | None, *, now: float) -> Figures | None:
    if figures is None:
        return None
    measured = None if figures.live_age is None else format_time(now - figures.live_age)
    return Figures(
        cores=decimal(figures.cores),
        free_cores=decimal(figures.free_cores),
        requested_cores=decimal(figures.requested.cpu / 1000),
        in_flight_cores=decimal(figures.in_flight_cores),
        live_cores=None if figures.live_cores is None else decimal(figures.live_cores),
        live_at=measured,
        confidence=per_mille(figures.confidence),
        load=per_mille(figures.load),
        capability=per_mille(figures.capability_share),
        transfer_seconds=None if figures.transfer_seconds is None else decimal(figures.transfer_seconds),
        completion_seconds=None if figures.completion_seconds is None else decimal(figures.completion_seconds),
    )


def decimal(value: float) -> str:
    return format_decimal(round(max(value, 0.0), 4))


def per_mille(value: float) -> int:
    return min(max(round(value * 1000), 0), 1000)
