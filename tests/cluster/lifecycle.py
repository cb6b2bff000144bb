"""Starting a cluster's parts in their order, and taking everything away again."""

from __future__ import annotations

import contextlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from . import addons, host, network
from .api import Api, ApiError
from .binaries import exclusive
from .certificates import Authority
from .controlplane import ControlPlane
from .node import Node, forget_shims
from .paths import clusters_root
from .pause import pause_archive
from .plan import ClusterPlan, free_index, make_plan
from .progress import ClusterError, wait_for

if TYPE_CHECKING:
    from .cluster import Cluster


MACHINE_LOCK = Path("/run/lock/edgeward-test-cluster.lock")


def _before(cluster: Cluster) -> Path:
    """Where the machine's own settings are noted: in memory, as they are no longer true after a reboot, and one for the
    clusters of all cache folders."""
    return cluster.run.parent.with_name("edgeward-machine-before.json")


def claim(cluster: Cluster) -> None:
    """Take an address range, write it down, and make the bridge, which shows others that the range is taken.

    ClusterError, with nothing touched, when a cluster of this name runs from another cache folder: its namespaces and
    control groups have the names that ours would get.
    """
    with exclusive(MACHINE_LOCK):
        names = [Path("/run/netns") / n.namespace for n in make_plan(cluster.name, 0, cluster.specs).nodes]
        clash = next((path for path in [cluster.run, *names] if path.exists()), None)
        if clash:
            raise ClusterError(
                f"{clash} exists: a cluster {cluster.name} runs from another cache folder than {cluster.cache}."
                " Take it down with that EDGEWARD_CACHE, or use another name."
            )
        host.remember_settings(_before(cluster))
        taken = []
        for other in clusters_root(cluster.cache).glob("*/state.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                taken.append(json.loads(other.read_text())["index"])
        index = free_index(taken=taken, routes=network.route_destinations())
        cluster.state.mkdir(parents=True, mode=0o700)
        cluster.remember(index=index, nodes=[asdict(spec) for spec in cluster.specs], options=cluster.options)
        cluster.run.mkdir(parents=True)
        network.make_bridge(cluster.plan)


def start(cluster: Cluster) -> None:
    """Start everything, side by side where it can be. claim() must have succeeded."""
    plan = cluster.plan
    nodes = [cluster.node(n.spec.name) for n in plan.nodes]
    cluster.say(f"cluster {cluster.name}: {plan.network}, {len(nodes)} nodes, state in {cluster.state}")
    pause = pause_archive(cluster.binaries.path("pause"), cluster.state / "pause.tar")
    control = cluster.control_plane

    def prepare(node: Node) -> None:
        node.prepare()
        node.load_image(pause)
        cluster.say(f"  {node.name}: containerd runs")

    def start_control() -> None:
        control.start()
        cluster.say("  API server is ready")

    with ThreadPoolExecutor(len(nodes) + 1) as pool:
        jobs = [pool.submit(start_control), *(pool.submit(prepare, node) for node in nodes)]
        for job in jobs:
            job.result()
    authority = Authority(cluster.state / "pki")
    authority.issue("kube-proxy", user="system:kube-proxy")  # shared by the nodes, so made before they start
    authority.issue("prometheus", user="edgeward-test-prometheus")
    api = control.api
    with ThreadPoolExecutor(len(nodes) + 1) as pool:
        jobs = [pool.submit(node.start_kubelet) for node in nodes]
        addons.apply_all(api, addons.basics(plan))
        start_dns(cluster, plan, control)
        cluster.start_prometheus(wait=False)
        if cluster.options["metrics_server"]:
            start_metrics_server(cluster, plan, control)
        for job in jobs:
            job.result()
    volumes = [
        addons.volume_object(cluster.name, node.name, path, node.plan.spec.volume_gib)
        for node in nodes
        for path in node.volumes()
    ]
    addons.apply_all(api, volumes)
    cluster.say("  kubelets, DNS and Prometheus are started")
    cluster.wait_ready(seconds=60)
    cluster.say("  nodes are Ready")
    for node in nodes:
        host.use_pods_cpu(node.plan.cgroup)
    cluster.await_http("coredns", f"http://{plan.host}:8181/ready")
    cluster.await_http("prometheus", f"{cluster.prometheus_url}/-/ready")
    if cluster.options["metrics_server"]:
        await_metrics_api(cluster, api)
    await_account(cluster, api)
    cluster.supervisor.require(*cluster.expected())
    cluster.remember(started=True)


def start_dns(cluster: Cluster, plan: ClusterPlan, control: ControlPlane) -> None:
    kubeconfig = control.user("coredns", user="system:coredns")
    resolv = Path("/etc/resolv.conf")
    resolvers = resolv.exists() and any(line.startswith("nameserver") for line in resolv.read_text().splitlines())
    config = cluster.state / "Corefile"
    config.write_text(addons.corefile(plan, kubeconfig, resolvers=resolvers))
    cluster.supervisor.start("coredns", [cluster.binaries.path("coredns"), "-conf", config])


def start_metrics_server(cluster: Cluster, plan: ClusterPlan, control: ControlPlane) -> None:
    addons.apply_all(control.api, addons.metrics_api(plan))
    kubeconfig = control.user("metrics-server", user="edgeward-test-metrics-server")
    cluster.supervisor.start(
        "metrics-server",
        [
            cluster.binaries.path("metrics-server"), f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}", f"--authorization-kubeconfig={kubeconfig}",
            f"--bind-address={plan.host}", f"--secure-port={addons.METRICS_PORT}",
            f"--cert-dir={cluster.state / 'metrics-server'}", "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-certificate-authority={cluster.state / 'pki' / 'ca.crt'}", "--metric-resolution=10s",
            "--kubelet-request-timeout=5s",
        ],
    )  # fmt: skip


def await_metrics_api(cluster: Cluster, api: Api) -> None:
    def answers() -> bool:
        cluster.supervisor.require("metrics-server")
        try:
            items = api.get("/apis/metrics.k8s.io/v1beta1/nodes")["items"]
        except (ApiError, OSError):
            return False
        return len(items) == len(cluster.specs)

    wait_for("metrics.k8s.io", answers, seconds=60, hint=f"Read {cluster.supervisor.log('metrics-server')}")


def await_account(cluster: Cluster, api: Api) -> None:
    """Pods are refused until the controller-manager has made the namespace's service account."""

    def there() -> bool:
        try:
            api.get("/api/v1/namespaces/default/serviceaccounts/default")
        except (ApiError, OSError):
            return False
        return True

    log = cluster.supervisor.log("kube-controller-manager")
    wait_for("the default service account", there, seconds=30, hint=f"Read {log}")


def keep_logs(cluster: Cluster) -> Path:
    kept = cluster.cache / "failed" / cluster.name
    shutil.rmtree(kept, ignore_errors=True)
    if cluster.supervisor.logs.exists():
        shutil.copytree(cluster.supervisor.logs, kept)
    return kept


def take_down(cluster: Cluster) -> None:
    try:
        plan: ClusterPlan | None = cluster.plan
    except (ClusterError, ValueError, KeyError, TypeError):
        plan = None  # crashed before it was written, so before anything was made
    nodes = plan.nodes if plan else ()

    def containers() -> dict[int, int]:
        return {pid: start for n in nodes for pid, start in host.cgroup_processes(n.cgroup).items()}

    cluster.supervisor.stop_all(extra=containers)
    host.unmount_below(cluster.state, *([cluster.run] if plan else []))
    for node in nodes:
        forget_shims(cluster.run / node.spec.name)
        network.remove_node_network(node)
        host.remove_cgroup(node.cgroup)
        for left in Path("/var/lib/cni/results").glob(f"{node.namespace}-*"):
            left.unlink(missing_ok=True)
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and link.readlink().is_relative_to(cluster.state):
            link.unlink(missing_ok=True)
    if plan:
        network.remove_bridge(plan)
        shutil.rmtree(cluster.run, ignore_errors=True)
    # Unpacked images are thousands of folders, and removing one waits for the disk: side by side it is faster.
    with ThreadPoolExecutor(4) as pool:
        folders = [p for p in cluster.state.glob("nodes/*/containerd/*/*") if p.is_dir()]
        list(pool.map(shutil.rmtree, folders))
    shutil.rmtree(cluster.state)
    with exclusive(MACHINE_LOCK):
        if not any(cluster.run.parent.glob("*")):
            host.restore_settings(_before(cluster))
