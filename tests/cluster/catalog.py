"""What is built from source: which Go module each program comes from, its version stamp, and who needs it.

Versions live in tools/FAMILY/go.mod alone; the stamps here are filled in from there.
"""

from __future__ import annotations

from dataclasses import dataclass

# Without a stamp the server says v0.0.0-master+$Format and kubectl complains about the skew.
_KUBERNETES = " ".join(
    f"-X {package}.gitVersion={{version}} -X {package}.gitMajor={{major}} -X {package}.gitMinor={{minor}}"
    f" -X {package}.gitCommit={'0' * 40} -X {package}.gitTreeState=clean -X {package}.buildDate=2026-01-01T00:00:00Z"
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
)
_HELM_LINT = "helm.sh/helm/v3/pkg/lint/rules"
_HELM_CHART = "helm.sh/helm/v3/pkg/chartutil"


@dataclass(frozen=True, kw_only=True)
class Family:
    """One go.mod under tools/.

    programs   file name -> Go package
    module     the module whose version in go.mod is the family's version; empty for a program of our own
    stamp      linker flags, with {version}, {major}, {minor}, and {kubernetes_major}/{kubernetes_minor}
    seconds    what a first build took on 2 cores, to tell the person who waits
    """

    name: str
    programs: dict[str, str]
    module: str
    stamp: str
    seconds: int


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="kubernetes",
            module="k8s.io/kubernetes",
            programs={
                name: f"k8s.io/kubernetes/cmd/{name}"
                for name in (
                    "kube-apiserver",
                    "kube-controller-manager",
                    "kube-scheduler",
                    "kubelet",
                    "kube-proxy",
                    "kubectl",
                )
            },
            stamp=_KUBERNETES,
            seconds=600,
        ),
        Family(
            name="etcd",
            module="go.etcd.io/etcd/server/v3",
            programs={"etcd": "go.etcd.io/etcd/server/v3"},
            stamp="-X go.etcd.io/etcd/api/v3/version.GitSHA={version}",
            seconds=60,
        ),
        Family(
            name="containerd",
            module="github.com/containerd/containerd/v2",
            programs={
                name: f"github.com/containerd/containerd/v2/cmd/{name}"
                for name in ("containerd", "containerd-shim-runc-v2", "ctr")
            },
            stamp="-X github.com/containerd/containerd/v2/version.Version={version}",
            seconds=110,
        ),
        Family(
            name="coredns",
            module="github.com/coredns/coredns",
            programs={"coredns": "github.com/coredns/coredns"},
            stamp="-X github.com/coredns/coredns/coremain.GitCommit={version}",
            seconds=160,
        ),
        Family(name="pause", module="", programs={"pause": "."}, stamp="", seconds=5),
        Family(
            name="helm",
            module="helm.sh/helm/v3",
            programs={"helm": "helm.sh/helm/v3/cmd/helm"},
            stamp="-X helm.sh/helm/v3/internal/version.version={version}"
            " -X helm.sh/helm/v3/internal/version.gitTreeState=clean"
            + "".join(
                f" -X {package}.k8sVersionMajor={{kubernetes_major}} -X {package}.k8sVersionMinor={{kubernetes_minor}}"
                for package in (_HELM_LINT, _HELM_CHART)
            ),
            seconds=80,
        ),
        Family(
            name="kwok",
            module="sigs.k8s.io/kwok",
            programs={"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
            stamp="-X sigs.k8s.io/kwok/pkg/consts.Version={version}",
            seconds=110,
        ),
        Family(
            name="metrics-server",
            module="sigs.k8s.io/metrics-server",
            programs={"metrics-server": "sigs.k8s.io/metrics-server/cmd/metrics-server"},
            stamp="-X k8s.io/component-base/version.gitVersion={version}"
            " -X k8s.io/client-go/pkg/version.gitVersion={version}",
            seconds=190,
        ),
    )
}

GROUPS: dict[str, tuple[str, ...]] = {
    "control-plane": ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "etcd"),
    "node": ("kubelet", "kube-proxy", "containerd", "containerd-shim-runc-v2", "ctr", "pause", "coredns"),
    "helm": ("helm",),
    "kwok": ("kwok",),
    "metrics-server": ("metrics-server",),
}

PURPOSE: dict[str, str] = {
    "control-plane": "the API server and what stands beside it",
    "node": "real nodes that run containers",
    "helm": "installing the chart",
    "kwok": "simulated nodes",
    "metrics-server": "the metrics.k8s.io API",
}


def families_of(groups: tuple[str, ...]) -> list[tuple[Family, tuple[str, ...], str]]:
    """(family, its programs that these groups need, what for), longest build first. KeyError for an unknown group."""
    wanted: dict[str, list[str]] = {}
    purpose: dict[str, list[str]] = {}
    owner = {program: family.name for family in FAMILIES.values() for program in family.programs}
    for group in groups:
        for program in GROUPS[group]:
            programs = wanted.setdefault(owner[program], [])
            if program not in programs:
                programs.append(program)
            purposes = purpose.setdefault(owner[program], [])
            if PURPOSE[group] not in purposes:
                purposes.append(PURPOSE[group])
    found = [(FAMILIES[name], tuple(programs), "; ".join(purpose[name])) for name, programs in wanted.items()]
    return sorted(found, key=lambda item: -item[0].seconds)
