"""Where the story takes place: a cluster, Edgeward on it, and a place that serves the models. Steps are in story.py."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import yaml

from tests.cluster import Cluster
from tests.cluster.addons import STORAGE_CLASS
from tests.cluster.paths import REPOSITORY

from .kube import Kubectl, Object, StoryError
from .models import ModelFile, Models

CHART = REPOSITORY / "charts" / "edgeward"
MANIFESTS = Path(__file__).resolve().parent / "manifests"
RELEASE = "edgeward"
LEASE = "edgeward-hub"
MEASURE_INTERVAL_S = 15
"""The embedded Prometheus scrapes every 5 s, but a kubelet measures only every 10 to 15 s, and stamps its samples so."""
WINDOW_S = 45
POLL_INTERVAL_S = 2


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Collaborators and names of one run.

    operator_image   repository and tag apart, as the chart takes them
    build            what the images were built from: an image of the same tag and other bytes rolls the operator
    prometheus_url   as seen from this machine; empty when there is none to look into
    cluster          the embedded one; None on somebody's own cluster, where no node is hurt
    config           sections of the operator's configuration that are set beside the demo's own
    expose           type of the sign reader's Service
    urls             file name -> where a pod can fetch it
    """

    kubectl: Kubectl
    helm: Path | str
    say: Callable[[str], None]
    namespace: str
    operator_namespace: str
    operator_image: tuple[str, str]
    runtime_image: str
    build: str = ""
    models: Models
    urls: Mapping[str, str] = field(default_factory=dict)
    prometheus_url: str = ""
    cluster: Cluster | None = None
    config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    expose: str = "NodePort"
    elsewhere: str = "elsewhere"

    def url(self, model: ModelFile) -> str:
        return self.urls[model.path.name]

    def manifest(self, name: str, model: ModelFile) -> str:
        text = (MANIFESTS / f"{name}.yaml").read_text(encoding="utf-8")
        return Template(text).substitute(
            VERSION=model.version, URL=self.url(model), DIGEST=model.digest, EXPOSE=self.expose
        )

    def values(self) -> dict[str, Any]:
        """What the demo sets in the chart; everything else is the chart's default."""
        repository, tag = self.operator_image
        metrics: dict[str, Any] = {"prometheusUrl": self.prometheus_url}
        values: dict[str, Any] = {
            "image": {"repository": repository, "tag": tag},
            "podAnnotations": {"edgeward.dev/demo-build": self.build} if self.build else {},
            "config": {"metrics": metrics, "runtime": {"image": self.runtime_image}},
        }
        if self.cluster is not None:
            metrics |= {
                "scrapeInterval": MEASURE_INTERVAL_S,
                "window": f"{WINDOW_S}s",
                "pollInterval": POLL_INTERVAL_S,
            }
            # Where a platform team would have it: what happens to an edge node must not happen to the operator.
            values["nodeSelector"] = {"edgeward.dev/tier": "cloud"}
            values["config"]["store"] = {"storageClassName": STORAGE_CLASS, "size": "1Gi"}
            values["config"]["timing"] = {"tick": 2, "refusedAfter": 20}
        for section, settings in self.config.items():
            values["config"][section] = {**values["config"].get(section, {}), **settings}
        return values


def install(stage: Stage) -> float:
    """helm upgrade --install and wait; the seconds it took. StoryError with helm's words."""
    started = time.monotonic()
    command = [
        str(stage.helm), "upgrade", "--install", RELEASE, str(CHART), "--namespace", stage.operator_namespace,
        "--create-namespace", "--values", "-", "--wait", "--timeout", "120s",
    ]  # fmt: skip
    done = subprocess.run(
        command,
        input=yaml.safe_dump(stage.values()),
        capture_output=True,
        text=True,
        env=stage.kubectl.environment,
        timeout=180,
    )
    if done.returncode != 0:
        pods = stage.kubectl.run("get", "pods", "-n", stage.operator_namespace, "-o", "wide", check=False)
        raise StoryError(f"helm upgrade --install: {done.stderr.strip()[-800:]}\n{pods}")
    return time.monotonic() - started


def make_namespace(stage: Stage, name: str) -> None:
    found: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    stage.kubectl.run("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump(found))


def clear_leftovers(stage: Stage) -> list[str]:
    """Remove what an earlier run of the story left: its jobs, releases and pods. Names of what was there."""
    kubectl, left = stage.kubectl, []
    if kubectl.run("get", "crd", "inferencejobs.edgeward.dev", "--ignore-not-found", "-o", "name"):
        kinds = "inferencejobs.edgeward.dev,modelreleases.edgeward.dev"
        left += kubectl.run("get", kinds, "-n", stage.namespace, "-o", "name").split()
    for namespace in dict.fromkeys((stage.namespace, stage.elsewhere)):
        left += [
            f"{namespace}/{name}"
            for name in kubectl.run("get", "pods", "-n", namespace, "-l", OURS, "-o", "name").split()
        ]
        kubectl.run("delete", "pods", "-n", namespace, "-l", OURS, "--ignore-not-found", "--grace-period=1", timeout=90)
    if any(name.startswith("inferencejob") for name in left):
        confirm_all_may_go(stage)
        kubectl.run("delete", "ij", "--all", "-n", stage.namespace, "--wait", timeout=90)
        kubectl.run("delete", "mr", "--all", "-n", stage.namespace, "--wait", timeout=90)
        kubectl.run("wait", "--for=delete", "pods", "--all", "-n", stage.namespace, "--timeout=90s", timeout=100)
    if stage.cluster is not None:
        stage.cluster.recycle_volumes()
    return left


def confirm_all_may_go(stage: Stage) -> None:
    """When every job goes at once the hub takes it for an accident, until this says that it was meant."""
    word = "edgeward.dev/confirm-deletion-of-all=true"
    stage.kubectl.run("annotate", "lease", LEASE, "-n", stage.operator_namespace, word, "--overwrite")


OURS = "app.kubernetes.io/part-of=edgeward-demo"
"""on every pod that the story itself makes"""


def pod(name: str, *, image: str, command: list[str], node: str = "", files: str = "") -> Object:
    """A bare pod of the story's own, without requests. files: a ConfigMap to mount at /files."""
    key, _, value = OURS.partition("=")
    mounts = [{"name": "files", "mountPath": "/files"}] if files else []
    volumes = [{"name": "files", "configMap": {"name": files}}] if files else []
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {key: value}},
        "spec": {
            **({"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": command,
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": mounts,
                }
            ],
            "volumes": volumes,
        },
    }
