"""Condition types and reasons, the truth table of what a reason means, and the pure update of a condition list.

Reasons are shared by conditions and Events, so that one word means one thing wherever a person meets it. The truth
table is what kstatus, Argo CD's health check and the documents are held against: a reason not in it cannot be shown.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from edgeward.api.common import Condition, format_time


class ConditionType(StrEnum):
    """Every condition type that Edgeward writes."""

    READY = "Ready"
    PLACED = "Placed"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    METRICS_FRESH = "MetricsFresh"
    FEATURES_IGNORED = "FeaturesIgnored"
    MODEL_RELEASE_MISSING = "ModelReleaseMissing"
    STORE_PERSISTENT = "StorePersistent"
    ROLLED_BACK = "RolledBack"
    CONNECTED = "Connected"
    CREDENTIAL_VALID = "CredentialValid"
    NODES_OVERLAP = "NodesOverlap"
    APPLIED = "Applied"
    PROTECTED = "Protected"
    ORPHANED = "Orphaned"
    OFFLOADING = "Offloading"
    FOLLOWING = "Following"


class Reason(StrEnum):
    """Every reason of a condition or an Event."""

    # Ready=True
    SERVING = "Serving"
    RELEASED = "Released"
    NOTHING_WANTED = "NothingWanted"
    # Ready=False, on its way
    PENDING_EVALUATION = "PendingEvaluation"
    PODS_STARTING = "PodsStarting"
    MOVING = "Moving"
    NO_CAPACITY = "NoCapacity"
    TOO_BIG_FOR_ANY_NODE = "TooBigForAnyNode"
    PREEMPTED = "Preempted"
    WAITING_FOR_PREEMPTION = "WaitingForPreemption"
    NO_RUNNABLE_MODEL = "NoRunnableModel"
    METRICS_STALE = "MetricsStale"
    SITE_DISCONNECTED = "SiteDisconnected"
    NO_ROOM_TO_SURGE = "NoRoomToSurge"
    ROLLING_OUT = "RollingOut"
    PAUSED = "Paused"
    WAITING_FOR_DATA = "WaitingForData"
    WAITING_FOR_SITES = "WaitingForSites"
    # Ready=False, waiting for a person
    INVALID_SPEC = "InvalidSpec"
    INVALID_POD_TEMPLATE = "InvalidPodTemplate"
    POLICY_FORBIDS = "PolicyForbids"
    RESIDENCY_FORBIDS = "ResidencyForbids"
    QUOTA_EXCEEDED = "QuotaExceeded"
    FEATURE_NOT_YET_AVAILABLE = "FeatureNotYetAvailable"
    ROLLED_BACK = "RolledBack"
    FETCH_FAILED = "FetchFailed"
    VERIFY_FAILED = "VerifyFailed"
    SIGNATURE_FAILED = "SignatureFailed"
    LOAD_FAILED = "LoadFailed"
    SCHEMA_FAILED = "SchemaFailed"
    GOLDEN_FAILED = "GoldenFailed"
    WARM_FAILED = "WarmFailed"
    MIRROR_FAILED = "MirrorFailed"
    GATE_FAILED = "GateFailed"
    # The other conditions
    FRESH = "Fresh"
    STALE = "Stale"
    NO_METRICS = "NoMetrics"
    AS_WRITTEN = "AsWritten"
    UNKNOWN_TO_THIS_VERSION = "UnknownToThisVersion"
    FOUND = "Found"
    MISSING = "Missing"
    PERSISTENT = "Persistent"
    NO_NODE_LOCAL_CLASS = "NoNodeLocalClass"
    LOCAL = "Local"
    HEARTBEAT = "Heartbeat"
    SUSPECT = "Suspect"
    DISCONNECTED = "Disconnected"
    DISTINCT = "Distinct"
    OVERLAP = "Overlap"
    APPLIED = "Applied"
    APPLY_FAILED = "ApplyFailed"
    REFUSED_BY_SITE = "RefusedBySite"
    ORPHANED = "Orphaned"
    DONE = "Done"
    OFFLOADING = "Offloading"
    NEWEST = "Newest"
    PASSED_OVER = "PassedOver"
    LOOK_FAILED = "LookFailed"
    # Events only
    PLACED = "Placed"
    MOVED = "Moved"
    SCALED = "Scaled"
    UNPLACED = "Unplaced"
    NODE_EXCLUDED = "NodeExcluded"
    NODE_LOST = "NodeLost"
    RELEASE_STARTED = "ReleaseStarted"
    RELEASE_COMPLETED = "ReleaseCompleted"
    WAVE_STARTED = "WaveStarted"
    WAVE_BAKING = "WaveBaking"
    WAVE_PASSED = "WavePassed"
    GATE_PASSED = "GatePassed"
    GATE_WITHOUT_DATA = "GateWithoutData"
    RELEASE_HELD = "ReleaseHeld"
    RELEASE_RESUMED = "ReleaseResumed"
    RELEASE_RETRIED = "ReleaseRetried"
    MODEL_REFUSED = "ModelRefused"
    METRICS_LOST = "MetricsLost"
    METRICS_BACK = "MetricsBack"
    ALL_JOBS_GONE = "AllJobsGone"
    READ_FAILED = "ReadFailed"
    PLAN_FAILED = "PlanFailed"
    RESIZE_PROPOSED = "ResizeProposed"
    POD_CHANGE_STARTED = "PodChangeStarted"
    POD_CHANGE_COMPLETED = "PodChangeCompleted"


# What the runtime calls the step that failed -> the reason of Ready=False.
STEP_REASONS: Mapping[str, Reason] = {
    "Fetch": Reason.FETCH_FAILED,
    "Verify": Reason.VERIFY_FAILED,
    "Signature": Reason.SIGNATURE_FAILED,
    "Load": Reason.LOAD_FAILED,
    "Schema": Reason.SCHEMA_FAILED,
    "Golden": Reason.GOLDEN_FAILED,
    "Warm": Reason.WARM_FAILED,
    "Mirror": Reason.MIRROR_FAILED,
    "Gate": Reason.GATE_FAILED,
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the conditions say beside Ready. `placed` is for jobs; None leaves Placed as it is."""

    ready: bool
    placed: bool | None
    reconciling: bool
    stalled: bool


_DONE = Outcome(ready=True, placed=True, reconciling=False, stalled=False)
_STARTING = Outcome(ready=False, placed=True, reconciling=True, stalled=False)
_WAITING = Outcome(ready=False, placed=False, reconciling=True, stalled=False)
_REFUSED = Outcome(ready=False, placed=False, reconciling=False, stalled=True)
_ROLLING = Outcome(ready=False, placed=None, reconciling=True, stalled=False)
_SUSPENDED = Outcome(ready=False, placed=None, reconciling=False, stalled=False)
_FAILED = Outcome(ready=False, placed=None, reconciling=False, stalled=True)

# kstatus reads Stalled=True as Failed, Reconciling=True or Ready=False as InProgress, else Ready=True as Current.
TRUTH: Mapping[Reason, Outcome] = {
    Reason.SERVING: _DONE,
    Reason.RELEASED: Outcome(ready=True, placed=None, reconciling=False, stalled=False),
    Reason.NOTHING_WANTED: Outcome(ready=True, placed=None, reconciling=False, stalled=False),
    Reason.PODS_STARTING: _STARTING,
    Reason.MOVING: _STARTING,
    Reason.NO_ROOM_TO_SURGE: _STARTING,
    Reason.PENDING_EVALUATION: _WAITING,
    Reason.NO_CAPACITY: _WAITING,
    Reason.TOO_BIG_FOR_ANY_NODE: _WAITING,
    Reason.PREEMPTED: _WAITING,
    Reason.WAITING_FOR_PREEMPTION: _WAITING,
    Reason.NO_RUNNABLE_MODEL: _WAITING,
    Reason.METRICS_STALE: _WAITING,
    Reason.SITE_DISCONNECTED: _WAITING,
    Reason.ROLLING_OUT: _ROLLING,
    Reason.WAITING_FOR_SITES: _ROLLING,
    Reason.PAUSED: _SUSPENDED,
    Reason.WAITING_FOR_DATA: _SUSPENDED,
    Reason.INVALID_SPEC: _REFUSED,
    Reason.INVALID_POD_TEMPLATE: _REFUSED,
    Reason.POLICY_FORBIDS: _REFUSED,
    Reason.RESIDENCY_FORBIDS: _REFUSED,
    Reason.QUOTA_EXCEEDED: _REFUSED,
    # Serving pods stay when a field is added that this version cannot honour, hence Placed is left as it is.
    Reason.FEATURE_NOT_YET_AVAILABLE: _FAILED,
    Reason.ROLLED_BACK: _FAILED,
    Reason.FETCH_FAILED: _FAILED,
    Reason.VERIFY_FAILED: _FAILED,
    Reason.SIGNATURE_FAILED: _FAILED,
    Reason.LOAD_FAILED: _FAILED,
    Reason.SCHEMA_FAILED: _FAILED,
    Reason.GOLDEN_FAILED: _FAILED,
    Reason.WARM_FAILED: _FAILED,
    Reason.MIRROR_FAILED: _FAILED,
    Reason.GATE_FAILED: _FAILED,
}


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of that type, if there is one."""
    return next((condition for condition in conditions if condition.type == kind), None)


def is_true(conditions: Iterable[Condition], kind: str) -> bool:
    """Whether the condition is there and True; Unknown and absent are neither true nor false."""
    condition = find(conditions, kind)
    return condition is not None and condition.status == "True"


def set_condition(
    conditions: Iterable[Condition],
    *,
    type: ConditionType,
    status: bool | None,
    reason: Reason | str,
    message: str = "",
    generation: int | None = None,
    now: float,
) -> tuple[Condition, ...]:
    """The list with one condition set; status None means Unknown, `now` is seconds since the epoch.

    lastTransitionTime changes with status only, and nothing else carries a time, so that the same facts give the same
    list and no write follows.
    """
    existing = tuple(conditions)
    text = "Unknown" if status is None else str(status)
    before = find(existing, type)
    after = Condition.model_validate(
        {
            "type": str(type),
            "status": text,
            "reason": str(reason),
            "message": message,
            "observedGeneration": generation,
            "lastTransitionTime": before.last_transition_time if before and before.status == text else format_time(now),
        }
    )
    if before is None:
        return (*existing, after)
    return tuple(after if condition.type == type else condition for condition in existing)


def remove_condition(conditions: Iterable[Condition], kind: str) -> tuple[Condition, ...]:
    """The list without that type."""
    return tuple(condition for condition in conditions if condition.type != kind)


def set_outcome(
    conditions: Iterable[Condition], *, reason: Reason, message: str = "", generation: int | None = None, now: float
) -> tuple[Condition, ...]:
    """Ready with its companions (Placed, Reconciling, Stalled) as the truth table has them for this reason."""
    outcome = TRUTH[reason]
    result = tuple(conditions)
    values = {
        ConditionType.READY: outcome.ready,
        ConditionType.PLACED: outcome.placed,
        ConditionType.RECONCILING: outcome.reconciling,
        ConditionType.STALLED: outcome.stalled,
    }
    for type_, status in values.items():
        if type_ is ConditionType.PLACED and status is None:
            continue
        # kstatus shows the message of Stalled or Reconciling when one is True; elsewhere Ready's own is enough.
        says = type_ is ConditionType.READY or (status and type_ is not ConditionType.PLACED)
        result = set_condition(
            result,
            type=type_,
            status=status,
            reason=reason,
            message=message if says else "",
            generation=generation,
            now=now,
        )
    return result
