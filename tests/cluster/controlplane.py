"""A real Kubernetes control plane as plain processes: etcd, kube-apiserver, and on request the controller-manager, the
scheduler and kwok's simulated nodes. Alone it needs no root and listens on the loopback address only."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from .api import Api, ApiError
from .binaries import Binaries
from .certificates import Authority, Pair, signing_key, write_kubeconfig
from .processes import Supervisor, start_time
from .progress import ClusterError, wait_for
from .simulated import node_object

_PROXY_USER = "edgeward-front-proxy"


def free_port(address: str = "127.0.0.1") -> int:
    """A free TCP port below the range that the kernel hands out by itself, so no outgoing connection takes it."""
    for _ in range(200):
        port = random.randint(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
    raise ClusterError(f"no free port on {address}")


class ControlPlane:
    """One API server with an etcd of its own, or on another control plane's etcd under its own prefix.

    directory            certificates, kubeconfigs, logs, pids and etcd's data; stop() leaves certificates and logs
    binaries             must have built the group "control-plane" (and "kwok" for start_kwok)
    address, port        where the API server listens; port None picks a free one
    etcd                 None starts one; else another ControlPlane whose etcd is shared (use another etcd_prefix)
    controllers          start the controller-manager; without it no service accounts are made, so pods need none
    scheduler            start the scheduler
    node_grace_s         after how many silent seconds a node is no longer Ready (needs controllers)
    event_ttl            how long Events live
    extra_arguments      appended to the API server's command line
    """

    def __init__(
        self,
        directory: Path,
        *,
        binaries: Binaries,
        name: str = "test",
        address: str = "127.0.0.1",
        port: int | None = None,
        etcd: ControlPlane | None = None,
        etcd_prefix: str = "/registry",
        service_cidr: str = "10.96.0.0/16",
        service_address: str = "10.96.0.1",
        controllers: bool = False,
        scheduler: bool = False,
        node_grace_s: int = 40,
        event_ttl: str = "1h",
        extra_arguments: Sequence[str] = (),
        supervisor: Supervisor | None = None,
    ):
        self.directory = directory.absolute()
        self.name = name
        self.address = address
        self.binaries = binaries
        self.etcd_prefix = etcd_prefix
        self.supervisor = supervisor or Supervisor(self.directory)
        self._remembered = self.directory / "control-plane.json"
        self._port = port
        self._etcd = etcd
        self._services = (service_cidr, service_address)
        self._controllers = controllers
        self._scheduler = scheduler
        self._node_grace_s = node_grace_s
        self._event_ttl = event_ttl
        self._extra = list(extra_arguments)

    # -- what callers use ---------------------------------------------------------------------------------------------

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.directory / "kubeconfig"

    @property
    def server(self) -> str:
        return f"https://{self.address}:{self._ports()['api']}"

    @property
    def etcd_url(self) -> str:
        return self._etcd.etcd_url if self._etcd else f"http://127.0.0.1:{self._ports()['etcd']}"

    @property
    def api(self) -> Api:
        return Api(self.server, authority=self._authority().pair.certificate, pair=self._admin())

    def kubectl(
        self, *arguments: str, stdin: str | None = None, check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as administrator. ClusterError with kubectl's own words when it fails and check is set."""
        command = [str(self.binaries.path("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            raise ClusterError(f"kubectl {' '.join(arguments)}: {(done.stderr or done.stdout).strip()}")
        return done

    def apply(self, *objects: dict[str, Any], namespace: str | None = None) -> None:
        """Apply plain objects with kubectl, server side."""
        document = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        where = ["-n", namespace] if namespace else []
        self.kubectl("apply", "--server-side", "--force-conflicts", *where, "-f", "-", stdin=document)

    def user(self, name: str, *, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for another user, by client certificate; RBAC says what it may do."""
        pair = self._authority().issue(name, user=user, groups=groups)
        return self._write_kubeconfig(self.directory / f"{name}.kubeconfig", pair)

    # -- start and stop -----------------------------------------------------------------------------------------------

    def __enter__(self) -> ControlPlane:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, *, seconds: float = 60) -> None:
        """Start everything and wait until the API server is ready. ClusterError names the log to read; whatever was
        started is ended again."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.supervisor.logs.mkdir(parents=True, exist_ok=True)
        try:
            self._remembered.write_text(json.dumps({"api": self._port or free_port(self.address), "etcd": free_port()}))
            self._certificates()
            if self._etcd is None:
                self._start_etcd()
            self._start_apiserver()
            self._await_ready(seconds)
            if self._controllers:
                self._start_controllers()
            if self._scheduler:
                self._start_scheduler()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End what start() began, within a second: nothing here has anything worth saving."""
        names = ("kwok", "kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd")
        self.supervisor.stop(*names, grace=0)
        shutil.rmtree(self.directory / "etcd", ignore_errors=True)

    def restart_apiserver(self, *, down_s: float = 0) -> None:
        """End the API server as a crash would, stay down for a while, start it again on the same port."""
        self.stop_apiserver()
        time.sleep(down_s)
        self.start_apiserver()

    def stop_apiserver(self) -> None:
        self.supervisor.stop("kube-apiserver", grace=0)

    def start_apiserver(self, *, seconds: float = 60) -> None:
        self._start_apiserver()
        self._await_ready(seconds)

    def start_kwok(self, *, manage_all: bool = True) -> None:
        """Simulate nodes: every node of this control plane, or (manage_all=False) only those annotated
        kwok.x-k8s.io/node=fake, which is what add_nodes makes."""
        command: list[str | Path] = [
            self.binaries.path("kwok"), f"--kubeconfig={self.kubeconfig}", "--cidr=10.0.0.0/8", "--node-ip=127.0.0.1",
            f"--manage-all-nodes={str(manage_all).lower()}", "--node-lease-duration-seconds=40",
        ]  # fmt: skip
        if not manage_all:
            command.append("--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake")
        self.supervisor.start("kwok", command)

    def add_nodes(
        self,
        count: int,
        *,
        prefix: str = "sim",
        labels: dict[str, str] | None = None,
        cpu: str = "4",
        memory: str = "8Gi",
        pods: int = 110,
        arch: str = "amd64",
        taints: Sequence[dict[str, str]] = (),
    ) -> list[str]:
        """Create simulated nodes PREFIX-0000 and so on, Ready at once; returns their names. kwok keeps them alive."""
        names = [f"{prefix}-{number:04d}" for number in range(count)]
        api = self.api

        def create(name: str) -> None:
            body = node_object(name, labels=labels or {}, cpu=cpu, memory=memory, pods=pods, arch=arch, taints=taints)
            try:
                api.post("/api/v1/nodes", body)
            except ApiError as error:
                if error.status != 409:
                    raise

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(create, names))
        return names

    # -- the parts ----------------------------------------------------------------------------------------------------

    def _ports(self) -> dict[str, int]:
        try:
            ports: dict[str, int] = json.loads(self._remembered.read_text())
        except OSError:
            raise ClusterError(f"control plane {self.name} is not started") from None
        return ports

    def _authority(self) -> Authority:
        return Authority(self.directory / "pki")

    def _admin(self) -> Pair:
        return self._authority().issue("admin", user="admin", groups=["system:masters"])

    def _write_kubeconfig(self, path: Path, pair: Pair) -> Path:
        authority = self._authority().pair.certificate
        return write_kubeconfig(path, name=self.name, server=self.server, authority=authority, pair=pair)

    def _certificates(self) -> None:
        authority = self._authority()
        proxy = Authority(self.directory / "pki", name="front-proxy-ca")
        names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        names.append("kubernetes.default.svc.cluster.local")
        addresses = list(dict.fromkeys(["127.0.0.1", self.address, self._services[1]]))
        with ThreadPoolExecutor(4) as pool:
            work: list[Future[Any]] = [
                pool.submit(authority.issue, "apiserver", user="kube-apiserver", dns=names, ips=addresses),
                pool.submit(self._admin),
                pool.submit(authority.issue, "apiserver-kubelet", user="kube-apiserver", groups=["system:masters"]),
                pool.submit(authority.issue, "controller-manager", user="system:kube-controller-manager"),
                pool.submit(authority.issue, "scheduler", user="system:kube-scheduler"),
                pool.submit(proxy.issue, "front-proxy-client", user=_PROXY_USER),
                pool.submit(signing_key, self.directory / "pki" / "service-accounts.key"),
            ]
            for job in work:
                job.result()
        self._write_kubeconfig(self.kubeconfig, self._admin())
        for name in ("controller-manager", "scheduler"):
            self._write_kubeconfig(
                self.directory / f"{name}.kubeconfig", authority.issue(name, user=f"system:kube-{name}")
            )

    def _start_etcd(self) -> None:
        url, peer = self.etcd_url, f"http://127.0.0.1:{free_port()}"
        self.supervisor.start(
            "etcd",
            [
                self.binaries.path("etcd"), f"--data-dir={self.directory / 'etcd'}", "--unsafe-no-fsync",
                f"--listen-client-urls={url}", f"--advertise-client-urls={url}",
                f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                "--log-level=warn",
            ],
        )  # fmt: skip

    def _start_apiserver(self) -> None:
        pki = self.directory / "pki"
        command: list[str | Path] = [
            self.binaries.path("kube-apiserver"),
            f"--etcd-servers={self.etcd_url}", f"--etcd-prefix={self.etcd_prefix}",
            f"--bind-address={self.address}", f"--secure-port={self._ports()['api']}",
            f"--tls-cert-file={pki / 'apiserver.crt'}", f"--tls-private-key-file={pki / 'apiserver.key'}",
            f"--client-ca-file={pki / 'ca.crt'}",
            f"--service-account-key-file={pki / 'service-accounts.pub'}",
            f"--service-account-signing-key-file={pki / 'service-accounts.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-cluster-ip-range={self._services[0]}",
            "--authorization-mode=Node,RBAC", "--allow-privileged=true",
            f"--event-ttl={self._event_ttl}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-certificate-authority={pki / 'ca.crt'}",
            f"--kubelet-client-certificate={pki / 'apiserver-kubelet.crt'}",
            f"--kubelet-client-key={pki / 'apiserver-kubelet.key'}",
            # The aggregation layer, for metrics.k8s.io; straight to endpoints, as no kube-proxy runs beside this.
            "--enable-aggregator-routing=true",
            f"--requestheader-client-ca-file={pki / 'front-proxy-ca.crt'}",
            f"--requestheader-allowed-names={_PROXY_USER}",
            "--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={pki / 'front-proxy-client.crt'}",
            f"--proxy-client-key-file={pki / 'front-proxy-client.key'}",
        ]  # fmt: skip
        admission = ["NodeRestriction"]
        if self.address.startswith("127."):
            command.append("--endpoint-reconciler-type=none")  # a loopback address is no valid endpoint
        else:
            command.append(f"--advertise-address={self.address}")
        if not self._controllers:
            # Without the controller-manager nobody makes service accounts, and nobody lifts a new node's taint.
            command.append("--disable-admission-plugins=ServiceAccount,TaintNodesByCondition")
        command.append(f"--enable-admission-plugins={','.join(admission)}")
        self.supervisor.start("kube-apiserver", [*command, *self._extra])

    def _await_ready(self, seconds: float) -> None:
        context = ssl.create_default_context(cafile=str(self._authority().pair.certificate))
        admin = self._admin()
        context.load_cert_chain(admin.certificate, admin.key)

        def ready() -> bool:
            self.supervisor.require("kube-apiserver", *([] if self._etcd else ["etcd"]))
            try:
                with urllib.request.urlopen(f"{self.server}/readyz", context=context, timeout=5) as answer:
                    return bool(answer.status == 200)
            except (urllib.error.URLError, OSError):
                return False

        wait_for(
            "the API server's /readyz", ready, seconds=seconds, hint=f"Read {self.supervisor.log('kube-apiserver')}"
        )

    def _start_controllers(self) -> None:
        pki = self.directory / "pki"
        config = self.directory / "controller-manager.kubeconfig"
        self.supervisor.start(
            "kube-controller-manager",
            [
                self.binaries.path("kube-controller-manager"), f"--kubeconfig={config}", "--secure-port=0",
                "--leader-elect=false", "--use-service-account-credentials=true", f"--root-ca-file={pki / 'ca.crt'}",
                f"--service-account-private-key-file={pki / 'service-accounts.key'}",
                f"--cluster-signing-cert-file={pki / 'ca.crt'}", f"--cluster-signing-key-file={pki / 'ca.key'}",
                f"--node-monitor-grace-period={self._node_grace_s}s",
                # The defaults of 20 a second are what a benchmark would measure otherwise.
                "--kube-api-qps=200", "--kube-api-burst=400",
            ],
        )  # fmt: skip

    def _start_scheduler(self) -> None:
        # Its QPS can be set in its configuration file only.
        config = self.directory / "scheduler.json"
        config.write_text(
            json.dumps(
                {
                    "apiVersion": "kubescheduler.config.k8s.io/v1",
                    "kind": "KubeSchedulerConfiguration",
                    "leaderElection": {"leaderElect": False},
                    "clientConnection": {
                        "kubeconfig": str(self.directory / "scheduler.kubeconfig"),
                        "qps": 200,
                        "burst": 400,
                    },
                }
            )
        )
        command: list[str | Path] = [self.binaries.path("kube-scheduler"), f"--config={config}", "--secure-port=0"]
        self.supervisor.start("kube-scheduler", command)


def temporary_directory() -> Path:
    """A fresh folder for a control plane of one test run, under TMPDIR.

    Folders of runs that died without cleaning up are swept first, with the processes that they left.
    """
    base = Path(os.environ.get("TMPDIR", "/tmp"))
    for left in base.glob("edgeward-cp-*"):
        owner = left.name.split("-")[2]
        if owner.isdigit() and start_time(int(owner)) is None:
            Supervisor(left).stop_all()
            shutil.rmtree(left, ignore_errors=True)
    path = base / f"edgeward-cp-{os.getpid()}-{random.randrange(16**6):06x}"
    path.mkdir(mode=0o700)
    return path
