"""Whether a fleet with sites that come and go ends on a new version: the real hub on a real API server, and agents cut
down to the Assignment contract, which fetch for a while and then say that they serve.

A site is one Node with a Lease. The sites that are away renew no Lease, read nothing and write nothing; others take their
place at random, so that a tenth is away all the time. What is counted as the registry's is the sites that fetch at once,
those that are away not among them.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.cluster import Binaries, ControlPlane, Progress
from tests.cluster.api import Api, ApiError
from tests.cluster.controlplane import free_port
from tests.cluster.simulated import node_object

from . import report

ROOT = Path(__file__).parents[2]
NAMESPACE, JOB, MODEL = "bench", "reader", "reader"
GROUP = "/apis/edgeward.dev/v1alpha1"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
ASSIGNMENTS = f"{GROUP}/namespaces/edgeward/assignments"
AWAY = 0.1
"""share of the sites"""
AWAY_SECONDS = (15.0, 120.0)
"""that a site is away, drawn evenly: some are back before anybody noticed"""
FETCH_SECONDS = (1.0, 4.0)
RENEW_SECONDS = 15.0
"""between two renewals of a Lease; a kubelet's are 10, the limit is 40"""
PACE = 25
"""spec.rollout.pace.concurrentDownloads"""
LIMIT = 900.0
"""seconds for one version"""
LAST = 240.0
"""of these, for those that come back last"""
WAVES = [
    {"name": "first", "sites": {"count": 5}},
    {"name": "half", "sites": {"percent": 50}},
    {"name": "all"},
]


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def digest_of(version: int) -> str:
    return f"sha256:{version:064x}"


@dataclass(slots=True)
class Site:
    name: str
    seen: dict[str, Any] | None = None
    """its Assignment, as far as it could read it"""
    disk: set[str] = field(default_factory=set)
    fetching: str = ""
    ready_at: float = 0.0
    back_at: float = 0.0
    """0: it is connected"""
    renew_at: float = 0.0
    told: str = ""
    """the status that it wrote last"""
    since: str = ""
    serves: str = ""
    writing: Future[None] | None = None


class Sites:
    """All agents of the fleet, in one loop."""

    def __init__(self, api: Api, *, count: int, seed: int) -> None:
        self._api = api
        self._random = random.Random(seed)
        self.sites = [Site(name=f"site-{number:03d}") for number in range(count)]
        self._by_name = {site.name: site for site in self.sites}
        self._latest: dict[str, dict[str, Any]] = {}
        self._pool = ThreadPoolExecutor(6)
        self.moving = False
        self.writes = 0
        self.peak = 0
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._watch, self._run)]

    def register(self) -> None:
        def create(site: Site) -> None:
            labels = {"edgeward.dev/tier": "edge", "edgeward.dev/site": site.name}
            node = node_object(site.name, labels=labels, cpu="4", memory="8Gi", pods=110, arch="amd64")
            self._api.post("/api/v1/nodes", node)
            self._lease(site, first=True)

        list(self._pool.map(create, self.sites))

    def __enter__(self) -> Sites:
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._threads[1].join()
        self._pool.shutdown(cancel_futures=True)

    @property
    def away(self) -> list[Site]:
        return [site for site in self.sites if site.back_at]

    def all_back(self) -> None:
        self.moving = False
        for site in self.sites:
            site.back_at = min(site.back_at, time.monotonic())

    # -- the API ----------------------------------------------------------------------------------------------------

    def _lease(self, site: Site, *, first: bool = False) -> None:
        micro = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": site.name, "leaseDurationSeconds": 40, "renewTime": micro}
        if first:
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": site.name},
                "spec": spec,
            }
            self._api.post(LEASES, body)
        else:
            self._api.patch(f"{LEASES}/{site.name}", {"spec": spec})

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                listed = self._api.get(ASSIGNMENTS)
                self._note(*listed["items"])
                version = listed["metadata"]["resourceVersion"]
                with self._api.stream(f"{ASSIGNMENTS}?watch=true&resourceVersion={version}") as stream:
                    for line in stream:
                        event = json.loads(line)
                        if event["type"] == "ERROR" or self._stop.is_set():
                            break
                        if event["type"] != "DELETED":
                            self._note(event["object"])
            except (ApiError, OSError) as error:
                self._stop.wait(1)
                if not self._stop.is_set():
                    self.failures.append(f"watch: {error}")

    def _note(self, *items: dict[str, Any]) -> None:
        self._latest |= {item["metadata"]["labels"]["edgeward.dev/site"]: item for item in items}

    def _write(self, site: Site, name: str, status: dict[str, Any]) -> None:
        body = {
            "apiVersion": "edgeward.dev/v1alpha1",
            "kind": "Assignment",
            "metadata": {"name": name},
            "status": status,
        }
        try:
            self._api.call(
                "PATCH",
                f"{ASSIGNMENTS}/{name}/status?fieldManager=edgeward-agent&force=true",
                body,
                kind="application/apply-patch+yaml",
            )
            self.writes += 1
        except (ApiError, OSError) as error:
            site.told = ""  # again
            self.failures.append(f"{name}: {error}"[:300])

    # -- the sites --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            at = time.monotonic()
            if self.moving:
                self._come_and_go(at)
            for site in self.sites:
                if site.back_at and at < site.back_at:
                    continue
                site.back_at = 0.0
                if at >= site.renew_at:
                    site.renew_at = at + RENEW_SECONDS * self._random.uniform(0.8, 1.0)
                    self._pool.submit(self._lease, site)
                if site.writing is None or site.writing.done():
                    self._step(site, at)
            self.peak = max(self.peak, sum(bool(site.fetching) and not site.back_at for site in self.sites))

    def _come_and_go(self, at: float) -> None:
        connected = [site for site in self.sites if not site.back_at]
        for _ in range(round(AWAY * len(self.sites)) - (len(self.sites) - len(connected))):
            site = self._random.choice(connected)
            connected.remove(site)
            site.back_at = at + self._random.uniform(*AWAY_SECONDS)

    def _step(self, site: Site, at: float) -> None:
        site.seen = raw = self._latest.get(site.name)
        if raw is None:
            return
        models = [
            model for model in raw["spec"].get("models") or [] if model.get("role", "Stable") in ("Stable", "Canary")
        ]
        if site.fetching and at >= site.ready_at:
            site.disk.add(site.fetching)
            site.fetching = ""
        wanted = [model["digest"] for model in models]
        if site.fetching not in wanted:
            site.fetching = ""
        lacking = [one for one in wanted if one not in site.disk]
        if lacking and not site.fetching:
            site.fetching, site.ready_at = lacking[0], at + self._random.uniform(*FETCH_SECONDS)
        stable = next((one["digest"] for one in models if one.get("role", "Stable") == "Stable"), "")
        if stable in site.disk and site.serves != stable:
            site.serves, site.since = stable, now()
        status = self._status(site, raw, models)
        text = json.dumps(status, sort_keys=True)
        if text != site.told:
            site.told = text
            site.writing = self._pool.submit(self._write, site, raw["metadata"]["name"], status)

    def _status(self, site: Site, raw: dict[str, Any], models: list[dict[str, Any]]) -> dict[str, Any]:
        said = []
        digests = [*(model["digest"] for model in models), *([site.serves] if site.serves else [])]
        for one in dict.fromkeys(digests):
            serving = one == site.serves
            entry = {"name": MODEL, "version": f"{int(one[7:], 16)}.0.0", "digest": one, "serving": serving}
            entry |= {"state": "Serving" if serving else "Fetching", "replicas": int(serving)}
            said.append({**entry, **({"since": site.since} if serving else {})})
        up = int(bool(site.serves))
        condition = {"type": "Applied", "status": "True", "reason": "Applied", "message": ""}
        return {
            "observedGeneration": raw["metadata"]["generation"],
            "appliedRevision": raw["spec"]["revision"],
            "replicas": 1,
            "readyReplicas": up,
            "nodes": [{"name": one["name"], "replicas": 1, "ready": up} for one in raw["spec"].get("nodes") or []],
            "models": said,
            "conditions": [{**condition, "lastTransitionTime": raw["metadata"]["creationTimestamp"]}],
        }


class Hub:
    """Begun again when it ends by itself, as a kubelet would: a machine that is busy with other things costs it its Lease."""

    def __init__(self, plane: ControlPlane) -> None:
        self._port = free_port()
        config = plane.directory / "hub.json"
        config.write_text(json.dumps({"port": self._port, "metrics": {"fallback": False}}))
        command = [sys.executable, "-m", "tests.bench.hub_alone", f"--config={config}"]
        self._command = [*command, f"--kubeconfig={plane.kubeconfig}"]
        self.log = plane.directory / "hub.log"
        self.restarts = -1
        self._ended = self._last = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _keep(self) -> None:
        with self.log.open("ab") as log:
            while not self._stop.is_set():
                self.restarts += 1
                process = subprocess.Popen(self._command, stdout=log, stderr=log)
                while process.poll() is None and not self._stop.wait(2):
                    self.writes()
                if process.poll() is None:
                    process.terminate()
                    process.wait(20)
                self._ended, self._last = self._ended + self._last, 0

    def writes(self) -> int:
        """Of all kinds but its own Lease, by all its processes."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
        except OSError:
            return self._ended + self._last
        found = re.findall(r'edgeward_api_writes_total\{kind="([^"]*)",verb="[^"]*"\} ([0-9.e+]+)', text)
        self._last = sum(round(float(count)) for kind, count in found if kind != "Lease")
        return self._ended + self._last


@contextmanager
def fleet(count: int, seed: int) -> Iterator[tuple[ControlPlane, Sites, Hub]]:
    binaries = Binaries(say=Progress())
    binaries.ensure("control-plane")
    folder = Path(tempfile.mkdtemp(prefix="edgeward-bench-"))
    try:
        with ControlPlane(folder, binaries=binaries, name="bench") as plane:
            plane.kubectl("apply", "-f", str(ROOT / "crds"))
            plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(ROOT / "crds"))
            plane.apply(
                *(
                    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": one}}
                    for one in ("edgeward", NAMESPACE)
                )
            )
            with Sites(plane.api, count=count, seed=seed) as sites:
                sites.register()
                with Hub(plane) as hub:
                    try:
                        yield plane, sites, hub
                    except BaseException:
                        print(hub.log.read_text()[-3000:], file=sys.stderr)
                        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def release(api: Api, version: int) -> None:
    rollout = {
        "waves": WAVES,
        "maxUnavailableSites": "20%",
        "pace": {"concurrentDownloads": PACE},
    }
    artifact = {"uri": "oci://registry.example/reader", "digest": digest_of(version)}
    spec = {"version": f"{version}.0.0", "artifact": artifact, "rollout": rollout}
    _apply(api, "modelreleases", "ModelRelease", MODEL, spec)


def _apply(api: Api, plural: str, kind: str, name: str, spec: dict[str, Any]) -> None:
    body = {"apiVersion": "edgeward.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    api.apply(f"{GROUP}/namespaces/{NAMESPACE}/{plural}/{name}", body)


def until(check: Any, seconds: float, what: str) -> float:
    begun = time.monotonic()
    while not check():
        if time.monotonic() - begun > seconds:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.5)
    return time.monotonic() - begun


def on(sites: Sites, version: int) -> int:
    return sum(site.serves == digest_of(version) for site in sites.sites)


def measure(*, count: int = 500, seeds: int = 20, seed: int = 1) -> dict[str, Any]:
    """One version after the other to the same fleet, with other sites away each time."""
    rounds: list[dict[str, Any]] = []
    with fleet(count, seed) as (plane, sites, hub):
        release(plane.api, 1)
        spec = {"model": {"name": MODEL}, "replicas": 1, "replicaScope": "PerSite", "placement": {"tiers": ["edge"]}}
        spec["resources"] = {"requests": {"cpu": "100m", "memory": "64Mi"}}
        _apply(plane.api, "inferencejobs", "InferenceJob", JOB, spec)
        until(lambda: on(sites, 1) == count, LIMIT, "the first version serves everywhere")
        print(f"version 1 at {count} sites", flush=True)
        sites.moving = True
        time.sleep(60)  # until those that are away are known to be
        for version in range(2, seeds + 2):
            sites.peak = 0
            before = sites.writes + hub.writes()
            release(plane.api, version)
            begun, most = time.monotonic(), count - round(AWAY * count)
            try:
                until(lambda version=version, most=most: on(sites, version) >= most, LIMIT, f"version {version}")
            except TimeoutError as error:
                print(error, flush=True)
            near = time.monotonic() - begun
            sites.all_back()
            try:
                until(lambda version=version: on(sites, version) == count, LAST, f"version {version} at the last")
            except TimeoutError as error:
                print(error, flush=True)
            one = {
                "seconds": round(time.monotonic() - begun, 1),
                "seconds_to_all_but_those_away": round(near, 1),
                "lost": count - on(sites, version),
                "peak": sites.peak,
                "writes": sites.writes + hub.writes() - before,
            }
            rounds.append(one)
            print(version, one, flush=True)
            sites.moving = True
            time.sleep(45)
        failures, restarts = sites.failures, hub.restarts
    return {
        "converge_sites": count,
        "converge_rounds": len(rounds),
        "converge_lost": sum(one["lost"] for one in rounds),
        "registry_peak_concurrency": round(max(one["peak"] for one in rounds) / PACE, 3),
        "api_writes_per_site": round(sum(one["writes"] for one in rounds) / len(rounds) / count, 2),
        "converge_s": [one["seconds"] for one in rounds],
        "converge_connected_s": [one["seconds_to_all_but_those_away"] for one in rounds],
        "converge_write_failures": len(failures),
        "converge_hub_restarts": restarts,
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sites", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=20)
    asked = parser.parse_args()
    path = report.merge("release", versions={}, figures=measure(count=asked.sites, seeds=asked.seeds))
    print(path.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
