"""The demo on somebody's own cluster: says what it would add, asks, and takes exactly that away again.

Everything namespaced is in one namespace. No node is hurt: the busy node is left out.
"""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from tests.cluster import Binaries, ClusterError
from tests.cluster.paths import cache_root

from . import show, story, survival, visitor
from .kube import Kubectl, Object, StoryError, wait
from .models import Models, prepare
from .rollout import Tally
from .stage import CHART, LEASE, OURS, RELEASE, Stage, install, make_namespace, pod

NAMESPACE = "edgeward-demo"
RECORD = "edgeward-demo-added"
SHELF, SHELF_PORT = "models", 8000
_CLUSTER_SCOPED = ("CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "PriorityClass")
_TIER, _SITE = "edgeward.dev/tier", "edgeward.dev/site"

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Additions:
    """All that is not inside the namespace: (kind, name) of objects, (node, label, value) of labels."""

    objects: tuple[tuple[str, str], ...]
    labels: tuple[tuple[str, str, str], ...]

    def lines(self) -> list[str]:
        return [
            f"Namespace {NAMESPACE}, and everything else inside it",
            *(f"{kind} {name}" for kind, name in self.objects),
            *(f"label {key}={value} on node {node}" for node, key, value in self.labels),
        ]


def up(say: Say, *, image: str | None, prometheus: str, yes: bool, ask: Callable[[str], str] = input) -> int:
    """Exit code. Raises StoryError; what was added by then stays recorded, so that `clean` finds it."""
    begun = time.monotonic()
    if not image or "edgeward-operator" not in image:
        raise StoryError(
            "CLUSTER=current needs IMAGE=REGISTRY/edgeward-operator:TAG, with REGISTRY/edgeward-runtime:TAG beside it:"
            " `make image` builds both; push them where your nodes can pull from"
        )
    kubectl, helm = Kubectl(), _helm(say)
    context = kubectl.run("config", "current-context").strip()
    if recorded(kubectl) is not None:
        raise StoryError("the demo is on this cluster already; `make demo-clean CLUSTER=current` takes it away")
    additions = plan(kubectl, helm)
    print(f"\nOn the cluster of kubectl context {context!r} this adds:")
    for line in additions.lines():
        print(f"  {line}")
    print("`make demo-clean CLUSTER=current` removes exactly these. No node is put under load.\n")
    if not yes and ask("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
        print("Nothing was changed.")
        return 0
    models = prepare(cache_root(), say=say)
    stage = _stage(kubectl, helm, say, models, image=image, prometheus=prometheus)
    make_namespace(stage, NAMESPACE)
    _write_record(kubectl, additions)
    for node, key, value in additions.labels:
        kubectl.run("label", "node", node, f"{key}={value}")
    tally = Tally()
    try:
        _tell(stage, tally)
    finally:
        asked = "no load was put on it" if tally.failed is None else f"{tally.failed} requests failed"
        print(f"\nThe whole run took {time.monotonic() - begun:.0f} s, {asked}.", flush=True)
    print(
        "To look further:\n"
        f"    kubectl get ij,mr,assignments -n {NAMESPACE}\n"
        f"    kubectl describe ij sign-reader -n {NAMESPACE}\n"
        "    make demo-clean CLUSTER=current",
        flush=True,
    )
    return 0


def clean(say: Say, *, yes: bool, ask: Callable[[str], str] = input) -> int:
    """Remove what `up` recorded, and nothing else. Exit code."""
    kubectl = Kubectl()
    context = kubectl.run("config", "current-context").strip()
    additions = recorded(kubectl)
    if additions is None:
        print(f"On the cluster of kubectl context {context!r} there is nothing of the demo.")
        return 0
    print(f"\nOn the cluster of kubectl context {context!r} this removes:")
    for line in additions.lines():
        print(f"  {line}")
    if not yes and ask("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
        print("Nothing was changed.")
        return 0
    helm = _helm(say)
    if ("CustomResourceDefinition", "inferencejobs.edgeward.dev") in _present(kubectl, additions.objects):
        word = "edgeward.dev/confirm-deletion-of-all=true"  # that every job goes at once is meant
        kubectl.run("annotate", "lease", LEASE, "-n", NAMESPACE, word, "--overwrite", check=False)
        for kind in ("inferencejobs", "modelreleases"):
            kubectl.run("delete", f"{kind}.edgeward.dev", "--all", "-n", NAMESPACE, "--timeout=60s", timeout=90)
        _await_no_assignments(kubectl)
    subprocess.run(
        [str(helm), "uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--ignore-not-found"],
        check=True,
        capture_output=True,
        timeout=180,
    )
    for node, key, value in additions.labels:
        now = kubectl.run("get", "node", node, "--ignore-not-found", "-o", "json")
        if now and json.loads(now)["metadata"].get("labels", {}).get(key) == value:
            kubectl.run("label", "node", node, f"{key}-")
    for kind, name in additions.objects:
        kubectl.run("delete", kind, name, "--ignore-not-found", "--timeout=60s", timeout=90)
    kubectl.run("delete", "namespace", NAMESPACE, "--timeout=120s", timeout=150)
    say("removed")
    return 0


def plan(kubectl: Kubectl, helm: Path | str) -> Additions:
    """What would be added. StoryError when something of it is there already: it is not ours to take away later."""
    objects = tuple(
        (item["kind"], item["metadata"]["name"]) for item in _rendered(helm) if item and item["kind"] in _CLUSTER_SCOPED
    )
    there = _present(kubectl, objects)
    if there:
        raise StoryError(
            f"{there[0][0]} {there[0][1]} is on this cluster already: Edgeward is installed here."
            " The demo brings its own and would be in its way"
        )
    if kubectl.run("get", "namespace", NAMESPACE, "--ignore-not-found", "-o", "name"):
        raise StoryError(f"namespace {NAMESPACE} is there already, and not of this demo's making")
    return Additions(objects=objects, labels=label_plan(kubectl.items("nodes")))


def label_plan(nodes: Sequence[Object]) -> tuple[tuple[str, str, str], ...]:
    """Labels that make up to two edge sites and a cloud of nodes that have none; none when some are labelled."""
    if any(_TIER in (node["metadata"].get("labels") or {}) for node in nodes):
        return ()
    usable = sorted(
        node["metadata"]["name"]
        for node in nodes
        if not node["spec"].get("unschedulable")
        and not any(taint["effect"] in ("NoSchedule", "NoExecute") for taint in node["spec"].get("taints") or ())
    )
    if not usable:
        raise StoryError("this cluster has no node without taints")
    cloud, edges = (usable[0], usable[1:3]) if len(usable) > 1 else ("", usable)
    labels = [
        pair
        for number, node in enumerate(edges)
        for pair in ((node, _TIER, "edge"), (node, _SITE, f"demo-{'ab'[number]}"))
    ]
    return (*([(cloud, _TIER, "cloud")] if cloud else []), *labels)


def recorded(kubectl: Kubectl) -> Additions | None:
    """What an earlier `up` noted; None when there is no note."""
    text = kubectl.run("get", "configmap", RECORD, "-n", NAMESPACE, "--ignore-not-found", "-o", "json")
    if not text:
        return None
    noted = json.loads(json.loads(text)["data"]["added.json"])
    return Additions(
        objects=tuple((kind, name) for kind, name in noted["objects"]),
        labels=tuple((node, key, value) for node, key, value in noted["labels"]),
    )


def _write_record(kubectl: Kubectl, additions: Additions) -> None:
    noted = json.dumps({"objects": additions.objects, "labels": additions.labels})
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": RECORD}, "data": {"added.json": noted}}
    kubectl.apply(yaml.safe_dump(body), namespace=NAMESPACE)


def _present(kubectl: Kubectl, objects: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [
        (kind, name) for kind, name in objects if kubectl.run("get", kind, name, "--ignore-not-found", "-o", "name")
    ]


def _helm(say: Say) -> Path | str:
    found = shutil.which("helm")
    if found:
        return found
    binaries = Binaries(say=say)
    try:
        binaries.ensure("helm")
    except ClusterError as error:
        raise StoryError(f"helm 3 is needed and is not on PATH. It could be built instead: {error}") from error
    return binaries.path("helm")


def _rendered(helm: Path | str) -> list[Object]:
    done = subprocess.run(
        [str(helm), "template", RELEASE, str(CHART), "--namespace", NAMESPACE],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode != 0:
        raise StoryError(f"helm template: {done.stderr.strip()[-600:]}")
    return list(yaml.safe_load_all(done.stdout))


def _stage(kubectl: Kubectl, helm: Path | str, say: Say, models: Models, *, image: str, prometheus: str) -> Stage:
    repository, _, tag = image.rpartition(":")
    if not repository or "/" in tag:  # no tag: the colon, if any, is of the registry's port
        repository, tag = image, "latest"
    url = f"http://{SHELF}.{NAMESPACE}.svc:{SHELF_PORT}"
    return Stage(
        kubectl=kubectl,
        helm=helm,
        say=say,
        namespace=NAMESPACE,
        operator_namespace=NAMESPACE,
        operator_image=(repository, tag),
        runtime_image=f"{repository.replace('edgeward-operator', 'edgeward-runtime')}:{tag}",
        models=models,
        urls={model.path.name: f"{url}/{model.path.name}" for model in models.files},
        prometheus_url=prometheus,
        expose="ClusterIP",
    )


def _tell(stage: Stage, tally: Tally) -> None:
    say, models, expected = stage.say, stage.models, visitor.expected()
    say(f"Edgeward is installed by helm ({install(stage):.1f} s)")
    fill_shelf(stage)
    placed = story.place(stage, ("sign-reader", models.sign_reader), ("file-sorter", models.file_sorter))
    show.placed(say, placed)
    print(story.table(stage), flush=True)
    visitor.send_in(stage, story.edge_nodes(stage)[0])
    replies = tuple(visitor.ask_inside(stage, "file-sorter"))
    show.answers(say, story.Answers(model="file-sorter", where="from a pod", replies=replies), expected["file-sorter"])
    with stage.kubectl.forward(stage.namespace, "sign-reader", 80) as url:
        answers = story.ask_outside(stage, "sign-reader", url)
        show.answers(say, answers, expected["sign-reader"])
        rolled = story.roll_out(stage, "sign-reader", models.sign_reader, models.sign_reader_2, urls=[url], tally=tally)
    show.rolled(say, rolled, old=models.sign_reader.version, new=models.sign_reader_2.version)
    survived = survival.kill_operator(stage)
    show.survived(say, survived)
    wrong = [item for item in answers.replies if item.answer != expected["sign-reader"][item.question]]
    wrong += [item for item in replies if item.answer != expected["file-sorter"][item.question]]
    if wrong or rolled.seen.failed or rolled.before != rolled.after or survived.changed:
        raise StoryError("the story did not come out as it should: see above; `make demo-clean` takes it away")


def fill_shelf(stage: Stage) -> None:
    """Start the file server in the cluster and upload the models through a port-forward."""
    key, _, value = OURS.partition("=")
    program = (Path(__file__).resolve().parent / "shelf.py").read_text(encoding="utf-8")
    body = pod(
        SHELF,
        image=stage.runtime_image,
        command=["python3", "/files/shelf.py", "/data", str(SHELF_PORT)],
        files=SHELF,
    )
    body["metadata"]["labels"]["app"] = SHELF
    container = body["spec"]["containers"][0]
    container["volumeMounts"].append({"name": "data", "mountPath": "/data"})
    container["readinessProbe"] = {"tcpSocket": {"port": SHELF_PORT}, "periodSeconds": 1}  # Ready means that it listens
    body["spec"]["volumes"].append({"name": "data", "emptyDir": {}})
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": SHELF, "labels": {key: value}},
        "spec": {"selector": {"app": SHELF}, "ports": [{"name": "http", "port": SHELF_PORT}]},
    }
    files = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": SHELF}, "data": {"shelf.py": program}}
    stage.kubectl.apply(yaml.safe_dump_all([files, body, service]), namespace=stage.namespace)
    stage.kubectl.run(
        "wait", "--for=condition=Ready", f"pod/{SHELF}", "-n", stage.namespace, "--timeout=90s", timeout=100
    )
    with stage.kubectl.forward(stage.namespace, SHELF, SHELF_PORT) as url:
        for model in stage.models.files:
            upload(url, model.path)
    stage.say(f"{len(stage.models.files)} model files are in the cluster")


def upload(url: str, path: Path) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=60)
    try:
        connection.request("PUT", f"/{path.name}", path.read_bytes())
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise StoryError(f"{path.name} could not be uploaded: {error}") from error
    finally:
        connection.close()
    if status != 201:
        raise StoryError(f"{path.name} could not be uploaded: HTTP {status}")


def _await_no_assignments(kubectl: Kubectl) -> None:
    """The agent takes its objects away before it lets an Assignment go; the operator must live until then."""

    def left() -> str:
        return kubectl.run("get", "assignments.edgeward.dev", "-n", NAMESPACE, "-o", "name", check=False)

    wait("the jobs' end", lambda: not left(), seconds=60, why=left)
