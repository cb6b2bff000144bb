"""A version goes out in waves on real pods: the canary site answers a share with it, the others wait; a bad one goes back
by itself, and nothing restarts."""

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

NAMESPACE = "waves"
NAME = "steps"
FILES = {f"v{number}.onnx": onnx_models.constant_times(float(number)) for number in (1, 2)}
FILES["bad.onnx"] = onnx_models.mlp((64, 512, 10))[:2000]
WAVES = [{"name": "canary", "sites": {"count": 1}, "traffic": "50%", "bake": "20s"}, {"name": "all"}]
ROLLOUT = {"waves": WAVES}


def answers(pod: Object, count: int = 40) -> set[str]:
    """Versions that answer `count` requests, each with an id of its own."""
    url = f"http://{pod['status']['podIP']}:8080/v2/models/{NAME}/infer"
    found = set()
    for number in range(count):
        body: Any = {
            "id": str(number),
            "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0] * 4}],
        }
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=5) as response:
            answer = json.load(response)
        assert answer["outputs"][0]["data"][0] == float(answer["model_version"]), "the version named made it"
        found.add(answer["model_version"])
    return found


def release_of(own: Space) -> Object:
    return own.stage.kubectl.get("mr", NAME, "-n", NAMESPACE)


def ready(own: Space) -> Object:
    found = release_of(own)
    if found.get("status", {}).get("observedGeneration") != found["metadata"]["generation"]:
        return {}
    return next((item for item in found["status"]["conditions"] if item["type"] == "Ready"), {})


def restarts(own: Space) -> set[tuple[str, int]]:
    return {
        (pod["metadata"]["uid"], sum(item["restartCount"] for item in pod["status"]["containerStatuses"]))
        for pod in own.pods(NAME)
    }


@pytest.fixture(scope="module")
def own(stage: Stage, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """A replica at each of the two edge sites, serving version 1."""
    with space(stage, cluster, tmp_path_factory.mktemp("waves"), NAMESPACE, FILES) as made:
        made.release(NAME, "v1.onnx", onnx_models.digest(FILES["v1.onnx"]), rollout=ROLLOUT)
        made.job(NAME, model={"name": NAME}, replicas=1, replicaScope="PerSite", placement={"tiers": ["edge"]})
        wait("version 1 released", lambda: ready(made).get("reason") == "Released", seconds=90)
        assert len(made.pods(NAME)) == 2
        yield made


def test_one_site_tries_it_with_half_of_its_requests_and_then_all_have_it(own: Space) -> None:
    before = restarts(own)
    own.release(NAME, "v2.onnx", onnx_models.digest(FILES["v2.onnx"]), version="2", rollout=ROLLOUT)

    def baking() -> bool:
        return (release_of(own)["status"].get("rollout") or {}).get("phase") == "Baking"

    wait("the canary serves and is watched", baking, seconds=40)
    assert release_of(own)["status"]["wave"] == "canary"
    assert sorted(map(len, (answers(pod) for pod in own.pods(NAME)))) == [1, 2], "one site answers with both versions"
    said = ready(own)
    assert said["reason"] == "RollingOut" and "wave canary (1 of 2)" in said["message"]
    wait("version 2 released", lambda: ready(own).get("reason") == "Released", seconds=60)
    assert [answers(pod) for pod in own.pods(NAME)] == [{"2"}, {"2"}]
    assert restarts(own) == before
    assert [item["version"] for item in release_of(own)["status"]["history"]] == ["2", "1"]


def test_a_version_that_the_canary_refuses_goes_back_by_itself_and_is_not_tried_again(own: Space) -> None:
    before = restarts(own)
    own.release(NAME, "bad.onnx", onnx_models.digest(FILES["bad.onnx"]), version="3", rollout=ROLLOUT)
    said = wait("rolled back", lambda: (one := ready(own)).get("reason") == "RolledBack" and one, seconds=60)
    assert "2 serves" in said["message"], said["message"]
    status = release_of(own)["status"]
    assert [item["version"] for item in status["refused"]] == ["3"]
    assert release_of(own)["spec"]["version"] == "3", "the spec is Git's"
    told = [
        {model["version"] for model in item["spec"]["models"] if model["role"] != "Previous"}
        for item in own.stage.kubectl.items("assignments", "-n", own.stage.operator_namespace)
        if item["spec"]["job"]["namespace"] == NAMESPACE
    ]
    assert told == [{"2"}, {"2"}]
    assert [answers(pod, 5) for pod in own.pods(NAME)] == [{"2"}, {"2"}]
    assert restarts(own) == before
