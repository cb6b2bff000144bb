"""What the scheduler or the kubelet refused, turned into exclusions with a back-off that doubles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from .model import Exclusion
from .names import is_pool

BROKEN_CONTAINER = frozenset(
    {
        "CrashLoopBackOff",
        "ImagePullBackOff",
        "ErrImagePull",
        "ErrImageNeverPull",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
"""what a kubelet gives as the reason of a container that waits and will not start by waiting"""

REFUSALS = BROKEN_CONTAINER | {
    "Unschedulable",
    "OutOfcpu",
    "OutOfmemory",
    "OutOfpods",
    "NodeAffinity",
    "UnexpectedAdmissionError",
    "PodFailed",
}
"""reasons of a node's report that speak of this node and not of the job's model"""


@dataclass(frozen=True, slots=True)
class Refused:
    """A node where replicas of a job do not come up, and since when."""

    node: str
    reason: str
    message: str
    since: float


def exclusions(
    known: Iterable[Exclusion],
    refused: Iterable[Refused],
    *,
    now: float,
    patience: float = 60.0,
    pool_patience: float = 600.0,
    longest: float = 3600.0,
    memory: float = 3600.0,
) -> tuple[Exclusion, ...]:
    """The exclusions of a job as of now, by node name.

    patience: seconds a refusal may last before it counts; also the first back-off. pool_patience: the same for a pod that
    waits at an elastic site, where a node is on its way as a rule. Each further refusal of the same
    node doubles the back-off up to `longest`. One that ended more than `memory` seconds ago is forgotten.
    """
    current = {item.node: item for item in known if item.until + memory > now}
    for refusal in refused:
        waits = is_pool(refusal.node) and refusal.reason == "Unschedulable"
        due = pool_patience if waits else patience
        if refusal.reason not in REFUSALS or now - refusal.since < due:
            continue
        before = current.get(refusal.node)
        if before is None:
            before = Exclusion(node=refusal.node, reason="", message="", count=0, until=float("-inf"))
        if before.until > now:
            continue
        count = before.count + 1
        # The exponent is bounded: after weeks of one refusal an hour, 2**count no longer fits a float.
        until = now + min(due * 2 ** min(count - 1, 32), longest)
        current[refusal.node] = replace(
            before, reason=refusal.reason, message=refusal.message, count=count, until=float(int(until))
        )
    return tuple(current[node] for node in sorted(current))
