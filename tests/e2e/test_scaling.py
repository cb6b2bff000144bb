"""The number of replicas follows the load: by a real HorizontalPodAutoscaler, by spec.scaling, and not by an autoscaler
that sees only a part of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np
import pytest

from tests.cluster import Cluster, ControlPlane, temporary_directory
from tests.demo.kube import Object, wait
from tests.demo.oip import Client
from tests.demo.stage import Stage, make_namespace
from tests.unit.runtime import onnx_models

from .space import Space, space

NAMESPACE = "scaling"
MODEL = onnx_models.mlp((64, 1024, 1024, 10))
ROWS = 128
"""in one request: some ten milliseconds of one core"""
MOST = 3
SECONDS = 120
"""a kubelet measures every 10 to 15 s, metrics-server asks every 10 s and an autoscaler looks every 15 s"""
SETTINGS = {"scaling": {"window": 20, "staleAfter": 30}, "metrics": {"trafficInterval": 5}}


class Clients:
    """One that asks now and then, all the time, and `busy` more that ask without a pause while told to."""

    def __init__(self, urls: list[str], *, busy: int) -> None:
        self._urls = urls
        self._tensor = np.random.default_rng(1).standard_normal((ROWS, 64)).astype(np.float32)
        self._stop, self._work = threading.Event(), threading.Event()
        self.answered = 0
        self.problems: list[str] = []
        self._threads = [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(busy + 1)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._work.set()
        for thread in self._threads:
            thread.join(timeout=20)

    def load(self, on: bool) -> None:
        if on:
            self._work.set()
        else:
            self._work.clear()

    def _ask(self, number: int) -> None:
        asked = 0
        while not self._stop.is_set():
            if number:
                self._work.wait()
            client = Client(self._urls[asked % len(self._urls)])
            try:
                for _ in range(8):  # a Service spreads connections, not requests
                    answer = client.infer("m", name="x", tensor=self._tensor)
                    if answer.tensor.shape != (ROWS, 10):
                        self.problems.append(f"an answer of shape {answer.tensor.shape}")
                    self.answered += 1
                    if not number:
                        self._stop.wait(0.3)
            except Exception as error:  # a thread that ends silently would hide it
                self.problems.append(f"{type(error).__name__}: {error}")
            client.close()
            asked += 1


@pytest.fixture(scope="module")
def own(stage: Stage, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """A space, with an operator that looks more often and waits less, and a release to serve."""
    folder = tmp_path_factory.mktemp("scaling")
    with space(stage, cluster, folder, NAMESPACE, {"m.onnx": MODEL}, config=SETTINGS) as own:
        own.serve(MODEL)
        yield own


def serving_job(own: Space, name: str, **spec: Any) -> list[str]:
    """A job on the edge nodes, and where clients outside the cluster find it once it serves."""
    resources = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}}
    usual = {"resources": resources, "placement": {"tiers": ["edge"]}, "expose": {"type": "NodePort"}}
    own.job(name, **{**usual, **spec})
    stage = own.stage
    wait(f"{name} serving", lambda: serving(stage, name), seconds=60, why=lambda: why(stage, name))
    assert stage.cluster is not None
    port = stage.kubectl.get("service", name, "-n", NAMESPACE)["spec"]["ports"][0]["nodePort"]
    return [f"http://{stage.cluster.plan.node(node).address}:{port}" for node in ("edge-1", "edge-2")]


def get_job(stage: Stage, name: str) -> Object:
    return stage.kubectl.get("ij", name, "-n", NAMESPACE)


def why(stage: Stage, name: str) -> str:
    found = get_job(stage, name)
    pods = stage.kubectl.run("get", "pods,hpa", "-n", NAMESPACE, "-o", "wide", check=False)
    return f"{json.dumps({'spec': found['spec'], 'status': found.get('status')})}\n{pods}"


def condition(obj: Object, kind: str) -> Object:
    conditions = obj.get("status", {}).get("conditions") or []
    return next((item for item in conditions if item["type"] == kind), {})


def serving(stage: Stage, name: str) -> int:
    """Replicas that serve, when all that are wanted do."""
    found = get_job(stage, name)
    current = found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"]
    ready = condition(found, "Ready")
    if not current or ready.get("status") != "True":
        return 0
    return int(found["status"]["readyReplicas"])


def running(stage: Stage, name: str) -> int:
    pods = stage.kubectl.items("pods", "-n", NAMESPACE, "-l", f"edgeward.dev/job={name}")
    return sum(1 for pod in pods if "deletionTimestamp" not in pod["metadata"])


def autoscaler(name: str) -> Object:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "scaleTargetRef": {"apiVersion": "edgeward.dev/v1alpha1", "kind": "InferenceJob", "name": name},
            "minReplicas": 1,
            "maxReplicas": MOST,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 100}},
                }
            ],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
        },
    }


def get_autoscaler(stage: Stage, name: str) -> Object:
    return stage.kubectl.get("hpa", name, "-n", NAMESPACE)


def test_an_autoscaler_scales_a_job_both_ways_and_no_request_fails(own: Space) -> None:
    scaling = own.stage
    urls = serving_job(own, "hot", replicas=1)
    own.apply(autoscaler("hot"))
    with Clients(urls, busy=3) as clients:
        clients.load(True)
        wait("more replicas", lambda: serving(scaling, "hot") >= 2, seconds=SECONDS, why=lambda: why(scaling, "hot"))
        grown = get_autoscaler(scaling, "hot")
        assert condition(grown, "ScalingActive")["status"] == "True"
        assert get_job(scaling, "hot")["spec"]["replicas"] >= 2, "it is the autoscaler's word"
        clients.load(False)
        wait(
            "one replica again",
            lambda: serving(scaling, "hot") == 1 and running(scaling, "hot") == 1,
            seconds=SECONDS,
            why=lambda: why(scaling, "hot"),
        )
    assert clients.problems == []
    assert clients.answered > 100
    scaling.kubectl.run("delete", "hpa", "hot", "-n", NAMESPACE)
    scaling.kubectl.run("delete", "ij", "hot", "-n", NAMESPACE, "--wait")


def test_spec_scaling_follows_the_measured_arrivals_both_ways_and_no_request_fails(own: Space) -> None:
    scaling = own.stage
    urls = serving_job(own, "sized", replicas=1, scaling={"minReplicas": 1, "maxReplicas": MOST})
    with Clients(urls, busy=3) as clients:
        clients.load(True)
        wait(
            "more replicas", lambda: serving(scaling, "sized") >= 2, seconds=SECONDS, why=lambda: why(scaling, "sized")
        )
        said = get_job(scaling, "sized")["status"]["scaling"]
        assert float(said["arrivals"]) > 0.9 * float(said["throughput"]), said
        assert said["message"].startswith("measured arrivals over measured throughput")
        clients.load(False)
        wait(
            "one replica again",
            lambda: serving(scaling, "sized") == 1 and running(scaling, "sized") == 1,
            seconds=SECONDS + 60,  # the minute that arrivals are counted over, and the window
            why=lambda: why(scaling, "sized"),
        )
        scaled = get_job(scaling, "sized")
    assert clients.problems == []
    assert scaled["spec"]["replicas"] == 1, "nobody writes the spec"
    assert "lowSince" not in scaled["status"]["scaling"]
    scaling.kubectl.run("delete", "ij", "sized", "-n", NAMESPACE, "--wait")


@pytest.fixture
def harbour(cluster: Cluster) -> Iterator[ControlPlane]:
    """Another cluster: an API server of its own on the same etcd, below another prefix."""
    directory = temporary_directory()
    plane = ControlPlane(
        directory,
        binaries=cluster.binaries,
        name="harbour",
        etcd=cluster.control_plane,
        etcd_prefix="/harbour",
    )
    with plane:
        yield plane


def test_an_autoscaler_stops_with_a_condition_when_replicas_are_in_another_cluster_too(
    own: Space, harbour: ControlPlane
) -> None:
    """No agent dials in from elsewhere yet, so this test is the other cluster's agent: it writes the Assignment that a
    hub makes for a site in mode Pull, says that its node serves, and has the pod in its own API."""
    scaling = own.stage
    requests = {"requests": {"cpu": "800m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}}
    serving_job(
        own, "far", replicas=1, resources=requests, placement={"nodeSelector": {"kubernetes.io/hostname": "edge-1"}}
    )
    own.apply(autoscaler("far"))
    try:
        wait(
            "the autoscaler's first figures",
            lambda: condition(get_autoscaler(scaling, "far"), "ScalingActive").get("status") == "True",
            seconds=SECONDS,
            why=lambda: json.dumps(get_autoscaler(scaling, "far")["status"]),
        )
        scaling.kubectl.run("scale", "ij/far", "-n", NAMESPACE, "--replicas=2")
        wait("a replica without a place", lambda: no_room(scaling), seconds=30, why=lambda: why(scaling, "far"))
        in_another_cluster(own, harbour, "far")
        wait("two replicas", lambda: serving(scaling, "far") == 2, seconds=60, why=lambda: why(scaling, "far"))
        status = get_job(scaling, "far")["status"]
        assert {item["site"]: item["clusterName"] for item in status["decisions"]} == {
            "site-a": "in-cluster",
            "harbour": "harbour",
        }
        assert status["replicas"] == 2
        assert running(scaling, "far") == 1, "the hub's API server knows of one pod"
        assert len(harbour.api.get(f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]) == 1
        selected = scaling.kubectl.items("pods", "-n", NAMESPACE, "-l", status["selector"])
        assert selected == []
        stopped = wait(
            "the autoscaler at a stop",
            lambda: (
                (found := condition(get_autoscaler(scaling, "far"), "ScalingActive")).get("status") == "False" and found
            ),
            seconds=60,
        )
        assert stopped["reason"] == "FailedGetResourceMetric", stopped
        begun, looks = get_autoscaler(scaling, "far")["status"].get("lastScaleTime"), failed_looks(scaling)
        wait("two more of its looks", lambda: failed_looks(scaling) >= looks + 2, seconds=60)
        assert get_autoscaler(scaling, "far")["status"].get("lastScaleTime") == begun
        assert get_job(scaling, "far")["spec"]["replicas"] == 2
    finally:
        scaling.kubectl.run("delete", "hpa", "far", "-n", NAMESPACE)
        scaling.kubectl.run("delete", "assignments", "--all", "-n", "edgeward-site-harbour", "--ignore-not-found")
        scaling.kubectl.run("delete", "site", "harbour", "--ignore-not-found")
        scaling.kubectl.run("delete", "ij", "far", "-n", NAMESPACE, "--wait", timeout=90)


def failed_looks(stage: Stage) -> int:
    """How often the autoscaler found no figures: it says so in an Event each time."""
    about = "involvedObject.name=far,reason=FailedGetResourceMetric"
    found = stage.kubectl.items("events", "-n", NAMESPACE, "--field-selector", about)
    return sum(int(item.get("count") or 1) for item in found)


def no_room(stage: Stage) -> bool:
    found = get_job(stage, "far")
    return bool(found["spec"]["replicas"] == 2 and condition(found, "Ready").get("status") == "False")


def in_another_cluster(own: Space, harbour: ControlPlane, job: str) -> None:
    """A replica on the node `crane` of the site `harbour`."""
    stage = own.stage
    mine = next(
        item
        for item in stage.kubectl.items("assignments", "-n", stage.operator_namespace)
        if item["spec"]["job"]["namespace"] == NAMESPACE and item["spec"]["job"]["name"] == job
    )
    make_namespace(stage, "edgeward-site-harbour")
    site = {
        "apiVersion": "edgeward.dev/v1alpha1",
        "kind": "Site",
        "metadata": {"name": "harbour"},
        "spec": {"tier": "edge", "connection": {"mode": "Pull"}},
    }
    labels = {**mine["metadata"]["labels"], "edgeward.dev/site": "harbour"}
    node = {**mine["spec"]["nodes"][0], "name": "crane", "replicas": 1}
    other = {
        "apiVersion": "edgeward.dev/v1alpha1",
        "kind": "Assignment",
        "metadata": {"name": f"{job}-harbour", "namespace": "edgeward-site-harbour", "labels": labels},
        "spec": {**mine["spec"], "site": "harbour", "nodes": [node]},
    }
    own.apply(site, other)
    status = {"status": {**mine["status"], "nodes": [{"name": "crane", "replicas": 1, "ready": 1}]}}
    stage.kubectl.run(
        "patch", "assignment", f"{job}-harbour", "-n", "edgeward-site-harbour", "--subresource=status", "--type=merge",
        "--patch", json.dumps(status),
    )  # fmt: skip
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": job, "namespace": NAMESPACE, "labels": {"edgeward.dev/job": job}},
        "spec": {"containers": [{"name": "runtime", "image": stage.runtime_image}], "nodeName": "crane"},
    }
    harbour.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}, pod)
