"""The demo on somebody's own cluster: it adds what it printed, tells its story, and takes exactly that away again.

A second embedded cluster stands in for that: one node without labels, reached by KUBECONFIG alone. Its end is also the
proof that `down` leaves nothing behind on the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster import Cluster, ImageBuilder, NodeSpec, Progress
from tests.demo import current
from tests.demo.kube import Kubectl, StoryError

NAME = "edgeward-own"
IMAGE = "localhost/edgeward-operator:dev"
_KINDS = (
    "namespaces", "nodes", "customresourcedefinitions", "clusterroles", "clusterrolebindings", "priorityclasses",
    "storageclasses", "persistentvolumes", "validatingwebhookconfigurations",
    "mutatingwebhookconfigurations",
)  # fmt: skip


@dataclass
class Machine:
    """What was there before the cluster, and after it; `after` is empty until it is down."""

    before: dict[str, set[str]]
    cluster: Cluster


@pytest.fixture(scope="module")
def machine(cluster: Cluster) -> Iterator[Machine]:
    """Beside the tests' other cluster, so that "nothing left" is not "everything gone"."""
    nodes = (NodeSpec(name="one", cpu_millis=1500, memory_mib=3072, labels={}),)
    own = Cluster(NAME, nodes=nodes, say=Progress())
    own.down()
    found = Machine(before=inventory(), cluster=own)
    try:
        own.up()
        archives = ImageBuilder(cache=own.cache, say=own.say).build()
        own.load_image(*archives.values())
        yield found
    finally:
        own.down()


@pytest.fixture(scope="module")
def kubectl(machine: Machine, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """The process' own kubectl and KUBECONFIG, as a user has them."""
    patch = pytest.MonkeyPatch()
    program = machine.cluster.binaries.path("kubectl")
    patch.setenv("KUBECONFIG", str(machine.cluster.kubeconfig))
    patch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    yield Kubectl()
    patch.undo()


def cluster_scoped(kubectl: Kubectl) -> set[str]:
    """kind/name of all cluster-scoped objects; for nodes their labels too."""
    found = set()
    for kind in _KINDS:
        for item in kubectl.items(kind):
            labels = item["metadata"].get("labels") or {} if kind == "nodes" else {}
            found.add(f"{kind}/{item['metadata']['name']}")
            found |= {f"{kind}/{item['metadata']['name']} {key}={value}" for key, value in labels.items()}
    return found


def test_without_an_image_it_says_what_to_do(kubectl: Kubectl) -> None:
    with pytest.raises(StoryError, match="make image"):
        current.up(print, image=None, prometheus="", yes=True)


def test_a_no_changes_nothing(kubectl: Kubectl, capsys: pytest.CaptureFixture[str]) -> None:
    before = cluster_scoped(kubectl)
    asked: list[str] = []
    assert current.up(print, image=IMAGE, prometheus="", yes=False, ask=lambda text: asked.append(text) or "n") == 0
    assert len(asked) == 1
    said = capsys.readouterr().out
    assert kubectl.run("config", "current-context").strip() in said
    assert "CustomResourceDefinition inferencejobs.edgeward.dev" in said
    assert "label edgeward.dev/tier=edge on node one" in said
    assert cluster_scoped(kubectl) == before


def test_it_adds_what_it_printed_and_takes_exactly_that_away(
    kubectl: Kubectl, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    before = cluster_scoped(kubectl)
    url = machine.cluster.prometheus_url
    assert current.up(machine.cluster.say, image=IMAGE, prometheus=url, yes=True) == 0
    said = capsys.readouterr().out
    added = cluster_scoped(kubectl) - before
    kinds = {
        "customresourcedefinitions": "CustomResourceDefinition",
        "clusterroles": "ClusterRole",
        "clusterrolebindings": "ClusterRoleBinding",
        "priorityclasses": "PriorityClass",
    }
    for line in added:
        what, _, label = line.partition(" ")
        kind, _, name = what.partition("/")
        if kind == "namespaces":
            assert f"Namespace {name}," in said
        elif label:
            assert f"label {label} on node {name}" in said
        else:
            assert f"  {kinds[kind]} {name}\n" in said
    assert any(line.startswith("customresourcedefinitions") for line in added)
    assert " 0 requests failed" in said
    with pytest.raises(StoryError, match="demo-clean"):
        current.up(print, image=IMAGE, prometheus="", yes=True)
    assert current.clean(print, yes=True) == 0
    assert cluster_scoped(kubectl) == before
    assert current.clean(print, yes=True) == 0
    assert "nothing of the demo" in capsys.readouterr().out


def test_down_leaves_nothing_on_the_machine(machine: Machine) -> None:
    assert inventory() != machine.before
    assert machine.cluster.down()
    assert inventory() == machine.before
    assert not machine.cluster.state.exists()


def inventory() -> dict[str, set[str]]:
    """What a cluster of this name makes on the machine, and what it shares with others."""
    links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True).stdout)
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout.splitlines()
    namespaces = Path("/var/run/netns")
    return {
        "links": {link["ifname"] for link in links if link["ifname"].startswith(("ewbr", "ewv"))},
        "routes": {line.strip() for line in routes if "ewbr" in line},
        "namespaces": {path.name for path in namespaces.iterdir()} if namespaces.exists() else set(),
        "mounts": {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if NAME in line},
        "groups": {str(path) for path in Path("/sys/fs/cgroup").glob(f"*/ew-{NAME}*")},
        "sockets": {str(path) for path in Path("/run/edgeward").glob("*")},
        "processes": _processes(),
    }


def _processes() -> set[str]:
    """Whose command line or control group names the cluster."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes() + (folder / "cgroup").read_bytes()
        except OSError:
            continue
        if NAME.encode() in words:
            found.add(folder.name)
    return found
