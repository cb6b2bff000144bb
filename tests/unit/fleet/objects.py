"""Small Kubernetes objects as the API gives them. `now` in these tests is NOW."""

from __future__ import annotations

from typing import Any

from edgeward.api.common import format_time
from edgeward.fleet.build import build
from edgeward.fleet.model import Fleet, Job

NOW = 1_800_000_000.0
DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
Raw = dict[str, Any]


def ago(seconds: float) -> str:
    return format_time(NOW - seconds)


def node(name: str = "n1", *, tier: str | None = "edge", ready: bool = True, **labels: str) -> Raw:
    own = {key.replace("__", "/").replace("_", "."): value for key, value in labels.items()}
    if tier:
        own["edgeward.dev/tier"] = tier
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": "1", "labels": own},
        "spec": {},
        "status": {
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown", "lastTransitionTime": ago(100)}],
            "nodeInfo": {"architecture": "amd64"},
        },
    }


def pod(name: str = "p", *, on: str | None = "n1", cpu: str = "100m", assignment: str = "", **spec: Any) -> Raw:
    container = {"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "64Mi"}}}
    where = {"nodeName": on} if on else {}
    return {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"uid-{name}",
            "creationTimestamp": ago(50),
            "labels": {"edgeward.dev/assignment": assignment} if assignment else {},
        },
        "spec": {"containers": [container], **where, **spec},
        "status": {"phase": "Running", "startTime": ago(40)},
    }


def job(name: str = "signs", *, status: Raw | None = None, **spec: Any) -> Raw:
    return {
        "apiVersion": "edgeward.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"uid-{name}",
            "generation": 3,
            "resourceVersion": "7",
            "creationTimestamp": ago(1000),
        },
        "spec": {"model": {"name": "m"}, **spec},
        **({"status": status} if status is not None else {}),
    }


def release(
    name: str = "m", *, version: str = "1.0", digest: str = DIGEST, status: Raw | None = None, **spec: Any
) -> Raw:
    return {
        "apiVersion": "edgeward.dev/v1alpha1",
        "kind": "ModelRelease",
        "metadata": {"name": name, "namespace": "shop", "uid": f"uid-{name}", "generation": 2, "resourceVersion": "7"},
        "spec": {"version": version, "artifact": {"uri": "https://models/m", "digest": digest}, **spec},
        **({"status": status} if status is not None else {}),
    }


def assignment(
    *nodes: Raw, job: str = "signs", site: str = "edge", models: list[Raw] | None = None, status: Raw | None = None
) -> Raw:
    told = [{"name": "m", "version": "1.0", "digest": DIGEST, "sources": ["https://models/m"]}]
    return {
        "apiVersion": "edgeward.dev/v1alpha1",
        "kind": "Assignment",
        "metadata": {
            "name": f"{job}-{site}",
            "namespace": "edgeward",
            "uid": f"uid-{job}-{site}",
            "generation": 1,
            "resourceVersion": "9",
            "creationTimestamp": ago(500),
            "labels": {"edgeward.dev/site": site},
        },
        "spec": {
            "job": {"namespace": "shop", "name": job, "uid": f"uid-{job}"[:64]},
            "site": site,
            "revision": 4,
            "nodes": list(nodes),
            "models": told if models is None else models,
        },
        "status": status or {},
    }


def site(name: str, *, created: float = 100, **spec: Any) -> Raw:
    return {
        "apiVersion": "edgeward.dev/v1alpha1",
        "kind": "Site",
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": "1", "creationTimestamp": ago(created)},
        "spec": spec,
    }


def fleet(**parts: Any) -> Fleet:
    kinds = dict.fromkeys(("nodes", "pods", "jobs", "releases", "sites", "assignments"), ())
    return build(now=NOW, **{**kinds, **parts})


def only_job(**parts: Any) -> Job:
    (found,) = fleet(**parts).jobs
    return found
