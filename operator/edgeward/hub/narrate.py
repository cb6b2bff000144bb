"""Events: what changed between two statuses, told once, in the past tense."""

from __future__ import annotations

from edgeward.api.conditions import ConditionType, Reason, find
from edgeward.api.inferencejob import InferenceJobStatus
from edgeward.api.modelrelease import ModelReleaseStatus
from edgeward.cluster.events import Recorder
from edgeward.cluster.resources import INFERENCE_JOBS, MODEL_RELEASES, Object
from edgeward.hub import pod_change
from edgeward.placement.model import JobPlan

QUIET = (Reason.PODS_STARTING, Reason.NOTHING_WANTED)
"""reasons of Ready that are no news by themselves"""
STALLED = (Reason.INVALID_SPEC, Reason.POLICY_FORBIDS, Reason.FEATURE_NOT_YET_AVAILABLE)


async def tell_jobs(
    recorder: Recorder, raw: Object, before: InferenceJobStatus, after: InferenceJobStatus, plan: JobPlan
) -> None:
    for reason, message, warning in job_events(before, after, plan):
        await recorder.tell(INFERENCE_JOBS, raw, reason, message, warning=warning)


async def tell_releases(recorder: Recorder, raw: Object, before: ModelReleaseStatus, after: ModelReleaseStatus) -> None:
    for reason, message, warning in release_events(before, after):
        await recorder.tell(MODEL_RELEASES, raw, reason, message, warning=warning)


def job_events(before: InferenceJobStatus, after: InferenceJobStatus, plan: JobPlan) -> list[tuple[Reason, str, bool]]:
    """(reason, message, whether it is a warning) for what is news."""
    told: list[tuple[Reason, str, bool]] = [
        (Reason.MOVED, f"moved a replica from {move.source} to {move.target}, {move.gain:.2f} better", False)
        for move in plan.moved
    ]
    old = {node for decision in before.decisions for node in decision.nodes}
    new = {node: decision for decision in after.decisions for node in decision.nodes}
    moved = {move.target for move in plan.moved}
    for node in sorted(new.keys() - old - moved):
        text = f"placed on {node} at {new[node].site}, score {new[node].score}/1000"
        if after.explanation and after.explanation.runners_up and after.explanation.node == node:
            second = after.explanation.runners_up[0]
            text += f"; next {second.node} {second.score}: {second.reason}"
        told.append((Reason.PLACED, text, False))
    known = {(item.node, item.count) for item in before.exclusions}
    for item in after.exclusions:
        if (item.node, item.count) not in known:
            text = f"{item.node} left out until {item.until}: {item.reason}: {item.message[:300]}"
            told.append((Reason.NODE_EXCLUDED, text, True))
    told += _preemption_events(before, after, plan)
    ready_before, ready_after = (find(status.conditions, ConditionType.READY) for status in (before, after))
    if ready_after is not None and (ready_before is None or ready_before.reason != ready_after.reason):
        reason = Reason(ready_after.reason)
        if reason is Reason.SERVING:
            told.append((reason, ready_after.message, False))
        elif reason not in (*QUIET, *(item[0] for item in told)):
            told.append((reason, ready_after.message, True))
    told += pod_change.events(before.pod_rollout or {}, after.pod_rollout or {})
    return told + _metrics_events(before, after) + _scaled_events(before, after) + _resize_events(before, after)


def _preemption_events(
    before: InferenceJobStatus, after: InferenceJobStatus, plan: JobPlan
) -> list[tuple[Reason, str, bool]]:
    """To the one that waits which room it was promised, and to each that gives way for whom and where it goes."""
    told: list[tuple[Reason, str, bool]] = []
    claim, known = after.nomination, before.nomination
    if claim is not None and (known is None or (known.node, known.until) != (claim.node, claim.until)):
        text = f"nominated for {claim.node} at {claim.site} until {claim.until}: {', '.join(claim.victims)} gave way"
        told.append((Reason.WAITING_FOR_PREEMPTION, text, False))
    for gives in plan.gives_way:
        if gives.taken:
            what = "1 replica gave way" if gives.taken == 1 else f"{gives.taken} replicas gave way"
            left = f"; {plan.missing} without a place now" if plan.missing else "; placed elsewhere"
            told.append((Reason.PREEMPTED, f"{what}: {gives.why}{left}", True))
    return told


def _scaled_events(before: InferenceJobStatus, after: InferenceJobStatus) -> list[tuple[Reason, str, bool]]:
    was, now = before.scaling, after.scaling
    if was is None or now is None or was.replicas == now.replicas or not was.replicas or not now.replicas:
        return []
    of_each = f" and one replica sustains {now.throughput}" if now.throughput else ""
    rates = f": {now.arrivals} requests a second arrived{of_each}" if now.arrivals else ""
    return [(Reason.SCALED, f"from {was.replicas} to {now.replicas} replicas{rates}", False)]


def _resize_events(before: InferenceJobStatus, after: InferenceJobStatus) -> list[tuple[Reason, str, bool]]:
    """Once, when a proposal appears; that it changes later is no news."""
    size = after.learned.right_sizing if after.learned else None
    if size is None or (before.learned is not None and before.learned.right_sizing is not None):
        return []
    requests = ", ".join(f"{name} {value}" for name, value in (("cpu", size.cpu), ("memory", size.memory)) if value)
    return [
        (Reason.RESIZE_PROPOSED, f"the use suggests requests of {requests} ({size.basis}); nothing was changed", False)
    ]


def _metrics_events(before: InferenceJobStatus, after: InferenceJobStatus) -> list[tuple[Reason, str, bool]]:
    was, now = (find(status.conditions, ConditionType.METRICS_FRESH) for status in (before, after))
    if now is None or was is None or was.status == now.status:
        return []
    if now.status == "True":
        return [(Reason.METRICS_BACK, "live figures were fresh again", False)]
    return [(Reason.METRICS_LOST, now.message, True)]


def release_events(before: ModelReleaseStatus, after: ModelReleaseStatus) -> list[tuple[Reason, str, bool]]:
    told: list[tuple[Reason, str, bool]] = []
    if after.target_version and before.target_digest != after.target_digest:
        told.append(
            (Reason.RELEASE_STARTED, f"version {after.target_version} ({after.target_digest}) was wanted", False)
        )
    if after.current_digest and before.current_digest != after.current_digest:
        told.append((Reason.RELEASE_COMPLETED, f"version {after.current_version} was served everywhere", False))
    told += _turns(before, after) + _looks(before, after)
    known = {(item.site, item.job, item.reason) for item in before.exceptions if item.state == "Failed"}
    for item in after.exceptions:
        if item.state == "Failed" and (item.site, item.job, item.reason) not in known:
            kept = f"; {item.version} serves on" if item.version else ""
            told.append((Reason.MODEL_REFUSED, f"{item.site} refused it: {item.reason}: {item.message}{kept}", True))
    ready = find(after.conditions, ConditionType.READY)
    was = find(before.conditions, ConditionType.READY)
    if ready is not None and ready.reason in STALLED and (was is None or was.reason != ready.reason):
        told.append((Reason(ready.reason), ready.message, True))
    return told


def _turns(before: ModelReleaseStatus, after: ModelReleaseStatus) -> list[tuple[Reason, str, bool]]:
    """The turns of a rollout in waves, from what it remembered and what it remembers."""
    now = after.rollout
    if now is None:
        return []
    was = before.rollout if before.rollout is not None and before.rollout.target == now.target else None
    told: list[tuple[Reason, str, bool]] = []
    if was is not None and now.attempt > was.attempt:
        told.append((Reason.RELEASE_RETRIED, f"version {after.target_version} was tried again", False))
        was = None
    if was is not None and now.wave > was.wave:
        told.append((Reason.WAVE_PASSED, f"wave {before.wave or was.wave + 1} passed", False))
    moved_on = was is None or now.wave != was.wave
    if now.members and (moved_on or (was is not None and not was.members)):
        names = ", ".join(now.members[:5]) + (f" and {len(now.members) - 5} more" if len(now.members) > 5 else "")
        told.append((Reason.WAVE_STARTED, f"wave {after.wave or now.wave + 1} began: {names}", False))
    if now.phase == "Baking" and (moved_on or (was is not None and was.phase != "Baking")):
        told.append((Reason.WAVE_BAKING, f"wave {after.wave or now.wave + 1} was watched: {now.waits_for}", False))
    if now.phase == "RolledBack" and (was is None or was.phase != "RolledBack"):
        back = f"; every site was told {after.current_version}" if after.current_version else ""
        told.append((Reason.ROLLED_BACK, f"version {after.target_version} was taken back: {now.why}{back}", True))
    held, holds = was.hold if was is not None else None, now.hold
    if holds and holds != held:
        told.append((Reason.RELEASE_HELD, f"{now.why}; waits for {now.waits_for}", holds == "GateFailed"))
    elif held and not holds and now.phase != "RolledBack":
        told.append((Reason.RELEASE_RESUMED, f"version {after.target_version} went on", False))
    return told


_OUTCOMES = {
    "Passed": (Reason.GATE_PASSED, False),
    "Failed": (Reason.GATE_FAILED, True),
    "Error": (Reason.GATE_FAILED, True),
    "NoData": (Reason.GATE_WITHOUT_DATA, False),
}


def _looks(before: ModelReleaseStatus, after: ModelReleaseStatus) -> list[tuple[Reason, str, bool]]:
    """What gates say, where it is another word than at the look before."""
    known = {(one.name, one.variant): one.outcome for one in before.gates}
    told: list[tuple[Reason, str, bool]] = []
    for gate in after.gates:
        if gate.outcome in _OUTCOMES and known.get((gate.name, gate.variant)) != gate.outcome:
            reason, warning = _OUTCOMES[gate.outcome]
            of = f" of variant {gate.variant[:19]}" if gate.variant else ""
            told.append((reason, f"gate {gate.name}{of}: {gate.message}", warning))
    return told
