"""One real node in a network namespace: containerd, kubelet and kube-proxy, with their configuration files."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from . import host, network
from .binaries import Binaries
from .certificates import Authority, write_kubeconfig
from .pause import PAUSE_IMAGE
from .plan import ClusterPlan, NodePlan, check_socket_path, reserved
from .processes import Supervisor, end, marked, start_time
from .progress import ClusterError, wait_for

EVICTION_MIB = 50
_RUNC = ("/usr/sbin/runc", "/usr/bin/runc")
_CNI = ("/usr/lib/cni", "/opt/cni/bin")


def _first_existing(paths: tuple[str, ...], package: str) -> str:
    for path in paths:
        if Path(path).exists():
            return path
    raise ClusterError(f"none of {', '.join(paths)} exists; install the Debian package {package}")


class Node:
    """Owns two folders: `directory` (on disk, kept while the cluster is up) and `run` (sockets and mounts)."""

    def __init__(
        self,
        plan: ClusterPlan,
        node: NodePlan,
        *,
        directory: Path,
        run: Path,
        supervisor: Supervisor,
        binaries: Binaries,
        server: str,
        pki: Path,
    ):
        self.cluster, self.plan = plan, node
        self.name = node.spec.name
        self.directory, self.run = directory, run
        self._supervisor, self._binaries = supervisor, binaries
        self._server, self._pki = server, pki

    @property
    def socket(self) -> Path:
        return self.run / "containerd.sock"

    @property
    def processes(self) -> tuple[str, str, str]:
        return f"{self.name}.kubelet", f"{self.name}.kube-proxy", f"{self.name}.containerd"

    def volumes(self) -> list[Path]:
        return [self.directory / "volumes" / f"v{number}" for number in range(self.plan.spec.volumes)]

    # -- life ---------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """What needs no API server: network, control group, containerd with the sandbox image."""
        check_socket_path(str(self.socket))
        check_socket_path(str(self.directory / "kubelet" / "device-plugins" / "kubelet.sock"))
        check_socket_path(str(self.directory / "kubelet" / "pod-resources" / "kubelet.sock"))
        network.make_node_network(self.cluster, self.plan)
        self.start_containerd()

    def start_containerd(self) -> None:
        host.make_cgroup(self.plan.cgroup, cpu_millis=self.plan.spec.cpu_millis)
        for folder in (self.directory, self.run, self.directory / "cni", *self.volumes()):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in self.volumes():
            folder.chmod(0o777)
        host.mount_memory(self.directory / "containerd" / "io.containerd.content.v1.content")
        (self.directory / "machine-id").write_text(self.plan.machine_id + "\n")
        (self.directory / "containerd.toml").write_text(self._containerd_config())
        (self.directory / "cni" / "10-edgeward.conflist").write_text(json.dumps(self._cni_config()))
        name = self.processes[2]
        self._supervisor.start(
            name,
            [self._binaries.path("containerd"), "--config", self.directory / "containerd.toml"],
            namespace=self.plan.namespace,
            environ={"PATH": self._binaries.search_path("containerd")},
        )

        def answers() -> bool:
            self._supervisor.require(name)
            return self.socket.exists() and self._ctr("images", "list", "--quiet", check=False).returncode == 0

        wait_for(f"containerd of {self.name}", answers, seconds=20, hint=f"Read {self._supervisor.log(name)}")

    def start_kubelet(self) -> None:
        """Join the cluster. The API server must be ready."""
        authority = Authority(self._pki)
        kubelet = authority.issue(
            f"kubelet-{self.name}",
            user=f"system:node:{self.name}",
            groups=["system:nodes"],
            dns=[self.name],
            ips=[self.plan.address],
        )
        proxy = authority.issue("kube-proxy", user="system:kube-proxy")
        for name, pair in (("kubelet", kubelet), ("kube-proxy", proxy)):
            write_kubeconfig(
                self.directory / f"{name}.kubeconfig",
                name=self.cluster.name,
                server=self._server,
                authority=authority.pair.certificate,
                pair=pair,
            )
        cores, memory = host.machine()
        cpu_reserved, memory_reserved = reserved(
            machine_cpus=cores, machine_mib=memory, spec=self.plan.spec, eviction_mib=EVICTION_MIB
        )
        config = self._kubelet_config(
            certificate=kubelet.certificate, key=kubelet.key, cpu_reserved=cpu_reserved, memory_reserved=memory_reserved
        )
        (self.directory / "kubelet.json").write_text(json.dumps(config, indent=1))
        (self.directory / "kube-proxy.json").write_text(json.dumps(self._proxy_config(), indent=1))
        command: list[str | Path] = [
            self._binaries.path("kubelet"),
            f"--config={self.directory / 'kubelet.json'}",
            f"--kubeconfig={self.directory / 'kubelet.kubeconfig'}",
            f"--root-dir={self.directory / 'kubelet'}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.plan.address}",
            # All nodes would otherwise report this machine's one id.
            f"--machine-id-file={self.directory / 'machine-id'}",
            # cAdvisor's own 10 s would make every CPU rate twice as old.
            "--housekeeping-interval=5s",
        ]
        labels = self.plan.spec.labels or {}
        if labels:
            command.append("--node-labels=" + ",".join(f"{key}={value}" for key, value in sorted(labels.items())))
        environ = {"PATH": self._binaries.search_path("containerd")}
        self._supervisor.start(self.processes[0], command, namespace=self.plan.namespace, environ=environ)
        self._supervisor.start(
            self.processes[1],
            [self._binaries.path("kube-proxy"), f"--config={self.directory / 'kube-proxy.json'}"],
            namespace=self.plan.namespace,
            environ=environ,
        )

    def kill(self) -> None:
        """End everything of this node at once, containers included, as a power cut would."""
        self._supervisor.stop(*self.processes, grace=0)
        self._end_rest()
        host.unmount_below(self.run, self.directory / "kubelet")
        forget_shims(self.run)
        shutil.rmtree(self.run, ignore_errors=True)
        host.remove_cgroup(self.plan.cgroup)
        network.clear_pod_links(self.plan)
        shutil.rmtree(self.directory / "ipam", ignore_errors=True)

    def load_image(self, tar: Path) -> None:
        """Import an image archive. ClusterError when containerd refuses it."""
        self._ctr("images", "import", "--local", "--discard-unpacked-layers", str(tar), timeout=300)

    def images(self) -> list[str]:
        return self._ctr("images", "list", "--quiet").stdout.split()

    def tag_image(self, name: str, other: str) -> None:
        """Give an image that is here a further name."""
        self._ctr("images", "tag", name, other)

    def _ctr(self, *arguments: str, check: bool = True, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        command = [str(self._binaries.path("ctr")), "--address", str(self.socket), "--namespace", "k8s.io", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            raise ClusterError(f"ctr {' '.join(arguments)} on {self.name}: {done.stderr.strip()[-400:]}")
        return done

    def _end_rest(self) -> None:
        """Shims and containers: the shims by their address argument, the containers by their control group."""
        for _ in range(20):
            found = host.cgroup_processes(self.plan.cgroup)
            for pid, start in marked(str(self._supervisor.state)).items():
                with contextlib.suppress(OSError):
                    if str(self.socket).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                        found[pid] = start
            found = {pid: start for pid, start in found.items() if start_time(pid) == start}
            if not found:
                return
            end(found, grace=0)
        raise ClusterError(f"processes of node {self.name} do not end")

    # -- configuration files ------------------------------------------------------------------------------------------

    def _containerd_config(self) -> str:
        quoted = json.dumps  # a JSON string is a TOML basic string
        runtime = "plugins.'io.containerd.cri.v1.runtime'"
        return f"""version = 3
root = {quoted(str(self.directory / "containerd"))}
state = {quoted(str(self.run / "containerd"))}
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]

[grpc]
  address = {quoted(str(self.socket))}
[ttrpc]
  address = {quoted(str(self.socket) + ".ttrpc")}

[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = {quoted(PAUSE_IMAGE)}

[{runtime}]
  # A machine without CAP_SYS_RESOURCE cannot lower an OOM score; sandboxes would not start.
  restrict_oom_score_adj = true
  # So that every mount of this node is below one folder.
  netns_mounts_under_state_dir = true
[{runtime}.cni]
  bin_dirs = [{quoted(_first_existing(_CNI, "containernetworking-plugins"))}]
  conf_dir = {quoted(str(self.directory / "cni"))}
[{runtime}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[{runtime}.containerd.runtimes.runc.options]
  SystemdCgroup = false
  Root = {quoted(str(self.run / "runc"))}
  BinaryName = {quoted(_first_existing(_RUNC, "runc"))}
"""

    def _cni_config(self) -> dict[str, Any]:
        # ptp, not bridge: pods of one node reach each other through the node's routing, so a Service's answer always
        # comes back through the node and is translated there, with or without br_netfilter.
        return {
            "cniVersion": "1.0.0",
            "name": self.plan.namespace,
            "plugins": [
                {
                    "type": "ptp",
                    "ipMasq": False,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": str(self.directory / "ipam"),
                        "ranges": [[{"subnet": self.plan.pods}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }

    def _kubelet_config(
        self, *, certificate: Path, key: Path, cpu_reserved: int, memory_reserved: int
    ) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.plan.address,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self._pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(certificate),
            "tlsPrivateKeyFile": str(key),
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.plan.cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [self.cluster.dns],
            "clusterDomain": "cluster.local",
            "resolvConf": "",
            "systemReserved": {"cpu": f"{cpu_reserved}m", "memory": f"{memory_reserved}Mi"},
            "enforceNodeAllocatable": ["pods"],
            # Disk pressure would be this machine's, on every node at once.
            "evictionHard": {
                "memory.available": f"{EVICTION_MIB}Mi",
                "nodefs.available": "0%",
                "imagefs.available": "0%",
            },
            # Images are loaded by hand; a collected one could not be pulled again.
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "maxPods": self.plan.spec.max_pods,
            "nodeStatusUpdateFrequency": "4s",
            "nodeStatusReportFrequency": "30s",
            "registerWithTaints": [],
            "volumePluginDir": str(self.directory / "volume-plugins"),
            "shutdownGracePeriod": "0s",
            "podLogsDir": str(self.directory / "pod-logs"),
        }

    def _proxy_config(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(self.directory / "kube-proxy.kubeconfig")},
            "mode": "iptables",
            "clusterCIDR": self.cluster.pods,
            "hostnameOverride": self.name,
            # The machine's conntrack limits are not a node's to set.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            "healthzBindAddress": "",
            "iptables": {"minSyncPeriod": "100ms"},
        }


def forget_shims(run: Path) -> None:
    """Delete the sockets that containerd's shims keep outside their state folder, named in its task folders."""
    for address in run.glob("containerd/io.containerd.runtime.v2.task/k8s.io/*/address"):
        with contextlib.suppress(OSError):
            Path(address.read_text().strip().removeprefix("unix://")).unlink()
    for record in run.glob("containerd/io.containerd.runtime.v2.task/k8s.io/*/bootstrap.json"):
        with contextlib.suppress(OSError, ValueError):
            Path(str(json.loads(record.read_text())["address"]).removeprefix("unix://")).unlink()
