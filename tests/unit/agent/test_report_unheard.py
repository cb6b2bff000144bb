"""An agent that has just started has heard no runtime yet. What the Assignment says already stands until it has."""

from __future__ import annotations

from typing import Any

from edgeward.agent.report import status
from edgeward.api.assignment import Assignment
from edgeward.api.common import parse

DIGEST = "sha256:" + "a" * 64
SERVING = {
    "name": "sign-reader", "version": "2.0.0", "digest": DIGEST, "state": "Serving", "serving": True, "replicas": 1,
    "since": "2026-01-02T03:04:05Z", "bytes": 3, "seconds": "0.061",
}  # fmt: skip


def assignment(*, ready: bool, **status: Any) -> Assignment:
    node = {"name": "edge-1", "replicas": 1, "ready": int(ready), **({} if ready else status.pop("node"))}
    return parse(
        Assignment,
        {
            "apiVersion": "edgeward.dev/v1alpha1",
            "kind": "Assignment",
            "metadata": {"name": "sign-reader-1", "namespace": "edgeward", "generation": 2},
            "spec": {
                "job": {"namespace": "shop", "name": "sign-reader", "uid": "u"},
                "site": "site-a",
                "revision": 2,
                "nodes": [{"name": "edge-1", "replicas": 1}],
            },
            "status": {"appliedRevision": 2, "nodes": [node], **status},
        },
    )


def pod(*, ready: bool) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "uid": "p-1", "annotations": {"edgeward.dev/node": "edge-1"}},
        "spec": {"nodeName": "edge-1"},
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def report(item: Assignment, the_pod: dict[str, Any], runtimes: dict[str, Any]) -> dict[str, Any]:
    node = {"metadata": {"name": "edge-1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    return status(
        item,
        pods=[the_pod],
        deployments={},
        nodes={"edge-1": node},
        runtimes=runtimes,
        applied_revision=2,
        conditions=(),
    )


def test_a_model_that_serves_is_not_forgotten_before_its_runtime_is_heard() -> None:
    found = report(assignment(ready=True, models=[SERVING]), pod(ready=True), {})
    assert found["models"] == [SERVING]
    assert found["serves"] == "sign-reader 2.0.0"


def test_what_the_runtime_says_wins_once_it_is_heard() -> None:
    other = {**SERVING, "version": "3.0.0", "digest": "sha256:" + "b" * 64, "seconds": 1.0}
    said = {"p-1": {"contract": 1, "revision": 3, "models": [other]}}
    found = report(assignment(ready=True, models=[SERVING]), pod(ready=True), said)
    assert [model["version"] for model in found["models"]] == ["3.0.0"]


def test_a_refusal_is_not_forgotten_before_its_runtime_is_heard() -> None:
    refused = {"reason": "ModelRefused", "message": "Verify: DigestMismatch: not what was named"}
    found = report(assignment(ready=False, node=refused), pod(ready=False), {})
    assert found["nodes"] == [{"name": "edge-1", "replicas": 1, "ready": 0, **refused}]


def test_a_pod_that_is_heard_and_starts_is_only_starting() -> None:
    refused = {"reason": "ModelRefused", "message": "Verify: DigestMismatch: not what was named"}
    said = {"p-1": {"contract": 1, "revision": 3, "models": []}}
    found = report(assignment(ready=False, node=refused), pod(ready=False), said)
    assert found["nodes"][0]["reason"] == "Starting"
