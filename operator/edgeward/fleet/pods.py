"""How the pods of a job are to be made and how they are, from the job and its Assignments."""

from __future__ import annotations

from collections.abc import Iterable

from edgeward.api.assignment import Assignment, NodeStatus
from edgeward.api.common import format_bytes, format_cpu
from edgeward.api.inferencejob import InferenceJob, InferenceJobSpec, Resources

from .amounts import request_of
from .failures import REFUSALS
from .names import ANNOTATION_COMMAND
from .podspec import JobPods, PodSpec, SitePods, told
from .reading import time_of

CHANGING = ("PodUpdating", "NoRoomToSurge")
"""reasons of a node whose old pods serve while a change of them is not through"""


def wanted(spec: InferenceJobSpec) -> PodSpec:
    """What the job asks for now. Raises ValueError for an amount that cannot be read."""
    request = request_of(spec.resources.requests, spec.resources.limits)
    requests = {**spec.resources.requests, "cpu": format_cpu(request.cpu), "memory": format_bytes(request.memory)}
    return PodSpec(
        template=spec.pod_template,
        resources=Resources(requests=requests, limits=spec.resources.limits),
        tolerations=spec.placement.tolerations,
        priority=spec.priority,
    )


def read_pods(job: InferenceJob, assignments: Iterable[Assignment], *, now: float, patience: float) -> JobPods:
    """patience: seconds that pods may take to come up once something is in their way."""
    sites = [_site(item, now=now, patience=patience) for item in assignments if not item.deleting]
    return JobPods(
        wanted=wanted(job.spec),
        sites=tuple(sorted(sites, key=lambda one: one.site)),
        remembered=job.status.pod_rollout or {},
        command=str(job.metadata.annotations.get(ANNOTATION_COMMAND, ""))[:160],
    )


def _site(assignment: Assignment, *, now: float, patience: float) -> SitePods:
    spec, status = assignment.spec, assignment.status
    reports = {report.name: report for report in status.nodes}
    carried_out = status.observed_generation == assignment.generation and status.applied_revision == spec.revision
    here = [reports.get(node.name) for node in spec.nodes if node.replicas]
    through = all(
        report is not None and report.ready >= node.replicas and report.reason not in CHANGING
        for node, report in zip((node for node in spec.nodes if node.replicas), here, strict=True)
    )
    broken = [text for report in here if report is not None and (text := _broken(report, now=now, patience=patience))]
    return SitePods(
        site=spec.site,
        told=told(spec),
        replicas=sum(node.replicas for node in spec.nodes),
        ready=status.ready_replicas,
        updated=carried_out and through and bool(here),
        crowded=tuple(
            report.name
            for report in here
            if report is not None
            and report.reason == "NoRoomToSurge"
            and (since := time_of(report.since)) is not None
            and now - since >= patience
        ),
        changing=any(report is not None and report.reason in CHANGING for report in here),
        broken=broken[0] if broken and carried_out else "",
    )


def _broken(report: NodeStatus, *, now: float, patience: float) -> str:
    """What keeps pods from coming up, be it while older ones serve; a want of room for a surge is no fault of theirs."""
    since = time_of(report.since)
    if since is None or now - since < patience:
        return ""
    reason, message = report.reason, report.message
    if reason == "PodUpdating":
        reason, _, message = message.partition(": ")
    return f"{report.name}: {reason}: {message}"[:512] if reason in REFUSALS or reason == "PodsNotCreated" else ""
