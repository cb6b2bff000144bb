"""The embedded real cluster: a control plane, real nodes in network namespaces, DNS, volumes and Prometheus.

Everything that it makes on the machine is derived from state.json, which is written before anything is made; so `down`
works from any other process, and after a crash.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import addons, host, lifecycle, network
from .api import Api, ApiError
from .binaries import Binaries, exclusive
from .controlplane import ControlPlane, free_port
from .node import Node
from .packages import ensure_packages
from .paths import cache_root, clusters_root, state_directory
from .plan import ClusterPlan, NodeSpec, default_nodes, make_plan
from .processes import Supervisor
from .progress import ClusterError, Progress, Say, wait_for

API_PORT = 6443
NODE_PACKAGES = (
    "runc", "containernetworking-plugins", "iptables", "conntrack", "iproute2", "util-linux", "mount", "openssl",
    "prometheus",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Status:
    """state: absent, up, or broken; dead: the processes that should run and do not."""

    name: str
    state: str
    running: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FileServer:
    """Serves a folder over http on the bridge address, for pods and for the host."""

    url: str
    stop: Callable[[], None]


class Cluster:
    """One named cluster. Options count at up(); a cluster that is up keeps those it was started with.

    nodes                 default_nodes() unless given; default_nodes(labelled=False) leaves the labels out
    metrics_server        also serve metrics.k8s.io
    scrape_interval_s     Prometheus' interval
    node_grace_s          silent seconds after which a node is not Ready any more
    cache                 where binaries and clusters are kept; default: paths.cache_root()
    """

    def __init__(
        self,
        name: str = "edgeward",
        *,
        nodes: Sequence[NodeSpec] | None = None,
        metrics_server: bool = False,
        scrape_interval_s: int = 5,
        node_grace_s: int = 40,
        cache: Path | None = None,
        say: Say | None = None,
    ):
        self.name = name
        self.cache = (cache or cache_root()).absolute()
        self.state = state_directory(self.cache, name)
        self.say = say or Progress()
        self.binaries = Binaries(cache=self.cache, say=self.say)
        self.supervisor = Supervisor(self.state)
        self.run = Path("/run/edgeward") / name
        self.specs = tuple(nodes) if nodes is not None else default_nodes()
        self.options = {
            "metrics_server": metrics_server,
            "scrape_interval_s": scrape_interval_s,
            "node_grace_s": node_grace_s,
        }

    # -- what callers use ---------------------------------------------------------------------------------------------

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def plan(self) -> ClusterPlan:
        """Addresses and node names. ClusterError when the cluster is not up."""
        remembered = self._remembered()
        return make_plan(self.name, remembered["index"], (NodeSpec(**spec) for spec in remembered["nodes"]))

    @property
    def control_plane(self) -> ControlPlane:
        plan = self.plan
        return ControlPlane(
            self.state,
            binaries=self.binaries,
            name=self.name,
            address=plan.host,
            port=API_PORT,
            service_cidr=plan.services,
            service_address=plan.kubernetes_service,
            controllers=True,
            scheduler=True,
            node_grace_s=self._remembered()["options"]["node_grace_s"],
            supervisor=self.supervisor,
        )

    @property
    def api(self) -> Api:
        return self.control_plane.api

    @property
    def host_address(self) -> str:
        """The machine's own address as pods see it."""
        return self.plan.host

    @property
    def prometheus_url(self) -> str:
        """Good from the host and from pods; pods may also use http://prometheus.monitoring.svc:9090."""
        return f"http://{self.plan.host}:{addons.PROMETHEUS_PORT}"

    @property
    def node_names(self) -> list[str]:
        return [node.spec.name for node in self.plan.nodes]

    def kubectl(
        self, *arguments: str, stdin: str | None = None, check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        return self.control_plane.kubectl(*arguments, stdin=stdin, check=check, timeout=timeout)

    def apply(self, *objects: dict[str, Any], namespace: str | None = None) -> None:
        self.control_plane.apply(*objects, namespace=namespace)

    def query(self, promql: str) -> list[dict[str, Any]]:
        """An instant query against the cluster's Prometheus: [{"metric": {...}, "value": [time, "text"]}]."""
        url = f"{self.prometheus_url}/api/v1/query?{urllib.parse.urlencode({'query': promql})}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return result

    def status(self) -> Status:
        if not (self.state / "state.json").exists():
            return Status(name=self.name, state="broken" if self.state.exists() else "absent")
        expected = self.expected()
        running = tuple(n for n in expected if self.supervisor.running(n))
        dead = tuple(n for n in expected if n not in running)
        whole = not dead and self._remembered().get("started", False)
        return Status(name=self.name, state="up" if whole else "broken", running=running, dead=dead)

    # -- up and down --------------------------------------------------------------------------------------------------

    def up(self) -> bool:
        """Start the cluster and wait until its nodes are Ready, DNS answers and Prometheus serves.

        False when it was up already (then volumes without a claim are emptied and offered again). One that is half
        dead is taken down first. On failure everything is undone, the logs are kept aside, and ClusterError says which
        one to read.
        """
        host.require_root()
        make_plan(self.name, 0, self.specs)  # a bad name or node list shows before anything is built
        ensure_packages(self.say, *NODE_PACKAGES)
        groups = ["control-plane", "node", *(["metrics-server"] if self.options["metrics_server"] else [])]
        self.binaries.ensure(*groups)
        with exclusive(clusters_root(self.cache) / f".{self.name}.lock"):
            status = self.status()
            if status.state == "up":
                freed = self.recycle_volumes()
                self.say(f"cluster {self.name} is already up" + (f"; {len(freed)} volumes emptied" if freed else ""))
                return False
            if status.state == "broken":
                self.say(f"cluster {self.name} is half dead ({', '.join(status.dead) or 'unfinished'}): starting anew")
                lifecycle.take_down(self)
            started = time.monotonic()
            try:
                lifecycle.claim(self)
                lifecycle.start(self)
            except BaseException as error:
                if not (self.state / "state.json").exists():
                    raise  # refused before anything was made, perhaps because it is another's
                kept = lifecycle.keep_logs(self)
                lifecycle.take_down(self)
                if isinstance(error, ClusterError):
                    raise ClusterError(str(error).replace(str(self.supervisor.logs), str(kept))) from error
                raise
            self.say(f"cluster {self.name} is up after {time.monotonic() - started:.1f} s")
        return True

    def down(self) -> bool:
        """End and remove all of it; False when there was nothing. Only what this cluster started is ended."""
        host.require_root()
        with exclusive(clusters_root(self.cache) / f".{self.name}.lock"):
            if not self.state.exists():
                self.say(f"cluster {self.name} is not up")
                return False
            lifecycle.take_down(self)
        self.say(f"cluster {self.name} is down")
        return True

    # -- faults -------------------------------------------------------------------------------------------------------

    def cut(self, node: str) -> None:
        """Take the node's link down; its pods run on inside."""
        network.set_link(self.plan.node(node), up=False)

    def heal(self, node: str) -> None:
        plan = self.plan
        network.set_link(plan.node(node), up=True)
        for each in plan.nodes:
            network.restore_routes(plan, each)

    def shape(self, node: str, rate: str | None) -> None:
        """Hold the node's link to a rate in tc's notation ("1mbit"), both ways; None lifts it."""
        network.shape(self.plan.node(node), rate)

    def kill_node(self, node: str) -> None:
        """As a power cut: kubelet, kube-proxy, containerd and all containers end at once. Volumes and images stay."""
        self.node(node).kill()

    def restart_node(self, node: str) -> None:
        """Start a killed node again; wait for Ready with wait_ready()."""
        found = self.node(node)
        found.start_containerd()
        found.start_kubelet()

    def stop_prometheus(self) -> None:
        self.supervisor.stop("prometheus", grace=2)

    def start_prometheus(self, *, wait: bool = True) -> None:
        """Start it (again), on the data it had."""
        plan = self.plan
        (self.state / "prometheus" / "targets").mkdir(parents=True, exist_ok=True)
        config = self.state / "prometheus" / "prometheus.yml"
        interval = self._remembered()["options"]["scrape_interval_s"]
        targets = self.state / "prometheus" / "targets"
        config.write_text(addons.prometheus_config(plan, self.state / "pki", targets, interval_s=interval))
        self.supervisor.start(
            "prometheus",
            [
                "prometheus", f"--config.file={config}", f"--storage.tsdb.path={self.state / 'prometheus' / 'data'}",
                "--storage.tsdb.retention.time=6h", f"--web.listen-address={plan.host}:{addons.PROMETHEUS_PORT}",
                "--web.enable-lifecycle", "--log.level=warn",
            ],
        )  # fmt: skip
        if wait:
            self.await_http("prometheus", f"{self.prometheus_url}/-/ready")

    # -- things for tests ---------------------------------------------------------------------------------------------

    def node(self, name: str) -> Node:
        plan = self.plan
        return self._node(plan, name)

    def wait_ready(self, *nodes: str, ready: bool = True, seconds: float = 60) -> float:
        """Wait until these nodes (default: all) are Ready, or not Ready; the seconds it took."""
        wanted = set(nodes or self.node_names)
        api = self.api

        def settled() -> bool:
            try:
                return wanted <= {n for n, value in _readiness(api.get("/api/v1/nodes")).items() if value is ready}
            except (ApiError, OSError):
                return False

        logs = ", ".join(str(self.supervisor.log(f"{n}.kubelet")) for n in sorted(wanted))
        return wait_for(
            f"nodes {', '.join(sorted(wanted))} Ready={ready}", settled, seconds=seconds, hint=f"Read {logs}"
        )

    def wait_metrics(self, *, seconds: float = 60) -> float:
        """Wait until Prometheus has two samples of every node's pod CPU, so that a rate can be taken."""
        wanted = set(self.node_names)
        promql = 'rate(container_cpu_usage_seconds_total{id=~"/.*kubepods"}[1m])'

        def there() -> bool:
            try:
                return wanted <= {r["metric"].get("node") for r in self.query(promql)}
            except OSError:
                return False

        return wait_for(
            "metrics of every node", there, seconds=seconds, hint=f"Read {self.supervisor.log('prometheus')}"
        )

    def load_image(self, *archives: Path, nodes: Iterable[str] | None = None) -> None:
        """Import image archives into the nodes, all at once. An archive that a node has had is not read again."""
        names = list(nodes or self.node_names)
        plan = self.plan

        def load(name: str) -> None:
            node = self._node(plan, name)
            for archive in archives:
                status = archive.stat()
                seen = node.directory / "loaded" / f"{archive.name}-{status.st_size}-{status.st_mtime_ns}"
                if not seen.exists():
                    node.load_image(archive)
                    seen.parent.mkdir(exist_ok=True)
                    seen.touch()

        with ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(load, names))

    def start_file_server(self, directory: Path, *, name: str = "files") -> FileServer:
        """Serve a folder on the bridge address; the server outlives this process, until stop() or down()."""
        process = f"files-{name}"
        self.supervisor.stop(process)
        address, port = self.plan.host, free_port(self.plan.host)
        command = [sys.executable, "-m", "http.server", "--bind", address, "--directory", str(directory), str(port)]
        self.supervisor.start(process, command)
        url = f"http://{address}:{port}"
        self.await_http(process, url + "/")
        return FileServer(url=url, stop=lambda: self.supervisor.stop(process, grace=1))

    def recycle_volumes(self) -> list[str]:
        """Empty the volumes whose claim is gone and offer them again; their names. For local ones nobody else does."""
        api, freed = self.api, []
        for volume in api.get("/api/v1/persistentvolumes")["items"]:
            if volume["status"].get("phase") != "Released" or "local" not in volume["spec"]:
                continue
            path = Path(volume["spec"]["local"]["path"])
            if not path.is_relative_to(self.state / "nodes"):
                continue
            for entry in path.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
            api.patch(f"/api/v1/persistentvolumes/{volume['metadata']['name']}", {"spec": {"claimRef": None}})
            freed.append(volume["metadata"]["name"])
        return freed

    # -- inside -------------------------------------------------------------------------------------------------------

    def _remembered(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.state / "state.json").read_text())
        except OSError:
            raise ClusterError(
                f"cluster {self.name} is not up; start it with `make cluster NAME={self.name}`"
            ) from None
        return found

    def remember(self, **values: Any) -> None:
        path = self.state / "state.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        half = path.with_suffix(".new")
        half.write_text(json.dumps({**before, **values}, indent=1))
        half.rename(path)

    def expected(self) -> list[str]:
        remembered = self._remembered()
        nodes = [f"{s['name']}.{p}" for s in remembered["nodes"] for p in ("containerd", "kubelet", "kube-proxy")]
        extra = ["metrics-server"] if remembered["options"]["metrics_server"] else []
        control = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns", "prometheus"]
        return [*control, *extra, *nodes]

    def _node(self, plan: ClusterPlan, name: str) -> Node:
        return Node(
            plan,
            plan.node(name),
            directory=self.state / "nodes" / name,
            run=self.run / name,
            supervisor=self.supervisor,
            binaries=self.binaries,
            server=f"https://{plan.host}:{API_PORT}",
            pki=self.state / "pki",
        )

    def await_http(self, process: str, url: str, *, seconds: float = 30) -> None:
        def answers() -> bool:
            self.supervisor.require(process)
            try:
                with urllib.request.urlopen(url, timeout=3) as answer:
                    return bool(answer.status == 200)
            except (urllib.error.URLError, OSError):
                return False

        wait_for(f"{process} at {url}", answers, seconds=seconds, hint=f"Read {self.supervisor.log(process)}")


def _readiness(nodes: dict[str, Any]) -> dict[str, bool]:
    found = {}
    for node in nodes["items"]:
        conditions = {c["type"]: c["status"] for c in node["status"].get("conditions", [])}
        found[node["metadata"]["name"]] = conditions.get("Ready") == "True"
    return found
