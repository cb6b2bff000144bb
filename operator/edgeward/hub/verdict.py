"""What a status may say of any object: the one reason to show, and that a spec cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeward.api.common import Condition
from edgeward.api.conditions import Reason, set_outcome
from edgeward.fleet.model import Job, Release


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a job is or is not Ready."""

    reason: Reason
    message: str


def unreadable_status(raw_status: Mapping[str, object], facts: Job | Release, *, now: float) -> dict[str, object]:
    """The status of a job or release whose spec cannot be read: what was known, and which field is wrong."""
    try:
        known = [Condition.model_validate(item) for item in raw_status.get("conditions") or ()]  # type: ignore[attr-defined]
    except ValueError:
        known = []
    message = facts.problem.message if facts.problem else ""
    conditions = set_outcome(known, reason=Reason.INVALID_SPEC, message=message, generation=facts.generation, now=now)
    return {
        **raw_status,
        "observedGeneration": facts.generation,
        "conditions": [item.model_dump(mode="json", by_alias=True, exclude_none=True) for item in conditions],
    }
