"""Events: what changed between two statuses, told once, in the past tense."""

from __future__ import annotations

from edgeward.api.conditions import ConditionType, Reason, find
from edgeward.api.inferencejob import InferenceJobStatus
from edgeward.api.modelrelease import ModelReleaseStatus
from edgeward.cluster.events import Recorder
from edgeward.cluster.resources import INFERENCE_JOBS, MODEL_RELEASES, Object
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
