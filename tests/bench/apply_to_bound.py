"""From `apply` to a bound pod: an InferenceJob through the whole operator, against a bare Deployment, taking turns.

Real kube-apiserver, etcd, controller-manager and scheduler; the nodes are simulated, since binding needs no kubelet.
Both kinds are timed the same way: from just before the POST to the watch event that shows the pod on a node.
"""

from __future__ import annotations

import json
import queue
import statistics
import threading
import time
from collections.abc import Iterator
from typing import Any

from tests.cluster.api import Api

NAMESPACE = "bench"
DIGEST = "sha256:" + "1" * 64
LABEL = "bench.edgeward.dev/run"


def deployment(name: str) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "automountServiceAccountToken": False,
                    "containers": [
                        {
                            "name": "main",
                            "image": "localhost/edgeward-runtime:dev",
                            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                        }
                    ],
                },
            },
        },
    }


def job(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "edgeward.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "model": {"name": "bench"},
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
            "placement": {"tiers": ["edge"]},
        },
    }


def release() -> dict[str, Any]:
    return {
        "apiVersion": "edgeward.dev/v1alpha1",
        "kind": "ModelRelease",
        "metadata": {"name": "bench", "namespace": NAMESPACE},
        "spec": {"version": "1", "artifact": {"uri": "http://127.0.0.1/model.onnx", "digest": DIGEST}},
    }


class BoundPods:
    """Watches the pods of the namespace and says when one is bound, by the prefix of its name."""

    def __init__(self, api: Api) -> None:
        self._events: queue.Queue[tuple[str, float]] = queue.Queue()
        self._thread = threading.Thread(target=self._run, args=(api,), daemon=True)
        self._thread.start()

    def _run(self, api: Api) -> None:
        for line in watch(api, f"/api/v1/namespaces/{NAMESPACE}/pods"):
            pod = line["object"]
            if pod.get("spec", {}).get("nodeName"):
                self._events.put((pod["metadata"]["name"], time.perf_counter()))

    def wait(self, prefix: str, *, seconds: float = 30) -> float:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                name, at = self._events.get(timeout=left)
            except queue.Empty:
                break
            if name.startswith(prefix):
                return at
        raise TimeoutError(f"no pod {prefix}* was bound within {seconds} s")


def watch(api: Api, path: str) -> Iterator[dict[str, Any]]:
    with api.stream(f"{path}?watch=1") as response:
        for line in response:
            if line.strip():
                yield json.loads(line)


def measure(api: Api, *, rounds: int = 100, pause: float = 0.4) -> dict[str, Any]:
    """Seconds for both kinds, in turns, with a pause that lets everything become idle again."""
    pods = BoundPods(api)
    time.sleep(1)
    api.post(f"/apis/edgeward.dev/v1alpha1/namespaces/{NAMESPACE}/modelreleases", release())
    time.sleep(1)
    taken: dict[str, list[float]] = {"deployment": [], "job": []}
    for number in range(rounds + 5):
        for kind, path, body in (
            ("deployment", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments", deployment(f"bare-{number:03d}")),
            ("job", f"/apis/edgeward.dev/v1alpha1/namespaces/{NAMESPACE}/inferencejobs", job(f"job-{number:03d}")),
        ):
            begun = time.perf_counter()
            api.post(path, body)
            bound = pods.wait(body["metadata"]["name"])
            if number >= 5:  # the first ones warm connections and caches on both sides
                taken[kind].append(bound - begun)
            time.sleep(pause)
    return {
        kind: {"p50": statistics.median(values), "p99": percentile(values, 0.99), "count": len(values)}
        for kind, values in taken.items()
    }


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
