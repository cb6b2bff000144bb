"""Nothing that a Prometheus can say or fail to say moves or stops a replica, and status tells what was not believed.

Made as tempting as can be: the nodes that hold the replicas get the bad figures, all others look fine, and moves need no
dwell. That honest figures of the same kind do move a replica is the last step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from edgeward.metrics.poller import FROZEN
from edgeward.placement.freshness import STANDS_STILL

from . import bad_prometheus as bad
from .bad_prometheus import BadPrometheus, Behave, Spoil
from .operator_harness import NODES, World, eventually

CORES = {
    f"{prefix}-{number:04d}": float(options["cpu"])
    for prefix, options in NODES.items()
    for number in range(options["count"])
}
METRICS = {"scrapeInterval": 1.0, "pollInterval": 0.25, "expiry": 6.0}
TIMING = {"tick": 0.5, "dwell": 0.0, "evaluationInterval": 0.5}
FIGURES: dict[str, tuple[Spoil, str]] = {
    "missing": (bad.left_out("cpu", "cpu_at", "memory", "memory_at"), "too old"),
    "without a time": (bad.left_out("cpu_at"), "too old"),
    "late": (bad.stamped(lambda now: now - 3600), "too old"),
    "from the beginning of time": (bad.stamped(lambda now: 0.0), "too old"),
    "from the future": (bad.stamped(lambda now: now + 3600), "cpu is from the future"),
    "from no time": (bad.stamped(lambda now: float("nan")), "cpu is not a number"),
    "frozen but stamped anew": (bad.value("0.25"), FROZEN),
    "a counter that stands still": (bad.value("0"), STANDS_STILL),
    "NaN": (bad.value("NaN"), "cpu is not a number"),
    "+Inf": (bad.value("+Inf"), "cpu is not a number"),
    "-Inf": (bad.value("-Inf"), "cpu is not a number"),
    "negative": (bad.value("-0.5"), "cpu is negative"),
    "absurd": (bad.value("1e9"), "far beyond what the node has"),
    "twice": (bad.twice, "cpu answered more than once"),
    "none at all": (bad.empty, "no series"),
    "of other nodes": (bad.renamed, "only of nodes that are not here, such as ghost-cloud-0000"),
}
ANSWERS: dict[str, tuple[Behave, str]] = {
    "after 30 s": (bad.late_by(30), "did not answer within 1 s"),
    "half of it": (bad.half, "broke off"),
    "huge": (bad.huge, "sent more than 8 MiB"),
    "garbage": (bad.instead(b"\x00\xff<html>"), "not JSON"),
    "nothing": (bad.instead(b""), "not JSON"),
    "another shape": (bad.instead(b'{"status": "success", "data": {"result": {"a": 1}}}'), "not a vector"),
    "a matrix": (
        bad.instead(b'{"status":"success","data":{"result":[{"metric":{"node":"edge-a-0000"},"values":[[1,"1"]]}]}}'),
        "not a vector",
    ),
    "an error": (bad.instead(b'{"status": "error", "error": "query timed out"}', status=503), "HTTP 503"),
    "a redirect": (bad.instead(b"", status=302, Location="http://127.0.0.1:9/"), "redirect"),
}


@pytest.fixture
def prometheus() -> Iterator[BadPrometheus]:
    server = BadPrometheus(CORES)
    yield server
    server.close()


def test_bad_data_moves_nothing_and_is_told(replicas: World, namespace: str, prometheus: BadPrometheus) -> None:
    world = replicas
    operator = world.operator("bad", prometheus=prometheus.url, metrics=METRICS, timing=TIMING).start().await_leading()
    for name, count in (("one", 1), ("two", 2)):
        world.job(namespace, name, replicas=count, resources={"requests": {"cpu": "500m", "memory": "64Mi"}})
    world.await_ready(namespace, "one", "two")
    here = {node for name in ("one", "two") for node in world.nodes_of(namespace, name)}
    assert here and len(here) < len(CORES)
    prometheus.spoiled = here
    # Long enough for a pod to have used some cpu: before, a counter that stands still says nothing.
    started = time.time()
    world.await_condition(namespace, "one", "MetricsFresh", "True")

    placed, begun = world.uids(namespace), time.time()

    def stays_and_tells(what: str, says: str) -> None:
        def told() -> bool:
            condition = world.condition(namespace, "one", "MetricsFresh")
            assert condition["status"] == "False", condition
            assert says in condition["message"], condition["message"]
            return True

        eventually(told, seconds=30, what=f"status tells of {what}")
        assert operator.running
        assert world.uids(namespace) == placed, what
        assert world.condition(namespace, "one", "Ready")["status"] == "True", what
        prometheus.good()
        world.await_condition(namespace, "one", "MetricsFresh", "True")

    for what, (spoil, says) in FIGURES.items():
        if says is STANDS_STILL:
            eventually(lambda: time.time() - started > 10, what="the pods have run for a while")
        prometheus.spoil(spoil)
        stays_and_tells(what, says)
    for what, (behave, says) in ANSWERS.items():
        prometheus.behave(behave)
        stays_and_tells(what, says)

    # A new leader has no older figures to hold on to.
    operator.kill()
    prometheus.spoil(bad.value("NaN"))
    operator = world.operator("next", prometheus=prometheus.url, metrics=METRICS, timing=TIMING).start().await_leading()
    stays_and_tells("NaN, to a new leader", "cpu is not a number")

    changed = {write.resource for write in world.writes(since=begun)} - {"inferencejobs/status", "events"}
    assert not changed, f"nothing but statuses was written all the time: {world.events(namespace)}"

    # None of it would have moved anything if nothing ever moved: the same nodes, honestly overloaded.
    prometheus.spoil(overloaded)
    eventually(lambda: world.uids(namespace) != placed, seconds=60, what="an honest figure moves a replica")


def overloaded(vectors: bad.Vectors, nodes: set[str], now: float) -> None:
    vectors["cpu"] = [
        (node, str(CORES[node] * 0.97 + float(good) * 0.01) if node in nodes else good) for node, good in vectors["cpu"]
    ]
