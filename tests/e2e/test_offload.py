"""A small model on the edge asks a bigger job for a second opinion, over the cluster's own Service."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import Cluster
from tests.demo.kube import Object, wait
from tests.demo.stage import Stage
from tests.unit.runtime import onnx_models

from .space import Space, space

NAMESPACE = "offload"
# The bigger one is sure of the opposite, so that nobody can mistake whose answer it is.
FILES = {"small.onnx": onnx_models.sharpened(1.0), "large.onnx": onnx_models.sharpened(-9.0)}
SURE, UNSURE = [9.0, 0.0, 0.0, 0.0], [0.3, 0.2, 0.1, 0.0]


def ask(pod: Object, values: list[float]) -> Any:
    url = f"http://{pod['status']['podIP']}:8080/v2/models/small/infer"
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": values}]}
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def condition(own: Space, kind: str) -> Object:
    found = own.stage.kubectl.get("ij", "small", "-n", NAMESPACE)
    return next((item for item in found.get("status", {}).get("conditions", ()) if item["type"] == kind), {})


@pytest.fixture(scope="module")
def own(stage: Stage, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    with space(stage, cluster, tmp_path_factory.mktemp("offload"), NAMESPACE, FILES) as made:
        for name in ("small", "large"):
            made.serve(FILES[f"{name}.onnx"], name=name)
        made.job("large", model={"name": "large"}, placement={"tiers": ["cloud"]})
        offload = {"job": "large", "budget": {"requests": "20%"}}
        made.job(
            "small", model={"name": "small"}, placement={"tiers": ["edge"]}, slo={"latency": "5s"}, offload=offload
        )
        wait("both serve", lambda: condition(made, "Ready").get("reason") == "Serving", seconds=90)
        yield made


def test_a_hard_answer_is_the_bigger_models(own: Space) -> None:
    wait("it may offload", lambda: condition(own, "Offloading").get("status") == "True", seconds=60)
    (pod,) = own.pods("small")

    def offloaded() -> Any:
        for _ in range(40):
            assert "parameters" not in ask(pod, SURE)
        answer = ask(pod, UNSURE)
        return "parameters" in answer and answer

    answer = wait("a second opinion", offloaded, seconds=60)
    assert answer["parameters"] == {"offloaded_to": "large/1"}
    data = answer["outputs"][0]["data"]
    assert data.index(max(data)) == 3


def test_data_that_may_not_leave_its_site_stays(own: Space) -> None:
    """The bigger job runs in the cloud, and now the job's data may not go there."""
    own.job(
        "small",
        model={"name": "small"},
        placement={"tiers": ["edge"]},
        slo={"latency": "5s"},
        offload={"job": "large", "budget": {"requests": "20%"}},
        data={"residency": "Site", "source": {"siteSelector": {}}},
    )
    said = wait(
        "the residency forbids it",
        lambda: (one := condition(own, "Offloading")).get("reason") == "ResidencyForbids" and one,
        seconds=60,
    )
    assert "large has replicas at cloud" in said["message"], said["message"]

    def told() -> list[Object | None]:
        return [
            item["spec"].get("offload")
            for item in own.stage.kubectl.items("assignments", "-n", own.stage.operator_namespace)
            if item["spec"]["job"]["namespace"] == NAMESPACE and item["spec"]["job"]["name"] == "small"
        ]

    wait("the site is told of it no more", lambda: told() == [None], seconds=20)
