"""From a plan to Assignments: what is to be written and what may go. No I/O.

Moving is make-before-break across nodes and sites: what a plan no longer names stays, counted as leaving, until as
many replicas as the plan names are Ready where the plan wants them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from edgeward.api.assignment import (
    PULL,
    AssignedModel,
    AssignedNode,
    AssignedOffload,
    AssignedSecret,
    Assignment,
    AssignmentSpec,
    AvoidedVersion,
    Effective,
    JobRef,
    NodePool,
)
from edgeward.api.common import format_time, to_dict
from edgeward.api.inferencejob import InferenceJob
from edgeward.cluster.resources import Object
from edgeward.fleet.model import Fleet, Job, ModelVersion, Site
from edgeward.fleet.names import (
    FINALIZER,
    LABEL_JOB,
    LABEL_JOB_NAMESPACE,
    LABEL_MANAGED_BY,
    LABEL_SITE,
    LABEL_TIER,
    MANAGED_BY,
    derived_name,
    is_pool,
)
from edgeward.fleet.pods import wanted as wanted_pods
from edgeward.fleet.podspec import PodSpec
from edgeward.fleet.redaction import Redaction
from edgeward.fleet.releases import version_of
from edgeward.hub import capture, offload
from edgeward.hub.guarded import guarded
from edgeward.placement.model import JobPlan, Plan
from edgeward.rollout.pods import JobPodStep
from edgeward.rollout.site_step import SiteStep
from edgeward.rollout.step import ReleaseStep, RolloutStep
from edgeward.rollout.variants import Grounds, digests, lowered


@dataclass(frozen=True, slots=True)
class Write:
    """An Assignment to apply. `body` carries the resource version that it was decided on, if there was one."""

    name: str
    job: str
    body: Object


@dataclass(frozen=True, slots=True)
class Published:
    writes: tuple[Write, ...] = ()
    empty: tuple[str, ...] = ()
    """names of Assignments at sites that their job has left and where nothing of it is left"""
    failed: tuple[tuple[str, str], ...] = ()
    """(job, why) of plans that no Assignment can hold"""


def publish(
    fleet: Fleet,
    plan: Plan,
    rollout: RolloutStep,
    *,
    jobs: Mapping[str, InferenceJob],
    present: Iterable[Assignment],
    namespace: str,
    pods: Mapping[str, JobPodStep] | None = None,
    spares: Mapping[tuple[str, str], str] | None = None,
) -> Published:
    """What differs between the Assignments that there are and those that the plan wants.

    jobs: the readable InferenceJobs by key. A job that is not in it, or that has a problem, keeps what it has.
    pods: by job, how its pods are to be made at each site; as its spec says where that says nothing.
    spares: by job and site, a node for one replica more while those that are there have no room to change beside.
    """
    by_job: dict[str, list[Assignment]] = {}
    for assignment in present:
        key = f"{assignment.spec.job.namespace}/{assignment.spec.job.name}"
        by_job.setdefault(key, []).append(assignment)
    facts = {job.key: job for job in fleet.jobs}
    sites = {site.name: site for site in fleet.sites}
    grounds = Grounds(fleet)
    writes: list[Write] = []
    empty: list[str] = []
    failed: list[tuple[str, str]] = []
    for job_plan in plan.jobs:
        job, known = jobs.get(job_plan.key), facts.get(job_plan.key)
        if job is None or known is None:
            continue
        try:
            mine, left = _of_job(
                job,
                known,
                job_plan,
                by_job.get(job_plan.key, []),
                rollout,
                namespace,
                sites,
                grounds,
                partial(_offload, job, jobs=jobs, plan=plan, sites=sites),
                capture.allowed(fleet, job.namespace),
                (pods or {}).get(job_plan.key),
                {site: node for (key, site), node in (spares or {}).items() if key == job_plan.key},
            )
        except ValueError as error:  # what does not fit an Assignment keeps back this job alone
            failed.append((job_plan.key, str(error)))
            continue
        writes += mine
        empty += left
    return Published(writes=tuple(writes), empty=tuple(empty), failed=tuple(failed))


def _of_job(
    job: InferenceJob,
    known: Job,
    plan: JobPlan,
    current: list[Assignment],
    rollout: RolloutStep,
    namespace: str,
    sites: Mapping[str, Site],
    grounds: Grounds,
    offload_at: Callable[[str], AssignedOffload | None],
    redaction: Redaction,
    pods: JobPodStep | None,
    spares: Mapping[str, str],
) -> tuple[list[Write], list[str]]:
    writes: list[Write] = []
    empty: list[str] = []
    keep_spec = known.problem is not None
    asked = wanted_pods(job.spec)
    tiers = {item.site: item.tier for item in plan.placements}
    by_site: dict[str, Assignment] = {}
    for item in current:
        by_site.setdefault(item.spec.site, item)
    first = known.pin or _first_model(job, known.model_digest, current, rollout)
    for site, nodes in _nodes(plan, current, known, spares).items():
        there = by_site.get(site)
        if there is not None and there.deleting:
            continue
        if there is not None and not nodes and not there.spec.nodes:
            if not there.status.nodes and not there.status.replicas:
                empty.append(there.name)
            continue
        ground = grounds.at(site, [node.name for node in nodes if node.replicas])
        has = frozenset(model.digest for model in there.spec.models) if there is not None else frozenset()
        # A site that is new, or whose job names another model by now, has been told nothing of it yet.
        new = there is None or all(model.name != job.spec.model.name for model in there.spec.models)
        step = None if new else rollout.site(plan.key, site)
        told = first if new else step.told if step is not None else None
        whole = first if new else step.version if step is not None else None
        if whole is not None and whole.variants:
            told = lowered(whole, ground, has=has)  # for the nodes that it has from now on
        avoid = () if known.pinned else _avoided(rollout.release(f"{job.namespace}/{job.spec.model.name}"), there)
        nodes = tuple(_with_pool(node, known, sites.get(site), there) for node in nodes)
        most = capture.allowed_at(sites.get(site), redaction, there)
        canary = _canary(step) if step is not None else ()
        of_pods = asked if pods is None else pods.told.get(site, pods.first)
        wanted = _spec(
            job,
            site,
            nodes,
            told,
            canary,
            there,
            asked if of_pods.identity == asked.identity else of_pods,
            keep_spec=keep_spec,
            to=offload_at(site),
            redaction=most,
        )
        if known.problem is None:
            models = guarded(wanted.models, step, there, assigned=_assigned)
            # Never both: a change of pods and the model's rollout do not interleave.
            watch = (step.watch if step is not None else None) or (pods.watch.get(site) if pods is not None else None)
            wanted = wanted.model_copy(update={"avoid": avoid, "models": models, "watch": watch})
        if there is not None and _same(there.spec, wanted):
            continue
        writes.append(_write(plan.key, wanted, there, current, namespace, tier=tiers.get(site, "")))
    return writes, empty


def _offload(
    job: InferenceJob, site: str, *, jobs: Mapping[str, InferenceJob], plan: Plan, sites: Mapping[str, Site]
) -> AssignedOffload | None:
    asked = job.spec.offload
    if asked is None or offload.hindrance(job, site, known=jobs, plan=plan, sites=sites) is not None:
        return None
    return offload.assigned(job, jobs[f"{job.namespace}/{asked.job}"])


def _nodes(
    plan: JobPlan, current: Iterable[Assignment], job: Job, spares: Mapping[str, str]
) -> dict[str, tuple[AssignedNode, ...]]:
    """By site: what the plan wants there, and what has to stay until that is Ready, or until pods that change beside it
    have changed."""
    changing = {one.site for one in job.pods.sites if one.changing} if job.pods is not None else set()
    unfit = {one.node for one in job.exclusions} | {one.node for one in job.placed if one.lost_since is not None}
    wanted = {(item.site, item.node): item for item in plan.placements}
    ready: dict[tuple[str, str], int] = {}
    held: dict[tuple[str, str], int] = {}
    sites = {item.site for item in plan.placements}
    for assignment in current:
        sites.add(assignment.spec.site)
        for report in assignment.status.nodes:
            ready[assignment.spec.site, report.name] = report.ready
        for node in assignment.spec.nodes:
            held[assignment.spec.site, node.name] = node.replicas + node.leaving
    # Lost ones are not waited for.
    starting = sum(max(item.replicas - ready.get(at, 0), 0) for at, item in wanted.items() if not item.lost)
    settled = starting == 0 and plan.missing == 0
    gives_way = {(item.site, item.node): item.patient for item in plan.gives_way}
    result: dict[str, tuple[AssignedNode, ...]] = dict.fromkeys(sites, ())
    for at in sorted(wanted.keys() | held.keys() | set(spares.items())):
        item = wanted.get(at)
        replicas = item.replicas if item else 0
        surplus = max(held.get(at, 0) - replicas, 0)
        # A replica that does not serve loses nobody anything by going.
        leaving = 0 if settled else min(surplus, max(ready.get(at, 0) - replicas, 0))
        if at[0] in changing and not replicas and held.get(at, 0) and at[1] not in unfit:
            leaving = max(leaving, 1)  # it stands in for those that change
        elif at[1] == spares.get(at[0]) and not replicas:
            leaving = 1
        if at in gives_way:
            # A higher priority tier waits for this room: only a replacement that is on its way holds it up, and not long.
            leaving = min(leaving, starting) if gives_way[at] else 0
        if replicas or leaving:
            since = format_time(item.since) if item else None
            came = (item.moved_from or None) if item else None
            node = AssignedNode(name=at[1], replicas=replicas, leaving=leaving, since=since, moved_from=came)
            result[at[0]] = (*result[at[0]], node)
    return result


def _with_pool(node: AssignedNode, job: Job, site: Site | None, there: Assignment | None) -> AssignedNode:
    """A pool with the labels of the nodes that the job may use there. The stock scheduler sees to taints and room.

    Where the site is elastic no more, its pods keep what they were made with until they leave.
    """
    if not is_pool(node.name):
        return node
    if site is None or not site.elastic:
        known = next((item for item in (there.spec.nodes if there else ()) if item.name == node.name), None)
        return node.model_copy(update={"pool": known.pool if known else None})
    labels = {**job.node_selector, **site.node_labels}
    pool = NodePool(labels=labels, architectures=tuple(sorted(job.architectures)))
    return node.model_copy(update={"pool": pool})


def _first_model(
    job: InferenceJob, digest: str, current: list[Assignment], rollout: RolloutStep
) -> ModelVersion | None:
    """What a site that is new to the job is told: the release's target, unless the job is held elsewhere.

    digest: what the job is meant to run; another than the target's when the job is pinned or the release is gone.
    """
    release = rollout.release(f"{job.namespace}/{job.spec.model.name}")
    others = [version for item in current for version in _told(item, rollout)]
    if release is not None and release.paused:
        # Held where it is: a replica that moves takes along what its job has, or else what other jobs serve.
        others += [version for item in release.sites if (version := item.version or item.told) is not None]
        if others:
            return next((version for version in others if digest in digests(version)), others[0])
    target = release.target if release else None
    if release is not None and release.decision is not None and target is not None and target.digest == digest:
        # In the middle of a rollout in waves, what is born begins with the version that finished.
        return release.first
    candidates = [target, *others] if target else others
    return next((version for version in candidates if digest in digests(version)), None)


def _told(assignment: Assignment, rollout: RolloutStep) -> list[ModelVersion]:
    """The version that the site trusts; a canary is not among it."""
    reference = assignment.spec.job
    step = rollout.site(f"{reference.namespace}/{reference.name}", assignment.spec.site)
    if step is not None and step.version is not None and step.beside is None:
        return [step.version]
    return [version_of(model, assignment) for model in assignment.spec.models if model.role == "Stable"]


def _assigned(version: ModelVersion, **more: Any) -> AssignedModel:
    return AssignedModel(
        name=version.name,
        version=version.version,
        digest=version.digest,
        sources=version.sources,
        parameters=dict(version.parameters),
        signature=version.signature,
        download_pace=version.pace or None,
        attempt=version.attempt,
        **more,
    )


def _canary(step: SiteStep) -> tuple[AssignedModel, ...]:
    """The new version beside the one that the site trusts."""
    if step.beside is None:
        return ()
    return (_assigned(step.beside, role="Canary", traffic=f"{step.traffic}%", mirror=step.mirror),)


def _avoided(release: ReleaseStep | None, there: Assignment | None) -> tuple[AvoidedVersion, ...]:
    """The versions that the release went back from, for the site to remember. Without a release nobody takes a word back."""
    if release is None:
        return there.spec.avoid if there is not None else ()
    return tuple(
        AvoidedVersion(identity=one.identity, version=one.version, reason=one.reason, attempt=one.attempt, at=one.at)
        for one in release.refused
    )


def _spec(
    job: InferenceJob,
    site: str,
    nodes: tuple[AssignedNode, ...],
    told: ModelVersion | None,
    canary: tuple[AssignedModel, ...],
    there: Assignment | None,
    pods: PodSpec,
    *,
    keep_spec: bool,
    to: AssignedOffload | None,
    redaction: Redaction,
) -> AssignmentSpec:
    reference = JobRef(namespace=job.namespace, name=job.name, uid=job.uid)
    if keep_spec and there is not None:
        # The job asks for something that must not be done halfway: what runs is left just as it is. But for what may be
        # kept of requests: a stricter word on that holds at once.
        there_now = there.spec.effective
        effective = there_now.model_copy(update={"capture": capture.limited(there_now.capture, redaction)})
        return there.spec.model_copy(update={"job": reference, "effective": effective})
    models = there.spec.models if there is not None else ()
    secrets = there.spec.secrets if there is not None else ()
    if told is not None:
        models = (_assigned(told), *canary)
        secrets = (AssignedSecret(name=told.pull_secret, use=PULL),) if told.pull_secret else ()
    spec = job.spec
    return AssignmentSpec(
        job=reference,
        site=site,
        revision=0,
        effective=Effective(
            priority=pods.priority,
            resources=pods.resources,
            slo=spec.slo,
            data=spec.data,
            placement=spec.placement.model_copy(update={"tolerations": pods.tolerations}),
            disconnect=spec.disconnect,
            expose=spec.expose,
            update=spec.update,
            model_swap=spec.model_swap,
            capture=capture.limited(spec.capture, redaction),
        ),
        pod_template=dict(pods.template),
        nodes=nodes,
        models=models,
        offload=to,
        secrets=secrets,
    )


def _same(present: AssignmentSpec, wanted: AssignmentSpec) -> bool:
    return to_dict(_numbered(present, 0)) == to_dict(_numbered(wanted, 0))


def _numbered(spec: AssignmentSpec, revision: int) -> AssignmentSpec:
    return spec.model_copy(update={"revision": revision})


def _write(
    job: str,
    wanted: AssignmentSpec,
    there: Assignment | None,
    current: Iterable[Assignment],
    namespace: str,
    *,
    tier: str,
) -> Write:
    reference = wanted.job
    name = (
        there.name
        if there is not None
        else derived_name(namespace=reference.namespace, name=reference.name, site=wanted.site)
    )
    last = there.spec.revision if there is not None else max((item.spec.revision for item in current), default=0)
    revision = last + 1
    # The first word on a site's tier stays: the pods' tolerations follow it, and must not change with a node's label.
    tier = there.metadata.labels.get(LABEL_TIER, tier) if there is not None else tier
    labels = {
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_JOB: reference.name,
        LABEL_JOB_NAMESPACE: reference.namespace,
        LABEL_SITE: wanted.site,
    }
    metadata: Object = {
        "name": name,
        "namespace": namespace,
        "labels": {**labels, LABEL_TIER: tier} if tier else labels,
        "finalizers": [FINALIZER],
    }
    if there is not None:
        metadata["resourceVersion"] = there.metadata.resource_version
    return Write(name=name, job=job, body={"metadata": metadata, "spec": to_dict(_numbered(wanted, revision))})
