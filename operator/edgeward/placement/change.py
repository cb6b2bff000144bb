"""A Fleet with something changed in it, to ask what would happen. Pure; what cannot be changed so is a ChangeError."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from edgeward.fleet.model import Fleet, Job, Live, Node, Release, Resources, Sample, Site, Taint
from edgeward.fleet.names import LABEL_SITE, LABEL_TIER, pool_name

TIERS = ("edge", "fog", "cloud")
FROM_SPEC = frozenset(
    {
        *("namespace", "name", "generation", "priority", "replicas", "request", "tiers", "site_selector"),
        *("node_selector", "tolerations", "architectures", "request_bytes", "response_bytes", "source_selector"),
        *("lost_after", "replace_lost", "per_site", "residency", "slo_latency", "slo_throughput", "max_drain"),
        *("min_bandwidth", "max_per_site", "min_sites", "scaling", "model_name", "model_digest", "problem"),
        *("pin", "pinned", "pin_message", "asks"),
    }
)
"""what a job's spec says; all else of a Job is what is known of the job that is there"""


class ChangeError(Exception):
    """`field` is what of the change is wrong, `remedy` what to do instead."""

    def __init__(self, field: str, message: str, remedy: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of node, to be added any number of times."""

    tier: str
    allocatable: Resources
    site: str = ""
    """empty: the site that is named after the tier, as for a node with nothing but a tier's label"""
    arch: str = "amd64"
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    speed: float = 1.0

    @property
    def at(self) -> str:
        return self.site or self.tier


def without_node(fleet: Fleet, name: str) -> Fleet:
    """As if the node had never been there: what ran on it is to be placed anew, at once."""
    gone = next((node for node in fleet.nodes if node.name == name), None)
    if gone is None:
        known = [node.name for node in fleet.nodes]
        raise ChangeError("--without-node", f"no node {name} in the fleet", _one_of(known))
    site = next((site for site in fleet.sites if site.name == gone.site), None)
    elastic = site is not None and site.elastic
    jobs = tuple(_off(job, name, pool_name(gone.site) if elastic else "") for job in fleet.jobs)
    return replace(fleet, nodes=tuple(node for node in fleet.nodes if node.name != name), jobs=jobs)


def without_site(fleet: Fleet, name: str) -> Fleet:
    """As if the site had never been there: it is not cut off, which would leave what it runs alone."""
    if all(site.name != name for site in fleet.sites):
        raise ChangeError("--without-site", f"no site {name} in the fleet", _one_of(site.name for site in fleet.sites))
    jobs = tuple(
        replace(
            job,
            placed=tuple(item for item in job.placed if item.site != name),
            traffic=tuple(item for item in job.traffic if item.site != name),
            nomination=None if job.nomination and job.nomination.site == name else job.nomination,
            explained=False,
        )
        for job in fleet.jobs
    )
    return replace(
        fleet,
        nodes=tuple(node for node in fleet.nodes if node.site != name),
        sites=tuple(site for site in fleet.sites if site.name != name),
        jobs=jobs,
    )


def with_nodes(fleet: Fleet, shape: Shape, count: int, *, name: str = "") -> Fleet:
    """With `count` more nodes, idle and measured just now. `name`: of the first; the others are numbered."""
    site = next((site for site in fleet.sites if site.name == shape.at), None)
    if site is not None and site.tier != shape.tier:
        raise ChangeError(
            "--add-node site",
            f"site {site.name} is of tier {site.tier}, not {shape.tier}",
            f"say tier={site.tier}, or name a site of tier {shape.tier}",
        )
    taken = {node.name for node in fleet.nodes}
    names = _free_names(name or f"new-{shape.tier}", count, taken, numbered=not name or count > 1)
    now = fleet.now
    nodes = tuple(
        Node(
            name=item,
            site=shape.at,
            tier=shape.tier,
            arch=shape.arch,
            labels={
                **shape.labels,
                "kubernetes.io/hostname": item,
                "kubernetes.io/arch": shape.arch,
                LABEL_TIER: shape.tier,
                LABEL_SITE: shape.at,
            },
            taints=shape.taints,
            allocatable=shape.allocatable,
            live=Live(cpu=Sample(0.0, now), memory=Sample(0.0, now)),
            speed=shape.speed,
        )
        for item in names
    )
    sites = fleet.sites
    if site is None:
        labels = {LABEL_SITE: shape.at, LABEL_TIER: shape.tier}
        sites = tuple(sorted((*sites, Site(shape.at, shape.tier, labels=labels)), key=lambda item: item.name))
    everybody = tuple(sorted((*fleet.nodes, *nodes), key=lambda item: item.name))
    return replace(fleet, nodes=everybody, sites=sites)


def with_release(fleet: Fleet, release: Release) -> Fleet:
    """With this release's version as the one that its jobs are to run."""
    others = tuple(item for item in fleet.releases if item.key != release.key)
    return replace(fleet, releases=(*others, release))


def with_job(fleet: Fleet, job: Job) -> Fleet:
    """With a new job, or with this spec for the job of the same name: what runs of it and is known of it stays."""
    known = next((item for item in fleet.jobs if item.key == job.key), None)
    if known is None:
        return replace(fleet, jobs=(*fleet.jobs, replace(job, created_at=fleet.now, uid=job.uid or f"new {job.key}")))
    spec = {name: getattr(job, name) for name in FROM_SPEC}
    spec["model_digest"] = job.model_digest or (known.model_digest if job.model_name == known.model_name else "")
    changed = replace(known, **spec, explained=False)
    return replace(fleet, jobs=tuple(changed if item.key == job.key else item for item in fleet.jobs))


def common_shape(nodes: Iterable[Node], tier: str, site: str = "") -> Shape | None:
    """The kind of node that there are most of in a tier; None when it has none. The first by name among equals."""
    shapes: dict[object, Shape] = {}
    counts: Counter[object] = Counter()
    for node in sorted(nodes, key=lambda item: item.name):
        if node.tier != tier:
            continue
        labels = {key: value for key, value in node.labels.items() if not _of_one_node(key, value, node)}
        kind = (node.allocatable, node.arch, tuple(sorted(labels.items())), node.taints, node.speed)
        shapes.setdefault(
            kind, Shape(tier, node.allocatable, site or node.site, node.arch, labels, node.taints, node.speed)
        )
        counts[kind] += 1
    if not counts:
        return None
    return shapes[max(counts, key=lambda kind: counts[kind])]


def _of_one_node(key: str, value: str, node: Node) -> bool:
    """Labels that name the node or where it is, and so are not of its kind."""
    return key in ("kubernetes.io/hostname", LABEL_SITE, LABEL_TIER) or value == node.name


def _off(job: Job, node: str, pool: str) -> Job:
    """The job without what it has on a node; of a pool, without the pods that are bound to that node."""
    placed = []
    for item in job.placed:
        if item.node == node:
            continue
        if pool and item.node == pool and node in item.on:
            stay = [at for at, bound in enumerate(item.on) if bound != node]
            item = replace(
                item,
                ready=min(item.ready, len(stay)),
                started=tuple(item.started[at] for at in stay if at < len(item.started)),
                on=tuple(item.on[at] for at in stay),
            )
        placed.append(item)
    claim = None if job.nomination and job.nomination.node == node else job.nomination
    if tuple(placed) == job.placed and claim == job.nomination:
        return job
    return replace(job, placed=tuple(placed), nomination=claim, explained=False)


def _free_names(stem: str, count: int, taken: set[str], *, numbered: bool) -> list[str]:
    if not numbered:
        if stem in taken:
            raise ChangeError("--add-node name", f"there is a node {stem} already", "choose another name")
        return [stem]
    names: list[str] = []
    number = 1
    while len(names) < count:
        name = f"{stem}-{number}"
        if name not in taken:
            names.append(name)
        number += 1
    return names


def _one_of(known: Iterable[str]) -> str:
    names = sorted(known)
    shown = ", ".join(names[:10])
    if not names:
        return "there is none at all"
    return f"there are {shown}" + (f" and {len(names) - 10} more" if len(names) > 10 else "")
