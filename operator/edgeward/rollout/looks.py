"""What a release's gates saw, as status.gates and read back from it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from edgeward.api.common import format_time, parse_time
from edgeward.api.modelrelease import GateCheck, GateStatus
from edgeward.rollout.model import Check, Look, Outcome, Progress

MOST_LOOKS = 64
"""of all gates and variants together, as many as status.gates holds; beyond, variants are judged together"""
_MOST_TEXT = 1024


def looks(said: Iterable[GateStatus]) -> tuple[Look, ...]:
    return tuple(
        Look(
            gate=one.name,
            variant=one.variant,
            outcome=Outcome(one.outcome),
            at=parse_time(one.at) if one.at else 0.0,
            looks=one.looks,
            passes=one.passes,
            failures=one.failures,
            value=_number(one.value),
            baseline=_number(one.baseline),
            bound=one.threshold or "",
            samples=one.samples,
            message=one.message,
            query=one.query,
            checks=tuple(
                Check(
                    at=parse_time(check.at),
                    outcome=Outcome(check.outcome),
                    value=_number(check.value),
                    baseline=_number(check.baseline),
                    bound=check.threshold or "",
                    samples=check.samples,
                )
                for check in one.checks
            ),
        )
        for one in said
    )


def statuses(progress: Progress) -> tuple[GateStatus, ...]:
    return tuple(
        GateStatus(
            name=one.gate,
            variant=one.variant,
            query=one.query[:2048],
            looks=one.looks,
            passes=one.passes,
            failures=one.failures,
            baseline=_text(one.baseline),
            checks=tuple(
                GateCheck(
                    at=format_time(check.at),
                    outcome=check.outcome.value,
                    value=_text(check.value),
                    baseline=_text(check.baseline),
                    threshold=check.bound[:32] or None,
                    samples=check.samples,
                )
                for check in one.checks
            ),
            outcome=one.outcome.value,
            value=_text(one.value),
            threshold=one.bound[:32] or None,
            samples=one.samples,
            at=format_time(one.at) if one.at else None,
            message=one.message[:_MOST_TEXT],
        )
        for one in progress.looks[:MOST_LOOKS]
    )


def _number(text: str | None) -> float | None:
    return float(text) if text is not None else None


def _text(value: float | None) -> str | None:
    return None if value is None else f"{value:.9g}"
