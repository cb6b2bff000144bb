"""From raw objects to a Fleet. Pure: everything comes in as arguments, the time included.

One bad object never spoils the snapshot: it becomes a job or a release with a Problem that names the field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edgeward.api.assignment import Assignment
from edgeward.api.common import ApiError
from edgeward.api.site import Site as SiteObject

from .jobs import read_job
from .limits import Limits
from .model import Answer, Fleet, Followed, Live, Problem
from .places import digests_by_node, read_node, read_pods, read_sites
from .pools import pooled
from .reading import Reader
from .releases import read_release
from .settings import BuildSettings
from .sites import membership
from .traffic import Measured, with_traffic

Raw = Mapping[str, Any]


def build(
    *,
    now: float,
    nodes: Iterable[Raw],
    pods: Iterable[Raw],
    jobs: Iterable[Raw],
    releases: Iterable[Raw],
    sites: Iterable[Raw],
    assignments: Iterable[Raw],
    namespaces: Iterable[Raw] = (),
    live: Mapping[str, Live] | None = None,
    heard: Mapping[str, bool] | None = None,
    measured: Iterable[Measured] = (),
    metrics_problem: str = "",
    answers: Mapping[str, Answer] | None = None,
    followed: Mapping[str, Followed] | None = None,
    settings: BuildSettings | None = None,
    reader: Reader | None = None,
) -> Fleet:
    """A Fleet of everything. `live` is by node name; a node that is not in it is unknown, not idle. `heard`: see
    read_sites. `followed`: the last looks at repositories by namespace/name of the release, and
    at what jobs are pinned to by pins.asked_key().

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
    started, foreign = read_pods(pod_list, owner)
    labels = {node["metadata"]["name"]: node["metadata"].get("labels") or {} for node in node_list}
    member = membership(labels, declared)
    digests = digests_by_node(parsed)
    fleet_nodes = tuple(
        read_node(raw, member.site, member.tier, foreign, live or {}, digests)
        for raw in sorted(node_list, key=lambda item: str(item["metadata"]["name"]))
        if raw["metadata"]["name"] in member.site
    )
    by_name = {node.name: node for node in fleet_nodes}
    unlabelled = frozenset(labels.keys() - by_name.keys())
    by_model: dict[str, list[Assignment]] = {}
    for assignment in parsed:
        for name in {model.name for model in assignment.spec.models}:
            by_model.setdefault(f"{assignment.spec.job.namespace}/{name}", []).append(assignment)
    release_list = tuple(
        read_release(raw, by_model.get(_key(raw), []), reader, followed=(followed or {}).get(_key(raw)))
        for raw in releases
        if "deletionTimestamp" not in raw["metadata"]
    )
    by_release = {release.key: release for release in release_list}
    fleet_sites = read_sites(fleet_nodes, declared, heard)
    limits = Limits(namespaces, max_priority_tier=settings.max_priority_tier)
    places = pooled(by_name, fleet_sites, started)
    return Fleet(
        now=now,
        nodes=fleet_nodes,
        sites=fleet_sites,
        jobs=with_traffic(
            (
                read_job(
                    raw,
                    by_job,
                    broken,
                    places,
                    by_release,
                    limits,
                    unlabelled=unlabelled,
                    now=now,
                    settings=settings,
                    reader=reader,
                    looked=followed or {},
                )
                for raw in job_list
            ),
            measured,
            learning=settings.learning,
        ),
        releases=release_list,
        namespaces=limits.namespaces,
        max_priority_tier=limits.max_priority_tier,
        scrape_interval=settings.scrape_interval,
        metrics_problem=metrics_problem,
        answers=answers or {},
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


def _key(raw: Raw) -> str:
    return f"{raw['metadata']['namespace']}/{raw['metadata']['name']}"


def _job_named_by(raw: Raw) -> str:
    spec = raw.get("spec")
    job = spec.get("job") if isinstance(spec, Mapping) else None
    return f"{job.get('namespace')}/{job.get('name')}" if isinstance(job, Mapping) else ""


def _site_object(raw: Raw, reader: Reader) -> SiteObject | None:
    try:
        return reader.read(SiteObject, raw)
    except ApiError:
        return None
