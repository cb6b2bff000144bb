"""What of a node or a pod is worth keeping in memory: a thousand nodes with their image lists are ten megabytes."""

from __future__ import annotations

from typing import Any

from .cache import drop_managed_fields
from .resources import Object

POD_STATUS = ("phase", "reason", "message", "podIP", "startTime", "conditions", "containerStatuses")
CONTAINER = ("name", "resources", "restartPolicy")


def node(obj: Object) -> Object:
    obj = drop_managed_fields(obj)
    status = obj.get("status") or {}
    conditions = [_quiet(item) for item in status.get("conditions") or []]
    kept = {key: status[key] for key in ("allocatable", "capacity", "nodeInfo", "addresses") if key in status}
    return {**obj, "status": {**kept, "conditions": conditions}}


def pod(obj: Object) -> Object:
    obj = drop_managed_fields(obj)
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    kept: dict[str, Any] = {key: spec[key] for key in ("nodeName", "overhead", "resources") if key in spec}
    for kind in ("containers", "initContainers"):
        if kind in spec:
            kept[kind] = [{key: item[key] for key in CONTAINER if key in item} for item in spec[kind]]
    return {**obj, "spec": kept, "status": {key: status[key] for key in POD_STATUS if key in status}}


def inference_job(obj: Object) -> Object:
    """Of the managed fields only who wrote through the scale subresource, which status tells beside spec.scaling."""
    scalers = [
        {"manager": item.get("manager", ""), "subresource": "scale"}
        for item in obj["metadata"].get("managedFields") or []
        if item.get("subresource") == "scale"
    ]
    obj = drop_managed_fields(obj)
    return {**obj, "metadata": {**obj["metadata"], "managedFields": scalers}} if scalers else obj


def namespace(obj: Object) -> Object:
    """Its labels, which say what its jobs may have."""
    kept = ("name", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "labels")
    meta = {key: obj["metadata"][key] for key in kept if key in obj["metadata"]}
    return {**{key: obj[key] for key in ("apiVersion", "kind") if key in obj}, "metadata": meta}


def _quiet(condition: dict[str, Any]) -> dict[str, Any]:
    """A heartbeat is no change."""
    return {key: value for key, value in condition.items() if key != "lastHeartbeatTime"}
