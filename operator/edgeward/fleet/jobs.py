"""InferenceJobs and what their Assignments say, from raw objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from edgeward.api.assignment import Assignment
from edgeward.api.common import ApiError, LabelSelector, parse_bandwidth, parse_bytes, seconds
from edgeward.api.conditions import ConditionType, Reason, find
from edgeward.api.inferencejob import InferenceJob

from . import scaled
from .amounts import DEFAULT_REQUEST, request_of
from .failures import Refused, exclusions
from .lessons import lesson
from .limits import Limits
from .model import (
    Exclusion,
    Followed,
    Job,
    Moves,
    Nomination,
    Placed,
    Priority,
    Problem,
    ProposedMove,
    Release,
    Toleration,
)
from .pins import Pin, pinned
from .pods import read_pods
from .pools import Pooled
from .reading import Reader, not_yet, time_of
from .settings import BuildSettings

Raw = Mapping[str, Any]


def read_job(
    raw: Raw,
    by_job: Mapping[str, list[Assignment]],
    broken: Mapping[str, Problem],
    places: Pooled,
    releases: Mapping[str, Release],
    limits: Limits,
    *,
    unlabelled: frozenset[str],
    now: float,
    settings: BuildSettings,
    reader: Reader,
    looked: Mapping[str, Followed],
) -> Job:
    meta = raw["metadata"]
    key = f"{meta['namespace']}/{meta['name']}"
    assignments = by_job.get(key, [])
    placed = _placed(key, assignments, places, unlabelled=unlabelled, now=now)
    try:
        read = reader.read(InferenceJob, raw)
        problem = not_yet(reader.features(raw, read.spec).protecting) or limits.problem(read) or _unclear(read)
        job = _readable(read, assignments, placed, releases, problem=problem, now=now, settings=settings, looked=looked)
        return replace(job, problem=job.problem or broken.get(key))
    except ApiError as error:
        path, text = error.problems[0]
        problem = Problem(reason="InvalidSpec", message=f"{path}: {text}", path=path)
    except ValueError as error:
        # A value that the schema lets through and its reader does not.
        problem = Problem(reason="InvalidSpec", message=str(error))
    return Job(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta.get("uid", ""),
        created_at=time_of(meta.get("creationTimestamp")) or 0.0,
        generation=int(meta.get("generation") or 0),
        replicas=sum(item.replicas for item in placed),
        request=DEFAULT_REQUEST,
        problem=problem,
        placed=placed,
    )


def _readable(
    job: InferenceJob,
    assignments: list[Assignment],
    placed: tuple[Placed, ...],
    releases: Mapping[str, Release],
    *,
    problem: Problem | None,
    now: float,
    settings: BuildSettings,
    looked: Mapping[str, Followed],
) -> Job:
    spec, status = job.spec, job.status
    release = releases.get(f"{job.namespace}/{spec.model.name}")
    data = spec.data
    names_one = spec.model.version is not None or spec.model.digest is not None
    pin = pinned(spec.model, release, looked) if names_one else Pin()
    return Job(
        namespace=job.namespace,
        name=job.name,
        uid=job.uid,
        created_at=job.created,
        generation=job.generation,
        priority=Priority(spec.priority.importance, spec.priority.urgency, spec.priority.satisfaction),
        replicas=scaled.replicas(job),
        scaling=scaled.bounds(job),
        scaled=scaled.scaled(job),
        learned=lesson(status),
        request=request_of(spec.resources.requests, spec.resources.limits),
        tiers=frozenset(spec.placement.tiers) or frozenset({"edge", "fog", "cloud"}),
        site_selector=spec.placement.site_selector or LabelSelector(),
        node_selector=dict(spec.placement.node_selector),
        tolerations=tuple(
            Toleration(
                key=item.key or "", operator=item.operator or "Equal", value=item.value or "", effect=item.effect or ""
            )
            for item in spec.placement.tolerations
        ),
        architectures=settings.architectures,
        request_bytes=parse_bytes(data.request_size) if data and data.request_size else None,
        response_bytes=parse_bytes(data.response_size) if data and data.response_size else None,
        source_selector=data.source.site_selector if data and data.source else None,
        lost_after=seconds(spec.disconnect.lost_after),
        replace_lost=spec.disconnect.replace,
        per_site=spec.replica_scope == "PerSite",
        residency=data.residency if data else "Anywhere",
        slo_latency=seconds(spec.slo.latency) if spec.slo and spec.slo.latency else None,
        slo_throughput=float(spec.slo.throughput) if spec.slo and spec.slo.throughput else None,
        max_drain=seconds(data.max_drain) if data and data.max_drain else None,
        min_bandwidth=float(parse_bandwidth(spec.placement.min_bandwidth)) if spec.placement.min_bandwidth else None,
        max_per_site=spec.placement.spread.max_per_site if spec.placement.spread else None,
        min_sites=spec.placement.spread.min_sites if spec.placement.spread else None,
        waiting_since=_waiting_since(job),
        nomination=_nomination(job),
        preempted=_preempted(job),
        model_name=spec.model.name,
        model_digest=_wanted_digest(job, release, assignments, pin),
        pin=pin.version,
        pinned=names_one,
        pin_message=pin.message,
        asks=pin.asks,
        problem=problem,
        placed=placed,
        exclusions=exclusions(
            _known_exclusions(job),
            _refused(assignments),
            now=now,
            patience=settings.refused_after,
            pool_patience=settings.pool_patience,
        ),
        explained=_explained(job, placed),
        proposed=_proposed(job),
        moves=Moves(time_of(status.moves.window_start) or 0.0, status.moves.count) if status.moves else Moves(),
        pods=read_pods(job, assignments, now=now, patience=settings.refused_after),
    )


def _unclear(job: InferenceJob) -> Problem | None:
    """A protection that says too little to be kept."""
    data = job.spec.data
    if data is None:
        return None
    source = data.source is not None and data.source.site_selector is not None
    if data.residency != "Anywhere" and not source:
        text = (
            f"spec.data.residency is {data.residency}, but spec.data.source.siteSelector does not say where the data is"
        )
        return Problem(reason="InvalidSpec", message=text, path="spec.data.source.siteSelector")
    if data.max_drain and not (source and data.request_size):
        missing = "spec.data.requestSize" if source else "spec.data.source.siteSelector"
        text = f"spec.data.maxDrain needs {missing}: without it nobody knows what has to drain"
        return Problem(reason="InvalidSpec", message=text, path=missing)
    return None


def _waiting_since(job: InferenceJob) -> float | None:
    """Since when status says that replicas have no place."""
    placed = next((item for item in job.status.conditions if item.type == ConditionType.PLACED), None)
    return time_of(placed.last_transition_time) if placed and placed.status == "False" else None


def _nomination(job: InferenceJob) -> Nomination | None:
    said = job.status.nomination
    until = time_of(said.until) if said else None
    if said is None or until is None:
        return None
    return Nomination(site=said.site, node=said.node, victims=said.victims, until=until)


def _preempted(job: InferenceJob) -> str:
    """Who took its room, as status says; what follows the first semicolon is why no other node fits."""
    ready = find(job.status.conditions, ConditionType.READY)
    return ready.message.partition("; ")[0] if ready and ready.reason == Reason.PREEMPTED else ""


def _explained(job: InferenceJob, placed: tuple[Placed, ...]) -> bool:
    """Whether status already says why the replicas are where they are assigned."""
    said = {node for decision in job.status.decisions for node in decision.nodes}
    return job.status.explanation is not None and said == {item.node for item in placed if item.replicas}


def _wanted_digest(job: InferenceJob, release: Release | None, assignments: list[Assignment], pin: Pin) -> str:
    """What the job is meant to run: what it is pinned to, or its release's target, else what it has been told before."""
    name, version, digest = job.spec.model.name, job.spec.model.version, job.spec.model.digest
    if pin.version is not None:
        return pin.version.digest
    target = release.target if release and not release.problem else None
    if target and not version and not digest:
        return target.digest
    for assignment in assignments:
        for model in assignment.spec.models:
            if name == model.name and digest in (None, model.digest) and version in (None, model.version):
                return model.digest
    return ""


def _placed(
    key: str,
    assignments: Iterable[Assignment],
    places: Pooled,
    *,
    unlabelled: frozenset[str],
    now: float,
) -> tuple[Placed, ...]:
    """unlabelled: nodes that are in the cluster and no longer Edgeward's. They count as gone for long: a label that was
    taken off is a word, and what runs there goes once its replacement serves."""
    nodes, started = places.places, places.started
    found: dict[str, Placed] = {}
    for assignment in assignments:
        if assignment.deleting:
            continue
        reports = {report.name: report for report in assignment.status.nodes}
        protected = find(assignment.status.conditions, ConditionType.PROTECTED)
        for node in assignment.spec.nodes:
            report = reports.get(node.name)
            lost = None
            if node.name in unlabelled:
                lost = 0.0
            elif node.name not in nodes:
                gone = report is not None and report.reason == "NodeGone"
                lost = (time_of(report.since) if report and gone else None) or now
            elif not nodes[node.name].ready:
                lost = nodes[node.name].not_ready_since or now
            here = Placed(
                node=node.name,
                site=assignment.spec.site,
                replicas=node.replicas,
                ready=min(report.ready, node.replicas) if report else 0,
                started=started.get((key, node.name), ()),
                on=places.on.get((key, node.name), ()),
                since=time_of(node.since) or assignment.created,
                lost_since=lost,
                moved_from=node.moved_from or "",
                protected=protected.message if protected and protected.status == "True" else "",
            )
            found[node.name] = _together(found[node.name], here) if node.name in found else here
    for (job, name), times in started.items():
        if job == key and name not in found and name in nodes:
            on = places.on.get((key, name), ())
            found[name] = Placed(node=name, site=nodes[name].site, replicas=0, started=times, on=on)
    return tuple(found[name] for name in sorted(found))


def _together(one: Placed, other: Placed) -> Placed:
    """A node that changed its site is in two Assignments until what it held under the old one has gone."""
    if one.replicas and other.replicas:
        first, second = (one, other) if one.since <= other.since else (other, one)
        return replace(second, replicas=one.replicas + other.replicas, ready=one.ready + other.ready, since=first.since)
    return one if one.replicas else other


def _refused(assignments: Iterable[Assignment]) -> list[Refused]:
    return [
        Refused(node=node.name, reason=node.reason, message=node.message, since=since)
        for assignment in assignments
        if not assignment.deleting
        for node in assignment.status.nodes
        if node.reason and (since := time_of(node.since)) is not None
    ]


def _known_exclusions(job: InferenceJob) -> list[Exclusion]:
    return [
        Exclusion(node=item.node, reason=item.reason, message=item.message, count=item.count, until=until)
        for item in job.status.exclusions
        if (until := time_of(item.until)) is not None
    ]


def _proposed(job: InferenceJob) -> ProposedMove | None:
    said = job.status.proposed_move
    seen = time_of(said.last_at) if said else None
    if said is None or seen is None:
        return None
    return ProposedMove(source=said.source, target=said.target, evaluations=said.evaluations, last_at=seen)
