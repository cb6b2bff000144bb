"""The scale subresource, and what is remembered of a size, at a real API server."""

from __future__ import annotations

import json

import pytest

from .operator_harness import Object, Operator, World, eventually

BOUNDS = {"minReplicas": 1, "maxReplicas": 4}


def _scale(world: World, namespace: str, name: str, replicas: int) -> None:
    world.plane.kubectl("scale", f"ij/{name}", "-n", namespace, f"--replicas={replicas}")


def _scale_object(world: World, namespace: str, name: str) -> Object:
    return dict(world.api.get(f"{world.jobs(namespace)}/{name}/scale"))


def _selected(world: World, namespace: str, selector: str) -> list[str]:
    found = json.loads(world.plane.kubectl("get", "pods", "-n", namespace, "-l", selector, "-o", "json").stdout)
    return sorted(item["metadata"]["name"] for item in found["items"] if "deletionTimestamp" not in item["metadata"])


def _await_pods(world: World, namespace: str, name: str, count: int) -> None:
    eventually(lambda: len(world.scheduled_on(namespace, name)) == count, what=f"{count} pods of {name}")


@pytest.mark.parametrize(("begin", "then"), [(1, 3), (3, 1), (2, 0)])
def test_kubectl_scale_and_what_the_subresource_says(
    world: World, operator: Operator, namespace: str, begin: int, then: int
) -> None:
    world.job(namespace, "reader", replicas=begin)
    world.job(namespace, "beside", replicas=1)
    world.await_ready(namespace, "reader", "beside")
    _scale(world, namespace, "reader", then)
    _await_pods(world, namespace, "reader", then)
    said = eventually(
        lambda: (found := _scale_object(world, namespace, "reader"))["status"].get("replicas", 0) == then and found,
        what="the scale subresource",
    )
    assert said["spec"].get("replicas", 0) == then
    mine = sorted(pod["metadata"]["name"] for pod in world.pods(namespace, "reader"))
    eventually(lambda: _selected(world, namespace, said["status"]["selector"]) == mine, what="the pods selected")
    assert len(mine) == then


def test_beside_spec_scaling_kubectl_scale_changes_nothing_and_status_says_so(
    world: World, operator: Operator, namespace: str
) -> None:
    world.job(namespace, "reader", replicas=2, scaling=BOUNDS)
    world.await_ready(namespace, "reader")
    before = world.uids(namespace)
    _scale(world, namespace, "reader", 4)
    eventually(
        lambda: (
            "spec.replicas, which kubectl set, is only the start value"
            in world.get_job(namespace, "reader")["status"]["scaling"]["message"]
        ),
        what="the message",
    )
    status = world.get_job(namespace, "reader")["status"]
    assert (status["replicas"], status["scaling"]["replicas"]) == (2, 2)
    assert world.uids(namespace) == before
    _scale(world, namespace, "reader", 0)
    _await_pods(world, namespace, "reader", 0)
    assert world.condition(namespace, "reader", "Ready")["reason"] == "NothingWanted"
    _scale(world, namespace, "reader", 3)
    _await_pods(world, namespace, "reader", 3)


def test_bounds_that_change_hold_at_once(world: World, operator: Operator, namespace: str) -> None:
    world.job(namespace, "reader", replicas=2, scaling=BOUNDS)
    world.await_ready(namespace, "reader")
    world.job(namespace, "reader", replicas=2, scaling={"minReplicas": 3, "maxReplicas": 4})
    _await_pods(world, namespace, "reader", 3)
    world.job(namespace, "reader", replicas=2, scaling={"minReplicas": 0, "maxReplicas": 1})
    _await_pods(world, namespace, "reader", 1)


def test_the_size_is_remembered_when_nothing_is_measured_whoever_leads(replicas: World, namespace: str) -> None:
    """What a leader decided is in status; the pods of this control plane answer nobody, so no figure ever comes."""
    world = replicas
    world.job(namespace, "reader", replicas=1, scaling=BOUNDS)
    window = {"lowSince": "2026-01-01T00:00:00Z", "lowPeak": 2}
    status = {"status": {"scaling": {"replicas": 3, "message": "measured", **window}}}
    world.plane.kubectl(
        "patch", "ij/reader", "-n", namespace, "--subresource=status", "--type=merge", "-p", json.dumps(status)
    )
    first = world.operator("first").start().await_leading()
    world.await_ready(namespace, "reader")
    assert len(world.scheduled_on(namespace, "reader")) == 3
    before = world.uids(namespace)
    first.kill()
    second = world.operator("second").start().await_leading()
    eventually(lambda: second.metric("edgeward_plans_total") > 5, what="plans of the second")
    status = world.get_job(namespace, "reader")["status"]["scaling"]
    assert status["replicas"] == 3
    assert status["message"] == "held: no arrivals are measured yet"
    assert {key: status[key] for key in window} == window
    assert world.uids(namespace) == before
