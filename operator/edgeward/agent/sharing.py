"""How the pods of a job at one site learn of each other, so that each byte of a model comes to the site once.

Pods that share a store need nothing. Where there are several stores, a headless Service resolves to all pods of the
Assignment, ready or not, and models.json names it with a token. The token is derived from the job's uid: nothing has to
be kept, and the agent needs no right to Secrets. It keeps out who reaches the pods and may not read the API of their
namespace; who may read ConfigMaps or InferenceJobs there can know it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from edgeward.api.assignment import AssignedNode, Assignment
from edgeward.cluster.resources import Object
from edgeward.fleet.names import LABEL_ASSIGNMENT, LABEL_SITE

PORT = 8079
"""of the pods, where they give each other blobs"""
SUFFIX = "-peers"


def wanted(nodes: tuple[AssignedNode, ...], claimed: Mapping[str, bool]) -> bool:
    """Whether pods have stores apart. claimed: node -> whether its pods share a claim there; else each has its own."""
    counts = {node.name: node.replicas + node.leaving for node in nodes}
    return sum(min(count, 1) if claimed[name] else count for name, count in counts.items()) > 1


def told(assignment: Assignment, service: str) -> Object:
    """The contract's `peers`."""
    job, site = assignment.spec.job, assignment.metadata.labels.get(LABEL_SITE, "")
    token = hashlib.sha256(f"edgeward peers\n{job.uid}\n{job.namespace}/{job.name}\n{site}".encode()).hexdigest()[:32]
    return {"hosts": [f"{service}.{job.namespace}.svc"], "port": PORT, "token": token}


def spec(assignment: Assignment) -> Object:
    """Of the Service. Pods that are not ready count too: those that wait for a model are the ones to ask."""
    return {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {LABEL_ASSIGNMENT: assignment.metadata.name},
        "ports": [{"name": "blobs", "port": PORT, "targetPort": PORT, "protocol": "TCP"}],
    }
