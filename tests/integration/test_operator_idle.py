"""A fleet in which nothing happens is written to by nobody, however much its live figures change."""

from __future__ import annotations

import random
import threading
import time

from .operator_harness import World, eventually

IDLE_S = 60


def _versions(world: World) -> dict[str, str]:
    """Resource versions of whatever an operator could write to. Pods and nodes have other writers."""
    found = {}
    for path in (
        "/apis/edgeward.dev/v1alpha1/inferencejobs",
        "/apis/edgeward.dev/v1alpha1/modelreleases",
        "/apis/edgeward.dev/v1alpha1/assignments",
        "/apis/edgeward.dev/v1alpha1/sites",
        "/apis/apps/v1/deployments",
        "/apis/policy/v1/poddisruptionbudgets",
        "/api/v1/services",
        "/api/v1/configmaps",
        "/api/v1/events",
    ):
        for item in world.api.get(path)["items"]:
            if item.get("source", {}).get("component", "edgeward").partition("-")[0] != "edgeward":
                continue  # an Event of the API server's own controllers
            found[f"{path} {item['metadata'].get('namespace')}/{item['metadata']['name']}"] = item["metadata"][
                "resourceVersion"
            ]
    return found


def test_an_idle_minute_makes_no_write_but_the_lease(replicas: World, namespace: str) -> None:
    world = replicas
    leader = world.operator("leader", timing={"dwell": 5.0}).start().await_leading()
    standby = world.operator("standby").start()
    for number in range(5):
        world.job(namespace, f"job-{number}", replicas=1 + number % 3)
    world.job(namespace, "sized", replicas=2, scaling={"minReplicas": 1, "maxReplicas": 4})
    world.await_ready(namespace, "sized", *(f"job-{number}" for number in range(5)))
    world.await_condition(namespace, "job-0", "MetricsFresh", "True")
    eventually(lambda: standby.get("/readyz")[0] == 200, what="the standby is ready")

    stop = threading.Event()

    def wobble() -> None:
        """Figures that change with every scrape, and now and then a lot; but no node is better off for good."""
        chance = random.Random(1)
        while not stop.wait(0.4):
            for node in world.exporter.nodes():
                peak = 1.2 if chance.random() < 0.05 else 0.3
                world.exporter.set(node, cores=chance.uniform(0.1, peak), memory=chance.uniform(1e8, 5e8))

    changing = threading.Thread(target=wobble, daemon=True)
    changing.start()
    try:
        time.sleep(8)  # to settle with figures that change
        begun, versions, counted = time.time(), _versions(world), leader.metric("edgeward_api_writes_total")
        plans = leader.metric("edgeward_plans_total")
        before = world.prometheus.query("rate(container_cpu_usage_seconds_total[5s])")
        time.sleep(IDLE_S)
        after = world.prometheus.query("rate(container_cpu_usage_seconds_total[5s])")
    finally:
        stop.set()
        changing.join()
    assert all(abs(before[node] - after[node]) > 1e-6 for node in before), "the figures did not change"
    assert leader.metric("edgeward_plans_total") - plans >= IDLE_S / 2, "the planner did not look"
    assert world.writes(since=begun) == []
    assert leader.metric("edgeward_api_writes_total") - counted == 0
    assert _versions(world) == versions
    leases = world.writes(since=begun, leases=True)
    assert leases and {(write.user, write.name) for write in leases} == {(leader.user, "edgeward-hub")}
    assert standby.metric("edgeward_api_writes_total") == 0
    for operator in (leader, standby):
        assert operator.get("/healthz") == (200, "ok")
        assert operator.metric("edgeward_failures_total") == 0
