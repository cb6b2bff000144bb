"""What the hub says about jobs. Pure: the same facts give the same status, so nothing is written.

Scores, ages and the explanation are those of the last decision. They are kept as they were until another decision is
made: figures that drift with every sample are no news.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from edgeward.api.assignment import Assignment
from edgeward.api.common import Condition, format_time
from edgeward.api.conditions import ConditionType, Reason, is_true, remove_condition, set_condition, set_outcome
from edgeward.api.features import unavailable
from edgeward.api.inferencejob import (
    Decision,
    Exclusion,
    Explanation,
    InferenceJob,
    InferenceJobStatus,
    Moves,
    Nomination,
    PriorityStatus,
    ProposedMove,
    ScalingStatus,
    SitesStatus,
)
from edgeward.fleet.model import OWN_CLUSTER, Fleet, Job
from edgeward.fleet.names import LABEL_JOB, site_of_pool
from edgeward.hub import offload, pod_change
from edgeward.placement import model as plan_model
from edgeward.placement.model import JobPlan, Plan
from edgeward.rollout.pods import JobPodStep

from .explanation import LONGEST_MESSAGE, decimal, explanation, per_mille
from .learned import learned
from .verdict import Verdict

LISTED_SITES = 200


def job_status(
    job: InferenceJob,
    facts: Job,
    plan: JobPlan,
    *,
    whole: Plan,
    fleet: Fleet,
    assignments: Iterable[Assignment],
    pods: JobPodStep | None = None,
) -> InferenceJobStatus:
    """The status of a job that can be read. `assignments` are those of this job. pods: how its pods are to be made; None
    for a job with a problem, whose memory of them stays."""
    everything = list(assignments)
    current = [item for item in everything if not item.deleting]
    before, now = job.status, fleet.now
    clusters = {site.name: site.cluster for site in fleet.sites}
    decisions = _as_since(_decisions(plan, current, clusters), before.decisions)
    omitted = max(len(decisions) - LISTED_SITES, 0)
    # What the list has no room for must not look like another decision in each pass.
    decisions = decisions[:LISTED_SITES]
    decided_anew = _essence(decisions) != _essence(before.decisions) or before.explanation is None
    decided_anew = decided_anew or omitted != before.decisions_omitted
    decided_anew = decided_anew or plan.message[:LONGEST_MESSAGE] != _last_obstacle(before)
    if not decided_anew:
        scores = {item.site: item.score for item in before.decisions}
        decisions = tuple(item.model_copy(update={"score": scores[item.site]}) for item in decisions)
    verdict = judge(facts, plan, current, fleet, ending=[item for item in everything if item.deleting])
    if verdict.reason is Reason.SERVING and pods is not None:
        verdict = pod_change.verdict(pods) or verdict
    told = next((model for item in current for model in item.spec.models), None)
    return InferenceJobStatus(
        observed_generation=job.generation,
        conditions=pod_change.condition(
            _job_conditions(job, verdict, plan, whole=whole, fleet=fleet, serving=bool(told)),
            pods,
            generation=job.generation,
            now=now,
        ),
        priority=_priority(plan) if decided_anew or before.priority is None else before.priority,
        model_version=told.version if told else None,
        model_digest=told.digest if told else None,
        replicas=sum(item.replicas for item in plan.placements if not item.lost),
        ready_replicas=_ready(plan, current),
        selector=pod_selector(job.name, _clusters(plan, everything, clusters), per_site=facts.per_site),
        sites=_sites(plan, current, fleet),
        decisions=decisions,
        decisions_omitted=omitted,
        exclusions=_exclusions(plan, fleet),
        explanation=explanation(plan, now=now)
        if decided_anew and (plan.explanation.order or before.explanation is None)
        else _with_share(before.explanation, plan),
        moves=Moves(window_start=format_time(plan.moves.window_start), count=plan.moves.count)
        if plan.moves.count
        else None,
        proposed_move=ProposedMove(
            source=plan.proposed.source,
            target=plan.proposed.target,
            evaluations=plan.proposed.evaluations,
            last_at=format_time(plan.proposed.last_at),
        )
        if plan.proposed
        else None,
        nomination=Nomination(
            site=plan.nomination.site,
            node=plan.nomination.node,
            victims=plan.nomination.victims[:100],
            until=format_time(plan.nomination.until),
        )
        if plan.nomination
        else None,
        scaling=_scaling(job, plan) if facts.scaling else None,
        learned=learned(plan.learned),
        pod_rollout=dict(pods.remembered) or None if pods is not None else before.pod_rollout,
    )


def _with_share(said: Explanation | None, plan: JobPlan) -> Explanation | None:
    """How near the tier came to its bound is known a moment after the decision; told once, it stays."""
    share = plan.explanation.share_of_bound
    if said is None or share is None or said.share_of_bound is not None:
        return said
    return said.model_copy(update={"share_of_bound": per_mille(share)})


def pod_selector(job: str, clusters: Collection[str], *, per_site: bool = False) -> str:
    """For the scale subresource: what selects the job's pods, where one API server has them all.

    A HorizontalPodAutoscaler reads pods of its own cluster only, takes their mean for the mean of all, and multiplies by
    all replicas. So a job that is also elsewhere has a selector that is valid and matches no pod, for it contradicts
    itself: a Resource metric then stops with the condition ScalingActive=False, and nothing is scaled wrongly. Whoever
    says how many replicas are wanted without looking at pods (kubectl scale, an External metric) is not concerned.
    So has a PerSite job: counted over all sites and written as the number for each, its pods would multiply.
    """
    own = f"{LABEL_JOB}={job}"
    return own if set(clusters) <= {OWN_CLUSTER} and not per_site else f"{own},!{LABEL_JOB}"


def _clusters(plan: JobPlan, assignments: Iterable[Assignment], clusters: Mapping[str, str]) -> set[str]:
    """Where the job has replicas, or pods that have not gone yet. clusters: by site."""
    held = {item.spec.site for item in assignments if item.spec.nodes or item.status.nodes}
    return {clusters.get(site, OWN_CLUSTER) for site in held | {item.site for item in plan.placements}}


def _scaling(job: InferenceJob, plan: JobPlan) -> ScalingStatus | None:
    """The figures are those of the last decision. A plan without a word on it (a job with a problem) changes nothing."""
    sizing, before = plan.sizing, job.status.scaling
    if sizing is None:
        return before
    scaled = sizing.scaled
    said = ScalingStatus(
        replicas=scaled.replicas,
        arrivals=None if sizing.arrivals is None else decimal(sizing.arrivals),
        throughput=None if sizing.throughput is None else decimal(sizing.throughput),
        measured_at=None if sizing.measured_at is None else format_time(sizing.measured_at),
        low_since=None if scaled.low_since is None else format_time(scaled.low_since),
        low_peak=scaled.low_peak,
        message=(sizing.message + _overruled(job))[:512],
    )
    figures = {"arrivals", "throughput", "measured_at"}
    if before is not None and said.model_dump(exclude=figures) == before.model_dump(exclude=figures):
        return before
    return said


def _overruled(job: InferenceJob) -> str:
    """Two that scale the same job: an autoscaler, or a person, sees its word accepted and nothing come of it."""
    writers = sorted({item.manager for item in job.metadata.managed_fields if item.subresource == "scale"})
    if not writers or job.spec.replicas == 0:
        return ""
    return f"; spec.replicas, which {', '.join(writers)} set, is only the start value beside spec.scaling"


def judge(
    facts: Job, plan: JobPlan, current: list[Assignment], fleet: Fleet, *, ending: Iterable[Assignment] = ()
) -> Verdict:
    """The one reason to show, the worst obstacle first. ending: Assignments of this job that are being deleted."""
    if facts.problem is not None:
        return Verdict(Reason(facts.problem.reason), facts.problem.message)
    for assignment in current:
        applied = next((item for item in assignment.status.conditions if item.type == ConditionType.APPLIED), None)
        if applied is not None and applied.status == "False":
            reason = Reason.POLICY_FORBIDS if applied.reason == "PolicyForbids" else Reason.INVALID_SPEC
            return Verdict(reason, f"site {assignment.spec.site}: {applied.message}")
    ready = _ready(plan, current)
    if plan.missing or plan.reason == Reason.RESIDENCY_FORBIDS:
        known = plan.reason in Reason.__members__.values()
        return Verdict(Reason(plan.reason) if known else Reason.NO_CAPACITY, plan.message)
    if plan.wanted == 0 and facts.replicas == 0:
        return Verdict(Reason.NOTHING_WANTED, "spec.replicas is 0")
    offline = {site.name for site in fleet.sites if not site.connected}
    due = sum(item.replicas for item in plan.placements if not item.lost and item.site not in offline)
    if due == 0:
        return Verdict(Reason.SITE_DISCONNECTED, "every site of this job is disconnected; what runs there serves on")
    if ready < due:
        refusals = _obstacles(current, only="ModelRefused")
        if refusals:
            return Verdict(Reason.NO_RUNNABLE_MODEL, refusals[0])
        detail = "; ".join([*_in_the_way(plan, ending), *_obstacles(current)][:3])
        if plan.message:
            # They are where they should not be, or where they are refused, and no other node will do.
            known = plan.reason in Reason.__members__.values()
            text = f"{ready}/{plan.wanted} replicas serve; {plan.message}"
            return Verdict(Reason(plan.reason) if known else Reason.NO_CAPACITY, text)
        return Verdict(
            Reason.PODS_STARTING, f"{ready}/{plan.wanted} replicas serve" + (f"; {detail}" if detail else "")
        )
    connected = [item for item in current if item.spec.site not in offline]
    full = _obstacles(connected, only="NoRoomToSurge")
    if full:
        return Verdict(Reason.NO_ROOM_TO_SURGE, f"{ready}/{plan.wanted} replicas serve; {'; '.join(full[:3])}")
    changing = _obstacles(connected, only="PodUpdating")
    if changing:
        return Verdict(Reason.PODS_STARTING, f"{ready}/{plan.wanted} replicas serve; {'; '.join(changing[:3])}")
    sites = _sites(plan, current, fleet)
    away = f", {sites.offline} offline" if sites.offline else ""
    # A message while nothing is missing: some serve where they should not be, for want of another place.
    stays = f"; {plan.message}" if plan.message else ""
    return Verdict(Reason.SERVING, f"{ready}/{plan.wanted} replicas at {sites.ready}/{sites.total} sites{away}{stays}")


def _job_conditions(
    job: InferenceJob, verdict: Verdict, plan: JobPlan, *, whole: Plan, fleet: Fleet, serving: bool
) -> tuple[Condition, ...]:
    now, generation = fleet.now, job.generation
    conditions = set_outcome(
        job.status.conditions, reason=verdict.reason, message=verdict.message, generation=generation, now=now
    )
    fresh, text = freshness(whole, fleet, before=is_true(job.status.conditions, ConditionType.METRICS_FRESH))
    conditions = set_condition(
        conditions,
        type=ConditionType.METRICS_FRESH,
        status=fresh,
        reason=Reason.FRESH if fresh else Reason.STALE,
        message=text,
        generation=generation,
        now=now,
    )
    ignored = unavailable(job.spec).ignored
    if ignored:
        text = f"{', '.join(ignored)}: without effect in this version"
        conditions = set_condition(
            conditions,
            type=ConditionType.FEATURES_IGNORED,
            status=True,
            reason=Reason.UNKNOWN_TO_THIS_VERSION,
            message=text,
            generation=generation,
            now=now,
        )
    else:
        conditions = remove_condition(conditions, ConditionType.FEATURES_IGNORED)
    conditions = _offloading(conditions, job, plan, whole=whole, fleet=fleet)
    missing = serving and not any(release.key == f"{job.namespace}/{job.spec.model.name}" for release in fleet.releases)
    if missing:
        return set_condition(
            conditions,
            type=ConditionType.MODEL_RELEASE_MISSING,
            status=True,
            reason=Reason.MISSING,
            message=f"ModelRelease {job.spec.model.name} is not there; what it released before serves on",
            generation=generation,
            now=now,
        )
    return remove_condition(conditions, ConditionType.MODEL_RELEASE_MISSING)


def _offloading(
    conditions: tuple[Condition, ...], job: InferenceJob, plan: JobPlan, *, whole: Plan, fleet: Fleet
) -> tuple[Condition, ...]:
    """Whether every site of the job may offload; the first that may not is named."""
    asked = job.spec.offload
    if asked is None:
        return remove_condition(conditions, ConditionType.OFFLOADING)
    known, sites = {one.key for one in fleet.jobs}, {site.name: site for site in fleet.sites}
    hindrances = [offload.hindrance(job, item.site, known=known, plan=whole, sites=sites) for item in plan.placements]
    first = next((one for one in hindrances if one is not None), None)
    return set_condition(
        conditions,
        type=ConditionType.OFFLOADING,
        status=first is None,
        reason=first.reason if first else Reason.OFFLOADING,
        message=first.message if first else f"hard requests may go to InferenceJob {asked.job}",
        generation=job.generation,
        now=fleet.now,
    )


def freshness(plan: Plan, fleet: Fleet, *, before: bool) -> tuple[bool, str]:
    """Whether the plan rested on fresh figures, and what was missing. No ages in the text: they change all the time.

    before: what was said last. True stays until a sample is in doubt, False until all are fresh again, so that a scrape
    that comes late now and then is no news; the text counts the doubted ones only, for the same reason.
    """
    if before and not plan.doubted_nodes:
        return True, ""
    if fleet.metrics_problem:
        return False, f"{fleet.metrics_problem}; placement goes on by requests, and nothing moves"
    if plan.total_nodes and plan.fresh_nodes < plan.total_nodes:
        if not plan.doubted_nodes:
            return False, "not every node has fresh figures again"
        lacking = plan.doubted_nodes
        why = "; ".join(text if count == lacking else f"{text}: {count}" for text, count in plan.doubts[:3])
        told = f" ({why})" if why else ""
        return False, f"{lacking} of {plan.total_nodes} nodes have no fresh figures{told}; they are judged by requests"
    return True, ""


def _decisions(plan: JobPlan, current: list[Assignment], clusters: Mapping[str, str]) -> tuple[Decision, ...]:
    """clusters: by site."""
    ready = {(item.spec.site, node.name): node.ready for item in current for node in item.status.nodes}
    sites: dict[str, list[plan_model.Placement]] = {}
    for placement in plan.placements:
        sites.setdefault(placement.site, []).append(placement)
    decisions = [
        Decision(
            cluster_name=clusters.get(site, OWN_CLUSTER),
            site=site,
            # A node that is gone has none any more.
            tier=group[0].tier or None,
            nodes=tuple(sorted(item.node for item in group)),
            replicas=sum(item.replicas for item in group),
            ready_replicas=sum(min(ready.get((site, item.node), 0), item.replicas) for item in group),
            score=max(per_mille(item.score) for item in group),
            since=format_time(max(item.since for item in group)),
        )
        for site, group in sites.items()
    ]
    return tuple(sorted(decisions, key=lambda item: (item.ready_replicas >= item.replicas, item.site)))


def _essence(decisions: Iterable[Decision]) -> list[tuple[object, ...]]:
    """What makes a decision another one; readiness and scores do not.

    Nor does its age: a placement that is in no Assignment yet is decided as of now in each pass.
    """
    return sorted((item.site, item.nodes, item.replicas) for item in decisions)


def _as_since(decisions: Iterable[Decision], before: Iterable[Decision]) -> tuple[Decision, ...]:
    """With the times of the same decisions as they were told before."""
    told = {(item.site, item.nodes, item.replicas): item.since for item in before}
    return tuple(
        item.model_copy(update={"since": told.get((item.site, item.nodes, item.replicas)) or item.since})
        for item in decisions
    )


def _last_obstacle(before: InferenceJobStatus) -> str:
    return before.explanation.message if before.explanation else ""


def _ready(plan: JobPlan, current: list[Assignment]) -> int:
    """Replicas that serve, at most as many as the plan wants on each node; leaving ones serve too but do not count."""
    ready = {(item.spec.site, node.name): node.ready for item in current for node in item.status.nodes}
    planned = sum(min(ready.get((item.site, item.node), 0), item.replicas) for item in plan.placements)
    leaving = sum(
        min(ready.get((item.spec.site, node.name), 0), node.leaving) for item in current for node in item.spec.nodes
    )
    return min(planned + leaving, plan.wanted)


def _sites(plan: JobPlan, current: list[Assignment], fleet: Fleet) -> SitesStatus:
    offline = {site.name for site in fleet.sites if not site.connected}
    decisions = _decisions(plan, current, {})
    return SitesStatus(
        total=len(decisions),
        ready=sum(item.ready_replicas >= item.replicas for item in decisions if item.site not in offline),
        offline=sum(item.site in offline for item in decisions),
    )


def _in_the_way(plan: JobPlan, ending: Iterable[Assignment]) -> list[str]:
    """Sites that are wanted again while their old Assignment is not gone; the new one has the same name and waits."""
    wanted = {item.site for item in plan.placements}
    return [
        f"the old Assignment at {item.spec.site} is still ending: "
        + (", ".join(sorted(node.name for node in item.status.nodes)[:5]) or "nothing is left on its nodes")
        for item in ending
        if item.spec.site in wanted
    ]


def _obstacles(current: list[Assignment], only: str = "") -> list[str]:
    return [
        f"{node.name}: {node.reason}" + (f": {node.message[:300]}" if node.message else "")
        for assignment in current
        for node in assignment.status.nodes
        if node.reason and (not only or node.reason == only)
    ]


def _priority(plan: JobPlan) -> PriorityStatus:
    return PriorityStatus(tier=plan.priority_tier, score=round(plan.p * 1000))


def _exclusions(plan: JobPlan, fleet: Fleet) -> tuple[Exclusion, ...]:
    sites = {node.name: node.site for node in fleet.nodes}
    return tuple(
        Exclusion(
            node=item.node,
            site=site_of_pool(item.node) or sites.get(item.node, ""),
            reason=item.reason,
            message=item.message[:1024],
            count=item.count,
            until=format_time(item.until),
        )
        for item in plan.exclusions[:100]
    )
