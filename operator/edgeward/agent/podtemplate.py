"""The pod template of one Deployment: how it is rendered from an Assignment, and when the one that is there stays. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgeward.api.assignment import AssignedNode, Assignment
from edgeward.api.common import parse_quantity
from edgeward.cluster.resources import Object
from edgeward.fleet.names import ANNOTATION_NODE, ANNOTATION_PODS, ANNOTATION_TEMPLATE, LABEL_PLACEMENT, is_pool
from edgeward.fleet.podspec import digest, told
from edgeward.placement.formulas import priority_tier

from .merge import overlay
from .settings import AgentSettings

PORT = 8080
CONFIG_DIR = "/etc/edgeward/job"
STORE_DIR = "/var/lib/edgeward/store"
CREDENTIALS = "credentials"
CREDENTIALS_DIR = "/etc/edgeward/credentials"
USER = 65532
SAFE_TO_EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict"
LONGEST_NOTE = 200 * 1024
"""bytes, of the 256 KiB that all annotations of an object may have; the JSON is plain ASCII"""
RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""of every container's securityContext, by the Pod Security Standard of that name; the rest is said for the pod"""


def revision(assignment: Assignment, node: AssignedNode) -> str:
    """Of the facts that the pods of a node are made from; never of how this version renders them, nor of its settings.

    The architectures of a pool come from the operator's own settings, so they are left out too.
    """
    facts = told(assignment.spec).facts()
    more = {"pullSecret": assignment.spec.pull_secret, "pool": dict(node.pool.labels) if node.pool else None}
    return digest({**facts, **{key: value for key, value in more.items() if value}})


def kept(present: Object | None, revision: str) -> Object | None:
    """The template that was rendered for these facts before, whatever became of the Deployment since; None when there is
    none, or when it is of no use: its pods never came up, so that a mended setting must get through."""
    notes = present["metadata"].get("annotations") or {} if present is not None else {}
    if present is None or notes.get(ANNOTATION_PODS) != revision or _never_came_up(present):
        return None
    try:
        template = json.loads(notes[ANNOTATION_TEMPLATE])
    except (KeyError, ValueError):
        return None
    return template if isinstance(template, dict) else None


def note(template: Object) -> dict[str, str]:
    """The annotation that `kept` reads. None for a template that leaves other annotations no room: it is rendered each
    time, so that a newer version may restart those pods."""
    text = json.dumps(template, sort_keys=True, separators=(",", ":"))
    return {ANNOTATION_TEMPLATE: text} if len(text) <= LONGEST_NOTE else {}


def _never_came_up(deployment: Object) -> bool:
    """Whether no pod of the newest template was ever available, and none of an older one is in danger or it has taken too
    long. Kubernetes keeps NewReplicaSetAvailable for good once they all were."""
    status = deployment.get("status") or {}
    reasons = [item.get("reason") for item in status.get("conditions") or [] if item.get("type") == "Progressing"]
    if not reasons or reasons[0] == "NewReplicaSetAvailable":
        return False
    return reasons[0] == "ProgressDeadlineExceeded" or not status.get("readyReplicas")


def rendered(
    assignment: Assignment,
    node: AssignedNode,
    *,
    labels: Mapping[str, str],
    tier: str,
    settings: AgentSettings,
    config: str,
    claim: str | None,
) -> Object:
    """As this version makes it. config: name of the job's ConfigMap. claim: of the model store; None for an emptyDir."""
    pod = _pod_template(assignment, node, labels, tier, settings, config, claim)
    over = assignment.spec.pod_template or {}
    return _hardened(overlay(pod, {key: over[key] for key in over if key in ("metadata", "spec")}))


def _hardened(template: Object) -> Object:
    """What `restricted` asks of every container, for those too that a podTemplate brought along."""
    spec = template["spec"]
    for kind in ("containers", "initContainers"):
        if isinstance(spec.get(kind), list):
            spec = {**spec, kind: [overlay({"securityContext": RESTRICTED}, item) for item in spec[kind]]}
    return {**template, "spec": spec}


def _pod_template(
    assignment: Assignment,
    node: AssignedNode,
    labels: Mapping[str, str],
    tier: str,
    settings: AgentSettings,
    config: str,
    claim: str | None,
) -> Object:
    pool, marks = is_pool(node.name), assignment.spec.effective.priority
    store = {"persistentVolumeClaim": {"claimName": claim}} if claim is not None else {"emptyDir": {}}
    return {
        "metadata": {
            "labels": dict(labels),
            # The cluster autoscaler keeps a node whose pod has an emptyDir, unless the pod says that it may go.
            "annotations": {ANNOTATION_NODE: node.name, **({SAFE_TO_EVICT: "true"} if pool else {})},
        },
        "spec": {
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [_which_nodes(node)]}
                }
            },
            **({"topologySpreadConstraints": [_apart(labels)]} if pool else {}),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "priorityClassName": f"edgeward-tier-{priority_tier(marks.importance, marks.urgency, marks.satisfaction)}",
            "terminationGracePeriodSeconds": 30,
            "tolerations": _tolerations(assignment, "" if pool else tier),
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [_container(assignment, settings)],
            "volumes": [
                {"name": "job", "configMap": {"name": config}},
                {"name": "store", **store},
                {"name": "tmp", "emptyDir": {}},
                *_pull_volume(assignment),
            ],
        },
    }


def _pull_volume(assignment: Assignment) -> list[Object]:
    """Optional: a Secret that is missing must not keep from starting what has its model on disk. The kubelet brings it
    into the running pod once it is there, and each new content of it."""
    name = assignment.spec.pull_secret
    return [{"name": CREDENTIALS, "secret": {"secretName": name, "optional": True}}] if name else []


def _which_nodes(node: AssignedNode) -> Object:
    """The node itself; of a pool, the nodes that the job may use, whichever are there when a pod needs one."""
    if not is_pool(node.name):
        return {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node.name]}]}
    if node.pool is None:
        raise ValueError(f"{node.name} has no pool: nothing says which nodes belong to it")
    wanted = [(key, [value]) for key, value in sorted(node.pool.labels.items())]
    if node.pool.architectures:
        wanted.append(("kubernetes.io/arch", list(node.pool.architectures)))
    return {"matchExpressions": [{"key": key, "operator": "In", "values": values} for key, values in wanted]}


def _apart(labels: Mapping[str, str]) -> Object:
    """Replicas of one pool on different nodes where there are such; a wish, as the pool may have only one."""
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {LABEL_PLACEMENT: labels[LABEL_PLACEMENT]}},
    }


def _container(assignment: Assignment, settings: AgentSettings) -> Object:
    resources = assignment.spec.effective.resources
    credentials = bool(assignment.spec.pull_secret)
    return {
        "name": "runtime",
        "image": settings.runtime_image,
        "imagePullPolicy": settings.image_pull_policy,
        "env": [
            {"name": "EDGEWARD_CONFIG_DIR", "value": CONFIG_DIR},
            {"name": "EDGEWARD_STORE", "value": STORE_DIR},
            {"name": "EDGEWARD_PORT", "value": str(PORT)},
            {"name": "EDGEWARD_STORE_BYTES", "value": str(int(parse_quantity(settings.store_size)))},
            *([{"name": "EDGEWARD_CREDENTIALS_DIR", "value": CREDENTIALS_DIR}] if credentials else []),
        ],
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "resources": {
            kind: dict(amounts)
            for kind, amounts in (("requests", resources.requests), ("limits", resources.limits))
            if amounts
        },
        "securityContext": {**RESTRICTED, "readOnlyRootFilesystem": True},
        # The start may take as long as a model takes to arrive; only a process that stopped answering is restarted.
        "startupProbe": _probe("/v2/health/live", period=1, failures=120),
        "readinessProbe": _probe("/v2/health/ready", period=2, failures=2),
        "livenessProbe": _probe("/v2/health/live", period=10, failures=3),
        "volumeMounts": [
            {"name": "job", "mountPath": CONFIG_DIR, "readOnly": True},
            {"name": "store", "mountPath": STORE_DIR},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  (a path inside the pod)
            *([{"name": CREDENTIALS, "mountPath": CREDENTIALS_DIR, "readOnly": True}] if credentials else []),
        ],
    }


def _probe(path: str, *, period: int, failures: int) -> Object:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
    }


def _tolerations(assignment: Assignment, tier: str) -> list[dict[str, Any]]:
    """The job's own, and at edge and fog sites no time limit on a lost node: Edgeward decides about replacement.

    Of a pool (no tier) the cluster does: its nodes come and go, and Edgeward does not follow them one by one.
    """
    own = [
        {key: value for key, value in toleration.model_dump(by_alias=True, exclude_none=True).items() if value != ""}
        for toleration in assignment.spec.effective.placement.tolerations
    ]
    if tier not in ("edge", "fog"):
        return own
    return own + [
        {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute"}
        for state in ("not-ready", "unreachable")
    ]
