"""What one look through a gate says, and when its verdict is in. Four outcomes, and no data is never a pass."""

from __future__ import annotations

import math
from dataclasses import replace

from edgeward.rollout.model import Check, Gate, Look, Outcome, Sample

KEPT = 5
"""looks that are remembered"""
ERRORS_IN_A_ROW = 5
"""looks that could not be made, after which a gate with onNoData: Fail fails: Argo Rollouts' consecutiveErrorLimit of 4"""
NO_REPORT = "no report in time"
GRACE = 15.0
"""seconds beyond one interval that a report may take before the look is one without data"""


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
        scale = max(sample.baseline, sample.least)
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


def due(gate: Gate, look: Look | None, *, since: float, now: float) -> float:
    """When the next look is to be made, in a bake that began at `since`: one interval after the warm-up, then one after
    the other. A look that lies in the future was made by a clock that has been set back since."""
    first = since + gate.initial_delay + gate.interval
    if look is None or look.outcome is Outcome.WAITING or look.at > now + gate.interval:
        return first
    return max(first, look.at + gate.interval)


def looked(gate: Gate, before: Look | None, sample: Sample | None, *, since: float, now: float) -> Look:
    """The gate's state after a step at `now` of a bake that began at `since`. Looks only when one is due and the sample
    was taken after that: the same sample never counts twice, and an old one not at all."""
    look = before or Look(gate=gate.name)
    wanted = due(gate, look, since=since, now=now)
    if now < wanted:
        return look
    if sample is None or sample.at < wanted:
        if now < wanted + gate.interval + GRACE:
            return look
        late = sample.late if sample is not None and sample.late else "nobody has reported"
        query = sample.query if sample is not None else ""
        # An operator that was away itself, or a clock that jumped, finds every report late: one such look is no failure.
        again = look.outcome is Outcome.NO_DATA and look.message.startswith(NO_REPORT)
        said = Outcome.NO_DATA, "", f"{NO_REPORT}: {late}"
        return _noted(gate, look, Sample(at=now, query=query), said, counts=again)
    if look.outcome is not Outcome.WAITING and int(sample.at) == int(look.at):
        return look
    return _noted(gate, look, sample, outcome_of(gate, sample))


def _noted(gate: Gate, look: Look, sample: Sample, said: tuple[Outcome, str, str], *, counts: bool = True) -> Look:
    outcome, bound, message = said
    silent = outcome in (Outcome.NO_DATA, Outcome.ERROR)
    if silent and not gate.no_data_fails and (look.outcome, look.message) == (outcome, message):
        return look  # it counts for nothing and says nothing new: no reason to write
    failed = counts and (outcome is Outcome.FAILED or (outcome is Outcome.NO_DATA and gate.no_data_fails))
    baseline = sample.baseline if gate.baseline else None
    check = Check(
        at=sample.at, outcome=outcome, value=sample.value, baseline=baseline, bound=bound, samples=sample.samples
    )
    return replace(
        look,
        outcome=outcome,
        at=sample.at,
        looks=look.looks + (not silent),
        passes=look.passes + 1 if outcome is Outcome.PASSED else 0,
        failures=look.failures + failed,
        value=sample.value,
        baseline=baseline if baseline is not None else look.baseline,
        bound=bound,
        samples=sample.samples,
        message=message,
        query=sample.query,
        checks=(check, *look.checks)[:KEPT],
    )


def rested(look: Look) -> Look:
    """For the next wave: nothing counts yet, and what was seen stays to be read."""
    return replace(look, outcome=Outcome.WAITING, looks=0, passes=0, failures=0, message="")


def failed(gate: Gate, look: Look) -> bool:
    if look.failures > gate.failure_limit:
        return True
    last = look.checks[:ERRORS_IN_A_ROW]
    silent = len(last) == ERRORS_IN_A_ROW and all(one.outcome is Outcome.ERROR for one in last)
    return gate.no_data_fails and silent and look.outcome is Outcome.ERROR


def passed(gate: Gate, look: Look, *, baked: bool) -> bool:
    """Whether the gate lets the rollout go on. With count 0 the bake's end counts instead of a number of looks."""
    enough = look.looks >= gate.count if gate.count else baked
    return enough and look.outcome is Outcome.PASSED and look.passes >= gate.passes_needed and not failed(gate, look)
