"""Where a job's hard requests go from a site: to the Service of the job it names, if that lies within the residency."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgeward.api.assignment import AssignedBudget, AssignedOffload
from edgeward.api.conditions import Reason
from edgeward.api.inferencejob import InferenceJob
from edgeward.fleet.model import Site
from edgeward.placement.model import Plan


@dataclass(frozen=True, slots=True)
class Hindrance:
    """Why a site does not offload."""

    reason: Reason
    message: str


def hindrance(
    job: InferenceJob, site: str, *, known: Iterable[str], plan: Plan, sites: Mapping[str, Site]
) -> Hindrance | None:
    """None if what the job asks for works at that site. known: keys (namespace/name) of the jobs that there are.

    Pods of the target may answer wherever it has one, so each of its sites must be where the data may go.
    """
    asked = job.spec.offload
    assert asked is not None
    if asked.job == job.name:
        return Hindrance(Reason.INVALID_SPEC, "spec.offload.job names the job itself")
    key = f"{job.namespace}/{asked.job}"
    if key not in known:
        return Hindrance(Reason.MISSING, f"InferenceJob {asked.job} is not there")
    target = plan.job(key)
    there = sorted({item.site for item in target.placements}) if target is not None else []
    if not there:
        return Hindrance(Reason.PENDING_EVALUATION, f"InferenceJob {asked.job} has no replica yet")
    outside = [name for name in there if not _may_reach(job, site, name, sites)]
    if outside:
        text = f"InferenceJob {asked.job} has replicas at {', '.join(outside[:3])}, where the data of {site} may not go"
        return Hindrance(Reason.RESIDENCY_FORBIDS, f"{text} (data.residency {_residency(job)})")
    return None


def _may_reach(job: InferenceJob, here: str, there: str, sites: Mapping[str, Site]) -> bool:
    match _residency(job):
        case "Site":
            return here == there
        case "Region":
            mine, other = sites.get(here), sites.get(there)
            return here == there or bool(mine and other and mine.region and mine.region == other.region)
    return True


def _residency(job: InferenceJob) -> str:
    return job.spec.data.residency if job.spec.data else "Anywhere"


def assigned(job: InferenceJob, target: InferenceJob) -> AssignedOffload:
    """What the site is told: the Service has the target's name and namespace in every cluster."""
    asked = job.spec.offload
    assert asked is not None
    budget = asked.budget
    return AssignedOffload(
        url=f"http://{target.name}.{target.namespace}.svc:{target.spec.expose.port}/v2/models/{target.spec.model.name}",
        criterion=asked.criterion,
        spill=asked.spill,
        budget=AssignedBudget(requests=budget.requests, bytes_per_hour=budget.bytes_per_hour) if budget else None,
    )
