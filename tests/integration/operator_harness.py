"""What the operator's integration tests share: a control plane with simulated nodes, a real Prometheus that scrapes one
small exporter, operators as processes of their own, and the API server's audit log as the witness of who wrote what."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, TypeVar

from tests.cluster.api import Api, ApiError, Object
from tests.cluster.controlplane import ControlPlane, free_port
from tests.cluster.endpoint import Endpoint, answer
from tests.cluster.simulated import priority_classes

ROOT = Path(__file__).parents[2]
NAMESPACE = "edgeward"
OPERATORS = "edgeward-operators"
"""the group of every operator's client certificate: what the audit log records, and nothing else"""
Answer = TypeVar("Answer")


def eventually(check: Callable[[], Answer], *, seconds: float = 20, what: str = "", every: float = 0.1) -> Answer:
    """The first true answer of `check`. AssertionError, with the last answer or error, when there is none in time."""
    end = time.monotonic() + seconds
    last: Any = None
    while True:
        try:
            last = check()
            if last:
                return last  # type: ignore[no-any-return]
        except (AssertionError, LookupError, ValueError, ApiError, OSError) as error:
            last = error
        if time.monotonic() > end:
            raise AssertionError(f"{what or getattr(check, '__name__', 'it')} not within {seconds:g} s; last: {last!r}")
        time.sleep(every)


# Live figures ----------------------------------------------------------------------------------------------------------


class Exporter:
    """A kubelet's cAdvisor series for any number of nodes, over HTTP. Cores in use are what a test says; the counter is
    their integral, as the kernel's is."""

    def __init__(self) -> None:
        self._cores: dict[str, float] = {}
        self._memory: dict[str, float] = {}
        self._spent: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()
        self._endpoint = Endpoint(self._get)
        self.port = self._endpoint.port

    def close(self) -> None:
        self._endpoint.close()

    def _get(self, request: BaseHTTPRequestHandler) -> None:
        text = self.render(request.path.split("/")[2])
        answer(request, text.encode(), status=200 if text else 404, Content_Type="text/plain; version=0.0.4")

    def set(self, node: str, *, cores: float, memory: float = 256 * 2**20) -> None:
        with self._lock:
            self._advance(node)
            self._cores[node], self._memory[node] = cores, memory

    def nodes(self) -> list[str]:
        return sorted(self._cores)

    def forget(self, node: str) -> None:
        with self._lock:
            for known in (self._cores, self._memory, self._spent):
                known.pop(node, None)

    def _advance(self, node: str) -> float:
        now = time.monotonic()
        spent, at = self._spent.get(node, (1000.0, now))
        spent += self._cores.get(node, 0.0) * (now - at)
        self._spent[node] = (spent, now)
        return spent

    def render(self, node: str) -> str:
        with self._lock:
            if node not in self._cores:
                return ""
            spent = self._advance(node)
            return (
                f'container_cpu_usage_seconds_total{{id="/kubepods"}} {spent:.6f}\n'
                f'container_memory_working_set_bytes{{id="/kubepods"}} {self._memory[node]:.0f}\n'
            )


class Prometheus:
    """Debian's Prometheus, scraping each node's path of the exporter with the label `node`, once a second."""

    def __init__(self, plane: ControlPlane, exporter: Exporter) -> None:
        self._plane = plane
        self._exporter = exporter
        self._directory = plane.directory / "prometheus"
        self._targets = self._directory / "targets.json"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._directory.mkdir(exist_ok=True)
        self.scrape(self._exporter.nodes())
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [{"job_name": "cadvisor", "file_sd_configs": [{"files": [str(self._targets)]}]}],
        }
        (self._directory / "prometheus.yml").write_text(json.dumps(config))
        self._plane.supervisor.start(
            "prometheus",
            [
                "prometheus",
                f"--config.file={self._directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={self._directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--log.level=warn",
            ],
        )
        eventually(self._ready, what="Prometheus")

    def stop(self) -> None:
        self._plane.supervisor.stop("prometheus", grace=0)

    def hang(self, hanging: bool) -> None:
        """Stopped, its socket still accepts: what a Prometheus in trouble does."""
        record = self._plane.supervisor.record("prometheus")
        assert record is not None
        os.kill(record.pid, signal.SIGSTOP if hanging else signal.SIGCONT)

    def scrape(self, nodes: Iterable[str]) -> None:
        here = f"127.0.0.1:{self._exporter.port}"
        targets = [
            {"targets": [here], "labels": {"node": node, "__metrics_path__": f"/nodes/{node}/metrics/cadvisor"}}
            for node in nodes
        ]
        half = self._targets.with_suffix(".new")
        half.write_text(json.dumps(targets))
        half.rename(self._targets)

    def query(self, query: str, *, at: float | None = None) -> dict[str, float]:
        """An instant vector, by node."""
        asked = {"query": query} | ({"time": str(at)} if at is not None else {})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{urllib.parse.urlencode(asked)}", timeout=5) as answer:
            found = json.load(answer)["data"]["result"]
        return {series["metric"]["node"]: float(series["value"][1]) for series in found}

    def cores(self, node: str, *, window: str = "5s", at: float | None = None) -> float | None:
        return self.query(f'rate(container_cpu_usage_seconds_total{{node="{node}"}}[{window}])', at=at).get(node)

    def _ready(self) -> bool:
        with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as answer:
            return bool(answer.status == 200)


# The operator ----------------------------------------------------------------------------------------------------------

SHORT: dict[str, Any] = {
    "tick": 1.0,
    "coalesce": 0.2,
    "refusedAfter": 4.0,
    "dwell": 600.0,
    "evaluationInterval": 2.0,
    "goneAfter": 600.0,
    "leaseDuration": 4.0,
    "leaseRenewDeadline": 2.5,
    "leaseRetry": 0.5,
    "resync": 2.0,
    "watchDeadAfter": 5.0,
}
"""Time limits of a test's operator; what a test says in `timing` replaces single ones."""


class Operator:
    """One replica: `edgeward operator` as a process, with a client certificate of its own."""

    def __init__(
        self,
        plane: ControlPlane,
        name: str,
        *,
        prometheus: str,
        timing: Mapping[str, float] | None = None,
        metrics: Mapping[str, Any] | None = None,
        solver: Mapping[str, float] | None = None,
        runtime: Mapping[str, Any] | None = None,
        registries: Mapping[str, Any] | None = None,
        kubeconfig: Path | None = None,
    ) -> None:
        self._plane = plane
        self.name = name
        self.user = f"edgeward-{name}"
        self.port = free_port()
        self._kubeconfig = kubeconfig or plane.user(self.user, user=self.user, groups=[OPERATORS])
        figures = {"prometheusUrl": prometheus, "window": "5s", "scrapeInterval": 3.0, "pollInterval": 1.0}
        figures |= {"deadline": 1.0, "expiry": 20.0, "fallback": False}
        config = {
            "namespace": NAMESPACE,
            "port": self.port,
            "metrics": {**figures, **(metrics or {})},
            "timing": {**SHORT, **(timing or {})},
            "solver": dict(solver or {}),
            "runtime": dict(runtime or {}),
            "registries": dict(registries or {}),
        }
        self._config = plane.directory / f"{name}.json"
        self._config.write_text(json.dumps(config))

    def start(self) -> Operator:
        command = [sys.executable, "-m", "edgeward.cli.main", "operator"]
        command += [f"--config={self._config}", f"--kubeconfig={self._kubeconfig}"]
        environ = {"PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'edge-runtime'}", "POD_NAME": self.name}
        self._plane.supervisor.start(self.user, command, environ=environ)
        return self

    @property
    def running(self) -> bool:
        return self._plane.supervisor.running(self.user)

    @property
    def log(self) -> str:
        return self._plane.supervisor.log(self.user).read_text(errors="replace")

    @property
    def children(self) -> list[int]:
        """Processes that the operator has started and that are still there."""
        record = self._plane.supervisor.record(self.user)
        assert record is not None, f"{self.user} was not started"
        found = [path.read_text().split() for path in Path(f"/proc/{record.pid}/task").glob("*/children")]
        return sorted(int(pid) for pids in found for pid in pids)

    def kill(self) -> None:
        """kill -9, waited for."""
        self._plane.supervisor.stop(self.user, grace=0)

    def stop(self) -> None:
        """SIGTERM, and time to give the Lease back."""
        self._plane.supervisor.stop(self.user, grace=10)

    def signal(self, number: signal.Signals) -> None:
        record = self._plane.supervisor.record(self.user)
        assert record is not None, f"{self.user} was not started"
        os.kill(record.pid, number)

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        """The sum over all series of a metric of the operator's own."""
        values = [
            float(line.rpartition(" ")[2])
            for line in self.get("/metrics")[1].splitlines()
            if line.startswith((f"{name} ", f"{name}{{"))
        ]
        return sum(values)

    def leads(self) -> bool:
        return self.running and self.metric("edgeward_leader") == 1

    def await_leading(self, *, seconds: float = 30) -> Operator:
        def planned() -> bool:
            if not self.running:
                raise AssertionError(f"{self.user} has ended: {self.log[-3000:]}")
            return self.leads() and self.metric("edgeward_plans_total") > 0

        eventually(planned, seconds=seconds, what=f"{self.user} leads")
        return self


# The world ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Write:
    """One write that the API server saw."""

    at: float
    user: str
    verb: str
    resource: str
    namespace: str
    name: str
    code: int


AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "Request",
            "userGroups": [OPERATORS],
            "verbs": ["patch"],
            "resources": [{"group": "edgeward.dev", "resources": ["assignments"]}],
        },
        {
            "level": "Metadata",
            "userGroups": [OPERATORS],
            "verbs": ["create", "update", "patch", "delete", "deletecollection"],
        },
        {"level": "None"},
    ],
}

NODES: dict[str, dict[str, Any]] = {
    "edge-a": {"count": 2, "cpu": "4", "labels": {"edgeward.dev/tier": "edge", "edgeward.dev/site": "site-a"}},
    "edge-b": {"count": 1, "cpu": "2", "labels": {"edgeward.dev/tier": "edge", "edgeward.dev/site": "site-b"}},
    "edge-m": {
        "count": 1,
        "cpu": "4",
        "arch": "s390x",
        "labels": {"edgeward.dev/tier": "edge", "edgeward.dev/site": "site-m"},
    },
    "edge-t": {
        "count": 1,
        "cpu": "4",
        "taints": [{"key": "dedicated", "value": "cameras", "effect": "NoSchedule"}],
        "labels": {"edgeward.dev/tier": "edge", "edgeward.dev/site": "site-t"},
    },
    "cloud": {"count": 2, "cpu": "8", "memory": "16Gi", "labels": {"edgeward.dev/tier": "cloud"}},
}
"""the fleet of every test: prefix -> what ControlPlane.add_nodes takes"""


@dataclass
class World:
    """The control plane with its nodes, and short ways to say what a test wants to say."""

    plane: ControlPlane
    exporter: Exporter
    prometheus: Prometheus
    audit: Path
    _operators: list[Operator] = field(default_factory=list)

    @property
    def api(self) -> Api:
        return self.plane.api

    # operators

    def operator(self, name: str, **options: Any) -> Operator:
        """A replica that is started and ended by whoever asks; `end_operators` ends all that are left."""
        made = Operator(self.plane, name, prometheus=options.pop("prometheus", self.prometheus.url), **options)
        self._operators.append(made)
        return made

    def end_operators(self) -> None:
        for operator in self._operators:
            if operator.running:
                operator.stop()
        self._operators.clear()
        # The next test's operator need not wait for a Lease that nobody will renew.
        self.delete(f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/edgeward-hub")

    def writes(self, *, since: float = 0.0, user: str = "", leases: bool = False) -> list[Write]:
        """What operators wrote from `since` (Unix time) on, without the Lease unless asked for."""
        found = []
        for line in self.audit.read_text().splitlines():
            try:
                event = json.loads(line)
            except ValueError:  # the last line, half written
                continue
            about = event.get("objectRef") or {}
            write = Write(
                at=_unix(event["requestReceivedTimestamp"]),
                user=event["user"]["username"],
                verb=event["verb"],
                resource=about.get("resource", "") + (f"/{about['subresource']}" if "subresource" in about else ""),
                namespace=about.get("namespace", ""),
                name=about.get("name", ""),
                code=(event.get("responseStatus") or {}).get("code", 0),
            )
            wanted = write.at >= since and (not user or write.user == user)
            if wanted and (leases or write.resource != "leases"):
                found.append(write)
        return found

    def sent_assignments(self) -> list[Object]:
        """The bodies of the hub's writes to Assignments, in order."""
        events = (json.loads(line) for line in self.audit.read_text().splitlines())
        return [
            event["requestObject"]
            for event in events
            if "requestObject" in event and "fieldManager=edgeward-hub" in event["requestURI"]
        ]

    # objects

    def add_nodes(self, prefix: str, **options: Any) -> list[str]:
        """Nodes that Prometheus knows too."""
        names = self.plane.add_nodes(options.pop("count", 1), prefix=prefix, **options)
        for name in names:
            self.exporter.set(name, cores=0.2)
        self.prometheus.scrape(self.exporter.nodes())
        return names

    def remove_nodes(self, *names: str) -> None:
        for name in names:
            self.delete(f"/api/v1/nodes/{name}")
            self.exporter.forget(name)
        self.prometheus.scrape(self.exporter.nodes())

    def delete(self, path: str) -> None:
        try:
            self.api.delete(path)
        except ApiError as error:
            if error.status != 404:
                raise

    def release(
        self, namespace: str, name: str = "reader", *, version: str = "1.0.0", digest: int = 1, **more: Any
    ) -> None:
        spec = {
            "version": version,
            "artifact": {"uri": "http://127.0.0.1:9/model.onnx", "digest": f"sha256:{digest:064x}"},
            **more,
        }
        self._apply("modelreleases", "ModelRelease", namespace, name, spec)

    def job(self, namespace: str, name: str, spec: Mapping[str, Any] | None = None, **more: Any) -> None:
        """An InferenceJob of model `reader` that asks for little, unless `spec` or keywords say otherwise."""
        asked = {"model": {"name": "reader"}, "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}
        self._apply("inferencejobs", "InferenceJob", namespace, name, {**asked, **(spec or {}), **more})

    def _apply(self, plural: str, kind: str, namespace: str, name: str, spec: Mapping[str, Any]) -> None:
        body = {"apiVersion": "edgeward.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}
        self.api.apply(f"/apis/edgeward.dev/v1alpha1/namespaces/{namespace}/{plural}/{name}", body)

    def get_job(self, namespace: str, name: str) -> Object:
        return dict(self.api.get(f"{self.jobs(namespace)}/{name}"))

    def jobs(self, namespace: str) -> str:
        return f"/apis/edgeward.dev/v1alpha1/namespaces/{namespace}/inferencejobs"

    def assignments(self, namespace: str = "", job: str = "") -> list[Object]:
        found = self.api.get(f"/apis/edgeward.dev/v1alpha1/namespaces/{NAMESPACE}/assignments")["items"]
        return [
            item
            for item in found
            if namespace in ("", item["spec"]["job"]["namespace"]) and job in ("", item["spec"]["job"]["name"])
        ]

    def pods(self, namespace: str, job: str = "") -> list[Object]:
        selector = f"?labelSelector=edgeward.dev%2Fjob%3D{job}" if job else ""
        return list(self.api.get(f"/api/v1/namespaces/{namespace}/pods{selector}")["items"])

    def deployments(self, namespace: str) -> list[Object]:
        return list(self.api.get(f"/apis/apps/v1/namespaces/{namespace}/deployments")["items"])

    def uids(self, namespace: str) -> dict[str, str]:
        """Of all pods: a pod that was made anew, or whose name is another, makes a difference."""
        return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in self.pods(namespace)}

    def events(self, namespace: str, name: str = "") -> list[Object]:
        found = self.api.get(f"/api/v1/namespaces/{namespace}/events")["items"]
        return [item for item in found if name in ("", item["involvedObject"]["name"])]

    # what a test waits for

    def condition(self, namespace: str, name: str, kind: str) -> Object:
        """A condition of the job's status, empty when it is not there."""
        conditions = self.get_job(namespace, name).get("status", {}).get("conditions") or []
        return next((dict(item) for item in conditions if item["type"] == kind), {})

    def await_condition(
        self, namespace: str, name: str, kind: str, status: str, *, reason: str = "", seconds: float = 20
    ) -> Object:
        def holds() -> Object | None:
            job = self.get_job(namespace, name)
            found = next((item for item in job.get("status", {}).get("conditions") or [] if item["type"] == kind), {})
            told = found.get("observedGeneration") == job["metadata"]["generation"]
            right = told and found.get("status") == status and reason in ("", found.get("reason"))
            assert right, found or job.get("status")
            return dict(found)

        answer = eventually(holds, seconds=seconds, what=f"{namespace}/{name} {kind}={status} {reason}")
        assert answer is not None
        return answer

    def await_ready(self, namespace: str, *names: str, seconds: float = 30) -> None:
        for name in names:
            self.await_condition(namespace, name, "Ready", "True", seconds=seconds)

    def nodes_of(self, namespace: str, name: str) -> list[str]:
        """The nodes of a job's replicas by its status, one entry a node."""
        status = self.get_job(namespace, name).get("status", {})
        return sorted(node for decision in status.get("decisions") or [] for node in decision["nodes"])

    def scheduled_on(self, namespace: str, name: str) -> list[str]:
        """The nodes of a job's pods by the scheduler, one entry a pod."""
        return sorted(
            pod["spec"].get("nodeName", "")
            for pod in self.pods(namespace, name)
            if "deletionTimestamp" not in pod["metadata"]
        )

    def clear(self, namespace: str) -> None:
        """Delete a test's jobs and what was made of them, whether an operator is there to do it or not."""
        for plural in ("inferencejobs", "modelreleases"):
            self.delete(f"/apis/edgeward.dev/v1alpha1/namespaces/{namespace}/{plural}")
        for item in self.assignments(namespace):
            path = f"/apis/edgeward.dev/v1alpha1/namespaces/{NAMESPACE}/assignments/{item['metadata']['name']}"
            self.delete(path)
        for path in ("apps/v1/namespaces/{}/deployments", "policy/v1/namespaces/{}/poddisruptionbudgets"):
            self.delete("/apis/" + path.format(namespace))
        for plural in ("configmaps", "resourcequotas"):
            self.delete(f"/api/v1/namespaces/{namespace}/{plural}")
        for service in self.api.get(f"/api/v1/namespaces/{namespace}/services")["items"]:
            self.delete(f"/api/v1/namespaces/{namespace}/services/{service['metadata']['name']}")
        for item in self.assignments(namespace):
            path = f"/apis/edgeward.dev/v1alpha1/namespaces/{NAMESPACE}/assignments/{item['metadata']['name']}"
            try:
                self.api.patch(path, {"metadata": {"finalizers": None}})
            except ApiError as error:
                if error.status != 404:
                    raise
        eventually(lambda: not self.pods(namespace) and not self.assignments(namespace), what=f"{namespace} is empty")


def _unix(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def start_world(plane: ControlPlane, exporter: Exporter, audit: Path) -> World:
    """CRDs, namespaces, PriorityClasses, rights, nodes and Prometheus on a control plane that is up."""
    plane.kubectl("apply", "-f", str(ROOT / "crds"))
    plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(ROOT / "crds"))
    rights = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": OPERATORS},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": OPERATORS}],
    }
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}, rights, *priority_classes())
    plane.start_kwok()
    prometheus = Prometheus(plane, exporter)
    world = World(plane=plane, exporter=exporter, prometheus=prometheus, audit=audit)
    for prefix, options in NODES.items():
        for name in plane.add_nodes(
            options["count"], prefix=prefix, **{k: v for k, v in options.items() if k != "count"}
        ):
            exporter.set(name, cores=0.2)
    prometheus.start()
    return world
