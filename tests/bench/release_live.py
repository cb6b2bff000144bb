"""How long a version takes to three sites, and a bad one to be gone again, on the embedded cluster with real pods, while
clients ask through the job's Service at every node.

commit_to_all_s          from `kubectl apply` of the new version until the runtimes of all sites serve it; waves, no bake
bad_gate_to_back_s       from when the first site answers with a version that disagrees with the one before, until no
                         runtime has it any more
..._less_interval_s      the same less one interval of the gate, which nobody can do without
failed_requests          of all clients, in both
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster import Binaries, Cluster, Progress
from tests.cluster.binaries import exclusive
from tests.cluster.paths import clusters_root
from tests.demo import run
from tests.demo.kube import Object, wait
from tests.demo.models import prepare
from tests.demo.stage import install
from tests.e2e.space import Space, space
from tests.unit.runtime import onnx_models

from . import report

CLUSTER = "edgeward-test"
"""that of the end-to-end tests: a run of those waits for this one"""
NAMESPACE = NAME = "judged"
INTERVAL = 3.0
"""seconds between two looks of the gate"""
ROUNDS = 3


ROW = [1.0, 2.0, 3.0, 4.0]
PAUSE_S = 0.02
"""between two requests of a client"""


def factor(version: str) -> float:
    """What it makes of x, each version something else: the same bytes under another number stay refused. The good ones
    agree with each other; for the bad ones another class has the highest score."""
    return -1.0 - int(version[4:]) / 100 if version.startswith("bad") else 1.0 + int(version) / 10_000


class Clients:
    """One for each address, which asks all the time and holds each answer against the version that it names."""

    def __init__(self, urls: list[str]) -> None:
        self.answered: Counter[str] = Counter()
        self.problems: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(url,), daemon=True) for url in urls]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)

    def _ask(self, url: str) -> None:
        body = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": ROW}]}).encode()
        while not self._stop.wait(PAUSE_S):
            try:
                request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
                with urllib.request.urlopen(request, timeout=10) as response:
                    answer = json.load(response)
                version = answer["model_version"]
                if abs(answer["outputs"][0]["data"][0] - factor(version)) > 1e-5:
                    raise ValueError(f"{answer} is not what {version} answers")
                self.answered[version] += 1
            except (OSError, ValueError, KeyError) as problem:
                self.problems.append(f"{url}: {problem!r}")


def content(version: str) -> bytes:
    return onnx_models.constant_times(factor(version))


def serving(pod: Object) -> dict[str, bool]:
    """The versions that a runtime names, and whether each answers requests."""
    url = f"http://{pod['status']['podIP']}:8080/edgeward/v1/status"
    with urllib.request.urlopen(url, timeout=5) as answer:
        return {model["version"]: model["serving"] for model in json.load(answer)["models"]}


def ready(own: Space) -> str:
    found = own.stage.kubectl.get("mr", NAME, "-n", NAMESPACE)
    if found.get("status", {}).get("observedGeneration") != found["metadata"]["generation"]:
        return ""
    return next((item["reason"] for item in found["status"]["conditions"] if item["type"] == "Ready"), "")


def release(own: Space, version: str, **spec: object) -> None:
    own.release(NAME, f"{version}.onnx", onnx_models.digest(content(version)), version=version, **spec)


def until(check: Callable[[], Any], seconds: float, what: str) -> float:
    """When it held, by the clock of this process; looked at often, without kubectl."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if check():
                return time.monotonic()
        except OSError:
            pass
        time.sleep(0.05)
    raise TimeoutError(f"not within {seconds:g} s: {what}")


@contextmanager
def sites(versions: list[str]) -> Iterator[tuple[Space, Cluster]]:
    say = Progress()
    Binaries(say=say).ensure("control-plane", "node", "helm", "metrics-server")
    cluster = Cluster(CLUSTER, metrics_server=True, say=say)
    with exclusive(clusters_root(cluster.cache) / f".{CLUSTER}.session"), tempfile.TemporaryDirectory() as folder:
        cluster.down()
        try:
            cluster.up()
            stage = run.embedded_stage(cluster, prepare(cluster.cache, say=say), say)
            install(stage)
            files = {f"{version}.onnx": content(version) for version in versions}
            with space(stage, cluster, Path(folder), NAMESPACE, files) as own:
                yield own, cluster
        finally:
            cluster.down()


def measure() -> dict[str, Any]:
    good = [str(number) for number in range(1, ROUNDS + 2)]
    bad = [f"bad-{number}" for number in range(ROUNDS)]
    forth: list[float] = []
    back: list[float] = []
    waves = [{"name": "first", "sites": {"count": 1}}, {"name": "all"}]
    canary = [{"name": "first", "sites": {"count": 1}, "traffic": "50%", "mirror": 100, "bake": "10m"}, {"name": "all"}]
    gate = {"name": "agreement", "builtin": "Agreement", "min": "0.95", "minSamples": 10, "interval": f"{INTERVAL:g}s"}
    with sites([*good, *bad]) as (own, cluster):
        release(own, good[0], rollout={"waves": waves})
        own.job(
            NAME,
            model={"name": NAME},
            replicas=1,
            replicaScope="PerSite",
            placement={"tiers": ["edge", "fog", "cloud"]},
            expose={"type": "NodePort"},
        )
        wait("version 1 released", lambda: ready(own) == "Released", seconds=180)
        pods = own.pods(NAME)
        port = own.stage.kubectl.get("service", NAME, "-n", NAMESPACE)["spec"]["ports"][0]["nodePort"]
        nodes = [cluster.plan.node(pod["spec"]["nodeName"]).address for pod in pods]
        asking = Clients([f"http://{address}:{port}/v2/models/{NAME}/infer" for address in nodes])
        with asking:
            for version in good[1:]:
                begun = time.monotonic()
                release(own, version, rollout={"waves": waves})
                forth.append(
                    until(lambda version=version: all(serving(pod).get(version) for pod in pods), 120, version) - begun
                )
                wait(f"{version} released", lambda: ready(own) == "Released", seconds=60)
                print(f"version {version} at {len(pods)} sites after {forth[-1]:.2f} s", flush=True)
            for version in bad:
                release(own, version, rollout={"waves": canary}, gates=[gate])
                seen = until(
                    lambda version=version: any(serving(pod).get(version) for pod in pods), 120, f"{version} serves"
                )
                try:
                    gone = until(
                        lambda version=version: not any(version in serving(pod) for pod in pods), 90, f"{version} gone"
                    )
                except TimeoutError:
                    print(own.stage.kubectl.run("get", "mr,assignments", "-A", "-o", "yaml"), flush=True)
                    raise
                back.append(gone - seen)
                wait("rolled back", lambda: ready(own) == "RolledBack", seconds=60)
                print(f"{version} gone after {back[-1]:.2f} s", flush=True)
    for problem in asking.problems[:5]:
        print(problem, flush=True)
    middle = len(back) // 2
    return {
        "commit_to_all_s": round(sorted(forth)[len(forth) // 2], 2),
        "commit_to_all_rounds_s": [round(one, 2) for one in forth],
        "bad_gate_to_back_s": round(sorted(back)[middle], 2),
        "bad_gate_to_back_less_interval_s": round(sorted(back)[middle] - INTERVAL, 2),
        "bad_gate_to_back_rounds_s": [round(one, 2) for one in back],
        "gate_interval_s": INTERVAL,
        "live_sites": len(pods),
        "requests": asking.answered.total() + len(asking.problems),
        "failed_requests": len(asking.problems),
    }


def main() -> int:
    path = report.merge("release", versions={}, figures=measure())
    print(path.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
