"""Objects that a control plane without Edgeward's chart needs: simulated nodes, and the classes of the priority tiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any


def node_object(
    name: str,
    *,
    labels: Mapping[str, str],
    cpu: str,
    memory: str,
    pods: int,
    arch: str,
    taints: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """A node as kwok manages it (annotation kwok.x-k8s.io/node=fake), Ready from the first moment."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    resources = {"cpu": cpu, "memory": memory, "pods": str(pods)}
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "message": "simulated",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    usual = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": arch}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {**usual, **labels},
            "annotations": {"kwok.x-k8s.io/node": "fake"},
        },
        "spec": {"taints": [dict(taint) for taint in taints]},
        "status": {
            "allocatable": resources,
            "capacity": resources,
            "conditions": [condition],
            "nodeInfo": {
                "architecture": arch,
                "operatingSystem": "linux",
                "kubeletVersion": "v1.36.0-simulated",
                "bootID": "",
                "containerRuntimeVersion": "",
                "kernelVersion": "",
                "kubeProxyVersion": "",
                "machineID": "",
                "osImage": "",
                "systemUUID": "",
            },
        },
    }


def priority_classes() -> list[dict[str, Any]]:
    """Those that the chart makes, one a priority tier."""
    return [
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": f"edgeward-tier-{tier}"},
            "value": 100000 * tier,
            "preemptionPolicy": "Never",
        }
        for tier in range(1, 6)
    ]
