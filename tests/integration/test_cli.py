"""What people run, against a real API server with a real operator: kubectl's plugin, snapshot and replay, what-if."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeward.cli.errors import Exit
from edgeward.placement.record import plan_text, read
from tests.unit.chart.rights import rules_of

from .operator_harness import NAMESPACE, ROOT, Operator, World, eventually

SECRET = "hunter2-in-a-pod-template"


def own_address() -> str:
    """An address of this machine that an API server will proxy to: it refuses loopback and link-local ones."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("203.0.113.1", 9))  # nothing is sent
        return str(probe.getsockname()[0])


class Person:
    """Somebody with a kubeconfig, and with kubectl and its plugin on the PATH."""

    def __init__(self, world: World, kubeconfig: Path, programs: Path) -> None:
        self._kubectl = str(world.plane.binaries.path("kubectl"))
        self._environ = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "PATH": f"{programs}:{os.environ['PATH']}",
            "COLUMNS": "160",
        }

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """kubectl edgeward ARGUMENTS"""
        done = subprocess.run(
            [self._kubectl, "edgeward", *arguments], env=self._environ, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == code, (done.returncode, done.stdout[-2000:], done.stderr)
        return done


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin as the package installs it."""
    directory = tmp_path_factory.mktemp("programs")
    plugin = directory / "kubectl-edgeward"
    plugin.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT / 'operator')!r})\n"
        "from edgeward.cli.main import main\nsys.exit(main())\n"
    )
    plugin.chmod(0o755)
    return directory


@pytest.fixture(scope="module")
def pod(world: World, operator: Operator) -> Iterator[str]:
    """The operator's own pod, as far as the API server's proxy looks at it."""
    port = {"name": "http", "containerPort": operator.port}
    spec = {"schedulerName": "nobody", "containers": [{"name": "operator", "image": "operator", "ports": [port]}]}
    world.plane.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": operator.name, "namespace": NAMESPACE}, "spec": spec}
    )
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{operator.name}"
    address = own_address()
    world.api.patch(f"{path}/status", {"status": {"podIP": address, "podIPs": [{"ip": address}]}})
    yield operator.name
    world.delete(path)


@pytest.fixture(scope="module")
def jane(world: World, pod: str, programs: Path) -> Person:
    """May look at Edgeward's kinds, and has the chart's role for snapshots."""
    kubeconfig = world.plane.user("jane", user="jane")
    rbac = "rbac.authorization.k8s.io"
    jane = [{"kind": "User", "name": "jane", "apiGroup": rbac}]
    view = [{"apiGroups": ["edgeward.dev"], "resources": ["*"], "verbs": ["get", "list", "watch"]}]
    view.append({"apiGroups": ["edgeward.dev"], "resources": ["modelreleases"], "verbs": ["patch"]})
    snapshot = rules_of("snapshotrole.yaml", "Role")["rules"]
    role = {"apiVersion": f"{rbac}/v1", "metadata": {"name": "jane"}}
    inside = {"apiVersion": f"{rbac}/v1", "metadata": {"name": "jane", "namespace": NAMESPACE}}
    world.plane.apply(
        {**role, "kind": "ClusterRole", "rules": view},
        {**role, "kind": "ClusterRoleBinding", "subjects": jane, "roleRef": _role("ClusterRole")},
        {**inside, "kind": "Role", "rules": snapshot},
        {**inside, "kind": "RoleBinding", "subjects": jane, "roleRef": _role("Role")},
    )
    return Person(world, kubeconfig, programs)


def _role(kind: str) -> dict[str, str]:
    return {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "jane"}


@pytest.fixture(scope="module")
def jobs(world: World, operator: Operator) -> Iterator[str]:
    """A namespace with one job that runs and one for which there is no room."""
    namespace = "people"
    world.plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    world.release(namespace)
    hidden = {"spec": {"containers": [{"name": "runtime", "env": [{"name": "TOKEN", "value": SECRET}]}]}}
    world.job(namespace, "sign-reader", replicas=2, placement={"tiers": ["edge"]}, podTemplate=hidden)
    world.job(
        namespace,
        "too-large",
        replicas=2,
        placement={"tiers": ["cloud"]},
        resources={"requests": {"cpu": "12", "memory": "64Mi"}},
    )
    world.await_ready(namespace, "sign-reader")
    world.await_condition(namespace, "too-large", "Placed", "False")
    yield namespace
    world.clear(namespace)


def test_explain_tells_why_it_is_there(jane: Person, jobs: str, world: World) -> None:
    text = jane("explain", "sign-reader", "-n", jobs).stdout
    assert text.startswith(f"{jobs}/sign-reader  Ready (Serving)")
    nodes = world.nodes_of(jobs, "sign-reader")
    assert len(nodes) == 2 and all(node in text for node in nodes)
    for part in ("Asks for", "Where", "Why edge-", "TERM", "load", "cores free", "Does not fit", "TierMismatch"):
        assert part in text, (part, text)
    assert "\x1b" not in text
    document = json.loads(jane("explain", f"{jobs}/sign-reader", "-o", "json").stdout)
    assert (document["job"], document["reason"]) == (f"{jobs}/sign-reader", "Serving")
    status = world.get_job(jobs, "sign-reader")["status"]
    assert document["decisions"] == status["decisions"]
    assert yaml.safe_load(jane("explain", "sign-reader", "-n", jobs, "-o", "yaml").stdout) == document


def test_explain_tells_why_it_waits_and_who_is_ahead(jane: Person, jobs: str, world: World) -> None:
    world.job(jobs, "urgent", priority={"importance": 5, "urgency": 5, "satisfaction": 5})
    world.await_ready(jobs, "urgent")
    text = jane("explain", "too-large", "-n", jobs).stdout
    assert text.startswith(f"{jobs}/too-large  not Ready: TooBigForAnyNode")
    assert "Waits: TooBigForAnyNode" in text
    assert f"{jobs}/urgent" in text.split("ahead of it", 1)[1]
    assert "kubectl edgeward what-if --add-node tier=cloud" in text


def test_a_job_that_is_not_there_is_told_with_those_that_may_be_meant(jane: Person, jobs: str) -> None:
    done = jane("explain", "sign-raeder", "-n", jobs, code=5)
    assert done.stdout == ""
    assert f"no InferenceJob sign-raeder in namespace {jobs}" in done.stderr
    assert "did you mean sign-reader?" in done.stderr
    assert f"there is one in namespace {jobs}: add -n" in jane("explain", "sign-reader", code=5).stderr


def test_a_snapshot_replays_to_the_operators_own_plan(
    jane: Person, jobs: str, operator: Operator, tmp_path: Path
) -> None:
    file = tmp_path / "fleet.json.gz"
    said = jane("snapshot", "-o", str(file)).stderr
    assert "jobs" in said and "instead" not in said, said
    done = jane("plan", str(file))
    assert "byte for byte the operator's plan" in done.stderr
    plan = json.loads(done.stdout)
    assert {f"{jobs}/sign-reader", f"{jobs}/too-large"} <= {job["key"] for job in plan["jobs"]}
    snapshot = jane("snapshot").stdout
    assert SECRET not in snapshot
    fleet = json.loads(snapshot)["fleet"]
    assert any(node["live"]["cpu"] for node in fleet["nodes"]), "live figures are in it"
    changed = {**json.loads(snapshot), "plan": "sha256:" + "0" * 64}
    other = tmp_path / "changed.json"
    other.write_text(json.dumps(changed))
    assert "NOT the operator's plan" in jane("plan", str(other), code=6).stderr


def test_the_plan_that_the_operator_shows_is_the_replays(
    jane: Person, jobs: str, world: World, operator: Operator
) -> None:
    """They are of one pass when the snapshot names this very plan."""
    lease = world.api.get(f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/edgeward-hub")
    key = lease["spec"]["holderIdentity"]

    def fetched(path: str) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{operator.port}{path}", headers={"X-Edgeward-Leader": key})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bytes(answer.read())

    def of_one_pass() -> tuple[bytes, bytes] | None:
        snapshot, plan = fetched("/debug/snapshot"), fetched("/debug/plan")
        same = json.loads(snapshot)["plan"] == "sha256:" + hashlib.sha256(plan).hexdigest()
        return (snapshot, plan) if same else None

    found = eventually(of_one_pass, what="a snapshot and a plan of one pass")
    assert found is not None
    assert plan_text(read(found[0].decode()).replay()).encode() == found[1]


def test_the_snapshot_is_for_those_who_may_read_the_lease(jane: Person, operator: Operator) -> None:
    assert operator.get("/debug/snapshot")[0] == 403
    assert operator.get("/debug/plan")[0] == 403


def test_what_if_with_a_file(jane: Person, jobs: str, tmp_path: Path) -> None:
    job = {
        "apiVersion": "edgeward.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {"name": "newcomer"},
        "spec": {"model": {"name": "reader"}, "placement": {"tiers": ["edge"]}},
    }
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(job))
    (row,) = json.loads(jane("what-if", "-f", str(file), "-n", jobs, "-o", "json").stdout)["jobs"]
    assert (row["job"], row["outcome"], sum(row["to"].values())) == (f"{jobs}/newcomer", "placed", 1)
    job["spec"]["replicsa"] = 2  # type: ignore[index]
    file.write_text(yaml.safe_dump(job))
    said = jane("what-if", "-f", str(file), "-n", jobs, code=2).stderr
    assert "spec.replicsa" in said


def test_without_the_right_to_ask_the_operator_it_says_so_and_goes_on_without_live_figures(
    world: World, jane: Person, jobs: str, programs: Path, tmp_path: Path
) -> None:
    kubeconfig = world.plane.user("john", user="john")
    john = Person(world, kubeconfig, programs)
    said = john("what-if", code=4).stderr
    assert "you may not read the Lease edgeward/edgeward-hub" in said
    assert "not allowed" in said
    rules: list[dict[str, Any]] = [
        {"apiGroups": ["", "edgeward.dev"], "resources": ["*"], "verbs": ["list"]},
    ]
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "john"}}
    subjects = [{"kind": "User", "name": "john", "apiGroup": "rbac.authorization.k8s.io"}]
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "john"}
    world.plane.apply(
        {**role, "kind": "ClusterRole", "rules": rules},
        {**role, "kind": "ClusterRoleBinding", "subjects": subjects, "roleRef": ref},
    )
    eventually(lambda: john("snapshot", "-o", str(tmp_path / "x.json")), what="his rights hold")
    done = john("what-if", "-o", "json")
    assert "without live figures" in done.stderr
    found = json.loads(done.stdout)
    assert f"{jobs}/too-large" in {row["job"] for row in found["stillWaiting"]}
    assert any("no live figures" in caveat for caveat in found["caveats"])


def test_no_cluster_there(jane: Person, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    nowhere.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "x",
                "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                "clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:9"}}],
                "users": [{"name": "x", "user": {}}],
            }
        )
    )
    for command in (["explain", "x"], ["snapshot"], ["what-if"]):
        said = jane(*command, "--kubeconfig", str(nowhere), code=4).stderr
        assert "the cluster does not answer" in said and "kubectl cluster-info" in said


def test_what_if_by_the_function_that_decides(jane: Person, jobs: str, world: World, tmp_path: Path) -> None:
    found = json.loads(jane("what-if", "-o", "json").stdout)
    assert f"{jobs}/too-large" in {row["job"] for row in found["stillWaiting"]}
    waits = "--shape", "tier=cloud,cpu=16,memory=16Gi,site=cloud"
    (way,) = json.loads(jane("what-if", *waits, "-o", "json").stdout)["extraCapacity"]["ways"]
    assert (way["nodes"][0]["count"], way["exact"]) == (2, True)
    added = json.loads(
        jane("what-if", "--add-node", "tier=cloud,cpu=16,memory=16Gi,site=cloud,count=2,name=big", "-o", "json").stdout
    )
    (row,) = added["jobs"]
    assert (row["job"], row["outcome"], row["to"]) == (f"{jobs}/too-large", "placed", {"big-1": 1, "big-2": 1})
    # And the very same once such nodes are there.
    world.add_nodes("big", count=2, cpu="16", memory="16Gi", labels={"edgeward.dev/tier": "cloud"})
    try:
        eventually(lambda: len(world.nodes_of(jobs, "too-large")) == 2, what="placed as foretold")
        assert world.nodes_of(jobs, "too-large") == ["big-0000", "big-0001"]
    finally:
        world.job(jobs, "too-large", replicas=0)
        eventually(lambda: not world.pods(jobs, "too-large"), what="its pods are gone")
        world.remove_nodes("big-0000", "big-0001")


def test_a_word_to_a_rollout_and_what_becomes_of_it(jane: Person, jobs: str, world: World) -> None:
    """A command is an annotation that the operator acts on once; spec stays what Git says."""
    waves = [{"name": "first", "sites": {"count": 1}, "bake": "1h"}, {"name": "all"}]
    world.release(jobs, version="2.0.0", digest=2, rollout={"waves": waves})
    told = jane("release", "pause", "reader", "-n", jobs)
    assert "paused by command" in told.stdout and "waves" in told.stdout
    release = world.api.get(f"/apis/edgeward.dev/v1alpha1/namespaces/{jobs}/modelreleases/reader")
    assert release["spec"]["rollout"] == {"waves": waves} and not release["spec"].get("paused")
    assert release["status"]["rollout"]["hold"] == "Command"
    assert "Paused" in jane("release", "status", f"{jobs}/reader").stdout
    document = json.loads(jane("release", "status", "reader", "-n", jobs, "-o", "json").stdout)
    assert document["rollout"]["hold"] == "Command"
    jane("release", "promote", "reader", "-n", jobs)
    assert "did you mean reader?" in jane("release", "status", "raeder", "-n", jobs, code=Exit.NOT_FOUND).stderr
    world.release(jobs, version="2.0.0", digest=2)
    assert "has no spec.rollout" in jane("release", "abort", "reader", "-n", jobs, code=Exit.INPUT).stderr
    jane("release", "retry", "reader", "-n", jobs)
    release = world.api.get(f"/apis/edgeward.dev/v1alpha1/namespaces/{jobs}/modelreleases/reader")
    assert release["status"]["rollout"]["attempt"] == 1, (
        "a version that a site refused can be tried again without waves"
    )
