"""What one look through a gate says, and when its verdict is in. Four outcomes, and no data is never a pass."""

from __future__ import annotations

import math
from dataclasses import replace

from edgeward.rollout.model import Gate, Look, Outcome, Sample


def outcome_of(gate: Gate, sample: Sample) -> tuple[Outcome, str, str]:
    """The outcome, the bound that the value was held against, and the outcome for a person."""
    if sample.error:
        return Outcome.ERROR, "", sample.error
    if sample.value is None or not math.isfinite(sample.value):
        return Outcome.NO_DATA, "", "no value"
    if sample.samples < gate.min_samples:
        return Outcome.NO_DATA, "", f"{sample.samples} of {gate.min_samples} samples"
    scale = 1.0
    if gate.baseline:
        if sample.baseline is None or not math.isfinite(sample.baseline):
            return Outcome.NO_DATA, "", "no value of the version before"
        scale = sample.baseline
    for bound, sign, word in ((gate.max, 1.0, "at most"), (gate.min, -1.0, "at least")):
        if bound is not None and sign * sample.value > sign * bound * scale:
            told = f"{word} {bound * scale:.6g}"
            return Outcome.FAILED, told, f"{sample.value:.6g}, allowed is {told}"
    told = " and ".join(
        f"{word} {bound * scale:.6g}"
        for bound, word in ((gate.max, "at most"), (gate.min, "at least"))
        if bound is not None
    )
    return Outcome.PASSED, told, f"{sample.value:.6g}, allowed is {told}"


def looked(gate: Gate, before: Look | None, sample: Sample | None, *, since: float, now: float) -> Look:
    """The gate's state after a step at `now` of a bake that began at `since`. Looks only when one is due and the sample
    was taken after the last one: the same sample never counts twice."""
    look = before or Look(gate=gate.name)
    first = since + gate.initial_delay
    due = first if not look.looks else look.at + gate.interval
    if now < due or sample is None or sample.at < due:
        return look
    outcome, bound, message = outcome_of(gate, sample)
    failed = outcome in (Outcome.FAILED, Outcome.ERROR) or (outcome is Outcome.NO_DATA and gate.no_data_fails)
    return replace(
        look,
        outcome=outcome,
        at=sample.at,
        looks=look.looks + 1,
        passes=look.passes + 1 if outcome is Outcome.PASSED else 0,
        failures=look.failures + failed,
        value=sample.value,
        bound=bound,
        samples=sample.samples,
        message=message,
    )


def failed(gate: Gate, look: Look) -> bool:
    return look.failures > gate.failure_limit


def passed(gate: Gate, look: Look, *, baked: bool) -> bool:
    """Whether the gate lets the rollout go on. With count 0 the bake's end counts instead of a number of looks."""
    enough = look.looks >= gate.count if gate.count else baked
    return enough and look.outcome is Outcome.PASSED and look.passes >= gate.passes_needed and not failed(gate, look)
