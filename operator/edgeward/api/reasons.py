"""Why a job is not placed, and why a node was not taken, as codes that never change their order.

Source of the order: the worst obstacle first, so that the one reason a person sees is the one to remove first.
"""

from collections.abc import Iterable
from enum import StrEnum


class Rejection(StrEnum):
    """Why a job (or a part of its replicas) has no place; declared from the most to the least severe."""

    INVALID_SPEC = "InvalidSpec"
    POLICY_FORBIDS = "PolicyForbids"
    RESIDENCY_FORBIDS = "ResidencyForbids"
    NO_RUNNABLE_MODEL = "NoRunnableModel"
    TOO_BIG_FOR_ANY_NODE = "TooBigForAnyNode"
    QUOTA_EXCEEDED = "QuotaExceeded"
    NO_CAPACITY = "NoCapacity"
    METRICS_STALE = "MetricsStale"
    WAITING_FOR_PREEMPTION = "WaitingForPreemption"
    SITE_DISCONNECTED = "SiteDisconnected"
    PENDING_EVALUATION = "PendingEvaluation"


class NodeRejection(StrEnum):
    """Why one node cannot take a replica, in the order in which the constraints are checked."""

    TIER_MISMATCH = "TierMismatch"
    SITE_MISMATCH = "SiteMismatch"
    NODE_SELECTOR_MISMATCH = "NodeSelectorMismatch"
    UNTOLERATED_TAINT = "UntoleratedTaint"
    RESIDENCY_FORBIDS = "ResidencyForbids"
    ARCH_MISMATCH = "ArchMismatch"
    LATENCY_TOO_HIGH = "LatencyTooHigh"
    BANDWIDTH_TOO_LOW = "BandwidthTooLow"
    DRAIN_TOO_SLOW = "DrainTooSlow"
    NODE_NOT_READY = "NodeNotReady"
    NODE_UNSCHEDULABLE = "NodeUnschedulable"
    SITE_UNSCHEDULABLE = "SiteUnschedulable"
    SITE_FROZEN = "SiteFrozen"
    SITE_DISCONNECTED = "SiteDisconnected"
    INSUFFICIENT_CPU = "InsufficientCpu"
    INSUFFICIENT_MEMORY = "InsufficientMemory"
    INSUFFICIENT_PODS = "InsufficientPods"
    INSUFFICIENT_STORAGE = "InsufficientStorage"
    INSUFFICIENT_EXTENDED = "InsufficientExtended"
    INSUFFICIENT_MEMORY_PEAK = "InsufficientMemoryPeak"
    EXCLUDED = "Excluded"
    SPREAD_EXCEEDED = "SpreadExceeded"
    SITE_QUOTA_EXCEEDED = "SiteQuotaExceeded"
    NAMESPACE_QUOTA_EXCEEDED = "NamespaceQuotaExceeded"
    BACKLOG_TOO_LONG = "BacklogTooLong"


_SEVERITY = {reason: rank for rank, reason in enumerate(Rejection)}


def most_severe(reasons: Iterable[Rejection]) -> Rejection | None:
    """The one reason to show; None when there is none."""
    return min(reasons, key=_SEVERITY.__getitem__, default=None)
