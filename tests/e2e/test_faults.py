"""What a real kubelet, a cut wire and a real metrics-server do to the operator."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from edgeward.cluster.client import Client
from edgeward.cluster.resources import NODE_METRICS, Object
from edgeward.metrics.profiles import KUBELET, PER_CONTAINER
from edgeward.metrics.source import MetricsApiSource, PrometheusSource, Reading
from tests.cluster import Cluster
from tests.demo.kube import wait
from tests.demo.stage import Stage
from tests.unit.runtime import onnx_models

from .space import Space, space

NAMESPACE = "faults"
MODEL = onnx_models.constant_times(2.0)


@pytest.fixture(scope="module")
def own(stage: Stage, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    with space(stage, cluster, tmp_path_factory.mktemp("faults"), NAMESPACE, {"m.onnx": MODEL}) as made:
        made.serve(MODEL)
        yield made


def reason(stage: Stage, name: str) -> str:
    found = stage.kubectl.get("ij", name, "-n", NAMESPACE)
    conditions = found.get("status", {}).get("conditions", [])
    return next((str(item["reason"]) for item in conditions if item["type"] == "Ready"), "")


def offline(stage: Stage, name: str) -> int:
    sites = stage.kubectl.get("ij", name, "-n", NAMESPACE)["status"].get("sites", {})
    return int(sites.get("offline", 0))


def test_the_kubelet_profile_sees_each_node_for_itself(cluster: Cluster) -> None:
    source = PrometheusSource(url=cluster.prometheus_url, profile=KUBELET, window="45s")

    def all_nodes() -> Reading | None:
        reading = asyncio.run(source.read())
        known = [live for live in reading.live.values() if live.cpu]  # a rate needs two samples of the kubelet's
        return reading if len(known) == len(cluster.node_names) else None

    reading = wait("a rate for every node", all_nodes, seconds=60)
    source.close()
    fresh(reading, cluster)


def test_the_sum_over_containers_stands_in_where_the_cgroup_of_all_pods_is_dropped(
    stage: Stage, cluster: Cluster
) -> None:
    """kube-prometheus-stack drops every series without a pod by default. The operator's own pod is enough to see."""
    source = PrometheusSource(url=cluster.prometheus_url, profile=PER_CONTAINER, window="45s")

    def known() -> Reading | None:
        """The operator alone takes more than 16 MiB; other nodes may hold less than that."""
        reading = asyncio.run(source.read())
        seen = (live for live in reading.live.values() if live.cpu and live.memory)
        return reading if any(live.memory and live.memory.value > 2**24 for live in seen) else None

    reading = wait("figures summed over containers", known, seconds=60)
    source.close()
    assert set(reading.live) <= set(cluster.node_names)


def test_the_metrics_api_stands_in_for_prometheus(cluster: Cluster) -> None:
    async def read() -> Reading:
        async with Client.connect(kubeconfig=str(cluster.kubeconfig)) as client:

            async def nodes() -> list[Object]:
                items, _ = await client.list(NODE_METRICS)
                return items

            return await MetricsApiSource(nodes).read()

    reading = wait("figures of metrics-server", lambda: (got := asyncio.run(read())).live and got, seconds=60)
    fresh(reading, cluster)


def fresh(reading: Reading, cluster: Cluster) -> None:
    assert reading.problem == ""
    assert set(reading.live) == set(cluster.node_names)
    for live in reading.live.values():
        assert live.cpu is not None
        assert live.memory is not None
        assert 0 <= live.cpu.value < 64
        assert live.memory.value > 0
        assert -5 < time.time() - live.cpu.at < 90


def test_a_replica_whose_container_cannot_start_on_a_node_is_tried_elsewhere(stage: Stage, own: Space) -> None:
    """The image is on the cloud node alone, and the nodes may not pull."""
    image = "localhost/edgeward-runtime:cloud-only"
    assert stage.cluster is not None
    stage.cluster.node("cloud-1").tag_image(stage.runtime_image, image)
    template = {"spec": {"containers": [{"name": "runtime", "image": image, "imagePullPolicy": "Never"}]}}
    own.job("picky", podTemplate=template, placement={"tiers": ["edge", "cloud"]})
    wait("the job serving where it can", lambda: reason(stage, "picky") == "Serving", seconds=120)
    assert {pod["spec"]["nodeName"] for pod in own.pods("picky")} == {"cloud-1"}
    status = stage.kubectl.get("ij", "picky", "-n", NAMESPACE)["status"]
    for item in status.get("exclusions", []):
        assert item["node"] != "cloud-1"
        assert item["reason"] in ("ErrImageNeverPull", "ImagePullBackOff", "ErrImagePull"), item


def test_a_node_that_is_cut_off_keeps_its_pods_and_nothing_restarts(stage: Stage, cluster: Cluster, own: Space) -> None:
    requests = {"requests": {"cpu": "550m", "memory": "96Mi"}}  # of 1000m: one on each edge node
    own.job("steady", replicas=2, placement={"tiers": ["edge"]}, resources=requests)
    wait("two replicas serving", lambda: reason(stage, "steady") == "Serving", seconds=60)

    def identities() -> set[tuple[str, str, int]]:
        return {
            (
                pod["spec"]["nodeName"],
                pod["metadata"]["uid"],
                sum(item["restartCount"] for item in pod["status"]["containerStatuses"]),
            )
            for pod in own.pods("steady")
        }

    before = identities()
    cluster.cut("edge-2")
    try:
        cluster.wait_ready("edge-2", ready=False, seconds=70)
        wait("status that says so", lambda: offline(stage, "steady") == 1, seconds=20)
        assert reason(stage, "steady") == "Serving", "it serves at every connected site it should"
        time.sleep(5)
        assert identities() == before, "nothing is deleted or placed anew because a node is silent"
    finally:
        cluster.heal("edge-2")
    cluster.wait_ready("edge-2", seconds=60)
    wait("both sites connected again", lambda: offline(stage, "steady") == 0, seconds=60)
    wait("both serving again", lambda: reason(stage, "steady") == "Serving", seconds=60)
    assert identities() == before
