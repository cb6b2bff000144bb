"""Who gets which address. Pure: a cluster's index decides everything, so clusters never overlap.

Cluster i owns 10.(200+i).0.0/16:
  10.X.0.1             the bridge on the host: API server, Prometheus, CoreDNS, file servers
  10.X.0.(10+n)        node n (n = 1, 2, ...)
  10.X.(16+n).0/24     node n's pods (all of them within 10.X.16.0/20)
  10.X.128.0/20        Services; .128.1 is kubernetes, .128.10 is DNS
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from .progress import ClusterError

FIRST, LAST = 200, 250
SOCKET_PATH_LIMIT = 107  # sockaddr_un.sun_path less its final zero, unix(7)


@dataclass(frozen=True, kw_only=True)
class NodeSpec:
    """What one node is to look like.

    cpu_millis, memory_mib   allocatable; the CPU is also the hard bound of all its pods together
    labels                   None: the usual edgeward.dev/tier and edgeward.dev/site; {}: unlabelled
    """

    name: str
    cpu_millis: int
    memory_mib: int
    labels: dict[str, str] | None = None
    volumes: int = 8
    volume_gib: int = 2
    max_pods: int = 60


def default_nodes(*, labelled: bool = True) -> tuple[NodeSpec, ...]:
    """One cloud node and two edge nodes that fit on a machine of 2 cores."""

    def labels(tier: str, site: str) -> dict[str, str]:
        return {"edgeward.dev/tier": tier, "edgeward.dev/site": site} if labelled else {}

    return (
        NodeSpec(name="cloud-1", cpu_millis=1500, memory_mib=4096, labels=labels("cloud", "cloud")),
        NodeSpec(name="edge-1", cpu_millis=1000, memory_mib=2048, labels=labels("edge", "site-a")),
        NodeSpec(name="edge-2", cpu_millis=1000, memory_mib=2048, labels=labels("edge", "site-b")),
    )


@dataclass(frozen=True, kw_only=True)
class NodePlan:
    """Everything about one node that must not clash with another node or another cluster."""

    spec: NodeSpec
    number: int
    address: str
    pods: str
    namespace: str
    veth: str
    cgroup: str
    machine_id: str


@dataclass(frozen=True, kw_only=True)
class ClusterPlan:
    name: str
    index: int
    nodes: tuple[NodePlan, ...] = field(default=())

    @property
    def network(self) -> str:
        return f"10.{FIRST + self.index}.0.0/16"

    @property
    def bridge(self) -> str:
        return f"ewbr{self.index}"

    @property
    def host(self) -> str:
        """The host's own address on the bridge."""
        return f"10.{FIRST + self.index}.0.1"

    @property
    def pods(self) -> str:
        return f"10.{FIRST + self.index}.16.0/20"

    @property
    def services(self) -> str:
        return f"10.{FIRST + self.index}.128.0/20"

    @property
    def kubernetes_service(self) -> str:
        return f"10.{FIRST + self.index}.128.1"

    @property
    def dns(self) -> str:
        return f"10.{FIRST + self.index}.128.10"

    def node(self, name: str) -> NodePlan:
        for node in self.nodes:
            if node.spec.name == name:
                return node
        raise ClusterError(f"cluster {self.name} has no node {name}; it has {[n.spec.name for n in self.nodes]}")


def make_plan(name: str, index: int, specs: Iterable[NodeSpec]) -> ClusterPlan:
    """ClusterError for a name, an index or a number of nodes that does not fit the scheme above."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?", name):
        raise ClusterError(f"cluster name {name!r}: 1 to 30 lower-case letters, digits and inner dashes")
    if not 0 <= index <= LAST - FIRST:
        raise ClusterError(f"no address range left for cluster {name}; take an unused one down first")
    specs = tuple(specs)
    if not 1 <= len(specs) <= 15 or len({s.name for s in specs}) != len(specs):
        raise ClusterError("a cluster has 1 to 15 nodes, each with a name of its own")
    nodes = tuple(
        NodePlan(
            spec=spec,
            number=number,
            address=f"10.{FIRST + index}.0.{10 + number}",
            pods=f"10.{FIRST + index}.{16 + number}.0/24",
            namespace=f"ew-{name}-{spec.name}",
            veth=f"ewv{index}n{number}",  # an interface name has at most 15 characters
            cgroup=f"ew-{name}-{spec.name}",
            machine_id=hashlib.sha256(f"{name}/{spec.name}".encode()).hexdigest()[:32],
        )
        for number, spec in enumerate(specs, start=1)
    )
    return ClusterPlan(name=name, index=index, nodes=nodes)


def free_index(*, taken: Iterable[int], routes: Iterable[str]) -> int:
    """The lowest index that no other cluster has and whose network no route of this machine touches.

    routes: destinations as `ip route` prints them (10.1.0.0/16, 10.1.2.3, default).
    """
    known = [
        ipaddress.ip_network(r, strict=False)
        for r in routes
        if re.fullmatch(r"\d+(\.\d+){3}(/\d+)?", r) and r[:2] != "0."
    ]
    used = set(taken)
    for index in range(LAST - FIRST + 1):
        network = ipaddress.ip_network(f"10.{FIRST + index}.0.0/16")
        # A wide private route (10.0.0.0/8, say, of a company network) is overridden by our narrower one, as wanted.
        if index not in used and not any(network.overlaps(k) and k.prefixlen >= 16 for k in known):
            return index
    raise ClusterError("no free address range between 10.200.0.0/16 and 10.250.0.0/16")


def cpu_quota(millis: int, *, period_us: int = 100_000) -> int:
    """The cfs quota, in microseconds per period, that holds a group to so many thousandths of a core."""
    return max(1000, millis * period_us // 1000)  # the kernel takes no less than 1 ms


def reserved(*, machine_cpus: int, machine_mib: int, spec: NodeSpec, eviction_mib: int) -> tuple[int, int]:
    """(millicores, MiB) for the kubelet's systemReserved, so that allocatable comes out as the spec says.

    allocatable = capacity - systemReserved - hard eviction threshold. ClusterError when the machine is too small.
    """
    cpu = machine_cpus * 1000 - spec.cpu_millis
    memory = machine_mib - spec.memory_mib - eviction_mib
    if cpu < 0 or memory < 0:
        raise ClusterError(
            f"node {spec.name} is to offer {spec.cpu_millis}m CPU and {spec.memory_mib} MiB,"
            f" but this machine has {machine_cpus} cores and {machine_mib} MiB"
        )
    return cpu, memory


def check_socket_path(path: str) -> str:
    if len(path.encode()) > SOCKET_PATH_LIMIT:
        raise ClusterError(f"{path} is too long for a socket; set EDGEWARD_CACHE to a folder with a shorter path")
    return path
