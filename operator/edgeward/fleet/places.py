"""Nodes, their pods and the sites that they form, from raw objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edgeward.api.assignment import Assignment
from edgeward.api.common import parse_bandwidth, parse_cpu, seconds
from edgeward.api.features import unavailable
from edgeward.api.site import Site as SiteObject

from .amounts import amounts, pod_request
from .model import OWN_CLUSTER, Live, Node, Resources, Site, Taint
from .names import LABEL_ASSIGNMENT, LABEL_REGION, LABEL_SITE, LABEL_TIER
from .reading import time_of
from .sites import node_selector

Raw = Mapping[str, Any]

KNOWN_OTHERWISE = frozenset(f"node.kubernetes.io/{state}" for state in ("not-ready", "unreachable", "unschedulable"))
"""taints that say what Node.ready and Node.unschedulable say; the others (pressure, no network) refuse pods"""


def read_node(
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
        not_ready_since=None if is_ready else time_of(ready.get("lastTransitionTime")),
        unschedulable=bool(spec.get("unschedulable")),
        allocatable=amounts(status.get("allocatable") or {}),
        foreign=foreign.get(name, Resources()),
        live=live.get(name, Live()),
        models=digests.get(name, frozenset()),
    )


def read_sites(
    nodes: Iterable[Node], declared: Iterable[SiteObject], heard: Mapping[str, bool] | None = None
) -> tuple[Site, ...]:
    """heard: by node, whether it renewed its Lease lately; of one that is not in it, its Ready condition counts."""
    members: dict[str, list[Node]] = {}
    for node in nodes:
        members.setdefault(node.site, []).append(node)
    objects = {site.name: site for site in declared}
    return tuple(
        _site(name, members.get(name, []), objects.get(name), heard or {})
        for name in sorted(members.keys() | objects.keys())
    )


def _site(name: str, nodes: list[Node], declared: SiteObject | None, heard: Mapping[str, bool]) -> Site:
    spec = declared.spec if declared else None
    tier = (spec.tier if spec else None) or (nodes[0].tier if nodes else "")
    region = (spec.region if spec else None) or _common_label(nodes, LABEL_REGION)
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
        connected=elastic or any(heard.get(node.name, node.ready) for node in nodes),
        # A Site that asks for a protection that does not work yet gets nothing new.
        unschedulable=bool(spec and spec.unschedulable) or refused,
        frozen=bool(spec and spec.frozen),
        bandwidth=float(parse_bandwidth(uplink.bandwidth)) if uplink and uplink.bandwidth else None,
        rtt=seconds(uplink.rtt) if uplink and uplink.rtt else None,
        elastic=elastic,
        node_labels=node_selector(declared) if declared else {},
        cost_cpu_hour=_decimal(spec.cost.cpu_hour) if spec and spec.cost else None,
        cost_egress_gib=_decimal(spec.cost.egress_gib) if spec and spec.cost else None,
        watts_per_cpu=_decimal(spec.power.watts_per_cpu) if spec and spec.power else None,
        quota_replicas=spec.quota.replicas if spec and spec.quota else None,
        quota_cpu=parse_cpu(spec.quota.cpu) if spec and spec.quota and spec.quota.cpu is not None else None,
        time_zone=(spec.time_zone or "") if spec else "",
        windows=spec.windows if spec else (),
    )


def _common_label(nodes: Iterable[Node], label: str) -> str:
    """The value that all nodes have; empty when there are several, or a node has none."""
    values = {node.labels.get(label, "") for node in nodes}
    return values.pop() if len(values) == 1 else ""


def _decimal(text: str | None) -> float | None:
    return float(text) if text else None


def digests_by_node(assignments: Iterable[Assignment]) -> dict[str, frozenset[str]]:
    """Models in the stores, by node: what a site's assignments say is served, on each of their nodes that is ready."""
    found: dict[str, set[str]] = {}
    for assignment in assignments:
        serving = {model.digest for model in assignment.status.models if model.serving}
        for node in assignment.status.nodes:
            if node.ready:
                found.setdefault(node.name, set()).update(serving)
    return {node: frozenset(digests) for node, digests in found.items()}


def read_pods(
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
            begun = time_of((pod.get("status") or {}).get("startTime")) or time_of(meta.get("creationTimestamp")) or 0.0
            started[job, node] = tuple(sorted((*started.get((job, node), ()), begun)))
    return started, foreign
