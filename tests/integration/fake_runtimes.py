"""Runtimes for simulated pods: each answers at an address of its own what the contract's status asks for, following the
job's ConfigMap as a real one does. What it counted is what a test says."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .operator_harness import Object, World

PORT = 8080
"""of every runtime; so each needs an address of its own"""
LATENCY = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
AGREEMENT = (0.0, 0.5, 0.9, 0.95, 0.99)
STARTED = "2027-01-01T00:00:00Z"


@dataclass
class Counts:
    """Of one digest in one runtime: requests of 20 ms, and copies of which some agree."""

    requests: int = 0
    errors: int = 0
    agreed: int = 0
    differed: int = 0

    def document(self) -> dict[str, Any]:
        answered = self.requests - self.errors
        counts = [answered if bound == 0.025 else 0 for bound in (*LATENCY, -1)]
        found: dict[str, Any] = {"requests": self.requests, "errors": self.errors}
        found["latency"] = {"bounds": list(LATENCY), "counts": counts, "sum": round(answered * 0.02, 6)}
        if self.agreed or self.differed:
            shares = {"bounds": list(AGREEMENT), "counts": [self.differed, 0, 0, 0, 0, self.agreed], "sum": self.agreed}
            copies = {"requests": self.agreed + self.differed, "agreed": self.agreed, "failed": 0, "dropped": 0}
            found["mirror"] = {**copies, "agreement": shares}
        return found


@dataclass
class FakeRuntime:
    """Serves at once whatever the ConfigMap says; `counts` by digest."""

    world: World
    namespace: str
    address: str
    counts: dict[str, Counts] = field(default_factory=dict)
    started: str = STARTED
    config: str = ""

    def __post_init__(self) -> None:
        runtime = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path != "/edgeward/v1/status":
                    self.send_error(404)
                    return
                body = json.dumps(runtime.status()).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer((self.address, PORT), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=lambda: self._server.serve_forever(poll_interval=0.05), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def of(self, digest: str) -> Counts:
        return self.counts.setdefault(digest, Counts())

    def status(self) -> dict[str, Any]:
        document = self._document()
        models = [
            {
                **{key: model[key] for key in ("name", "version", "digest")},
                "since": STARTED,
                **({"role": "Canary", "traffic": model.get("traffic", "0%")} if _beside(model) else {}),
                **self._state(model),
            }
            for model in document.get("models", [])
        ]
        return {"contract": 1, "revision": document.get("revision", 0), "started": self.started, "models": models}

    def _state(self, model: Mapping[str, Any]) -> dict[str, Any]:
        if model.get("role") == "Staged":
            return {"state": "Staged", "serving": False, "role": "Staged"}
        return {"state": "Serving", "serving": True, "counters": self.of(model["digest"]).document()}

    def _document(self) -> Mapping[str, Any]:
        found = self.world.api.get(f"/api/v1/namespaces/{self.namespace}/configmaps/{self.config}")
        document: Mapping[str, Any] = json.loads(found["data"]["models.json"])
        return document


def _beside(model: Mapping[str, Any]) -> bool:
    return model.get("role") == "Canary"


class FakeRuntimes:
    """One behind each pod of a job, by site."""

    def __init__(self, world: World, namespace: str) -> None:
        self._world = world
        self._namespace = namespace
        self._net = f"127.{random.SystemRandom().randrange(64, 250)}.{random.SystemRandom().randrange(1, 250)}"
        self.by_pod: dict[str, FakeRuntime] = {}

    def close(self) -> None:
        for runtime in self.by_pod.values():
            runtime.close()

    def attach(self, job: str) -> dict[str, FakeRuntime]:
        """Give every pod of the job that has none a runtime, and the pod its address. By name of the pod."""
        found = {}
        for pod in self._world.pods(self._namespace, job):
            name = pod["metadata"]["name"]
            if "deletionTimestamp" in pod["metadata"]:
                continue
            if name not in self.by_pod:
                address = f"{self._net}.{len(self.by_pod) + 1}"
                self.by_pod[name] = FakeRuntime(self._world, self._namespace, address, config=_config_of(pod))
                path = f"/api/v1/namespaces/{self._namespace}/pods/{name}/status"
                status = {"podIP": address, "podIPs": [{"ip": address}]}
                self._world.api.patch(path, {"status": status})
            found[name] = self.by_pod[name]
        return found

    def restart(self, pod: str, *, restarts: int) -> None:
        """Its container was started again, which a new process tells by its counters, too."""
        runtime = self.by_pod[pod]
        runtime.counts = {}
        runtime.started = f"2027-01-01T00:00:{restarts:02d}Z"
        path = f"/api/v1/namespaces/{self._namespace}/pods/{pod}"
        statuses = self._world.api.get(path)["status"]["containerStatuses"]
        changed = [{**item, "restartCount": restarts} for item in statuses]
        self._world.api.patch(f"{path}/status", {"status": {"containerStatuses": changed}})


def _config_of(pod: Object) -> str:
    """The ConfigMap that the pod mounts."""
    return next(str(volume["configMap"]["name"]) for volume in pod["spec"]["volumes"] if "configMap" in volume)
