"""What the embedded cluster promises: real nodes of their own, Services, DNS, volumes, figures per node."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import Cluster, ImageBuilder
from tests.cluster.addons import STORAGE_CLASS
from tests.demo.kube import Kubectl, wait
from tests.demo.stage import pod

IMAGE = "localhost/edgeward-runtime:dev"
PORT = 8000
Run = Callable[..., str]


@pytest.fixture(scope="module")
def kubectl(cluster: Cluster) -> Kubectl:
    archive = ImageBuilder(cache=cluster.cache, say=cluster.say).build("runtime")["runtime"]
    cluster.load_image(archive)
    return Kubectl(program=str(cluster.binaries.path("kubectl")), kubeconfig=cluster.kubeconfig)


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    kubectl.run("create", "namespace", name)
    yield name
    kubectl.run("delete", "namespace", name, "--wait=false")


def started(kubectl: Kubectl, namespace: str, *objects: dict[str, Any]) -> None:
    """Apply, and wait until every pod among them runs."""
    kubectl.apply(yaml.safe_dump_all(objects), namespace=namespace)
    for item in objects:
        if item["kind"] == "Pod":
            name = item["metadata"]["name"]
            kubectl.run("wait", "--for=condition=Ready", f"pod/{name}", "-n", namespace, "--timeout=60s", timeout=70)


def python(kubectl: Kubectl, namespace: str, name: str, program: str) -> str:
    return kubectl.run("exec", "-n", namespace, name, "--", "python3", "-c", program, timeout=60)


def sleeper(name: str, node: str) -> dict[str, Any]:
    return pod(name, image=IMAGE, command=["python3", "-c", "import time; time.sleep(3600)"], node=node)


def server(name: str, node: str) -> dict[str, Any]:
    """A pod that answers with its own name."""
    program = (
        "import http.server, socket\n"
        "class Name(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(socket.gethostname().encode())\n"
        f"http.server.ThreadingHTTPServer(('', {PORT}), Name).serve_forever()\n"
    )
    body = pod(name, image=IMAGE, command=["python3", "-c", program], node=node)
    body["metadata"]["labels"]["app"] = "names"
    body["spec"]["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": PORT}, "periodSeconds": 1}
    return body


def test_three_nodes_run_kubelets_of_their_own(cluster: Cluster, kubectl: Kubectl) -> None:
    nodes = {item["metadata"]["name"]: item for item in kubectl.items("nodes")}
    assert sorted(nodes) == ["cloud-1", "edge-1", "edge-2"]
    version = json.loads(kubectl.run("version", "-o", "json"))["serverVersion"]["gitVersion"]
    infos = [item["status"]["nodeInfo"] for item in nodes.values()]
    assert {info["kubeletVersion"] for info in infos} == {version}
    assert len({info["machineID"] for info in infos}) == 3
    addresses = {
        a["address"] for item in nodes.values() for a in item["status"]["addresses"] if a["type"] == "InternalIP"
    }
    assert len(addresses) == 3
    labels = {name: item["metadata"]["labels"] for name, item in nodes.items()}
    assert {name: found["edgeward.dev/tier"] for name, found in labels.items()} == {
        "cloud-1": "cloud",
        "edge-1": "edge",
        "edge-2": "edge",
    }
    assert labels["edge-1"]["edgeward.dev/site"] != labels["edge-2"]["edgeward.dev/site"]


def test_each_node_is_in_a_network_namespace_of_its_own(cluster: Cluster) -> None:
    inodes = {Path(f"/var/run/netns/{node.namespace}").stat().st_ino for node in cluster.plan.nodes}
    assert len(inodes) == 3
    for node in cluster.plan.nodes:
        pid = json.loads((cluster.state / "pids" / f"{node.spec.name}.kubelet.json").read_text())["pid"]
        assert Path(f"/proc/{pid}/ns/net").stat().st_ino in inodes


def test_a_pod_reaches_pods_of_other_nodes_by_service_name_and_address(
    cluster: Cluster, kubectl: Kubectl, namespace: str
) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "names"},
        "spec": {"selector": {"app": "names"}, "ports": [{"port": 80, "targetPort": PORT}]},
    }
    servers = [server("on-cloud", "cloud-1"), server("on-edge", "edge-1")]
    started(kubectl, namespace, service, *servers, sleeper("asker", "edge-2"))

    def seen() -> set[str]:
        ask = "import urllib.request as u; print(u.urlopen('http://names.{}.svc', timeout=3).read().decode())"
        return {python(kubectl, namespace, "asker", ask.format(namespace)).strip() for _ in range(6)}

    found: set[str] = set()

    def both() -> bool:
        found.update(seen())
        return found == {"on-cloud", "on-edge"}

    wait("answers of both pods", both, seconds=30, why=lambda: str(found))
    direct = kubectl.get("pod", "on-edge", "-n", namespace)["status"]["podIP"]
    ask = f"import urllib.request as u; print(u.urlopen('http://{direct}:{PORT}', timeout=3).read().decode())"
    assert python(kubectl, namespace, "asker", ask).strip() == "on-edge"


def test_a_volume_stays_on_its_node_and_outlives_its_pod(cluster: Cluster, kubectl: Kubectl, namespace: str) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "store"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": STORAGE_CLASS,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }

    def user(name: str) -> dict[str, Any]:
        body = sleeper(name, "edge-1")
        body["spec"]["securityContext"]["fsGroup"] = 65532
        body["spec"]["volumes"].append({"name": "store", "persistentVolumeClaim": {"claimName": "store"}})
        body["spec"]["containers"][0]["volumeMounts"].append({"name": "store", "mountPath": "/store"})
        return body

    started(kubectl, namespace, claim, user("first"), user("second"))
    word = uuid.uuid4().hex
    python(kubectl, namespace, "first", f"open('/store/word', 'w').write('{word}')")
    read = "print(open('/store/word').read())"
    assert python(kubectl, namespace, "second", read).strip() == word
    kubectl.run("delete", "pod", "first", "second", "-n", namespace, "--grace-period=1")
    started(kubectl, namespace, user("third"))
    assert python(kubectl, namespace, "third", read).strip() == word
    kubectl.run("delete", "pod", "third", "-n", namespace, "--grace-period=1")
    kubectl.run("delete", "pvc", "store", "-n", namespace)
    assert cluster.recycle_volumes()


def test_prometheus_has_figures_of_each_node_for_itself(cluster: Cluster, kubectl: Kubectl, namespace: str) -> None:
    cluster.wait_metrics()
    query = 'max by (node) (rate(container_cpu_usage_seconds_total{id=~"/.*kubepods"}[30s]))'

    def cores() -> dict[str, float]:
        return {row["metric"]["node"]: float(row["value"][1]) for row in cluster.query(query)}

    busy = pod("busy", image=IMAGE, command=["python3", "-c", "while True: pass"], node="edge-2")
    started(kubectl, namespace, busy)
    wait("load on edge-2", lambda: cores().get("edge-2", 0) > 0.4, seconds=90, why=lambda: str(cores()))
    others = {name: value for name, value in cores().items() if name != "edge-2"}
    kubectl.run("delete", "pod", "busy", "-n", namespace, "--grace-period=0", "--force")
    assert set(others) == {"cloud-1", "edge-1"}
    assert max(others.values()) < 0.35


def test_logs_and_exec_work(kubectl: Kubectl, namespace: str) -> None:
    body = pod("talker", image=IMAGE, command=["python3", "-uc", "import time; print('hello'); time.sleep(3600)"])
    started(kubectl, namespace, body)
    assert "hello" in kubectl.run("logs", "talker", "-n", namespace)
    assert python(kubectl, namespace, "talker", "print(6 * 7)").strip() == "42"
