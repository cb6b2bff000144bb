"""`make bench-placement-live`: what the whole operator does, on a real API server with simulated nodes. Run it alone.

hot replicas     one-replica workloads on nodes whose live load their requests do not show, by Edgeward and by kube-scheduler
bound per second many one-replica jobs at once, against as many bare Deployments
moves            figures that wobble all the time, half of the nodes in use really overloaded from half time on; once
                 undisturbed and once with the leader killed every 20 s

Two cores are shared by everything, the API server and its simulated kubelets included.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster import Binaries, ControlPlane, Progress
from tests.cluster.api import Api, ApiError
from tests.cluster.controlplane import free_port
from tests.cluster.simulated import priority_classes

from . import apply_to_bound, report
from .figures import Figures

ROOT = Path(__file__).parents[2]
NAMESPACE = apply_to_bound.NAMESPACE
CORES = 4.0
REQUEST = {"cpu": "500m", "memory": "64Mi"}
USE = 0.3
"""cores that a replica really uses"""
PARTS = ("hot", "moves")
KEEPER = "keeper"
"""a job of no replicas that stays: with none left at once, the hub would take the others for lost"""
JOBS_PATH = f"/apis/edgeward.dev/v1alpha1/namespaces/{NAMESPACE}/inferencejobs"
DEPLOYMENTS_PATH = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
PODS_PATH = f"/api/v1/namespaces/{NAMESPACE}/pods"


@contextmanager
def control_plane(nodes: int) -> Iterator[ControlPlane]:
    binaries = Binaries(say=Progress())
    for group in ("control-plane", "kwok"):
        binaries.ensure(group)
    folder = Path(tempfile.mkdtemp(prefix="edgeward-bench-"))
    try:
        with ControlPlane(folder, binaries=binaries, name="bench", controllers=True, scheduler=True) as plane:
            plane.kubectl("apply", "-f", str(ROOT / "crds"))
            plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(ROOT / "crds"))
            plane.start_kwok()
            names = plane.add_nodes(nodes, prefix="edge", labels={"edgeward.dev/tier": "edge"}, cpu="4", pods=110)
            assert len(names) == nodes
            spaces = [
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
                for name in ("edgeward", NAMESPACE)
            ]
            plane.apply(*spaces, *priority_classes())
            plane.api.post(
                f"/apis/edgeward.dev/v1alpha1/namespaces/{NAMESPACE}/modelreleases", apply_to_bound.release()
            )
            keeper = apply_to_bound.job(KEEPER)
            keeper["spec"]["replicas"] = 0
            plane.api.post(JOBS_PATH, keeper)
            yield plane
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Operator:
    """The operator as a process, with its default settings but for what `config` says; begun again when it ends by itself,
    as a kubelet would, for instance because a machine that is busy with other things costs it its Lease."""

    def __init__(self, plane: ControlPlane, figures: Figures, config: Mapping[str, Any] | None = None) -> None:
        path = plane.directory / "operator.json"
        metrics = {"prometheusUrl": figures.url, "fallback": False}
        path.write_text(json.dumps({"port": free_port(), "metrics": metrics, **(config or {})}))
        command = [sys.executable, "-m", "edgeward.cli.main", "operator"]
        self._command = [*command, f"--config={path}", f"--kubeconfig={plane.kubeconfig}"]
        self._log = (plane.directory / "operator.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None
        self.restarts = 0

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=self._log, stderr=self._log)

    def check(self) -> None:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"the operator has ended by itself: {Path(self._log.name).read_text()[-500:]}")

    def revive(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            self.restarts += 1
            self.start()

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Operator:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


# Objects -------------------------------------------------------------------------------------------------------------


def job(name: str, request: Mapping[str, str] = REQUEST) -> dict[str, Any]:
    body = apply_to_bound.job(name)
    body["spec"]["resources"] = {"requests": dict(request)}
    return body


def deployment(name: str, request: Mapping[str, str] = REQUEST) -> dict[str, Any]:
    body = apply_to_bound.deployment(name)
    body["spec"]["template"]["spec"]["containers"][0]["resources"] = {"requests": dict(request)}
    return body


def post_all(api: Api, path: str, bodies: list[dict[str, Any]]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda body: api.post(path, body), bodies))


def bound(api: Api) -> list[str]:
    """The nodes of all bound pods that are not going."""
    pods = api.get(PODS_PATH)["items"]
    found = (pod["spec"].get("nodeName") for pod in pods if "deletionTimestamp" not in pod["metadata"])
    return [node for node in found if node]


def await_bound(api: Api, count: int, operator: Operator, *, seconds: float = 600) -> float:
    """perf_counter() when the last of so many pods was seen bound."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        operator.revive()
        if len(bound(api)) >= count:
            return time.perf_counter()
        time.sleep(0.1)
    raise TimeoutError(f"{len(bound(api))} of {count} pods are bound after {seconds:g} s")


def clear(api: Api, operator: Operator) -> None:
    """All jobs but the keeper, and all bare Deployments: those of the jobs go with them."""
    for path, prefixes in ((JOBS_PATH, ("hot-", "burst-")), (DEPLOYMENTS_PATH, ("hot-", "burst-"))):
        found = api.get(path)["items"]
        names = [
            item["metadata"]["name"]
            for item in found
            if item["metadata"]["name"].startswith(prefixes)
            and "edgeward.dev/job" not in item["metadata"].get("labels", {})
        ]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name, path=path: api.delete(f"{path}/{name}"), names))
    until = time.monotonic() + 300
    while api.get(PODS_PATH)["items"] or api.get(DEPLOYMENTS_PATH)["items"]:
        if time.monotonic() > until:
            raise TimeoutError("the pods of the last part do not go")
        operator.revive()
        time.sleep(0.5)


# The figures ---------------------------------------------------------------------------------------------------------


def hot_and_bound(*, nodes: int, replicas: int, burst: int, rounds: int) -> dict[str, Any]:
    """Hot replicas by both, then the burst by both; in the same run on the same nodes."""
    rng = random.Random(1)
    figures: dict[str, Any] = {}
    with control_plane(nodes) as plane:
        api = plane.api
        names = sorted(item["metadata"]["name"] for item in api.get("/api/v1/nodes")["items"])
        # Three nodes of ten are nearly full with what no request shows; the others between idle and half full.
        base = {
            name: CORES * (rng.uniform(0.91, 0.99) if rng.random() < 0.3 else rng.uniform(0.02, 0.5)) for name in names
        }
        live = dict(base)
        shown = Figures(lambda: live)

        def hot() -> int:
            """Replicas on nodes above 90% live, of which a node that is cooler and has room was there for each."""
            placed = bound(api)
            counts = Counter(placed)
            use = {name: base[name] + USE * counts[name] for name in names}
            cooler = sum(max(0, int((0.9 * CORES - use[name]) / USE)) for name in names)
            above = sum(count for name, count in counts.items() if use[name] > 0.9 * CORES)
            return min(above, cooler)

        try:
            with Operator(plane, shown) as operator:
                time.sleep(15)
                operator.check()
                post_all(api, JOBS_PATH, [job(f"hot-{number:04d}") for number in range(replicas)])
                await_bound(api, replicas, operator)
                figures["hot_replicas_edgeward"] = hot()
                clear(api, operator)
                post_all(api, DEPLOYMENTS_PATH, [deployment(f"hot-{number:04d}") for number in range(replicas)])
                await_bound(api, replicas, operator)
                figures["hot_replicas_kube_scheduler"] = hot()
                clear(api, operator)

                taken = {"deployment": 0.0, "job": 0.0}
                tiny = {"cpu": "10m", "memory": "16Mi"}
                for _ in range(rounds):  # in turns, for a machine has better and worse minutes
                    for kind, path, make in (("deployment", DEPLOYMENTS_PATH, deployment), ("job", JOBS_PATH, job)):
                        time.sleep(5)
                        begun = time.perf_counter()
                        post_all(api, path, [make(f"burst-{number:04d}", tiny) for number in range(burst)])
                        taken[kind] += await_bound(api, burst, operator) - begun
                        clear(api, operator)
                rates = {kind: rounds * burst / seconds for kind, seconds in taken.items()}
                figures["operator_restarts"] = operator.restarts
        finally:
            shown.close()
    figures["bound_per_second_jobs"] = round(rates["job"], 1)
    figures["bound_per_second_deployments"] = round(rates["deployment"], 1)
    figures["bound_per_second_ratio"] = round(rates["job"] / rates["deployment"], 3)
    return figures


IMPATIENT = {"timing": {"dwell": 60, "evaluationInterval": 10}}
"""moves may come ten times sooner than by default, or ten minutes would show none"""


def moves(*, minutes: float, kill_every: float | None, nodes: int = 40, jobs: int = 20) -> dict[str, Any]:
    """Moves until half time, with nothing but noise, and in all, with half of the nodes in use overloaded since then.

    kill_every: seconds between two kill -9 of the leader, which is started again at once.
    """
    hot: set[str] = set()
    begun = time.monotonic()
    with control_plane(nodes) as plane:
        names = sorted(item["metadata"]["name"] for item in plane.api.get("/api/v1/nodes")["items"])
        rng = random.Random(2)
        shape = {name: (rng.uniform(0.15, 0.35), rng.uniform(20, 90), rng.uniform(0, 6.3)) for name in names}

        def cores() -> dict[str, float]:
            """A tenth of a node up and down within a minute or so, and as much again at random; an overloaded one wobbles
            as well: a figure that stays the very same is taken for frozen, and nothing moves by it."""
            now = time.monotonic() - begun
            return {
                name: CORES * 0.96 + random.gauss(0, 0.02)
                if name in hot
                else CORES * (level + 0.1 * math.sin(now / period + phase)) + random.gauss(0, 0.1)
                for name, (level, period, phase) in shape.items()
            }

        shown = Figures(lambda: {name: max(0.01, value) for name, value in cores().items()})
        kills = 0
        try:
            with Operator(plane, shown, IMPATIENT) as operator:
                time.sleep(15)
                operator.check()
                post_all(plane.api, JOBS_PATH, [job(f"calm-{number:02d}") for number in range(jobs)])
                await_bound(plane.api, jobs, operator)
                time.sleep(30)
                started, next_kill = time.monotonic(), time.monotonic() + (kill_every or 1e9)
                noisy = None
                while (passed := time.monotonic() - started) < 60 * minutes:
                    if noisy is None and passed > 30 * minutes:
                        noisy = counted(plane.api)
                        hot |= set(sorted(set(bound(plane.api)))[::2])
                    if time.monotonic() > next_kill:
                        operator.kill()
                        operator.start()
                        kills += 1
                        next_kill += kill_every or 1e9
                    operator.revive()
                    time.sleep(0.5)
                return {"noisy": noisy or 0, "all": counted(plane.api), "kills": kills}
        finally:
            shown.close()


def counted(api: Api) -> int:
    """Moves of all jobs in their present window, which is longer than the run."""
    return sum(int((item.get("status", {}).get("moves") or {}).get("count", 0)) for item in api.get(JOBS_PATH)["items"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--replicas", type=int, default=300)
    parser.add_argument("--burst", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3, help="of the burst, by either in turns")
    parser.add_argument("--minutes", type=float, default=8.0, help="of each of the two runs that count moves")
    parser.add_argument("--kill-every", type=float, default=20.0)
    parser.add_argument("--write", default="placement-live", help="results/NAME.json")
    parser.add_argument("--only", choices=PARTS, help="one part; the figures of the other stay as they are")
    asked = parser.parse_args()
    figures, notes = known(asked.write) if asked.only else ({}, {})
    if asked.only != "moves":
        hot_part(asked, figures, notes)
    if asked.only != "hot":
        moves_part(asked, figures, notes)
    path = report.write(asked.write, versions={}, figures=figures, notes=notes)
    print(path.read_text())
    return 0


def known(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Figures and notes of the run before."""
    path = report.RESULTS / f"{name}.json"
    content = json.loads(path.read_text()) if path.exists() else {"figures": {}, "notes": {}}
    return content["figures"], content["notes"]


def hot_part(asked: argparse.Namespace, figures: dict[str, Any], notes: dict[str, str]) -> None:
    print(f"hot replicas and a burst on {asked.nodes} nodes", flush=True)
    notes.pop("hot", None)
    size = {"nodes": asked.nodes, "replicas": asked.replicas, "burst": asked.burst, "rounds": asked.rounds}
    figures |= attempt(lambda: hot_and_bound(**size), notes, "hot")
    figures["load_average_hot"] = round(os.getloadavg()[1], 1)
    notes["hot_replicas_edgeward"] = (
        f"{asked.nodes} nodes, {asked.replicas} replicas; what Prometheus would say is served by the bench; "
        "3 nodes of 10 above 90% live without requests"
    )
    notes["bound_per_second_ratio"] = (
        f"{asked.burst} at once on {asked.nodes} nodes, post of the first to bind of the last, {asked.rounds} times in turns; "
        f"load average of the machine {figures['load_average_hot']:g}"
    )


def moves_part(asked: argparse.Namespace, figures: dict[str, Any], notes: dict[str, str]) -> None:
    runs: dict[str, dict[str, Any]] = {}
    for name, every in (("undisturbed", None), ("killed", asked.kill_every)):
        print(f"moves in {asked.minutes:g} minutes, {name}", flush=True)
        notes.pop(name, None)
        runs[name] = attempt(lambda every=every: moves(minutes=asked.minutes, kill_every=every), notes, name)
    calm, killed = runs["undisturbed"], runs["killed"]
    if calm:
        figures["moves_per_hour_noisy"] = round(calm["noisy"] * 120 / asked.minutes, 1)
        figures["moves_undisturbed"] = calm["all"]
    if killed:
        figures["moves_leader_killed"], figures["leader_kills"] = killed["all"], killed["kills"]
    both = bool(calm and killed and calm["all"])
    figures["moves_leader_killed_ratio"] = round(killed["all"] / calm["all"], 3) if both else None
    figures["load_average_moves"] = round(os.getloadavg()[1], 1)
    notes["moves_leader_killed_ratio"] = (
        f"{asked.minutes:g} minutes each, killed every {asked.kill_every:g} s; dwell 60 s and evaluations 10 s "
        "apart instead of 600 and 15, so that there is something to count; half of the nodes in use overloaded at half time"
    )
    notes["moves_per_hour_noisy"] = "the first half of the undisturbed run: noise of a tenth of a node, nothing else"


def attempt(measure: Callable[[], dict[str, Any]], notes: dict[str, str], name: str) -> dict[str, Any]:
    """What was measured; a part that fails is told and does not take the others with it."""
    try:
        return measure()
    except (TimeoutError, RuntimeError, ApiError, OSError, subprocess.SubprocessError) as error:
        notes[name] = f"not measured: {error}"
        print(notes[name], file=sys.stderr, flush=True)
        return {}


if __name__ == "__main__":
    sys.exit(main())
