"""Elastic sites and jobs that count per site, with the stock scheduler: a test plays the autoscaler."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from .operator_harness import Operator, World, eventually

SITES = "/apis/edgeward.dev/v1alpha1/sites"
AT_BURST = {"siteSelector": {"matchLabels": {"edgeward.dev/site": "burst"}}}
BIG = {"requests": {"cpu": "700m", "memory": "64Mi"}}
"""one fits on a node of the pool, two do not"""


@pytest.fixture
def burst(world: World) -> Iterator[str]:
    body = {"apiVersion": "edgeward.dev/v1alpha1", "kind": "Site", "metadata": {"name": "burst"}}
    world.api.apply(f"{SITES}/burst", {**body, "spec": {"tier": "cloud", "nodes": "Elastic"}})
    yield "burst"
    world.delete(f"{SITES}/burst")
    left = world.api.get("/api/v1/nodes?labelSelector=edgeward.dev%2Fsite%3Dburst")["items"]
    world.remove_nodes(*(node["metadata"]["name"] for node in left))


def grow(world: World, prefix: str) -> str:
    (name,) = world.add_nodes(prefix, cpu="1", labels={"edgeward.dev/site": "burst"})
    return name


def decided(world: World, begun: float, namespace: str) -> list[Any]:
    """Writes to what says how many replicas run where."""
    return [
        write
        for write in world.writes(since=begun)
        if write.resource in ("assignments", "deployments")
        and (write.namespace == namespace or write.resource == "assignments")
    ]


def running(world: World, namespace: str, job: str) -> list[str]:
    return [node for node in world.scheduled_on(namespace, job) if node]


def test_a_pool_grows_for_pods_that_wait_and_shrinks_unopposed(
    world: World, operator: Operator, burst: str, namespace: str
) -> None:
    eventually(lambda: world.api.get(f"{SITES}/burst")["status"]["conditions"], what="an empty pool has a status")
    first = grow(world, "pool-a")
    world.job(namespace, "bursty", replicas=2, placement=AT_BURST, resources=BIG)
    eventually(lambda: len(world.pods(namespace, "bursty")) == 2, what="two pods")
    eventually(lambda: running(world, namespace, "bursty") == [first], what="one of them has a node")
    (deployment,) = world.deployments(namespace)
    assert deployment["spec"]["replicas"] == 2
    waits = world.await_condition(namespace, "bursty", "Ready", "False", reason="PodsStarting")
    eventually(
        lambda: "Unschedulable" in world.condition(namespace, "bursty", "Ready")["message"], what="the reason is told"
    )
    assert waits["observedGeneration"] == 1
    assert world.nodes_of(namespace, "bursty") == ["burst/*"]
    notes = " ".join(world.get_job(namespace, "bursty")["status"]["explanation"]["notes"])
    assert "1 replica waits at burst for its pool to grow" in notes

    # On a fixed node, 4 s of this would have been a refusal.
    begun, patient_until = time.time(), time.time() + 6
    eventually(lambda: time.time() > patient_until, what="longer than a node is given")
    assert not world.get_job(namespace, "bursty")["status"].get("exclusions")
    assert decided(world, begun, namespace) == []

    second = grow(world, "pool-b")
    world.await_ready(namespace, "bursty")
    assert running(world, namespace, "bursty") == sorted((first, second))
    assert decided(world, begun, namespace) == [], "the scheduler alone did it"

    # The autoscaler takes a node away: it drains it, and then the node is gone.
    calm = time.time()
    world.api.patch(f"/api/v1/nodes/{second}", {"spec": {"unschedulable": True}})
    evicted = next(pod for pod in world.pods(namespace, "bursty") if pod["spec"]["nodeName"] == second)
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": evicted["metadata"]["name"]}}
    world.api.post(f"/api/v1/namespaces/{namespace}/pods/{evicted['metadata']['name']}/eviction", eviction)
    eventually(lambda: running(world, namespace, "bursty") == [first], what="its pod has left")
    world.remove_nodes(second)
    world.await_condition(namespace, "bursty", "Ready", "False", reason="PodsStarting")
    assert world.nodes_of(namespace, "bursty") == ["burst/*"]
    assert not world.get_job(namespace, "bursty")["status"].get("exclusions")
    third = grow(world, "pool-c")
    world.await_ready(namespace, "bursty")
    assert running(world, namespace, "bursty") == sorted((first, third))
    assert decided(world, calm, namespace) == [], "nodes come and go, and nothing is decided anew"


def test_each_site_has_its_own_and_one_that_comes_gets_its_own(
    world: World, operator: Operator, namespace: str
) -> None:
    def at(site: str) -> dict[str, str]:
        return {"edgeward.dev/tier": "edge", "edgeward.dev/site": site, "edgeward.dev/test": namespace}

    shops = {"matchExpressions": [{"key": "edgeward.dev/site", "operator": "In", "values": ["shop-p", "shop-q"]}]}
    (p,) = world.add_nodes("shop-p", labels=at("shop-p"))
    try:
        world.job(namespace, "tills", replicas=2, replicaScope="PerSite", placement={"siteSelector": shops})
        world.await_ready(namespace, "tills")
        assert world.scheduled_on(namespace, "tills") == [p, p]
        before = world.uids(namespace)
        (q,) = world.add_nodes("shop-q", labels=at("shop-q"))
        eventually(lambda: world.scheduled_on(namespace, "tills") == [p, p, q, q], what="two more at the new site")
        world.await_ready(namespace, "tills")
        status = world.get_job(namespace, "tills")["status"]
        assert (status["replicas"], status["readyReplicas"]) == (4, 4)
        assert status["selector"] == "edgeward.dev/job=tills,!edgeward.dev/job"
        # The label that makes it a site is taken off: what it had goes, and nothing else does.
        world.api.patch(f"/api/v1/nodes/{q}", {"metadata": {"labels": {"edgeward.dev/site": "shop-r"}}})
        eventually(lambda: world.scheduled_on(namespace, "tills") == [p, p], what="the site's own are gone")
        eventually(lambda: before == world.uids(namespace), what="they have ended, and nothing else has")
        world.await_ready(namespace, "tills")
    finally:
        world.clear(namespace)  # while there is a node that says that a pod has ended
        world.remove_nodes(p, "shop-q-0000")
