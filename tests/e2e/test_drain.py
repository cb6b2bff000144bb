"""`kubectl drain` of nodes that serve, under constant load through the Service: no request fails, and it ends."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import yaml

from tests.cluster import Cluster
from tests.demo.kube import Object, condition, wait
from tests.demo.stage import Stage, pod
from tests.unit.runtime import onnx_models

from .space import Space, space

NAMESPACE = "drain"
MODEL = onnx_models.constant_times(2.0)
LIMIT_S = 120
CLIENT = """
import http.client, json, sys, threading, time

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0] * 4}]})
counts, failed, lock = {}, [], threading.Lock()

def ask(job, keep):
    connection = None
    while True:
        try:
            connection = connection or http.client.HTTPConnection(f"{job}.drain.svc", 80, timeout=10)
            connection.request("POST", "/v2/models/m/infer", BODY, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
            assert response.status == 200 and answer["outputs"][0]["data"][0] == 2.0, (response.status, answer)
            problem = ""
            if not keep or response.will_close:
                connection.close()
                connection = None
        except Exception as error:
            problem, connection = f"{time.time():.1f} {job} {type(error).__name__}: {error}", None
        with lock:
            counts[job] = counts.get(job, 0) + 1
            failed.extend([problem] if problem else [])
        time.sleep(0.02)

for job in sys.argv[1:]:
    for keep in (False, False, True):
        threading.Thread(target=ask, args=(job, keep), daemon=True).start()
while True:
    time.sleep(1)
    with lock:
        print(json.dumps({"at": time.time(), "counts": counts, "failed": failed}), flush=True)
"""
"""two clients a job that open a connection for each request, and one that keeps its own as long as the server does"""


@dataclass(frozen=True, kw_only=True)
class Bench:
    space: Space

    @property
    def stage(self) -> Stage:
        return self.space.stage

    def job(self, name: str, **spec: object) -> None:
        self.space.job(name, **spec)
        self.wait_serving(name)

    def wait_serving(self, name: str) -> None:
        wait(f"{name} serving", lambda: self.ready(name).get("reason") == "Serving", seconds=90)

    def ready(self, name: str) -> Object:
        return condition(self.stage.kubectl.get("ij", name, "-n", NAMESPACE), "Ready")

    def pods(self, name: str) -> dict[str, str]:
        """uid -> node, of those that are not on their way out."""
        return {
            item["metadata"]["uid"]: item["spec"].get("nodeName", "")
            for item in self.space.pods(name)
            if "deletionTimestamp" not in item["metadata"]
        }

    def drain(self, node: str, *, seconds: float) -> tuple[int, float, str]:
        """kubectl's exit code, how long it took, and what it said."""
        command = [
            self.stage.kubectl.program, "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force",
            f"--timeout={seconds:.0f}s", "--pod-selector=app.kubernetes.io/managed-by=edgeward",
        ]  # fmt: skip
        begun = time.monotonic()
        done = subprocess.run(
            command, capture_output=True, text=True, env=self.stage.kubectl.environment, timeout=seconds + 30
        )
        return done.returncode, time.monotonic() - begun, done.stdout + done.stderr

    def uncordon(self, node: str) -> None:
        self.stage.kubectl.run("uncordon", node)

    def asked(self) -> Object:
        """What the clients count by now, once they have asked for two seconds more."""
        now = time.time()

        def latest() -> Object | None:
            lines = self.stage.kubectl.run("logs", "load", "-n", NAMESPACE, "--tail=1").splitlines()
            said: Object = json.loads(lines[0]) if lines else {"at": 0}
            return said if said["at"] > now + 2 else None

        found = wait("the clients' count", latest, seconds=30)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def bench(stage: Stage, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One job of one replica and one of two, both at the edge, and clients on the cloud node that ask them all the time."""
    with space(stage, cluster, tmp_path_factory.mktemp("drain"), NAMESPACE, {"m.onnx": MODEL}) as own:
        own.serve(MODEL)
        made = Bench(space=own)
        made.job("single", placement={"tiers": ["edge"]})
        made.job("double", replicas=2, placement={"tiers": ["edge"]})
        load = pod(
            "load",
            image=stage.runtime_image,
            command=["python3", "-c", CLIENT, "single", "double"],
            node="cloud-1",
        )
        stage.kubectl.run("apply", "-n", NAMESPACE, "-f", "-", stdin=yaml.safe_dump(load))
        wait("the clients asking", lambda: stage.kubectl.run("logs", "load", "-n", NAMESPACE, check=False), seconds=60)
        yield made
        for node in ("edge-1", "edge-2"):
            made.uncordon(node)


def test_every_node_in_turn_is_drained_and_no_request_fails(bench: Bench) -> None:
    before = bench.asked()
    assert before["failed"] == []
    for node, other in (("edge-1", "edge-2"), ("edge-2", "edge-1")):
        code, seconds, said = bench.drain(node, seconds=LIMIT_S)
        assert code == 0, said
        assert seconds < LIMIT_S
        assert "Cannot evict pod" in said, "whoever came before the replacement was told to wait"
        assert set(bench.pods("single").values()) | set(bench.pods("double").values()) == {other}
        for name in ("single", "double"):
            bench.wait_serving(name)
        settled = bench.pods("single") | bench.pods("double")
        bench.uncordon(node)
        bench.asked()
        assert bench.pods("single") | bench.pods("double") == settled, "an empty node is no reason to move back at once"
    after = bench.asked()
    assert after["failed"] == []
    for name in ("single", "double"):
        assert after["counts"][name] - before["counts"][name] > 200


def test_a_replica_that_fits_nowhere_else_stays_and_says_why(bench: Bench) -> None:
    site = bench.stage.kubectl.get("node", "edge-1")["metadata"]["labels"]["edgeward.dev/site"]
    bench.job("pinned", placement={"siteSelector": {"matchLabels": {"edgeward.dev/site": site}}})
    (before,) = bench.pods("pinned").items()
    assert before[1] == "edge-1"
    code, _, said = bench.drain("edge-1", seconds=15)
    assert code != 0
    assert "pinned" in said
    told = wait(
        "a status that says so",
        lambda: (found := bench.ready("pinned")) and "stays" in found["message"] and found,
        seconds=20,
    )
    assert (told["status"], told["reason"]) == ("True", "Serving")
    assert "NodeUnschedulable" in told["message"]
    assert bench.pods("pinned") == dict([before])
    bench.uncordon("edge-1")
    wait("nothing more to say", lambda: "stays" not in bench.ready("pinned")["message"], seconds=20)
    assert bench.pods("pinned") == dict([before])
    assert bench.asked()["failed"] == []
