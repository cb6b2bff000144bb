"""From raw objects to a Fleet. Pure: everything comes in as arguments, the time included.

One bad object never spoils the snapshot: it becomes a job or a release with a Problem that names the field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgeward.api.assignment import Assignment
from edgeward.api.common import (
    ApiError,
    LabelSelector,
    parse_bandwidth,
    parse_bytes,
    parse_cpu,
    parse_time,
    seconds,
)
from edgeward.api.features import unavailable
from edgeward.api.inferencejob import InferenceJob
from edgeward.api.modelrelease import ModelRelease
from edgeward.api.site import Site as SiteObject

from . import scaled
from .amounts import amounts, pod_request
from .failures import Refused, exclusions
from .model import (
    OWN_CLUSTER,
    Exclusion,
    Fleet,
    Job,
    Live,
    ModelVersion,
    Moves,
    Node,
    Placed,
    Priority,
    Problem,
    ProposedMove,
    Release,
    Resources,
    ServedModel,
    Site,
    SiteModels,
    Taint,
    Toleration,
)
from .names import LABEL_ASSIGNMENT, LABEL_SITE, LABEL_TIER
from .pools import Pooled, pooled
from .reading import Reader
from .sites import membership, node_selector
from .traffic import Measured, with_traffic

Raw = Mapping[str, Any]

DEFAULT_REQUEST = Resources(cpu=100, memory=128 * 1024 * 1024, pods=1)
"""what one replica is taken to need when its job names nothing: the runtime with a small model"""


KNOWN_OTHERWISE = frozenset(f"node.kubernetes.io/{state}" for state in ("not-ready", "unreachable", "unschedulable"))
"""taints that say what Node.ready and Node.unschedulable say; the others (pressure, no network) refuse pods"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    refused_after: float = 60.0
    """seconds a pod may be refused before its node is excluded for the job"""
    pool_patience: float = 600.0
    """seconds a pod may wait at an elastic site for the pool to grow before the site is excluded for the job"""
    scrape_interval: float = 15.0
    architectures: frozenset[str] = frozenset({"amd64", "arm64"})
    """for which there is a runtime image"""


def build(
    *,
    now: float,
    nodes: Iterable[Raw],
    pods: Iterable[Raw],
    jobs: Iterable[Raw],
    releases: Iterable[Raw],
    sites: Iterable[Raw],
    assignments: Iterable[Raw],
    live: Mapping[str, Live] | None = None,
    measured: Iterable[Measured] = (),
    metrics_problem: str = "",
    settings: BuildSettings | None = None,
    reader: Reader | None = None,
) -> Fleet:
    """A Fleet of everything. `live` is by node name; a node that is not in it is unknown, not idle.

    reader: one that is kept from call to call saves reading what has not changed; the result is the same.
    """
    settings, reader = settings or BuildSettings(), reader or Reader()
    node_list, pod_list = list(nodes), list(pods)
    declared = [site for site in (_site_object(raw, reader) for raw in sites) if site is not None]
    parsed, broken = _assignments(assignments, reader)
    by_job: dict[str, list[Assignment]] = {}
    for assignment in parsed:
        by_job.setdefault(f"{assignment.spec.job.namespace}/{assignment.spec.job.name}", []).append(assignment)
    job_list = [item for item in jobs if "deletionTimestamp" not in item["metadata"]]
    known_jobs = {f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in job_list}
    owner = {
        assignment.name: f"{assignment.spec.job.namespace}/{assignment.spec.job.name}"
        for assignment in parsed
        if f"{assignment.spec.job.namespace}/{assignment.spec.job.name}" in known_jobs
    }
    started, foreign = _pods(pod_list, owner)
    labels = {node["metadata"]["name"]: node["metadata"].get("labels") or {} for node in node_list}
    member = membership(labels, declared)
    digests = _digests(parsed)
    fleet_nodes = tuple(
        _node(raw, member.site, member.tier, foreign, live or {}, digests)
        for raw in sorted(node_list, key=lambda item: str(item["metadata"]["name"]))
        if raw["metadata"]["name"] in member.site
    )
    by_name = {node.name: node for node in fleet_nodes}
    unlabelled = frozenset(labels.keys() - by_name.keys())
    release_list = tuple(
        _release(raw, parsed, reader) for raw in releases if "deletionTimestamp" not in raw["metadata"]
    )
    by_release = {release.key: release for release in release_list}
    fleet_sites = _sites(fleet_nodes, declared)
    places = pooled(by_name, fleet_sites, started)
    return Fleet(
        now=now,
        nodes=fleet_nodes,
        sites=fleet_sites,
        jobs=with_traffic(
            (
                _job(
                    raw,
                    by_job,
                    broken,
                    places,
                    by_release,
                    unlabelled=unlabelled,
                    now=now,
                    settings=settings,
                    reader=reader,
                )
                for raw in job_list
            ),
            measured,
        ),
        releases=release_list,
        scrape_interval=settings.scrape_interval,
        metrics_problem=metrics_problem,
    )


# Nodes and sites ---------------------------------------------------------------------------------------------------


def _node(
    raw: Raw,
    sites: Mapping[str, str],
    tiers: Mapping[str, str],
    foreign: Mapping[str, Resources],
    live: Mapping[str, Live],
    digests: Mapping[str, frozenset[str]],
) -> Node:
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    name = meta["name"]
    ready: Raw = next((item for item in status.get("conditions") or [] if item.get("type") == "Ready"), {})
    is_ready = ready.get("status") == "True"
    labels = dict(meta.get("labels") or {})
    info = status.get("nodeInfo") or {}
    return Node(
        name=name,
        site=sites[name],
        tier=tiers[name],
        arch=info.get("architecture") or labels.get("kubernetes.io/arch", "amd64"),
        labels=labels,
        taints=tuple(
            Taint(key=item["key"], value=item.get("value", ""), effect=item["effect"])
            for item in spec.get("taints") or []
            if item["key"] not in KNOWN_OTHERWISE
        ),
        ready=is_ready,
        not_ready_since=None if is_ready else _time(ready.get("lastTransitionTime")),
        unschedulable=bool(spec.get("unschedulable")),
        allocatable=amounts(status.get("allocatable") or {}),
        foreign=foreign.get(name, Resources()),
        live=live.get(name, Live()),
        models=digests.get(name, frozenset()),
    )


def _sites(nodes: Iterable[Node], declared: Iterable[SiteObject]) -> tuple[Site, ...]:
    members: dict[str, list[Node]] = {}
    for node in nodes:
        members.setdefault(node.site, []).append(node)
    objects = {site.name: site for site in declared}
    return tuple(
        _site(name, members.get(name, []), objects.get(name)) for name in sorted(members.keys() | objects.keys())
    )


def _site(name: str, nodes: list[Node], declared: SiteObject | None) -> Site:
    spec = declared.spec if declared else None
    tier = (spec.tier if spec else None) or (nodes[0].tier if nodes else "")
    region = (spec.region if spec else None) or ""
    own = dict(declared.metadata.labels) if declared else {}
    uplink = spec.uplink if spec else None
    elastic = bool(spec and spec.nodes == "Elastic")
    refused = bool(declared and unavailable(declared.spec).protecting)
    return Site(
        name=name,
        tier=tier,
        # Which cluster a site that dials in belongs to, only its agent can say; until then it is one of its own.
        cluster=name if spec and spec.connection and spec.connection.mode == "Pull" else OWN_CLUSTER,
        region=region,
        labels={**own, LABEL_SITE: name, LABEL_TIER: tier},
        # A pool without a node, scaled down to nothing, is as much there as its API server.
        connected=elastic or any(node.ready for node in nodes),
        # A Site that asks for a protection that does not work yet gets nothing new.
        unschedulable=bool(spec and spec.unschedulable) or refused,
        frozen=bool(spec and spec.frozen),
        bandwidth=float(parse_bandwidth(uplink.bandwidth)) if uplink and uplink.bandwidth else None,
        rtt=seconds(uplink.rtt) if uplink and uplink.rtt else None,
        elastic=elastic,
        node_labels=node_selector(declared) if declared else {},
    )


def _digests(assignments: Iterable[Assignment]) -> dict[str, frozenset[str]]:
    """Models in the stores, by node: what a site's assignments say is served, on each of their nodes that is ready."""
    found: dict[str, set[str]] = {}
    for assignment in assignments:
        serving = {model.digest for model in assignment.status.models if model.serving}
        for node in assignment.status.nodes:
            if node.ready:
                found.setdefault(node.name, set()).update(serving)
    return {node: frozenset(digests) for node, digests in found.items()}


def _pods(
    pods: Iterable[Raw], owner: Mapping[str, str]
) -> tuple[dict[tuple[str, str], tuple[float, ...]], dict[str, Resources]]:
    """Start times of our own pods by (job, node), and what all others request by node."""
    started: dict[tuple[str, str], tuple[float, ...]] = {}
    foreign: dict[str, Resources] = {}
    for pod in pods:
        node = (pod.get("spec") or {}).get("nodeName")
        if not node or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            continue
        meta = pod["metadata"]
        job = owner.get((meta.get("labels") or {}).get(LABEL_ASSIGNMENT, ""))
        if job is None:
            foreign[node] = foreign.get(node, Resources()) + pod_request(pod)
        else:
            begun = _time((pod.get("status") or {}).get("startTime")) or _time(meta.get("creationTimestamp")) or 0.0
            started[job, node] = tuple(sorted((*started.get((job, node), ()), begun)))
    return started, foreign


# Jobs --------------------------------------------------------------------------------------------------------------


def _job(
    raw: Raw,
    by_job: Mapping[str, list[Assignment]],
    broken: Mapping[str, Problem],
    places: Pooled,
    releases: Mapping[str, Release],
    *,
    unlabelled: frozenset[str],
    now: float,
    settings: BuildSettings,
    reader: Reader,
) -> Job:
    meta = raw["metadata"]
    key = f"{meta['namespace']}/{meta['name']}"
    assignments = by_job.get(key, [])
    placed = _placed(key, assignments, places, unlabelled=unlabelled, now=now)
    try:
        read = reader.read(InferenceJob, raw)
        problem = _problem(reader.features(raw, read.spec).protecting)
        job = _readable(read, assignments, placed, releases, problem=problem, now=now, settings=settings)
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
        created_at=_time(meta.get("creationTimestamp")) or 0.0,
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
) -> Job:
    spec, status = job.spec, job.status
    release = releases.get(f"{job.namespace}/{spec.model.name}")
    data = spec.data
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
        model_name=spec.model.name,
        model_digest=_wanted_digest(job, release, assignments),
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
        moves=Moves(_time(status.moves.window_start) or 0.0, status.moves.count) if status.moves else Moves(),
    )


def _explained(job: InferenceJob, placed: tuple[Placed, ...]) -> bool:
    """Whether status already says why the replicas are where they are assigned."""
    said = {node for decision in job.status.decisions for node in decision.nodes}
    return job.status.explanation is not None and said == {item.node for item in placed if item.replicas}


def request_of(requests: Raw, limits: Raw) -> Resources:
    """What one replica requests. As in a pod, a limit without a request is the request; what neither names is a default."""
    cpu = requests.get("cpu", limits.get("cpu"))
    memory = requests.get("memory", limits.get("memory"))
    return Resources(
        cpu=DEFAULT_REQUEST.cpu if cpu is None else parse_cpu(cpu),
        memory=DEFAULT_REQUEST.memory if memory is None else parse_bytes(memory),
        pods=1,
    )


def _problem(protecting: tuple[str, ...]) -> Problem | None:
    """The Problem of an object that asks for protections which do not work yet, by the paths of their fields."""
    if not protecting:
        return None
    return Problem(
        reason="FeatureNotYetAvailable",
        message=f"{', '.join(protecting)}: this version cannot honour it; remove the field, or wait for a version that can",
        path=protecting[0],
    )


def _wanted_digest(job: InferenceJob, release: Release | None, assignments: list[Assignment]) -> str:
    """What the job is meant to run: its release's target when the pin allows it, else what it has been told before."""
    pin = job.spec.model
    target = release.target if release and not release.problem else None
    if (
        target
        and (not pin.version or pin.version == target.version)
        and (not pin.digest or pin.digest == target.digest)
    ):
        return target.digest
    for assignment in assignments:
        for model in assignment.spec.models:
            if pin.name == model.name and pin.digest in (None, model.digest) and pin.version in (None, model.version):
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
        for node in assignment.spec.nodes:
            report = reports.get(node.name)
            lost = None
            if node.name in unlabelled:
                lost = 0.0
            elif node.name not in nodes:
                gone = report is not None and report.reason == "NodeGone"
                lost = (_time(report.since) if report and gone else None) or now
            elif not nodes[node.name].ready:
                lost = nodes[node.name].not_ready_since or now
            here = Placed(
                node=node.name,
                site=assignment.spec.site,
                replicas=node.replicas,
                ready=min(report.ready, node.replicas) if report else 0,
                started=started.get((key, node.name), ()),
                on=places.on.get((key, node.name), ()),
                since=_time(node.since) or assignment.created,
                lost_since=lost,
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
        if node.reason and (since := _time(node.since)) is not None
    ]


def _known_exclusions(job: InferenceJob) -> list[Exclusion]:
    return [
        Exclusion(node=item.node, reason=item.reason, message=item.message, count=item.count, until=until)
        for item in job.status.exclusions
        if (until := _time(item.until)) is not None
    ]


def _proposed(job: InferenceJob) -> ProposedMove | None:
    said = job.status.proposed_move
    seen = _time(said.last_at) if said else None
    if said is None or seen is None:
        return None
    return ProposedMove(source=said.source, target=said.target, evaluations=said.evaluations, last_at=seen)


# Releases ----------------------------------------------------------------------------------------------------------


def _release(raw: Raw, assignments: list[Assignment], reader: Reader) -> Release:
    meta = raw["metadata"]
    base = {
        "namespace": meta["namespace"],
        "name": meta["name"],
        "uid": meta.get("uid", ""),
        "generation": int(meta.get("generation") or 0),
    }
    sites = tuple(
        _site_models(assignment, meta["name"])
        for assignment in assignments
        if assignment.spec.job.namespace == meta["namespace"]
        and not assignment.deleting
        and (any(model.name == meta["name"] for model in assignment.spec.models))
    )
    try:
        release = reader.read(ModelRelease, raw)
    except ApiError as error:
        path, text = error.problems[0]
        return Release(**base, problem=Problem(reason="InvalidSpec", message=f"{path}: {text}", path=path), sites=sites)
    spec, status = release.spec, release.status
    problem = _problem(reader.features(raw, spec).protecting)
    target = None
    if spec.artifact and spec.version:
        target = ModelVersion(
            name=release.name,
            version=spec.version,
            digest=spec.artifact.digest,
            sources=(spec.artifact.uri, *spec.artifact.mirrors),
            parameters=dict(spec.parameters),
        )
    current = None
    if status.current_version and status.current_digest:
        current = ModelVersion(name=release.name, version=status.current_version, digest=status.current_digest)
    return Release(**base, target=target, current=current, paused=spec.paused, problem=problem, sites=sites)


def _site_models(assignment: Assignment, model_name: str) -> SiteModels:
    told = next((model for model in assignment.spec.models if model.name == model_name), None)
    return SiteModels(
        job=f"{assignment.spec.job.namespace}/{assignment.spec.job.name}",
        site=assignment.spec.site,
        told=ModelVersion(
            name=told.name,
            version=told.version,
            digest=told.digest,
            sources=tuple(told.sources),
            parameters=dict(told.parameters),
        )
        if told
        else None,
        served=tuple(
            ServedModel(
                digest=model.digest,
                version=model.version,
                serving=model.serving,
                refused_step=model.refused.step if model.refused else "",
                refused_reason=model.refused.reason if model.refused else "",
                refused_message=model.refused.message if model.refused else "",
            )
            for model in assignment.status.models
        ),
        ready=assignment.status.ready_replicas,
        replicas=sum(node.replicas for node in assignment.spec.nodes),
    )


# Small readers -----------------------------------------------------------------------------------------------------


def _assignments(raws: Iterable[Raw], reader: Reader) -> tuple[list[Assignment], dict[str, Problem]]:
    """Those that can be read, and a Problem by job for the others.

    Only Edgeward writes them. A job whose Assignment cannot be read is left as it is: planned without it, it would be
    started a second time elsewhere.
    """
    found: list[Assignment] = []
    broken: dict[str, Problem] = {}
    for raw in raws:
        try:
            found.append(reader.parse(Assignment, raw))
        except ApiError as error:
            path, text = error.problems[0]
            message = f"Assignment {raw['metadata']['name']}: {path}: {text}"
            broken[_job_named_by(raw)] = Problem(reason="InvalidSpec", message=message, path=path)
    return found, broken


def _job_named_by(raw: Raw) -> str:
    spec = raw.get("spec")
    job = spec.get("job") if isinstance(spec, Mapping) else None
    return f"{job.get('namespace')}/{job.get('name')}" if isinstance(job, Mapping) else ""


def _site_object(raw: Raw, reader: Reader) -> SiteObject | None:
    try:
        return reader.read(SiteObject, raw)
    except ApiError:
        return None


def _time(text: str | None) -> float | None:
    try:
        return parse_time(text) if text else None
    except ValueError:
        return None
