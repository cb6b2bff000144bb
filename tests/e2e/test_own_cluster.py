"""The demo on somebody's own cluster: it adds what it printed, tells its story, and takes exactly that away again.

A second embedded cluster stands in for that: one node without labels, reached by KUBECONFIG alone. Its end is also the
proof that `down` leaves nothing behind on the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
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


@pytest.fixture(scope="module")
def own(cluster: Cluster) -> Iterator[Cluster]:
    """Beside the tests' other cluster, so that "nothing left" is not "everything gone"."""
    nodes = (NodeSpec(name="one", cpu_millis=1500, memory_mib=3072, labels={}),)
    found = Cluster(NAME, nodes=nodes, say=Progress())
    found.down()
    try:
        found.up()
        archives = ImageBuilder(cache=found.cache, say=found.say).build()
        found.load_image(*archives.values())
        yield found
    finally:
        found.down()


@pytest.fixture(scope="module")
def kubectl(own: Cluster, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """The process' own kubectl and KUBECONFIG, as a user has them."""
    patch = pytest.MonkeyPatch()
    program = own.binaries.path("kubectl")
    patch.setenv("KUBECONFIG", str(own.kubeconfig))
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
    kubectl: Kubectl, own: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    before = cluster_scoped(kubectl)
    url = own.prometheus_url
    assert current.up(own.say, image=IMAGE, prometheus=url, yes=True) == 0
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


def test_down_leaves_nothing_on_the_machine(own: Cluster) -> None:
    index = own.plan.index
    there = inventory(index)
    assert all(there.values()), there
    assert own.down()
    left = inventory(index)
    assert not any(left.values()), left
    assert not own.state.exists()


def inventory(index: int) -> dict[str, set[str]]:
    """What a cluster of this name and index makes on the machine; others may come and go meanwhile."""
    links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True).stdout)
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout.splitlines()
    bridge, groups = f"ewbr{index}", Path("/sys/fs/cgroup")
    return {
        "links": {name for link in links if (name := link["ifname"]) == bridge or name.startswith(f"ewv{index}n")},
        "routes": {line.strip() for line in routes if bridge in line.split()},
        "namespaces": {str(path) for path in Path("/var/run/netns").glob(f"ew-{NAME}-*")},
        "mounts": {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if NAME in line},
        # in cgroup v2 right below the root, in v1 one level down, below each controller
        "groups": {str(path) for level in ("", "*/") for path in groups.glob(f"{level}ew-{NAME}-*")},
        "sockets": {str(path) for path in Path("/run/edgeward").glob(NAME)},
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
