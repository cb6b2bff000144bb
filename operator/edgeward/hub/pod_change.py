"""What the hub says about a change of a job's pods while it is not everywhere. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeward.api.common import Condition
from edgeward.api.conditions import ConditionType, Reason, remove_condition, set_condition
from edgeward.rollout import podmemory
from edgeward.rollout.model import Hold, Phase, Progress
from edgeward.rollout.pods import JobPodStep

from .verdict import Verdict


def verdict(step: JobPodStep) -> Verdict | None:
    """Of a job whose pods serve, each in its way; None when nothing is left to do."""
    memory = podmemory.recalled(step.remembered)
    if memory is not None and memory.progress.phase is Phase.ROLLED_BACK:
        return Verdict(Reason.ROLLED_BACK, _back(memory.progress))
    if not step.waits_for:
        return None
    if step.paused or (memory is not None and memory.progress.hold is not Hold.NONE):
        return Verdict(Reason.PAUSED, f"the change of its pods is held: {step.waits_for}")
    return Verdict(Reason.PODS_STARTING, f"the change of its pods waits for {step.waits_for}")


def condition(
    conditions: tuple[Condition, ...], step: JobPodStep | None, *, generation: int, now: float
) -> tuple[Condition, ...]:
    """RolledBack while the spec asks for pods that were taken back; for a job with a problem as it was."""
    if step is None:
        return conditions
    memory = podmemory.recalled(step.remembered)
    if memory is None or memory.progress.phase is not Phase.ROLLED_BACK:
        return remove_condition(conditions, ConditionType.ROLLED_BACK)
    return set_condition(
        conditions,
        type=ConditionType.ROLLED_BACK,
        status=True,
        reason=Reason.ROLLED_BACK,
        message=_back(memory.progress),
        generation=generation,
        now=now,
    )


def _back(progress: Progress) -> str:
    return f"the change of its pods was taken back: {progress.why}"


def events(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[Reason, str, bool]]:
    """(reason, message, whether it is a warning) of each turn of a change."""
    old, new = podmemory.recalled(before), podmemory.recalled(after)
    if new is None:
        return []
    now = new.progress
    was = old.progress if old is not None and old.progress.target == now.target else None
    if was is None and now.phase is Phase.DONE:
        return []  # what it began with, or a change that was everywhere when it was first seen
    told: list[tuple[Reason, str, bool]] = []
    if was is None:
        told.append((Reason.POD_CHANGE_STARTED, f"pods {now.target} were wanted", False))
    elif now.attempt > was.attempt:
        told.append((Reason.POD_CHANGE_STARTED, f"pods {now.target} were tried again", False))
        was = None
    if was is not None and now.wave > was.wave:
        told.append((Reason.WAVE_PASSED, f"wave {was.wave + 1} of the change of the pods passed", False))
    if now.members and (was is None or now.wave != was.wave or not was.members):
        count = podmemory.size_of_wave(after)
        names = ", ".join(now.members[:5]) + (f" and {count - 5} more" if count > 5 else "")
        told.append((Reason.WAVE_STARTED, f"wave {now.wave + 1} of the change of the pods began: {names}", False))
    if now.phase is Phase.ROLLED_BACK and (was is None or was.phase is not Phase.ROLLED_BACK):
        told.append((Reason.ROLLED_BACK, _back(now), True))
    if now.phase is Phase.DONE and was is not None and was.phase is not Phase.DONE:
        told.append((Reason.POD_CHANGE_COMPLETED, f"pods {now.target} serve everywhere", False))
    if now.hold is not Hold.NONE and (was is None or was.hold is not now.hold):
        told.append((Reason.RELEASE_HELD, f"the change of its pods is held: {now.why}", now.hold is Hold.GATE_FAILED))
    elif was is not None and was.hold is not Hold.NONE and now.hold is Hold.NONE and now.phase is not Phase.ROLLED_BACK:
        told.append((Reason.RELEASE_RESUMED, "the change of its pods went on", False))
    return told
