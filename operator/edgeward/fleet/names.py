"""Names and labels that the hub and the agent must agree on."""

from __future__ import annotations

import hashlib

LABEL_JOB = "edgeward.dev/job"
LABEL_JOB_NAMESPACE = "edgeward.dev/job-namespace"
LABEL_SITE = "edgeward.dev/site"
LABEL_REGION = "topology.kubernetes.io/region"
LABEL_TIER = "edgeward.dev/tier"
LABEL_MAX_REPLICAS = "edgeward.dev/max-replicas"
LABEL_MAX_CPU = "edgeward.dev/max-cpu"
LABEL_MAX_PRIORITY_TIER = "edgeward.dev/max-priority-tier"
"""on a Namespace: what its jobs may have together, and the highest priority tier that any of them may be of"""
LABEL_REDACTION = "edgeward.dev/redaction"
"""on a Namespace and on a Site: the most that may be kept of requests there, Raw, Features, Sketch or None"""
LABEL_ASSIGNMENT = "edgeward.dev/assignment"
LABEL_PLACEMENT = "edgeward.dev/placement"
LABEL_PULL = "edgeward.dev/pull"
"""on a pod that only brings images to its node: the Assignment that it does so for"""
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "edgeward"
FINALIZER = "edgeward.dev/agent"
ANNOTATION_NODE = "edgeward.dev/node"
ANNOTATION_SEAL = "edgeward.dev/applied"
"""on what an agent makes: a hash of what it applied"""
ANNOTATION_MODELS = "edgeward.dev/models-revision"
"""on a pod: touching it makes the kubelet refresh the mounted ConfigMap at once"""
ANNOTATION_PODS = "edgeward.dev/pod-revision"
"""on a Deployment: which facts of the Assignment its pods are made from"""
ANNOTATION_TEMPLATE = "edgeward.dev/pod-template"
"""on a Deployment: the pod template as it was rendered when those facts came, as JSON"""

ANNOTATION_COMMAND = "edgeward.dev/release-command"
"""on a ModelRelease: VERB@TOKEN, acted on once"""

KUBEEDGE_EDGE_ROLE = "node-role.kubernetes.io/edge"
OPENYURT_POOL = "apps.openyurt.io/nodepool"


POOL_SUFFIX = "/*"


def pool_name(site: str) -> str:
    """What stands in a node's place for "any node of this elastic site". No node's name holds a slash."""
    return site + POOL_SUFFIX


def is_pool(node: str) -> bool:
    return node.endswith(POOL_SUFFIX)


def site_of_pool(node: str) -> str:
    """Empty for a node."""
    return node.removesuffix(POOL_SUFFIX) if is_pool(node) else ""


def derived_name(*, namespace: str, name: str, site: str, node: str = "") -> str:
    """A name that is unique per (job, site, node), at most 49 characters long, and still starts like the job's."""
    digest = hashlib.sha256("/".join((namespace, name, site, node)).encode()).hexdigest()[:8]
    return f"{name[:40].rstrip('-.')}-{digest}"
