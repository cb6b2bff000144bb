"""Where jobs end up: constraints against the real scheduler, load against a real Prometheus, and what is said about it."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster.endpoint import Endpoint, answer

from .operator_harness import NODES, Operator, World, eventually

TOTAL = sum(options["count"] for options in NODES.values())


def at_site(site: str) -> dict[str, Any]:
    return {"siteSelector": {"matchLabels": {"edgeward.dev/site": site}}}


def asking(cpu: str, memory: str = "64Mi") -> dict[str, Any]:
    return {"requests": {"cpu": cpu, "memory": memory}}


CAMERAS = [{"key": "dedicated", "operator": "Equal", "value": "cameras", "effect": "NoSchedule"}]

FITTING: dict[str, tuple[dict[str, Any], set[str]]] = {
    "tier": ({"placement": {"tiers": ["cloud"]}}, {"cloud-0000", "cloud-0001"}),
    "site": ({"placement": at_site("site-b")}, {"edge-b-0000"}),
    "node": ({"placement": {"nodeSelector": {"kubernetes.io/hostname": "edge-a-0001"}}}, {"edge-a-0001"}),
    "tolerated": ({"placement": {**at_site("site-t"), "tolerations": CAMERAS}}, {"edge-t-0000"}),
    "untainted": ({"placement": {"tiers": ["edge"]}}, {"edge-a-0000", "edge-a-0001", "edge-b-0000"}),
    "cpu": ({"resources": asking("5")}, {"cloud-0000", "cloud-0001"}),
    "memory": ({"resources": asking("100m", "10Gi")}, {"cloud-0000", "cloud-0001"}),
}
TOO_BIG = "TooBigForAnyNode"
REFUSED: dict[str, tuple[dict[str, Any], str, int, str]] = {
    "no-such-site": ({"placement": at_site("site-x")}, "SiteMismatch", TOTAL, "site-x"),
    "no-such-label": ({"placement": {"nodeSelector": {"gpu": "yes"}}}, "NodeSelectorMismatch", TOTAL, "gpu"),
    "tier-fog": ({"placement": {"tiers": ["fog"]}}, "TierMismatch", TOTAL, "not fog"),
    "taint": ({"placement": at_site("site-t")}, "UntoleratedTaint", 1, "edge-t-0000 has taint dedicated=cameras"),
    "arch": ({"placement": at_site("site-m")}, "ArchMismatch", 1, "edge-m-0000 is s390x"),
    "cpu-big": (
        {"placement": at_site("site-b"), "resources": asking("3")},
        "InsufficientCpu",
        1,
        "edge-b-0000 lacks",
    ),
    "memory-big": (
        {"placement": at_site("site-b"), "resources": asking("100m", "9Gi")},
        "InsufficientMemory",
        1,
        "edge-b-0000 lacks",
    ),
}


def test_each_constraint_ends_in_the_right_place_or_the_right_word(
    world: World, operator: Operator, namespace: str
) -> None:
    for name, (spec, _) in FITTING.items():
        world.job(namespace, name, spec)
    for name, (spec, *_) in REFUSED.items():
        world.job(namespace, name, spec)
    world.await_ready(namespace, *FITTING)
    for name, (_, nodes) in FITTING.items():
        scheduled = world.scheduled_on(namespace, name)
        assert set(scheduled) <= nodes and len(scheduled) == 1, f"{name} is on {scheduled}"
        assert world.nodes_of(namespace, name) == scheduled
    for name, (_, reason, count, nearest) in REFUSED.items():
        expected = TOO_BIG if name.endswith("-big") else "NoCapacity"
        ready = world.await_condition(namespace, name, "Ready", "False", reason=expected)
        assert nearest.split(" lacks")[0] in ready["message"], name
        world.await_condition(namespace, name, "Placed", "False")
        rejected = {
            item["reason"]: item for item in world.get_job(namespace, name)["status"]["explanation"]["rejected"]
        }
        assert rejected[reason]["count"] == count, f"{name}: {rejected}"
        assert nearest in rejected[reason]["nearestMiss"], f"{name}: {rejected}"
        assert world.pods(namespace, name) == []


def test_a_loaded_node_is_avoided_and_the_figures_are_prometheus_own(
    world: World, operator: Operator, namespace: str
) -> None:
    try:
        world.exporter.set("edge-a-0000", cores=3.6)
        world.exporter.set("edge-a-0001", cores=0.8)
        eventually(lambda: abs((world.prometheus.cores("edge-a-0000") or 0) - 3.6) < 0.02, what="Prometheus sees load")
        eventually(lambda: abs((world.prometheus.cores("edge-a-0001") or 0) - 0.8) < 0.02, what="Prometheus sees load")
        time.sleep(2.5)  # the operator's next poll
        world.job(namespace, "wary", placement=at_site("site-a"))
        world.await_ready(namespace, "wary")
        assert world.scheduled_on(namespace, "wary") == ["edge-a-0001"]
        told = world.get_job(namespace, "wary")["status"]["explanation"]
        assert told["node"] == "edge-a-0001"
        other = next(item for item in told["runnersUp"] if item["node"] == "edge-a-0000")
        for node, figures in (("edge-a-0001", told["figures"]), ("edge-a-0000", other["figures"])):
            at = _unix(figures["liveAt"])
            assert time.time() - 15 < at <= time.time()
            said = [world.prometheus.cores(node, at=at + later) for later in (0.0, 0.5, 1.0)]
            assert any(value is not None and abs(float(figures["liveCores"]) - value) < 0.02 for value in said), (
                node,
                figures,
                said,
            )
            assert figures["confidence"] == 1000
            assert abs(figures["load"] - 1000 * float(figures["liveCores"]) / 4) < 60
        loads = [next(t for t in terms if t["name"] == "load") for terms in (told["terms"], other["terms"])]
        assert loads[0]["value"] > loads[1]["value"]
    finally:
        for node in ("edge-a-0000", "edge-a-0001"):
            world.exporter.set(node, cores=0.2)


@contextmanager
def _instead_of_prometheus(world: World, said: tuple[int, str]) -> Iterator[None]:
    status, text = said
    endpoint = Endpoint(lambda request: answer(request, text.encode(), status=status), port=world.prometheus.port)
    try:
        yield
    finally:
        endpoint.close()


RUBBISH: list[tuple[int, str]] = [
    (200, "<html>please log in</html>"),
    (200, '{"status": "success", "data": {"resultType": "vector", "result": [{"metric": 5, "value": "x"}]}}'),
    (200, '{"status": "success", "data": {"resultType": "vector", "result": []}}'),
    (500, "internal error"),
]


def test_without_prometheus_placement_goes_on_and_says_so(world: World, operator: Operator, namespace: str) -> None:
    world.job(namespace, "before", replicas=3)
    world.await_ready(namespace, "before")
    world.await_condition(namespace, "before", "MetricsFresh", "True")
    pods = world.uids(namespace)

    def placed_blind(name: str, word: str) -> None:
        fresh = world.await_condition(namespace, "before", "MetricsFresh", "False")
        eventually(
            lambda: word in world.condition(namespace, "before", "MetricsFresh")["message"],
            what=f"MetricsFresh says {word}; it says {fresh['message']}",
        )
        world.job(namespace, name)
        world.await_ready(namespace, name)
        assert world.condition(namespace, name, "MetricsFresh")["status"] == "False"

    world.prometheus.hang(True)
    try:
        placed_blind("hanging", "did not answer within 1 s")
    finally:
        world.prometheus.hang(False)
    world.await_condition(namespace, "before", "MetricsFresh", "True")

    world.prometheus.stop()
    try:
        placed_blind("stopped", "Prometheus at")
        for number, said in enumerate(RUBBISH):
            with _instead_of_prometheus(world, said):
                failures = operator.metric("edgeward_failures_total")
                time.sleep(1.2)
                placed_blind(f"rubbish-{number}", "Prometheus at")
                assert operator.metric("edgeward_failures_total") == failures
    finally:
        world.prometheus.start()
    world.await_condition(namespace, "before", "MetricsFresh", "True", seconds=30)
    assert pods.items() <= world.uids(namespace).items()
    status = world.get_job(namespace, "before")["status"]
    assert "moves" not in status and "proposedMove" not in status
    reasons = {event["reason"] for event in world.events(namespace, "before")}
    assert {"MetricsLost", "MetricsBack"} <= reasons


def test_a_node_without_figures_is_judged_by_requests_and_named(
    world: World, operator: Operator, namespace: str
) -> None:
    world.job(namespace, "steady")
    world.await_condition(namespace, "steady", "MetricsFresh", "True")
    world.exporter.forget("edge-b-0000")
    try:
        fresh = world.await_condition(namespace, "steady", "MetricsFresh", "False")
        assert fresh["message"].startswith(f"1 of {TOTAL} nodes")
        world.job(namespace, "blind", placement=at_site("site-b"))
        world.await_ready(namespace, "blind")
    finally:
        world.exporter.set("edge-b-0000", cores=0.2)
    world.await_condition(namespace, "steady", "MetricsFresh", "True", seconds=30)


def test_a_changed_placement_keeps_the_ready_replicas_all_the_time(
    world: World, operator: Operator, namespace: str
) -> None:
    world.job(namespace, "serving", replicas=3, placement=at_site("site-a"))
    world.await_ready(namespace, "serving")
    with _every_pod_event(world, namespace) as events:
        for site, nodes in (("site-b", {"edge-b-0000"}), ("site-a", {"edge-a-0000", "edge-a-0001"})):
            world.job(namespace, "serving", replicas=3, placement=at_site(site))
            eventually(
                lambda nodes=nodes: set(on := world.scheduled_on(namespace, "serving")) <= nodes and len(on) == 3,
                seconds=30,
                what=f"all at {site}",
            )
            world.await_ready(namespace, "serving")
    ready: dict[str, bool] = {}
    counts = []
    for event in events:
        pod = event["object"]
        ready[pod["metadata"]["name"]] = event["type"] != "DELETED" and _is_ready(pod)
        counts.append(sum(ready.values()))
    began = counts.index(3)
    assert min(counts[began:]) >= 3, f"ready pods, event by event: {counts}"
    assert max(counts) <= 6 and len(ready) == 9


@contextmanager
def _every_pod_event(world: World, namespace: str) -> Iterator[list[dict[str, Any]]]:
    """The watch events of a namespace's pods, in the server's own order; filled when the block ends."""
    command = [str(world.plane.binaries.path("kubectl")), f"--kubeconfig={world.plane.kubeconfig}", "-n", namespace]
    command += ["get", "pods", "--watch", "--output-watch-events", "-o", "json"]
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryFile("w+") as output:
        watching = subprocess.Popen(command, stdout=output)
        try:
            yield found
            time.sleep(1)
        finally:
            watching.terminate()
            watching.wait()
        output.seek(0)
        text, decoder = output.read().strip(), json.JSONDecoder()
        while text:
            event, end = decoder.raw_decode(text)
            found.append(event)
            text = text[end:].lstrip()


@pytest.mark.parametrize("more", [1, 2])
def test_scaling_touches_no_other_replica(world: World, operator: Operator, namespace: str, more: int) -> None:
    world.job(namespace, "grows", replicas=2)
    world.await_ready(namespace, "grows")
    before = world.uids(namespace)
    world.job(namespace, "grows", replicas=2 + more)
    world.await_ready(namespace, "grows")
    eventually(lambda: len(world.pods(namespace)) == 2 + more, what="the new replicas")
    assert before.items() <= world.uids(namespace).items()


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return "deletionTimestamp" not in pod["metadata"] and any(
        item["type"] == "Ready" and item["status"] == "True" for item in conditions
    )


def _unix(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
