"""ModelRelease on real pods: bad versions change nothing and say which step failed; a good one arrives in place."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.demo.kube import Object, wait
from tests.demo.stage import Stage
from tests.unit.runtime import onnx_models

from .space import Space, space

NAMESPACE = "releases"
NAME = "times"
GOOD_1, GOOD_2 = onnx_models.constant_times(2.0), onnx_models.constant_times(3.0)
FILES = {
    "v1.onnx": GOOD_1,
    "v2.onnx": GOOD_2,
    "empty.onnx": b"",
    "truncated.onnx": onnx_models.mlp((64, 512, 10))[:2000],
    "page.onnx": b"<html>sign in to the wireless network</html>" * 20,
}


@dataclass(frozen=True, kw_only=True)
class Bench:
    space: Space

    @property
    def stage(self) -> Stage:
        return self.space.stage

    def release(self, version: str, file: str, digest: str) -> None:
        self.space.release(NAME, file, digest, version=version)

    def ready(self, kind: str) -> Object:
        found = self.stage.kubectl.get(kind, NAME, "-n", NAMESPACE)
        if found.get("status", {}).get("observedGeneration") != found["metadata"]["generation"]:
            return {}
        return next((item for item in found["status"]["conditions"] if item["type"] == "Ready"), {})

    def pods(self) -> list[Object]:
        return self.space.pods(NAME)

    def identities(self) -> set[tuple[str, int]]:
        return {
            (pod["metadata"]["uid"], sum(item["restartCount"] for item in pod["status"]["containerStatuses"]))
            for pod in self.pods()
        }

    def answers(self) -> list[tuple[str, float]]:
        """(version, y for x = 1) of each pod, asked from this machine."""
        body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0, 1.0, 1.0, 1.0]}]}
        found = []
        for pod in self.pods():
            url = f"http://{pod['status']['podIP']}:8080/v2/models/{NAME}/infer"
            request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=5) as response:
                answer = json.load(response)
            found.append((answer["model_version"], answer["outputs"][0]["data"][0]))
        return found


@pytest.fixture(scope="module")
def bench(stage: Stage, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A job of two replicas that serves version 1."""
    with space(stage, cluster, tmp_path_factory.mktemp("releases"), NAMESPACE, FILES) as own:
        made = Bench(space=own)
        made.release("1", "v1.onnx", onnx_models.digest(GOOD_1))
        own.job(NAME, model={"name": NAME}, replicas=2, placement={"tiers": ["edge"]})
        wait("version 1 serving", lambda: made.ready("ij").get("reason") == "Serving", seconds=60)
        wait("version 1 released", lambda: made.ready("mr").get("reason") == "Released", seconds=60)
        yield made


OTHER = "sha256:" + "5" * 64


@pytest.mark.parametrize(
    ("version", "file", "digest", "reason", "word"),
    [
        ("2-wrong-digest", "v2.onnx", OTHER, "VerifyFailed", "DigestMismatch"),
        ("2-not-there", "nothing.onnx", onnx_models.digest(b"x"), "FetchFailed", "NotFound"),
        ("2-empty", "empty.onnx", onnx_models.digest(b""), "VerifyFailed", "Empty"),
        ("2-truncated", "truncated.onnx", onnx_models.digest(FILES["truncated.onnx"]), "LoadFailed", ""),
        ("2-page", "page.onnx", onnx_models.digest(FILES["page.onnx"]), "LoadFailed", "NotOnnx"),
    ],
)
def test_a_bad_version_leaves_the_old_one_serving_and_says_which_step_failed(
    bench: Bench, version: str, file: str, digest: str, reason: str, word: str
) -> None:
    before = bench.identities()
    bench.release(version, file, digest)
    ready = wait(
        f"{version}: {reason}", lambda: (found := bench.ready("mr")).get("reason") == reason and found, seconds=40
    )
    assert ready["status"] == "False"
    assert word in ready["message"], ready["message"]
    assert "keeps 1" in ready["message"], "the message says what serves on"
    assert bench.answers() == [("1", 2.0), ("1", 2.0)]
    assert bench.identities() == before, "no pod was replaced or restarted"
    assert bench.ready("ij")["reason"] == "Serving", "the job itself serves all the while"


def test_a_good_version_arrives_in_place_and_status_says_who_serves_it(bench: Bench) -> None:
    before = bench.identities()
    bench.release("3", "v2.onnx", onnx_models.digest(GOOD_2))
    wait("version 3 released", lambda: bench.ready("mr").get("reason") == "Released", seconds=40)
    assert bench.answers() == [("3", 3.0), ("3", 3.0)]
    assert bench.identities() == before
    served = {
        item["spec"]["site"]: item["status"]["serves"]
        for item in bench.stage.kubectl.items("assignments", "-n", bench.stage.operator_namespace)
        if item["spec"]["job"]["namespace"] == NAMESPACE
    }
    assert served == {"site-a": f"{NAME} 3", "site-b": f"{NAME} 3"}


def test_a_release_that_is_taken_back_serves_the_old_version_from_the_sites_own_disk(
    bench: Bench, cluster: Cluster, tmp_path: Path
) -> None:
    before = bench.identities()
    cluster.start_file_server(tmp_path, name="releases")  # an empty folder: nothing can be fetched any more
    bench.release("1", "v1.onnx", onnx_models.digest(GOOD_1))
    wait("version 1 released again", lambda: bench.ready("mr").get("reason") == "Released", seconds=40)
    assert bench.answers() == [("1", 2.0), ("1", 2.0)]
    assert bench.identities() == before


def test_other_parameters_of_a_version_are_live_in_the_same_processes(bench: Bench) -> None:
    def live() -> set[str]:
        found = set()
        for pod in bench.pods():
            url = f"http://{pod['status']['podIP']}:8080/edgeward/v1/status"
            with urllib.request.urlopen(url, timeout=5) as response:
                models = json.load(response)["models"]
            found |= {model.get("parameters", "") for model in models if model["serving"]}
        return found

    bench.release("2", "v2.onnx", onnx_models.digest(GOOD_2))
    wait("version 2 released", lambda: bench.ready("mr").get("reason") == "Released", seconds=60)
    before, pods = live(), bench.identities()
    parameters = {"capture": {"lowConfidence": 0.7}}
    bench.space.release(NAME, "v2.onnx", onnx_models.digest(GOOD_2), version="2", parameters=parameters)
    wait("they are live", lambda: len(live()) == 1 and live() != before, seconds=30)
    wait("they are released", lambda: bench.ready("mr").get("reason") == "Released", seconds=30)
    assert bench.identities() == pods
    assert bench.answers() == [("2", 3.0)] * 2
