"""The operator's process is ended without a word, and what changed by that is looked for."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster import host
from tests.cluster.processes import end

from .kube import Object, StoryError, wait
from .stage import LEASE, OURS, Stage


@dataclass(frozen=True, kw_only=True)
class Survived:
    """The operator was killed. took_over: seconds until another process held the Lease.

    changed   objects whose resourceVersion or uid is not what it was, the Lease apart; of jobs, what was decided
    writes    of the objects that are compared, how many there were
    """

    how: str
    took_over: float
    watched: float
    holder_before: str
    holder_after: str
    compared: int
    changed: tuple[str, ...]
    before: dict[str, str]
    after: dict[str, str]


_OPERATOR = "app.kubernetes.io/component=operator"
_KINDS = (
    "inferencejobs.edgeward.dev", "modelreleases.edgeward.dev", "deployments.apps", "services", "configmaps",
    "persistentvolumeclaims", "poddisruptionbudgets.policy", "pods",
)  # fmt: skip


def everything(stage: Stage) -> dict[str, str]:
    """kind/name -> uid and resourceVersion of all that Edgeward and its jobs consist of, and each pod's node."""
    found = {}
    key, _, value = OURS.partition("=")
    listed = [("assignments.edgeward.dev", stage.operator_namespace), *((kind, stage.namespace) for kind in _KINDS)]
    for kind, namespace in listed:
        for item in stage.kubectl.items(kind, "-n", namespace):
            meta = item["metadata"]
            labels = meta.get("labels") or {}
            if labels.get("app.kubernetes.io/name") == "edgeward" or labels.get(key) == value:
                continue  # the operator's own, when it shares the namespace, and the story's own
            found[f"{kind.split('.')[0]}/{meta['name']}"] = f"{meta['uid']} {_version(kind, item)}"
    return found


def _version(kind: str, item: Object) -> str:
    """Of a job, of all but what a new process measures and computes for itself, which says nothing about what runs."""
    if not kind.startswith("inferencejobs"):
        return str(item["metadata"]["resourceVersion"])
    status = {key: value for key, value in item.get("status", {}).items() if key != "learned"}
    explanation = {key: value for key, value in status.get("explanation", {}).items() if key != "shareOfBound"}
    told = json.dumps([item["spec"], {**status, "explanation": explanation}], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def lease(stage: Stage) -> Object:
    found: Object = stage.kubectl.get("lease", LEASE, "-n", stage.operator_namespace)["spec"]
    return found


def kill_operator(stage: Stage, *, watch: float = 15) -> Survived:
    """End the operator's process without a word, wait for its successor, and see what changed some seconds later."""
    _settle(stage)
    before, holder = everything(stage), lease(stage)["holderIdentity"]
    started = time.monotonic()
    how = _kill(stage)
    successor: dict[str, Any] = {}

    def taken() -> bool:
        nonlocal successor
        successor = lease(stage)
        return bool(successor["holderIdentity"] not in ("", holder))

    def why() -> str:
        return stage.kubectl.run("get", "pods", "-n", stage.operator_namespace, "-o", "wide", check=False)

    wait("another leader", taken, seconds=90, why=why)
    took_over = time.monotonic() - started
    time.sleep(watch)
    after = everything(stage)
    changed = tuple(
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    )
    return Survived(
        how=how,
        took_over=took_over,
        watched=watch,
        holder_before=holder,
        holder_after=successor["holderIdentity"],
        compared=len(before),
        changed=changed,
        before=before,
        after=after,
    )


def _settle(stage: Stage, *, quiet: float = 4, seconds: float = 60) -> None:
    """Until nothing has been written for some seconds: what is still under way is not the killing's doing."""
    deadline = time.monotonic() + seconds
    last, since = everything(stage), time.monotonic()
    while time.monotonic() - since < quiet:
        if time.monotonic() > deadline:
            raise StoryError("the cluster does not come to rest before the operator is killed")
        time.sleep(1)
        now = everything(stage)
        if now != last:
            last, since = now, time.monotonic()


def _kill(stage: Stage) -> str:
    pods = stage.kubectl.items("pods", "-n", stage.operator_namespace, "-l", _OPERATOR)
    running = [item for item in pods if item["status"].get("phase") == "Running"]
    if not running:
        raise StoryError("no operator pod runs")
    if stage.cluster is None:
        for item in running:
            stage.kubectl.run(
                "delete", "pod", item["metadata"]["name"], "-n", stage.operator_namespace, "--force", "--grace-period=0"
            )
        return "kubectl delete pod --force"
    for item in running:
        _kill_process(stage, item["spec"]["nodeName"])
    return "kill -9 of its process"


def _kill_process(stage: Stage, node: str) -> None:
    """The operator's process is known by its command line among the processes of the node's control group."""
    assert stage.cluster is not None
    for pid, start in host.cgroup_processes(stage.cluster.plan.node(node).cgroup).items():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"operator" in words and any(word.endswith(b"/edgeward") for word in words):
            end({pid: start}, grace=0)  # looks again, on an open handle, that the pid is still that process
            return
    raise StoryError(f"no operator process among those of {node}")
