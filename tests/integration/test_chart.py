"""The chart by a real Helm at a real API server: what it renders, refuses, grants, installs and leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeward.cli.settings import load
from tests.cluster import Binaries, ControlPlane, silent
from tests.cluster.controlplane import free_port
from tests.cluster.progress import wait_for
from tests.unit.chart.rights import NAMED, Right, granted, needed
from tests.unit.chart.values_table import CHART, Value, values

NAMESPACE = "chart-test"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:edgeward"
ROOT = CHART.parents[1]
Helm = Callable[..., subprocess.CompletedProcess[str]]
Documents = list[dict[str, Any]]

SWITCHED_ON = ("crds.enabled", "priorityClasses.enabled", "priorityTierPolicy.enabled")
"""on in FULL too, so that the rest of it has something to show"""

# Every value away from its default.
FULL: dict[str, Any] = {
    "replicas": 2,
    "image": {
        "repository": "registry.example/edgeward",
        "tag": "1.2.3",
        "digest": "sha256:" + "a" * 64,
        "pullPolicy": "Always",
    },
    "imagePullSecrets": [{"name": "registry"}],
    "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "2Gi", "example.com/thing": 1}},
    "priorityClassName": "system-cluster-critical",
    "nodeSelector": {"edgeward.dev/tier": "cloud"},
    "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "ops", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}}
            ]
        }
    },
    "podAnnotations": {"example.com/note": 'it\'s: a "note"'},
    "podLabels": {"team": "vision"},
    "serviceAccount": {"annotations": {"example.com/role": "r"}},
    "service": {"annotations": {"prometheus.io/scrape": "true"}},
    "crds": {"enabled": True, "keep": False},
    "priorityClasses": {"enabled": True, "keep": False},
    "priorityTierPolicy": {"enabled": True},
    "tracking": {"pullSecrets": {"default": ["registry", "other"]}},
    "rbac": {"aggregate": False},
    "config": {
        "port": 9081,
        "logLevel": "DEBUG",
        "metrics": {
            "prometheusUrl": "http://prometheus.monitoring:9090",
            "profile": "NodeExporter",
            "queries": {
                "nodeLabel": "instance",
                "cpu": {"value": 'rate(cpu{mode!~"idle|iowait"}[WINDOW])', "measuredAt": "timestamp(cpu)"},
                "memory": {"value": "memory - free", "measuredAt": "timestamp(memory)"},
            },
            "window": "30s",
            "scrapeInterval": 7.5,
            "pollInterval": 3,
            "trafficInterval": 5,
            "deadline": 2,
            "expiry": 60,
            "fallback": False,
        },
        "runtime": {
            "image": "registry.example/runtime:1",
            "pullPolicy": "Always",
            "architectures": ["arm64"],
            "redaction": "Features",
        },
        "registries": {
            "plainHttp": ["registry.shop.svc:5000"],
            "caBundleFile": "/etc/edgeward/registries/ca.crt",
            "timeout": 3,
            "deadline": 12,
        },
        "store": {"storageClassName": "", "size": "512Mi"},
        "timing": {
            "tick": 1,
            "coalesce": 0,
            "refusedAfter": 6,
            "poolPatience": 12,
            "dwell": 0,
            "evaluationInterval": 2,
            "moveWindow": 60,
            "minRunTime": 0,
            "nominationTtl": 30,
            "liftAfter": 5,
            "goneAfter": 1000000,
            "leaseDuration": 30,
            "leaseRenewDeadline": 20,
            "leaseRetry": 0.25,
            "resync": 5,
            "watchDeadAfter": 15,
        },
        "learning": {"enabled": False, "bound": 2, "headroomCpu": 1, "headroomMemory": 2},
        "placement": {
            "weights": {
                "headroom": 2,
                "load": 0,
                "completion": 1,
                "transfer": 0,
                "latency": 1,
                "gravity": 2,
                "cost": 3,
                "energy": 0,
                "failure": 0.5,
                "model": 0,
                "spread": 1,
                "stay": 0.25,
            },
            "gain": 0,
            "evaluations": 1,
            "maxPriorityTier": 3,
            "movesPerJob": 0,
            "movesPerSite": 1,
            "preemption": False,
        },
        "solver": {"idle": 1, "patience": 0, "deadline": 5},
        "scaling": {"utilization": 0.5, "tolerance": 0, "window": 0, "staleAfter": 30},
    },
}
LEAST: dict[str, Any] = {
    "replicas": 0,
    "resources": {},
    "crds": {"enabled": False},
    "priorityClasses": {"enabled": False},
    "priorityTierPolicy": {"enabled": False},
    "rbac": {"aggregate": False},
}


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Runs Helm with a home of its own; `values` go in as a file, as a user's would."""
    binaries = Binaries(say=silent)
    binaries.ensure("helm")
    program, home = str(binaries.path("helm")), tmp_path_factory.mktemp("helm")
    environ = {"HOME": str(home), "PATH": "/usr/bin:/bin"}

    def run(
        *arguments: str, values: dict[str, Any] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        file = home / "values.yaml"
        file.write_text(yaml.safe_dump(values or {}))
        done = subprocess.run(
            [program, *arguments, "--values", str(file)] if values is not None else [program, *arguments],
            capture_output=True,
            text=True,
            env=environ,
            timeout=120,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done

    return run


def render(helm: Helm, given: dict[str, Any], *, release: str = "edgeward") -> Documents:
    text = helm("template", release, str(CHART), "--namespace", NAMESPACE, values=given).stdout
    return [document for document in yaml.safe_load_all(text) if document]


@pytest.fixture(scope="module")
def default(helm: Helm) -> Documents:
    return render(helm, {})


@pytest.fixture(scope="module")
def full(helm: Helm) -> Documents:
    return render(helm, FULL)


@pytest.fixture(scope="module")
def home(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """The shared control plane with the operator's namespace, which admits restricted pods only."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    yield control_plane
    kinds = "serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings"
    control_plane.kubectl("delete", kinds, "-n", NAMESPACE, "-l", "app.kubernetes.io/name=edgeward")


@pytest.fixture(scope="module")
def allowed(home: ControlPlane, default: Documents) -> Callable[..., bool]:
    """Asks the API server's authorizer, with the chart's roles in place, what the operator's account may do."""
    home.apply(*[item for item in default if "Role" in item["kind"] or item["kind"] == "ServiceAccount"])

    def ask(right: Right, *, namespace: str, name: str = "") -> bool:
        resource, _, subresource = right.resource.partition("/")
        attributes = {
            "namespace": namespace,
            "verb": right.verb,
            "group": right.group,
            "resource": resource,
            "subresource": subresource,
            "name": name,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": ACCOUNT,
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "resourceAttributes": attributes,
            },
        }
        answer = home.api.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(answer["status"]["allowed"])

    return ask


# What it renders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, FULL, LEAST], ids=["default", "full", "least"])
def test_lint_finds_nothing(helm: Helm, given: dict[str, Any]) -> None:
    helm("lint", str(CHART), "--strict", values=given)


def test_full_sets_every_value(full: Documents) -> None:
    """So that the tests with FULL mean what they say."""
    for value in _leaves():
        assert _at(FULL, value.path) != value.default or value.path in SWITCHED_ON


def test_every_value_is_used(helm: Helm) -> None:
    """Each value changed alone changes what is rendered. Without the CRDs where they are not the point: 150 kB each."""

    def text(given: dict[str, Any], *, crds: bool) -> str:
        also = () if crds else ("--set", "crds.enabled=false")
        return helm("template", "edgeward", str(CHART), *also, values=given).stdout

    defaults = {crds: text({}, crds=crds) for crds in (True, False)}
    unused = []
    for value in _leaves():
        path, crds = value.path, value.path.startswith("crds.")
        changed = False if path in SWITCHED_ON else _at(FULL, path)
        if text(_nested(path, changed), crds=crds) == defaults[crds]:
            unused.append(path)
    assert unused == []


def test_config_file_is_what_the_operator_reads(full: Documents, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(_one(full, "ConfigMap")["data"]["config.yaml"])
    settings = load(str(file))
    said = settings.model_dump(by_alias=True, mode="json")
    assert said.pop("namespace") == NAMESPACE
    assert said == FULL["config"]


def test_changed_config_rolls_the_pods(helm: Helm, default: Documents) -> None:
    def checksum(documents: Documents) -> str:
        return str(_one(documents, "Deployment")["spec"]["template"]["metadata"]["annotations"]["checksum/config"])

    assert checksum(render(helm, {})) == checksum(default)
    assert checksum(render(helm, {"config": {"logLevel": "DEBUG"}})) != checksum(default)


def test_crds_are_the_same_but_for_their_metadata(default: Documents) -> None:
    root = CHART.parents[1] / "crds"
    source = {(item := yaml.safe_load(path.read_text()))["metadata"]["name"]: item for path in root.glob("*.yaml")}
    crds = {item["metadata"]["name"]: item for item in _all(default, "CustomResourceDefinition")}
    assert crds.keys() == source.keys()
    for name, crd in crds.items():
        assert crd["spec"] == source[name]["spec"]
        assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_priority_classes(default: Documents) -> None:
    classes = {item["metadata"]["name"]: item for item in _all(default, "PriorityClass")}
    assert {name: item["value"] for name, item in classes.items()} == {
        f"edgeward-tier-{tier}": 100000 * tier for tier in range(1, 6)
    }
    assert {item["preemptionPolicy"] for item in classes.values()} == {"Never"}
    assert not any(item["globalDefault"] for item in classes.values())


def test_keep_is_a_choice(full: Documents, default: Documents) -> None:
    def kept(documents: Documents) -> set[str]:
        policy = "helm.sh/resource-policy"
        return {item["kind"] for item in documents if policy in (item["metadata"].get("annotations") or {})}

    assert kept(default) == {"CustomResourceDefinition", "PriorityClass"}
    assert kept(full) == set()


def test_disruption_budget_only_for_several_replicas(full: Documents, default: Documents) -> None:
    assert _all(default, "PodDisruptionBudget") == []
    assert _one(full, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_another_release_name_keeps_the_objects_apart(helm: Helm) -> None:
    documents = render(helm, {}, release="north")
    assert _one(documents, "Deployment")["metadata"]["name"] == "north-edgeward"
    assert _one(documents, "ClusterRoleBinding")["subjects"][0]["name"] == "north-edgeward"


def test_rendered_rights_are_those_of_the_files(default: Documents) -> None:
    roles = [item for item in default if item["kind"] in ("ClusterRole", "Role")]
    names = ("edgeward", "edgeward-nodes")
    assert granted([item for item in roles if item["metadata"]["name"] in names]) == needed() - NAMED


# What it refuses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"replicaCount": 2}, "replicaCount"),
        ({"config": {"metrics": {"prometheusURL": "http://p:9090"}}}, "prometheusURL"),
        ({"config": {"namespace": "other"}}, "namespace"),
        ({"config": {"placement": {"weights": {"luck": 1}}}}, "luck"),
        ({"config": {"timing": {"dwell": "10m"}}}, "dwell"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    ],
)
def test_bad_values_are_refused_by_name(helm: Helm, given: dict[str, Any], words: str) -> None:
    done = helm("template", "edgeward", str(CHART), values=given, check=False)
    assert done.returncode != 0
    assert words in done.stderr


def test_older_kubernetes_is_refused(helm: Helm) -> None:
    done = helm("template", "edgeward", str(CHART), "--kube-version", "1.29.9", check=False)
    assert done.returncode != 0
    assert ">=1.30.0-0" in done.stderr
    helm("template", "edgeward", str(CHART), "--kube-version", "v1.30.4+k3s1")


# What the API server says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, FULL, LEAST], ids=["default", "full", "least"])
def test_api_server_accepts_every_object(home: ControlPlane, helm: Helm, given: dict[str, Any]) -> None:
    documents = render(helm, given)
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
    command = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts", "-f", "-")
    done = home.kubectl(*command, stdin=listed)
    assert done.stdout.count("serverside-applied") == len(documents)


def test_pod_is_restricted(home: ControlPlane, full: Documents) -> None:
    template = _one(full, "Deployment")["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    pod["metadata"] = {**template["metadata"], "name": "operator", "namespace": NAMESPACE}
    home.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    worse = json.loads(json.dumps(pod))
    del worse["spec"]["securityContext"]["seccompProfile"]
    refused = home.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(worse), check=False)
    assert "restricted" in refused.stderr


def test_rights_suffice(allowed: Callable[..., bool]) -> None:
    names = {"leases": "edgeward-hub", "customresourcedefinitions": "inferencejobs.edgeward.dev"}
    missing = []
    for right in sorted(needed() - NAMED):
        name = "" if right.verb in ("create", "list", "watch") else names.get(right.resource, "any")
        everywhere = right.verb in ("list", "watch") and right.everywhere
        namespace = "" if everywhere else "shop" if right.everywhere else NAMESPACE
        if (right.resource, right.verb) == ("leases", "list"):
            namespace = "kube-node-lease"
        if not allowed(right, namespace=namespace, name=name):
            missing.append(right)
    assert missing == []


def test_a_secret_may_be_read_that_is_named(home: ControlPlane, allowed: Callable[..., bool], full: Documents) -> None:
    home.apply(*[item for item in full if item["metadata"]["name"] == "edgeward-pull-secrets"])
    (right,) = NAMED
    assert allowed(right, namespace="default", name="registry") and allowed(right, namespace="default", name="other")
    assert not allowed(right, namespace="default", name="mine") and not allowed(right, namespace="default")
    assert not allowed(right, namespace=NAMESPACE, name="registry")


@pytest.mark.parametrize(
    ("group", "resource", "verb", "namespace", "name"),
    [
        *[("", "secrets", verb, namespace, "x") for verb in ("get", "list", "watch") for namespace in ("", NAMESPACE)],
        ("", "pods", "create", "shop", ""),
        ("", "pods", "delete", "shop", "x"),
        ("", "pods/exec", "create", "shop", "x"),
        ("", "nodes", "patch", "", "x"),
        ("", "nodes/proxy", "get", "", "x"),
        ("", "namespaces", "delete", "", "x"),
        ("", "serviceaccounts/token", "create", NAMESPACE, "edgeward"),
        ("apiextensions.k8s.io", "customresourcedefinitions", "get", "", "sites.edgeward.dev"),
        ("apiextensions.k8s.io", "customresourcedefinitions", "delete", "", "inferencejobs.edgeward.dev"),
        ("rbac.authorization.k8s.io", "clusterroles", "bind", "", "x"),
        ("rbac.authorization.k8s.io", "roles", "create", NAMESPACE, ""),
        ("coordination.k8s.io", "leases", "update", NAMESPACE, "another"),
        ("coordination.k8s.io", "leases", "update", "kube-system", "edgeward-hub"),
        ("edgeward.dev", "assignments", "patch", "shop", "x"),
        ("edgeward.dev", "inferencejobs", "patch", "shop", "x"),
        ("edgeward.dev", "inferencejobs", "delete", "shop", "x"),
    ],
)
def test_rights_stop_there(
    allowed: Callable[..., bool], group: str, resource: str, verb: str, namespace: str, name: str
) -> None:
    assert not allowed(Right(True, group, resource, verb), namespace=namespace, name=name)


def test_server_side_apply_as_the_operator(home: ControlPlane, allowed: Callable[..., bool]) -> None:
    """Not only by the authorizer's word: an apply of what is not there yet is checked as a create, too."""
    assert allowed(Right(True, "", "configmaps", "patch"), namespace="default")

    def apply(kind: str, namespace: str, **more: Any) -> str:
        body = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "as-operator", "namespace": namespace}, **more}
        command = ("apply", "--server-side", "--dry-run=server", f"--as={ACCOUNT}", "-f", "-")
        done = home.kubectl(*command, stdin=json.dumps(body), check=False)
        return done.stdout + done.stderr

    assert "serverside-applied" in apply("ConfigMap", "default", data={"a": "b"})
    assert "forbidden" in apply("Secret", "default")


# What Helm does with a cluster ---------------------------------------------------------------------------------------


@pytest.fixture
def empty(control_plane: ControlPlane, tmp_path: Path) -> Iterator[ControlPlane]:
    """A cluster of its own without CRDs: what is installed and removed there disturbs no other test."""
    with ControlPlane(
        tmp_path, binaries=control_plane.binaries, name="chart", etcd=control_plane, etcd_prefix=f"/{tmp_path.name}"
    ) as plane:
        yield plane


def test_install_upgrade_uninstall_install(helm: Helm, empty: ControlPlane) -> None:
    def on(*arguments: str, **more: Any) -> str:
        where = ("--kubeconfig", str(empty.kubeconfig), "--namespace", NAMESPACE)
        return helm(arguments[0], "edgeward", *arguments[1:], *where, **more).stdout

    said = on("install", str(CHART), "--create-namespace", values={})
    for word in ("kubectl label node", "kind: InferenceJob", "kubectl get ij", "prometheusUrl is empty"):
        assert word in said
    empty.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    job = {
        "apiVersion": "edgeward.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {"name": "sign-reader", "namespace": "default"},
        "spec": {"model": {"name": "sign-reader"}},
    }
    empty.apply(job)

    said = on("upgrade", str(CHART), values={"config": {"metrics": {"prometheusUrl": "http://prometheus:9090"}}})
    assert "prometheusUrl is empty" not in said
    config = empty.kubectl("get", "cm", "edgeward-config", "-n", NAMESPACE, "-o", "yaml").stdout
    assert "http://prometheus:9090" in config

    on("uninstall", "--wait")
    ours = ("-l", "app.kubernetes.io/name=edgeward", "-A", "-o", "name", "--ignore-not-found")
    kinds = "deployments,services,configmaps,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings"
    assert empty.kubectl("get", kinds, *ours).stdout == ""
    assert len(empty.kubectl("get", "crds,priorityclasses", *ours).stdout.split()) == 5 + 5
    assert "sign-reader" in empty.kubectl("get", "ij", "-n", "default", "-o", "name").stdout

    on("install", str(CHART), values={})
    assert "sign-reader" in empty.kubectl("get", "ij", "-n", "default", "-o", "name").stdout


def test_operator_runs_with_the_rights_of_the_chart(helm: Helm, empty: ControlPlane, tmp_path: Path) -> None:
    """The operator itself, as the account and with the configuration that the chart gives it: a job comes and goes."""
    port = free_port()
    given = {"config": {"port": port, "metrics": {"window": "30s"}}}
    where = ("--kubeconfig", str(empty.kubeconfig), "--namespace", NAMESPACE)
    helm("install", "edgeward", str(CHART), "--create-namespace", *where, values=given)
    empty.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    storage = {"provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}
    empty.apply(
        {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local-path"}, **storage}
    )
    empty.add_nodes(2, labels={"edgeward.dev/tier": "edge", "edgeward.dev/site": "shop-1"})
    config = empty.kubectl("get", "cm", "edgeward-config", "-n", NAMESPACE, "-o", r"jsonpath={.data.config\.yaml}")
    file, log = tmp_path / "config.yaml", tmp_path / "operator.log"
    file.write_text(config.stdout)
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}"]
    account = empty.user("operator", user=ACCOUNT, groups=groups)
    program = [
        sys.executable,
        "-m",
        "edgeward.cli.main",
        "operator",
        "--config",
        str(file),
        "--kubeconfig",
        str(account),
    ]
    path = f"{ROOT / 'operator'}:{ROOT / 'edge-runtime'}"
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "POD_NAME": "edgeward-test"}

    def found(kind: str, namespace: str) -> bool:
        return bool(empty.kubectl("get", kind, "-n", namespace, "-o", "name").stdout.strip())

    def gone() -> bool:
        return not found("deployment", "default") and not found("assignment", NAMESPACE)

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    with log.open("w") as output:
        operator = subprocess.Popen(program, env=environ, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_for("the operator's /readyz", ready, seconds=30, hint=f"Read {log}")
            artifact = {"uri": "https://models.example/sign-reader.onnx", "digest": "sha256:" + "a" * 64}
            release = {"kind": "ModelRelease", "spec": {"version": "1.0.0", "artifact": artifact}}
            job = {"kind": "InferenceJob", "spec": {"model": {"name": "sign-reader"}, "replicas": 2}}
            meta = {"apiVersion": "edgeward.dev/v1alpha1", "metadata": {"name": "sign-reader", "namespace": "default"}}
            empty.apply({**meta, **release}, {**meta, **job})
            made = ("deployment", "pvc", "service", "configmap", "event")
            wait_for("what the agent makes", lambda: all(found(kind, "default") for kind in made), seconds=30)
            path = "/apis/edgeward.dev/v1alpha1/namespaces/default/inferencejobs/sign-reader"
            wait_for("the job's status", lambda: "conditions" in empty.api.get(path).get("status", {}), seconds=15)
            empty.kubectl("delete", "ij", "sign-reader", "-n", "default")
            wait_for("everything of the job to go", gone, seconds=30)
            assert operator.poll() is None
        finally:
            operator.terminate()
            operator.wait(timeout=15)
    written = log.read_text()
    assert "forbidden" not in written.lower(), written
    assert "403 " not in written, written  # a time has it too


def _leaves() -> list[Value]:
    return values((CHART / "values.yaml").read_text())


def _all(documents: Documents, kind: str) -> Documents:
    return [document for document in documents if document["kind"] == kind]


def _one(documents: Documents, kind: str) -> dict[str, Any]:
    (found,) = _all(documents, kind)
    return found


def _at(tree: Any, path: str) -> Any:
    for part in path.split("."):
        tree = tree[part]
    return tree


def _nested(path: str, value: Any) -> dict[str, Any]:
    name, _, rest = path.partition(".")
    return {name: _nested(rest, value) if rest else value}
