"""An agent between two clusters (two API servers on one etcd), with a real runtime at the site, while its link to the hub
is cut: the new model misbehaves, the site goes back from its own disk, and says so when the link is back.

The test is the hub (it writes the Assignment) and the kubelet (it brings the ConfigMap into the runtime's folder). The
agent, the runtime, both API servers and the cut are real.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.binaries import Binaries
from tests.cluster.certificates import Authority
from tests.cluster.controlplane import ControlPlane, temporary_directory
from tests.cluster.progress import silent
from tests.unit.runtime import onnx_models
from tests.unit.runtime.http_source import Source, serving

from .operator_harness import ROOT, eventually
from .test_runtime_serving import Server
from .watch_proxy import WatchProxy

NAME = "reader-shop"
PATH = f"/apis/edgeward.dev/v1alpha1/namespaces/edgeward/assignments/{NAME}"
# As many milliseconds as its input says, so a request tells how slow the second version is; the first takes none.
FAST, SLOW = onnx_models.constant_times(1.0, width=1), onnx_models.trips()
CRASHES = {"name": "crashes", "builtin": "CrashLoop", "max": "1", "interval": "1s"}
GATE = {"name": "slow", "builtin": "LatencyP95", "max": "0.05", "interval": "1s", "minSamples": 20}
MILLISECONDS = 120.0


@pytest.fixture(scope="module")
def clusters() -> Iterator[tuple[ControlPlane, ControlPlane]]:
    """(hub, site)"""
    binaries = Binaries(say=silent)
    binaries.ensure("control-plane")
    directory = temporary_directory()
    (directory / "hub").mkdir()
    (directory / "site").mkdir()
    try:
        with (
            ControlPlane(directory / "hub", binaries=binaries, name="hub") as hub,
            ControlPlane(directory / "site", binaries=binaries, name="site", etcd=hub, etcd_prefix="/site") as site,
        ):
            hub.kubectl("apply", "-f", str(ROOT / "crds"))
            hub.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(ROOT / "crds"))
            for plane, names in ((hub, ["edgeward"]), (site, ["edgeward", "shop"])):
                plane.apply(*({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": it}} for it in names))
            yield hub, site
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Kubelet:
    """Brings the job's ConfigMap into the runtime's folder, as long as it is in the site's API."""

    def __init__(self, site: ControlPlane, folder: Path) -> None:
        self._api, self._folder, self._stop = site.api, folder, threading.Event()
        (folder / "config").mkdir()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        known = ""
        while not self._stop.wait(0.1):
            for item in self._api.get("/api/v1/namespaces/shop/configmaps")["items"]:
                text = (item.get("data") or {}).get("models.json", known)
                if text != known:
                    known = text
                    (self._folder / "config" / ".new").write_text(text)
                    (self._folder / "config" / ".new").rename(self._folder / "config" / "models.json")

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


class Container:
    """The runtime of the pod, as a process; and a kubelet that starts it again when it has ended, and counts."""

    def __init__(self, site: ControlPlane, status: dict[str, Any], folder: Path, address: str) -> None:
        self._api, self._status, self._folder, self._address = site.api, status, folder, address
        self.restarts = 0
        self.server = self._start()

    def _start(self) -> Server:
        return Server(self._folder, port=8080, EDGEWARD_HOST=self._address)

    def crash(self) -> None:
        self.end()
        self.restarts += 1
        (container,) = self._status["containerStatuses"]
        status = {**self._status, "containerStatuses": [{**container, "restartCount": self.restarts}]}
        self._api.patch("/api/v1/namespaces/shop/pods/reader-0/status", {"status": status})
        self.server = self._start()

    def end(self) -> None:
        self.server.process.kill()
        self.server.process.wait()


class Shop:
    """The hub's side of one Assignment."""

    def __init__(self, hub: ControlPlane, source: Source) -> None:
        self.api, self.source, self.revision = hub.api, source, 0

    def tell(self, *models: dict[str, Any]) -> None:
        self.revision += 1
        spec = {
            "job": {"namespace": "shop", "name": "reader"},
            "site": "shop",
            "revision": self.revision,
            "nodes": [{"name": "n1", "replicas": 1}],
            "models": list(models),
        }
        body = {"apiVersion": "edgeward.dev/v1alpha1", "kind": "Assignment", "spec": spec}
        labels = {"edgeward.dev/site": "shop", "edgeward.dev/tier": "edge", "app.kubernetes.io/managed-by": "edgeward"}
        self.api.apply(
            PATH, {**body, "metadata": {"name": NAME, "labels": labels, "finalizers": ["edgeward.dev/agent"]}}
        )

    def status(self) -> dict[str, Any]:
        return dict(self.api.get(PATH).get("status") or {})

    def model(self, version: str) -> dict[str, Any]:
        return next((one for one in self.status().get("models") or [] if one["version"] == version), {})


def _node() -> dict[str, Any]:
    ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": None, "lastTransitionTime": "2027-01-01T00:00:00Z"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n1", "labels": {"edgeward.dev/tier": "edge", "edgeward.dev/site": "shop"}},
        "status": {"conditions": [ready]},
    }


def _pod(address: str) -> tuple[dict[str, Any], dict[str, Any]]:
    labels = {"edgeward.dev/assignment": NAME, "edgeward.dev/job": "reader", "app.kubernetes.io/managed-by": "edgeward"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "reader-0", "labels": labels, "annotations": {"edgeward.dev/node": "n1"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "runtime", "image": "runtime"}]},
    }
    since = "2027-01-01T00:00:00Z"
    status = {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}],
        "containerStatuses": [
            {
                "name": "runtime",
                "image": "runtime",
                "imageID": "",
                "ready": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": since}},
            }
        ],
    }
    return pod, status


def test_cut_off_it_goes_back_from_its_own_disk_and_reports_later(
    clusters: tuple[ControlPlane, ControlPlane], tmp_path: Path
) -> None:
    hub, site = clusters
    pair = Authority(hub.directory / "pki").issue("agent", user="agent", groups=["system:masters"])
    address = f"127.{random.randint(64, 120)}.{random.randint(1, 250)}.{random.randint(1, 250)}"
    site.api.post("/api/v1/nodes", _node())
    pod, pod_status = _pod(address)
    site.api.post("/api/v1/namespaces/shop/pods", pod)
    site.api.patch("/api/v1/namespaces/shop/pods/reader-0/status", {"status": pod_status})
    kubelet = Kubelet(site, tmp_path)
    container = Container(site, pod_status, tmp_path, address)
    try:
        with serving() as source, WatchProxy(hub, pair) as link:
            _story(Shop(hub, source), site, container, link)
    finally:
        site.supervisor.stop("site-agent", grace=0)
        container.end()
        kubelet.end()


def _story(shop: Shop, site: ControlPlane, container: Container, link: WatchProxy) -> None:
    old = {"name": "m", "version": "1", "digest": onnx_models.digest(FAST), "sources": [shop.source.url("/1")]}
    new = {"name": "m", "version": "2", "digest": onnx_models.digest(SLOW), "sources": [shop.source.url("/2")]}

    def answered() -> str:
        tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [MILLISECONDS]}
        status, document, _ = container.server.infer({"inputs": [tensor]})
        assert status == 200, document
        return str(document["model_version"])

    shop.source.files = {"/1": FAST, "/2": SLOW}
    shop.tell(old)
    command = [sys.executable, "-m", "tests.integration.site_agent", str(link.kubeconfig), str(site.kubeconfig)]
    site.supervisor.start("site-agent", command, environ={"PYTHONPATH": f"{ROOT}:{ROOT / 'operator'}"})
    eventually(lambda: shop.model("1").get("serving"), seconds=30, what="version 1 serves, and the hub knows")
    assert answered() == "1"
    tried = {**new, "localGates": [GATE]}
    shop.tell(tried, {**old, "role": "Previous"})
    eventually(lambda: shop.model("2").get("serving"), seconds=30, what="version 2 serves, and the hub knows")
    told = json.loads((container.server.folder / "config" / "models.json").read_text())
    assert told["keep"] == [old["digest"]], "the bytes of the way back stay"

    link.cut()
    shop.source.files.clear()  # the way back needs no network at all
    versions = []
    end = time.monotonic() + 60
    while (not versions or versions[-1] != "1") and time.monotonic() < end:
        versions.append(answered())
    assert versions[0] == "2" and versions[-1] == "1", f"it went back: {versions[-5:]}"
    assert shop.model("2").get("serving") and not shop.status().get("refused"), "the hub cannot know"
    (memory,) = (
        one
        for one in site.api.get("/api/v1/namespaces/edgeward/configmaps")["items"]
        if one["metadata"]["name"].startswith("edgeward-memory")
    )
    (entry,) = json.loads(memory["data"]["shop.m"])
    assert (entry["identity"], entry["scope"], entry["step"]) == (new["digest"], "Site", "Gate")
    assert "gate slow" in entry["reason"]

    link.mend()
    eventually(lambda: shop.status().get("refused"), seconds=60, what="the hub hears of it")
    (told_hub,) = shop.status()["refused"]
    assert (told_hub["identity"], told_hub["step"], told_hub["attempt"]) == (new["digest"], "Gate", 0)
    assert shop.model("2")["refused"]["step"] == "Gate" and shop.model("1")["serving"]
    # Another word from the hub that says nothing of an attempt changes nothing; a later attempt does.
    shop.tell({**tried, "localGates": [{**GATE, "interval": "2s"}]}, {**old, "role": "Previous"})
    eventually(lambda: shop.status()["appliedRevision"] == shop.revision, what="it is carried out")
    assert answered() == "1"
    shop.tell({**tried, "attempt": 1}, {**old, "role": "Previous"})
    eventually(lambda: answered() == "2", what="it is tried again")
    eventually(lambda: not shop.status().get("refused"), what="the site has forgotten")

    # And one whose process ends again and again: the site counts the restarts, and goes back as well.
    shop.tell({**tried, "attempt": 2, "localGates": [CRASHES]}, {**old, "role": "Previous"})
    eventually(lambda: shop.status()["appliedRevision"] == shop.revision, what="it is carried out")
    assert answered() == "2"
    link.cut()
    while told_now(container) == "2" and container.restarts < 10:
        container.crash()
        time.sleep(2.5)  # a kubelet's back-off
    assert told_now(container) == "1" and 2 <= container.restarts < 10, container.restarts
    container.crash()
    container.server.until(lambda: container.server.get("/v2/health/ready")[0] == 200)
    assert answered() == "1"
    link.mend()
    eventually(lambda: shop.model("2").get("refused"), seconds=60, what="the hub hears of it")
    assert "gate crashes" in shop.model("2")["refused"]["message"]


def told_now(container: Container) -> str:
    """The version that the pods are told to serve."""
    (model,) = json.loads((container.server.folder / "config" / "models.json").read_text())["models"]
    return str(model["version"])
