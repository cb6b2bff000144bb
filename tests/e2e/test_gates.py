"""A version that answers otherwise than the one before is found out by copies of real requests, and goes back by itself;
one that agrees goes on. No Prometheus is asked by anybody, and no client notices."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import pytest

from tests.cluster import Cluster
from tests.demo.kube import Object, wait
from tests.demo.stage import Stage
from tests.unit.runtime import onnx_models

from .space import Space, space

NAMESPACE = "gates"
NAME = "judged"
FACTORS = {"1": 1.0, "2": -1.0, "3": 1.001}
"""version -> what it makes of x: for the second another class wins, the third agrees with the first"""
FILES = {f"v{version}.onnx": onnx_models.constant_times(factor) for version, factor in FACTORS.items()}
WAVES = [
    {"name": "canary", "sites": {"count": 1}, "mirror": 100, "bake": "6s"},
    {"name": "all", "mirror": 100, "bake": "4s"},
]
GATE = {"name": "agreement", "builtin": "Agreement", "min": "0.95", "minSamples": 10, "interval": "3s"}
SPEC: dict[str, Any] = {"rollout": {"waves": WAVES}, "gates": [GATE]}
PAUSE_S = 0.02
"""between two requests of a client: what copies are made of needs no more, and other tests run beside"""


@dataclass
class Clients:
    """One a node, which ask the Service through the node's port for as long as the context lasts."""

    urls: list[str]
    versions: list[str] = field(default_factory=list)
    """who answered, in order"""
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(url,), daemon=True) for url in self.urls]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)
        assert not any(thread.is_alive() for thread in self._threads)

    def _ask(self, url: str) -> None:
        body = json.dumps(
            {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
        ).encode()
        while not self._stop.wait(PAUSE_S):
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=10) as response:
                    answer = json.load(response)
                version = answer["model_version"]
                if abs(answer["outputs"][0]["data"][0] - FACTORS[version]) > 1e-6:
                    raise ValueError(f"{answer} is not what {version} answers")
                self.versions.append(version)
            except (OSError, ValueError, KeyError) as problem:
                self.problems.append(f"{time.time():.1f} {problem!r}")


def release_of(own: Space) -> Object:
    return own.stage.kubectl.get("mr", NAME, "-n", NAMESPACE)


def ready(own: Space) -> Object:
    found = release_of(own)
    if found.get("status", {}).get("observedGeneration") != found["metadata"]["generation"]:
        return {}
    return next((item for item in found["status"]["conditions"] if item["type"] == "Ready"), {})


def assignments(own: Space) -> list[Object]:
    found = own.stage.kubectl.items("assignments", "-n", own.stage.operator_namespace)
    return [item for item in found if item["spec"]["job"]["namespace"] == NAMESPACE]


def restarts(own: Space) -> set[tuple[str, int]]:
    return {
        (pod["metadata"]["uid"], sum(item["restartCount"] for item in pod["status"]["containerStatuses"]))
        for pod in own.pods(NAME)
    }


def clients(own: Space, cluster: Cluster) -> Clients:
    port = own.stage.kubectl.get("service", NAME, "-n", NAMESPACE)["spec"]["ports"][0]["nodePort"]
    nodes = [cluster.plan.node(pod["spec"]["nodeName"]).address for pod in own.pods(NAME)]
    return Clients([f"http://{address}:{port}/v2/models/{NAME}/infer" for address in nodes])


def release(own: Space, version: str) -> None:
    file = f"v{version}.onnx"
    own.release(NAME, file, onnx_models.digest(FILES[file]), version=version, **SPEC)


@pytest.fixture(scope="module")
def own(stage: Stage, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """A replica at each of the two edge sites, serving version 1, and an operator that knows of no Prometheus."""
    config = {"metrics": {"prometheusUrl": ""}}
    with space(stage, cluster, tmp_path_factory.mktemp("gates"), NAMESPACE, FILES, config=config) as made:
        release(made, "1")
        made.job(
            NAME,
            model={"name": NAME},
            replicas=1,
            replicaScope="PerSite",
            placement={"tiers": ["edge"]},
            expose={"type": "NodePort"},
        )
        wait("version 1 released", lambda: ready(made).get("reason") == "Released", seconds=90)
        assert len(made.pods(NAME)) == 2
        yield made


def test_a_version_that_disagrees_goes_back_before_it_answered_anybody(own: Space, cluster: Cluster) -> None:
    before = restarts(own)
    with clients(own, cluster) as asking:
        release(own, "2")
        said = wait("rolled back", lambda: (one := ready(own)).get("reason") == "RolledBack" and one, seconds=90)
    assert asking.problems == []
    assert len(asking.versions) > 50 and set(asking.versions) == {"1"}, "copies answer nobody"
    assert all(word in said["message"] for word in ("agreement", "0.95", "1 serves")), said["message"]
    found = release_of(own)
    (gate,) = found["status"]["gates"]
    assert (gate["outcome"], float(gate["value"]), gate["samples"] >= 10) == ("Failed", 0.0, True)
    assert gate["checks"][0]["outcome"] == "Failed" and "0.95" in gate["threshold"]
    assert found["spec"]["version"] == "2", "the spec is Git's"
    assert [item["version"] for item in found["status"]["refused"]] == ["2"]

    def over() -> bool:
        return all(
            [model["version"] for model in item["spec"]["models"]] == ["1"]
            and "watch" not in item["spec"]
            and not {"counters", "gates"} & item["status"].keys()
            for item in assignments(own)
        )

    wait("every site is told version 1 alone, and nobody watches", over, seconds=30)
    assert restarts(own) == before


def test_a_version_that_agrees_passes_and_goes_everywhere(own: Space, cluster: Cluster) -> None:
    before = restarts(own)
    with clients(own, cluster) as asking:
        release(own, "3")
        wait("version 3 released", lambda: ready(own).get("reason") == "Released", seconds=120)
        wait("it answers", lambda: asking.versions[-20:].count("3") == 20, seconds=30)
    assert asking.problems == []
    assert set(asking.versions) == {"1", "3"}
    (gate,) = release_of(own)["status"]["gates"]
    assert gate["outcome"] == "Passed" and float(gate["checks"][0]["value"]) == 1.0
    assert restarts(own) == before
