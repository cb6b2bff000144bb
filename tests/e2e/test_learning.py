"""What real runtimes on real nodes measured comes back in status, and nothing but status changes by it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import numpy as np
import pytest

from tests.cluster import Cluster
from tests.demo.kube import Object, condition, wait
from tests.demo.oip import Client
from tests.demo.stage import Stage
from tests.unit.runtime import onnx_models

from .space import space

NAMESPACE = "learning"
MODEL = onnx_models.mlp((64, 32, 10))
REQUESTS = {"cpu": "250m", "memory": "192Mi"}
SECONDS = 90


@pytest.fixture(scope="module")
def learning(stage: Stage, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where clients find a job with a latency bound that is easily kept, of an operator that looks every 5 s."""
    assert stage.cluster is not None
    folder, faster = tmp_path_factory.mktemp("learning"), {"metrics": {"trafficInterval": 5}}
    with space(stage, cluster, folder, NAMESPACE, {"m.onnx": MODEL}, config=faster) as own:
        own.serve(MODEL)
        own.job(
            "reader",
            resources={"requests": REQUESTS, "limits": {"memory": "384Mi"}},
            placement={"tiers": ["edge"]},
            slo={"latency": "5s"},
            expose={"type": "NodePort"},
        )
        wait(
            "reader serving",
            lambda: condition(get(stage), "Ready").get("status") == "True",
            seconds=SECONDS,
            why=lambda: why(stage),
        )
        port = stage.kubectl.get("service", "reader", "-n", NAMESPACE)["spec"]["ports"][0]["nodePort"]
        yield f"http://{stage.cluster.plan.node('edge-1').address}:{port}"


def get(stage: Stage) -> Object:
    return stage.kubectl.get("ij", "reader", "-n", NAMESPACE)


def why(stage: Stage) -> str:
    return json.dumps(get(stage).get("status"))


def learned(stage: Stage) -> Object:
    found: Object = get(stage).get("status", {}).get("learned") or {}
    return found


def test_what_the_runtimes_measured_is_told_and_applied_to_nothing(stage: Stage, learning: str) -> None:
    tensor = np.random.default_rng(1).standard_normal((1, 64)).astype(np.float32)
    client = Client(learning)
    asked = 0

    def told() -> bool:
        nonlocal asked
        for _ in range(20):
            assert client.infer("m", name="x", tensor=tensor).tensor.shape == (1, 10)
            asked += 1
        said = learned(stage)
        return bool(said.get("sites")) and said.get("satisfaction") is not None

    wait("status.learned", told, seconds=SECONDS, why=lambda: why(stage))
    client.close()
    said, decided = learned(stage), get(stage)["status"]["decisions"]
    assert said["satisfaction"] == 1000
    assert 0 < float(said["serviceSeconds"]) < 1
    (site,) = said["sites"]
    assert site["site"] == decided[0]["site"]
    assert 0.25 <= float(site["execution"]) <= 4
    assert 10 <= site["samples"] <= asked
    assert "rightSizing" not in said, "minutes propose nothing"
    assert get(stage)["spec"]["resources"]["requests"] == REQUESTS
    (pod,) = stage.kubectl.items("pods", "-n", NAMESPACE, "-l", "edgeward.dev/job=reader")
    assert pod["spec"]["containers"][0]["resources"]["requests"] == REQUESTS

    # Idle again: the rates fall to nothing within a minute, and that is no news either. What was decided while it was
    # asked may still be on its way.
    version, since = get(stage)["metadata"]["resourceVersion"], time.monotonic()

    def unchanged() -> bool:
        nonlocal version, since
        now = get(stage)["metadata"]["resourceVersion"]
        if now != version and time.monotonic() - began < 10:
            version, since = now, time.monotonic()
        assert now == version, why(stage)
        return time.monotonic() > since + 30

    began = since
    wait("half a minute without a write", unchanged, seconds=60)
