"""What the scheduler refuses comes back: the replica goes elsewhere, and the refusing node is left alone longer and longer."""

from __future__ import annotations

import time
from typing import Any

from .operator_harness import Operator, World, eventually
from .test_operator_placement import at_site

CAMERA = "example.com/camera"
ASKING_FOR_A_CAMERA = {
    "spec": {"containers": [{"name": "runtime", "resources": {"limits": {CAMERA: "1"}, "requests": {CAMERA: "1"}}}]}
}
"""Edgeward counts cpu, memory and pods; only the scheduler knows where a camera is."""


def _give_camera(world: World, node: str, count: str | None) -> None:
    patch = {"status": {"allocatable": {CAMERA: count}, "capacity": {CAMERA: count}}}
    world.api.patch(f"/api/v1/nodes/{node}/status", patch)


def _exclusions(world: World, namespace: str, name: str) -> dict[str, Any]:
    return {item["node"]: item for item in world.get_job(namespace, name)["status"].get("exclusions") or []}


def test_a_replica_that_the_scheduler_refuses_is_placed_elsewhere(
    world: World, operator: Operator, namespace: str
) -> None:
    _give_camera(world, "edge-a-0000", "1")
    try:
        # By its live load the node without a camera is the better one, so it is tried first.
        world.exporter.set("edge-a-0000", cores=3.5)
        eventually(lambda: (world.prometheus.cores("edge-a-0000") or 0) > 3.4, what="Prometheus sees load")
        time.sleep(2.5)
        begun = time.time()
        world.job(namespace, "filmer", placement=at_site("site-a"), podTemplate=ASKING_FOR_A_CAMERA)
        eventually(lambda: world.nodes_of(namespace, "filmer") == ["edge-a-0001"], what="the wrong node first")
        world.await_ready(namespace, "filmer")
        assert world.scheduled_on(namespace, "filmer") == ["edge-a-0000"]
        # 4 s of patience from a time that the API server gives in whole seconds, so up to one less by the clock
        assert time.time() - begun >= 3, "before the patience was over"
        excluded = _exclusions(world, namespace, "filmer")
        assert set(excluded) == {"edge-a-0001"}
        assert (excluded["edge-a-0001"]["count"], excluded["edge-a-0001"]["reason"]) == (1, "Unschedulable")
        assert CAMERA in excluded["edge-a-0001"]["message"]
        reasons = {event["reason"] for event in world.events(namespace, "filmer")}
        assert "NodeExcluded" in reasons
        # No loop: a while later, its back-off over, it is where it was.
        pods = world.uids(namespace)
        time.sleep(4.5)
        assert world.uids(namespace) == pods
        assert _exclusions(world, namespace, "filmer")["edge-a-0001"]["count"] == 1
    finally:
        world.exporter.set("edge-a-0000", cores=0.2)
        _give_camera(world, "edge-a-0000", None)


def test_a_node_that_refuses_again_is_left_alone_twice_as_long(
    world: World, operator: Operator, namespace: str
) -> None:
    begun = time.time()
    world.job(namespace, "nowhere", placement=at_site("site-b"), podTemplate=ASKING_FOR_A_CAMERA)
    seen: dict[int, tuple[float, float]] = {}

    def twice() -> bool:
        found = _exclusions(world, namespace, "nowhere").get("edge-b-0000")
        if found and found["count"] not in seen:
            seen[found["count"]] = (time.time(), _unix(found["until"]))
        return len(seen) >= 2

    eventually(twice, seconds=60, what="two refusals", every=0.05)
    lengths = [until - noticed for noticed, until in (seen[count] for count in (1, 2))]
    for length, expected in zip(lengths, (4, 8), strict=True):
        assert expected - 2 <= length <= expected + 0.5, lengths
    ready = world.await_condition(namespace, "nowhere", "Ready", "False", reason="NoCapacity")
    assert "edge-b-0000 refused it" in ready["message"] and CAMERA in ready["message"]
    # With no other node to go to, it waits where it is: the pod that is refused is not made anew again and again.
    tries = [w for w in world.writes(since=begun) if w.resource == "deployments" and w.namespace == namespace]
    assert len(tries) == 1, tries
    _give_camera(world, "edge-b-0000", "1")
    try:
        world.await_ready(namespace, "nowhere")
    finally:
        _give_camera(world, "edge-b-0000", None)


def test_a_node_filled_behind_the_planners_back(world: World, operator: Operator, namespace: str) -> None:
    """Pods that need no cpu and no memory but a pod slot each, made in the moment between plan and bind."""
    full, free = world.add_nodes(
        "slots", count=2, labels={"edgeward.dev/tier": "edge", "edgeward.dev/site": "site-s"}, pods=3
    )
    try:
        _fill(world, namespace, full, 1)
        world.job(namespace, "slotted", placement=at_site("site-s"), replicas=3)
        _fill(world, namespace, full, 2)
        world.await_ready(namespace, "slotted", seconds=40)
        assert world.scheduled_on(namespace, "slotted").count(free) >= 2
    finally:
        for pod in world.pods(namespace):
            world.delete(f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}?gracePeriodSeconds=0")
        world.clear(namespace)
        world.remove_nodes(full, free)


def _fill(world: World, namespace: str, node: str, count: int) -> None:
    for number in range(count):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"generateName": f"foreign-{number}-"},
            "spec": {"nodeName": node, "containers": [{"name": "any", "image": "any"}]},
        }
        world.api.post(f"/api/v1/namespaces/{namespace}/pods", pod)


def _unix(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
