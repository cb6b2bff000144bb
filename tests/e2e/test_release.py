"""ModelRelease on real pods: bad versions change nothing and say which step failed; a good one arrives in place."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.cluster import Cluster
from tests.demo.kube import Object, wait
from tests.demo.stage import Stage, confirm_all_may_go, make_namespace
from tests.unit.runtime import onnx_models

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
    stage: Stage
    url: str

    def release(self, version: str, file: str, digest: str) -> None:
        body = {
            "apiVersion": "edgeward.dev/v1alpha1",
            "kind": "ModelRelease",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": {"version": version, "artifact": {"uri": f"{self.url}/{file}", "digest": digest}},
        }
        self.stage.kubectl.run("apply", "-f", "-", stdin=yaml.safe_dump(body))

    def ready(self, kind: str) -> Object:
        found = self.stage.kubectl.get(kind, NAME, "-n", NAMESPACE)
        if found.get("status", {}).get("observedGeneration") != found["metadata"]["generation"]:
            return {}
        return next((item for item in found["status"]["conditions"] if item["type"] == "Ready"), {})

    def pods(self) -> list[Object]:
        return self.stage.kubectl.items("pods", "-n", NAMESPACE, "-l", f"edgeward.dev/job={NAME}")

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
    folder: Path = tmp_path_factory.mktemp("models")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    server = cluster.start_file_server(folder, name="releases")
    make_namespace(stage, NAMESPACE)
    made = Bench(stage=stage, url=server.url)
    made.release("1", "v1.onnx", onnx_models.digest(GOOD_1))
    job = {
        "apiVersion": "edgeward.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {
            "model": {"name": NAME},
            "replicas": 2,
            "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "256Mi"}},
            "placement": {"tiers": ["edge"]},
        },
    }
    stage.kubectl.run("apply", "-f", "-", stdin=yaml.safe_dump(job))
    wait("version 1 serving", lambda: made.ready("ij").get("reason") == "Serving", seconds=60)
    wait("version 1 released", lambda: made.ready("mr").get("reason") == "Released", seconds=60)
    yield made
    confirm_all_may_go(stage)
    stage.kubectl.run("delete", "namespace", NAMESPACE, "--wait", timeout=120)
    server.stop()


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
