"""What became of one Assignment, read from pods, nodes and runtimes. No I/O, and no clock: every time in a status is
the time at which something happened, so that a status that says the same again is the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from edgeward.api.assignment import Assignment, ModelStatus, NodeStatus
from edgeward.api.common import to_dict
from edgeward.api.conditions import STEP_REASONS
from edgeward.api.quantity import format_decimal
from edgeward.cluster.resources import Object
from edgeward.fleet.failures import BROKEN_CONTAINER
from edgeward.fleet.names import ANNOTATION_NODE, is_pool

from .surge import is_in_place, is_through, lacks_room

LONGEST_MESSAGE = 1024
LONGEST_WORD = 128
LONGEST_NAME = 63
LONGEST_SERVES = 256
MOST_MODELS = 16
"""what the CRD takes; beyond, the API would refuse the whole report"""


def is_ready(pod: Object) -> bool:
    return "deletionTimestamp" not in pod["metadata"] and _condition(pod, "Ready").get("status") == "True"


def is_lost(node: Object) -> bool:
    """Whether a node says that it is not Ready. One that says nothing yet is not lost."""
    return bool(_condition(node, "Ready").get("status", "True") != "True")


def node_of(pod: Object) -> str:
    """The node that a pod was made for; it may not be bound to it yet."""
    return str(pod["metadata"].get("annotations", {}).get(ANNOTATION_NODE) or pod.get("spec", {}).get("nodeName", ""))


def status(
    assignment: Assignment,
    *,
    pods: Iterable[Object],
    deployments: Mapping[str, Object],
    nodes: Mapping[str, Object],
    runtimes: Mapping[str, Object],
    applied_revision: int,
    conditions: Iterable[Mapping[str, Any]],
) -> Object:
    """The Assignment's status as JSON.

    pods: those of this Assignment. deployments: its own, by the node that each is for. nodes: all of the cluster, by
    name. runtimes: what each pod's runtime answered (the contract's status), by pod uid; while one has not answered yet,
    as after a start of this agent, what the Assignment already says of its model stands, since unheard is not gone.
    conditions: type, status, reason, message; without a time, which `stamped` adds.
    """
    by_node: dict[str, list[Object]] = {}
    for pod in pods:
        by_node.setdefault(node_of(pod), []).append(pod)
    present = [pod for group in by_node.values() for pod in group if not has_ended(pod)]
    known = {node.name: node for node in assignment.status.nodes}
    reports = [
        _still_refused(report, known.get(report["name"]), by_node.get(report["name"], []), runtimes)
        for report in (
            _node(
                node.name,
                node.replicas + node.leaving,
                by_node.get(node.name, []),
                nodes.get(node.name),
                runtimes,
                deployments.get(node.name),
            )
            for node in assignment.spec.nodes
        )
    ]
    models = [to_dict(model) for model in assignment.status.models]
    if not any(is_ready(pod) and _uid(pod) not in runtimes for pod in present):
        answers = [(is_ready(pod), runtimes[_uid(pod)]) for pod in present if _uid(pod) in runtimes]
        models = _models(answers, before=assignment.status.models)
    return {
        "observedGeneration": assignment.generation,
        "appliedRevision": applied_revision,
        "serves": ", ".join(f"{model['name']} {model['version']}" for model in models if model["replicas"])[
            :LONGEST_SERVES
        ],
        "replicas": len(present),
        "readyReplicas": sum(is_ready(pod) for pod in present),
        "nodes": reports,
        "models": models,
        "conditions": list(conditions),
    }


def stamped(wanted: Object, present: Mapping[str, Any], *, now: str) -> Object:
    """`wanted` with times: those of the present status wherever it says the same, `now` where it does not."""
    known = {condition["type"]: condition for condition in present.get("conditions") or []}
    conditions = []
    for condition in wanted["conditions"]:
        before = known.get(condition["type"])
        same = before is not None and before["status"] == condition["status"]
        conditions.append({**condition, "lastTransitionTime": before["lastTransitionTime"] if before and same else now})
    since = {node["name"]: node for node in present.get("nodes") or []}
    nodes = []
    for node in wanted["nodes"]:
        before = since.get(node["name"])
        if "since" not in node and node.get("reason"):
            same = before is not None and before.get("reason") == node["reason"] and "since" in before
            node = {**node, "since": before["since"] if before and same else now}
        nodes.append(node)
    return {**wanted, "conditions": conditions, "nodes": nodes}


def _node(
    name: str,
    replicas: int,
    pods: list[Object],
    node: Object | None,
    runtimes: Mapping[str, Object],
    deployment: Object | None,
) -> dict[str, Any]:
    ready = sum(is_ready(pod) for pod in pods)
    report: dict[str, Any] = {"name": name, "replicas": replicas, "ready": ready}
    # The nodes of a pool come and go; what becomes of its pods is all there is to say.
    if node is None and not is_pool(name):
        return {**report, "reason": "NodeGone", "message": f"node {name} is not in the cluster"}
    if node is not None and is_lost(node):
        lost = _condition(node, "Ready")
        return {**report, **_says("NodeNotReady", lost.get("message"), lost.get("lastTransitionTime"))}
    if ready >= replicas:
        return {**report, **_updating(pods, runtimes, deployment)}
    obstacle = _obstacle(pods, runtimes) or _not_created(deployment)
    if obstacle is not None and deployment is not None and is_in_place(deployment):
        obstacle = _of_gap(obstacle, pods)
    return {**report, **(obstacle or {"reason": "Starting"})}


def _of_gap(obstacle: dict[str, str], pods: Iterable[Object]) -> dict[str, str] | None:
    """The obstacle of a pod that takes the place of an old one. It has waited for room as long as the old one stood there,
    which is nothing that the node could be left out for: it counts from when the old one has gone."""
    if obstacle["reason"] != "Unschedulable":
        return obstacle
    if any("deletionTimestamp" in pod["metadata"] for pod in pods):
        return None
    return {key: text for key, text in obstacle.items() if key != "since"}


def _updating(pods: list[Object], runtimes: Mapping[str, Object], deployment: Object | None) -> dict[str, str]:
    """A change of the pods that is not through while the pods from before it serve on; empty when there is none.

    Under a reason of its own, with the obstacle as its message: the node takes the job, it is the change that fails,
    and would fail on any other node. A want of room for the new pod beside the old has its own word: nothing failed.
    """
    state = deployment.get("status", {}) if deployment else {}
    if deployment is None or "observedGeneration" not in state or is_through(deployment):
        return {}
    new = _of_newest(pods) if state.get("updatedReplicas") else []
    obstacle = (_obstacle(new, runtimes) if new else None) or _not_created(deployment)
    if obstacle is None:
        return {"reason": "PodUpdating"}
    if obstacle["reason"] == "Unschedulable" and lacks_room(obstacle["message"]):
        return {**obstacle, "reason": "NoRoomToSurge"}
    return _says("PodUpdating", ": ".join(filter(None, (obstacle["reason"], obstacle["message"]))), None)


def _of_newest(pods: list[Object]) -> list[Object]:
    """The pods of the template that the youngest pod which is not ready was made from."""
    late = [pod for pod in pods if not is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]
    if not late:
        return []
    template = _template_of(max(late, key=_created))
    return [pod for pod in pods if _template_of(pod) == template]


def _template_of(pod: Object) -> str:
    return str((pod["metadata"].get("labels") or {}).get("pod-template-hash", ""))


def _still_refused(
    report: dict[str, Any], known: NodeStatus | None, pods: list[Object], runtimes: Mapping[str, Object]
) -> dict[str, Any]:
    """The report; with the refusal that is known, where nothing else is in the way and the runtime is not heard yet."""
    unheard = any(_uid(pod) not in runtimes for pod in pods)
    if known is None or known.reason != "ModelRefused" or report.get("reason") != "Starting" or not unheard:
        return report
    return {**report, "reason": known.reason, "message": known.message}


def _obstacle(pods: list[Object], runtimes: Mapping[str, Object]) -> dict[str, str] | None:
    """The first thing that keeps a pod from being ready and will not go away by waiting a moment."""
    living = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and not is_ready(pod)]
    for pod in living:
        if has_ended(pod):
            continue
        scheduled = _condition(pod, "PodScheduled")
        if scheduled.get("status") == "False":
            return _says("Unschedulable", scheduled.get("message"), scheduled.get("lastTransitionTime"))
        for container in pod.get("status", {}).get("containerStatuses") or []:
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in BROKEN_CONTAINER:
                # Not since its birth: one that served for days must not be out of patience at its first crash.
                since = _condition(pod, "Ready").get("lastTransitionTime") or _created(pod)
                return _says(waiting["reason"], waiting.get("message"), since)
        for model in runtimes.get(_uid(pod), {}).get("models") or []:
            refused = model.get("refused")
            if refused:
                text = f"{refused['step']}: {refused['reason']}: {refused['message']}"
                return _says("ModelRefused", text, refused["at"])
    return _failure(pods)


def _not_created(deployment: Object | None) -> dict[str, str] | None:
    """Pods that the API does not let the Deployment make: a quota of the namespace, Pod Security, an admission webhook."""
    failure = _condition(deployment, "ReplicaFailure") if deployment else {}
    if failure.get("status") != "True":
        return None
    return _says("PodsNotCreated", failure.get("message"), failure.get("lastTransitionTime"))


def _failure(pods: list[Object]) -> dict[str, str] | None:
    """A pod that failed for good. Leftovers of a reboot lie around for days: they only speak while no other runs.

    Without a time of its own: where the kubelet turns away one pod after the other, it holds since the first was seen.
    """
    if any(pod.get("status", {}).get("phase") == "Running" for pod in pods):
        return None
    for pod in pods:
        if pod.get("status", {}).get("phase") == "Failed" and "deletionTimestamp" not in pod["metadata"]:
            return _says(pod["status"].get("reason") or "PodFailed", pod["status"].get("message"), None)
    return None


def _says(reason: object, message: object, since: object) -> dict[str, str]:
    said = {"reason": str(reason)[:LONGEST_WORD], "message": str(message or "")[:LONGEST_MESSAGE]}
    return {**said, "since": str(since)} if since else said


def has_ended(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") in ("Failed", "Succeeded")


STATES = (
    *("Failed", "Pending", "Fetching", "Verifying", "Staged", "Loading", "Checking", "Warming", "Mirroring", "Serving"),
)
"""of a model on one pod, from the one furthest behind"""
UNKNOWN = "Load", "Loading"
"""what a step and a state of a newer runtime are shown as: the API takes only those that this version knows"""


def _models(answers: list[tuple[bool, Object]], *, before: Iterable[ModelStatus] = ()) -> list[dict[str, Any]]:
    """One entry a digest and parameters over all pods, each given as (the pod is ready, what its runtime said).

    serving: every ready pod serves it. state: that of the pod furthest behind. A refusal of any pod is shown. received,
    shared: of all pods; a pod counts from its start, so they are never less than what was said `before`.
    """
    known = {model.digest: model for model in before}
    ready = sum(is_up for is_up, _ in answers)
    merged: dict[tuple[str, str | None], list[tuple[bool, Object]]] = {}
    for is_up, answer in answers:
        for model in answer["models"]:
            merged.setdefault((model["digest"], model.get("parameters")), []).append((is_up, model))
    entries = []
    for (digest, parameters), models in sorted(merged.items(), key=lambda item: (item[0][0], item[0][1] or "")):
        served = [model for is_up, model in models if model["serving"] and is_up]
        entry = {
            "name": models[0][1]["name"][:LONGEST_NAME],
            "version": models[0][1]["version"][:LONGEST_NAME],
            "digest": digest,
            "parameters": parameters,
            "state": min((_state(model) for _, model in models), key=STATES.index),
            "serving": bool(served) and len(served) == ready,
            "replicas": len(served),
            "since": min((model["since"] for model in served if model.get("since")), default=None),
            "received": _bytes(models, "received", known.get(digest)),
            "shared": _bytes(models, "shared", known.get(digest)),
            "bytes": max((model["bytes"] for _, model in models if model.get("bytes")), default=None),
            "seconds": max((model["seconds"] for _, model in models if model.get("seconds")), default=None),
            "refused": next((_refusal(model["refused"]) for _, model in models if model.get("refused")), None),
            "warning": next((_refusal(model["warning"]) for _, model in models if model.get("warning")), None),
        }
        if entry["seconds"] is not None:
            entry["seconds"] = format_decimal(round(float(entry["seconds"]), 3))
        entries.append({key: value for key, value in entry.items() if value is not None})
    return sorted(entries, key=lambda entry: not entry["serving"])[:MOST_MODELS]


def _bytes(
    models: list[tuple[bool, Object]], field: Literal["received", "shared"], before: ModelStatus | None
) -> int | None:
    known = (before.received if field == "received" else before.shared) if before is not None else None
    return max(known or 0, sum(model.get(field, 0) for _, model in models)) or None


def _state(model: Mapping[str, Any]) -> str:
    return model["state"] if model["state"] in STATES else UNKNOWN[1]


def _refusal(refused: Mapping[str, str]) -> dict[str, str]:
    step, message = refused["step"], refused["message"]
    if step not in STEP_REASONS:
        step, message = UNKNOWN[0], f"{step}: {message}"
    return {
        "step": step,
        "reason": refused["reason"][:LONGEST_WORD],
        "message": message[:LONGEST_MESSAGE],
        "at": refused["at"],
    }


def _condition(obj: Object, kind: str) -> dict[str, Any]:
    for condition in obj.get("status", {}).get("conditions") or []:
        if condition["type"] == kind:
            return dict(condition)
    return {}


def _created(pod: Object) -> str:
    return str(pod["metadata"].get("creationTimestamp", ""))


def _uid(pod: Object) -> str:
    return str(pod["metadata"]["uid"])
