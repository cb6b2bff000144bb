"""How many replicas a job is to have now: spec.replicas, or what was decided last within the bounds of spec.scaling.

The number is read back from status, where the decision before wrote it, and only then acted on: so a leader that takes
over before it has measured anything wants what the one before wanted, and moves nothing.
"""

from __future__ import annotations

from edgeward.api.common import parse_time
from edgeward.api.inferencejob import InferenceJob

from .model import Bounds, Scaled


def bounds(job: InferenceJob) -> Bounds | None:
    """None: the job is not sized. minReplicas 0 counts as 1, for a job without replicas measures no arrivals.

    At each of many sites another number would be right, and status has room for one: PerSite jobs are not sized.
    """
    asked = job.spec.scaling
    if asked is None or job.spec.replica_scope == "PerSite":
        return None
    return Bounds(max(1, asked.min_replicas), asked.max_replicas)


def scaled(job: InferenceJob) -> Scaled | None:
    """What status remembers; None before the first decision, and after a stop, from which the job starts anew."""
    said = job.status.scaling
    if said is None or not said.replicas or not job.spec.replicas:
        return None
    return Scaled(said.replicas, parse_time(said.low_since) if said.low_since else None, said.low_peak)


def replicas(job: InferenceJob) -> int:
    """0 means stopped, with or without spec.scaling; beside it any other number is only the start value."""
    limits, before = bounds(job), scaled(job)
    if limits is None or job.spec.replicas == 0:
        return job.spec.replicas
    return min(max(before.replicas if before else job.spec.replicas, limits.lowest), limits.highest)
