"""What one Assignment wants in its cluster, as plain objects. No I/O.

One Deployment per (job, node), pinned by required node affinity on metadata.name and never edited for a score; at an
elastic site one for the site, with the job's constraints as affinity. The stock scheduler has the last word on fit.
Model changes go through the ConfigMap and leave the pods alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgeward.api.assignment import AssignedNode, Assignment
from edgeward.cluster.resources import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    SERVICES,
    VOLUME_CLAIMS,
    Object,
    Resource,
)
from edgeward.fleet.names import (
    ANNOTATION_NODE,
    ANNOTATION_PODS,
    ANNOTATION_SEAL,
    LABEL_ASSIGNMENT,
    LABEL_JOB,
    LABEL_MANAGED_BY,
    LABEL_PLACEMENT,
    LABEL_SITE,
    LABEL_TIER,
    MANAGED_BY,
    derived_name,
    is_pool,
)

from . import activation, podtemplate, sharing, surge
from .document import config_revision, models_document, told_models
from .settings import AgentSettings
from .surge import Way

_GRPC = {"name": "grpc", "protocol": "TCP", "appProtocol": "kubernetes.io/h2c"}
SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Child:
    """One wanted object."""

    resource: Resource
    body: Object

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    @property
    def key(self) -> str:
        return f"{self.body['metadata']['namespace']}/{self.name}"


def config_name(assignment: Assignment) -> str:
    job = assignment.spec.job
    return derived_name(namespace=job.namespace, name=job.name, site=site_of(assignment))


def peers_name(assignment: Assignment) -> str:
    return f"{config_name(assignment)}{sharing.SUFFIX}"


def site_of(assignment: Assignment) -> str:
    return assignment.metadata.labels.get(LABEL_SITE, "")


def placement_name(assignment: Assignment, node: str) -> str:
    job = assignment.spec.job
    return derived_name(namespace=job.namespace, name=job.name, site=site_of(assignment), node=node)


def store_name(namespace: str, node: str) -> str:
    """The model store is one claim per (node, namespace), whatever jobs use it."""
    return derived_name(namespace=namespace, name="edgeward-store", site="", node=node)


def children(
    assignment: Assignment,
    *,
    tiers: Mapping[str, str],
    settings: AgentSettings,
    persistent: bool,
    config: Object | None,
    now: float,
    deployments: Iterable[Object | None] = (),
    site_service: bool = False,
    users_budget: bool = False,
    ways: Mapping[str, Way] | None = None,
) -> list[Child]:
    """All that the Assignment wants, in the order in which it is to be applied.

    tiers: node name -> edge | fog | cloud. config: the ConfigMap that is there now, which is kept when its models are
    the wanted ones. now: Unix seconds, for what may not begin to serve yet. persistent: whether the cluster has the
    StorageClass of the model store. deployments: those that are there now; each keeps the store that it was made with,
    since another would restart its pods. site_service:
    whether the cluster holds several sites, so that the job gets a Service per site too. users_budget: whether a
    PodDisruptionBudget of the user's covers the pods; two over one pod would refuse every eviction. ways: how the pods of
    a node change, where that is not by a surge.
    """
    spec = assignment.spec
    present = {str(item["metadata"]["name"]): item for item in deployments if item is not None}
    claimed = {name: _has_claim(item) for name, item in present.items()}
    # Where a pod of a pool will run is not known before it does, and a claim of its own would tie it to that node.
    stores = {
        node.name: not is_pool(node.name) and claimed.get(placement_name(assignment, node.name), persistent)
        for node in spec.nodes
    }
    apart = sharing.wanted(spec.nodes, stores)
    wanted = [Child(CONFIG_MAPS, _config_map(assignment, config, settings, now, peers=apart))]
    wanted += [
        Child(VOLUME_CLAIMS, _claim(assignment, node.name, settings)) for node in spec.nodes if stores[node.name]
    ]
    wanted.append(Child(SERVICES, _service(assignment, spec.job.name, {LABEL_JOB: spec.job.name})))
    if site_service:
        selector = {LABEL_JOB: spec.job.name, LABEL_SITE: site_of(assignment)}
        wanted.append(Child(SERVICES, _service(assignment, _site_service_name(assignment), selector)))
    if apart:
        meta = _meta(assignment, peers_name(assignment), **_own(assignment))
        wanted.append(Child(SERVICES, {"metadata": meta, "spec": sharing.spec(assignment)}))
    if not users_budget:
        wanted += _budget(assignment)
    for node in spec.nodes:
        way = (ways or {}).get(node.name, Way.SURGE)
        deployment = _deployment(
            assignment,
            node,
            _tier(assignment, tiers.get(node.name, "")),
            settings,
            stores[node.name],
            present.get(placement_name(assignment, node.name)),
            way,
        )
        wanted.append(Child(DEPLOYMENTS, deployment))
        if way is Way.PULL:
            revision = podtemplate.revision(assignment, node)
            pulls = surge.pulling(deployment, assignment=assignment.metadata.name, revision=revision)
            wanted.append(Child(DEPLOYMENTS, pulls))
    return [_sealed(child) for child in wanted]


def _tier(assignment: Assignment, label: str) -> str:
    """As the hub says, else as the node says. A node that says nothing is at the edge: pools and Site objects are."""
    return assignment.metadata.labels.get(LABEL_TIER) or label or "edge"


def _site_service_name(assignment: Assignment) -> str:
    """JOB-SITE where that can name a Service: a site's name is a label's value and may have capitals and dots."""
    name = f"{assignment.spec.job.name}-{site_of(assignment)}"
    return name if SERVICE_NAME.fullmatch(name) else config_name(assignment)


def _has_claim(deployment: Object) -> bool:
    volumes = deployment["spec"]["template"]["spec"].get("volumes") or []
    return any(item.get("name") == "store" and "persistentVolumeClaim" in item for item in volumes)


def _sealed(child: Child) -> Child:
    """With a hash of itself, so that a field which is no longer wanted shows as a difference too."""
    meta = child.body["metadata"]
    seal = hashlib.sha256(json.dumps(child.body, sort_keys=True).encode()).hexdigest()[:16]
    annotations = {**meta.get("annotations", {}), ANNOTATION_SEAL: seal}
    return Child(child.resource, {**child.body, "metadata": {**meta, "annotations": annotations}})


def _meta(assignment: Assignment, name: str, **labels: str) -> Object:
    """Labels from an allow-list: those of the user's objects (Argo CD's tracking ones) must not come along."""
    return {
        "name": name,
        "namespace": assignment.spec.job.namespace,
        "labels": {
            LABEL_MANAGED_BY: MANAGED_BY,
            LABEL_JOB: assignment.spec.job.name,
            **labels,
        },
    }


def _own(assignment: Assignment) -> dict[str, str]:
    return {LABEL_ASSIGNMENT: assignment.metadata.name, LABEL_SITE: site_of(assignment)}


def _config_map(
    assignment: Assignment, present: Object | None, settings: AgentSettings, now: float, *, peers: bool
) -> Object:
    parts = activation.parts(assignment, told=told_models(present), now=now).parts
    document = models_document(assignment, parts, settings, peers=peers_name(assignment) if peers else "")
    # Never lower than what the pods have read: a hub that was restored from a backup counts from further back.
    revision = max(assignment.spec.revision, config_revision(present) + 1)
    if present:
        try:
            known = json.loads(present["data"]["models.json"])
            if isinstance(known, dict) and {**known, "revision": None} == {**document, "revision": None}:
                # Only the nodes changed: the pods need not look again.
                revision = int(known["revision"])
        except (KeyError, TypeError, ValueError):
            pass
    text = json.dumps({**document, "revision": revision}, indent=1, sort_keys=True)
    return {"metadata": _meta(assignment, config_name(assignment), **_own(assignment)), "data": {"models.json": text}}


def _claim(assignment: Assignment, node: str, settings: AgentSettings) -> Object:
    namespace = assignment.spec.job.namespace
    return {
        "metadata": {
            "name": store_name(namespace, node),
            "namespace": namespace,
            "labels": {LABEL_MANAGED_BY: MANAGED_BY},
            "annotations": {ANNOTATION_NODE: node},
        },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": settings.store_class,
            "resources": {"requests": {"storage": settings.store_size}},
        },
    }


def _service(assignment: Assignment, name: str, selector: Mapping[str, str]) -> Object:
    """The job's Service belongs to all of its Assignments; one for a site alone is that Assignment's own."""
    expose = assignment.spec.effective.expose
    own = _own(assignment) if LABEL_SITE in selector else {}
    return {
        "metadata": _meta(assignment, name, **own),
        "spec": {
            "type": expose.type,
            "selector": dict(selector),
            "trafficDistribution": "PreferClose",
            "ports": [
                {"name": "http", "port": expose.port, "targetPort": "http", "protocol": "TCP"},
                *(
                    {**_GRPC, "port": port, "targetPort": port}
                    for port in _grpc_ports(assignment)
                    if port != expose.port
                ),
            ],
        },
    }


def _grpc_ports(assignment: Assignment) -> list[int]:
    """The port that the podTemplate lets the runtime serve gRPC at, if any: it costs memory, so it is off by itself."""
    template = assignment.spec.pod_template or {}
    containers = (template.get("spec") or {}).get("containers") or []
    env = [one for item in containers if item.get("name") == "runtime" for one in item.get("env") or []]
    values = [str(one.get("value")) for one in env if one.get("name") == "EDGEWARD_GRPC_PORT"]
    return [int(value) for value in values[-1:] if value.isdecimal() and 0 < int(value) < 65536]


def _budget(assignment: Assignment) -> list[Child]:
    """A pod that serves is evicted by nobody: whoever drains its node waits until it is replaced elsewhere, and then
    it goes by the Deployment's own hand. One that does not serve never holds up a drain. See docs/adr/0007-drain.md.

    In a pool the pods are free to go to another node, and its autoscaler must be able to empty one: there one at a
    time may be evicted, and a single one always.
    """
    count = sum(node.replicas + node.leaving for node in assignment.spec.nodes)
    pooled = any(is_pool(node.name) for node in assignment.spec.nodes)
    if count == 0 or (pooled and count == 1):
        return []
    spec = {
        "maxUnavailable": 1 if pooled else 0,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": {LABEL_ASSIGNMENT: assignment.metadata.name}},
    }
    meta = _meta(assignment, config_name(assignment), **_own(assignment))
    return [Child(DISRUPTION_BUDGETS, {"metadata": meta, "spec": spec})]


def _deployment(
    assignment: Assignment,
    node: AssignedNode,
    tier: str,
    settings: AgentSettings,
    persistent: bool,
    present: Object | None,
    way: Way,
) -> Object:
    """A Deployment keeps the template that was rendered when the facts came that its pods are made from: what a newer
    Edgeward renders from the same facts is for the next change of them, and restarts no pod."""
    name = placement_name(assignment, node.name)
    labels = {**_own(assignment), LABEL_PLACEMENT: name}
    revision = podtemplate.revision(assignment, node)
    template = podtemplate.kept(present, revision) or podtemplate.rendered(
        assignment,
        node,
        labels={LABEL_MANAGED_BY: MANAGED_BY, LABEL_JOB: assignment.spec.job.name, **labels},
        tier=tier,
        settings=settings,
        config=config_name(assignment),
        claim=store_name(assignment.spec.job.namespace, node.name) if persistent else None,
    )
    about = {ANNOTATION_NODE: node.name, ANNOTATION_PODS: revision, **podtemplate.note(template)}
    return {
        "metadata": {**_meta(assignment, name, **labels), "annotations": about},
        "spec": {
            "replicas": node.replicas + node.leaving,
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": {LABEL_PLACEMENT: name}},
            "strategy": surge.IN_PLACE if way is Way.IN_PLACE else surge.SURGE,
            "template": template,
        },
    }
