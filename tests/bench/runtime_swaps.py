"""New versions under constant load: what fails, whose answers are whose, what the slowest requests notice, and whether
memory comes back."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from tests.bench.bench_runtime_tiny import REPOSITORY, free_ports, pss_mb, request_bytes, running
from tests.bench.runtime_load import Load, closed_loop, on_client_core
from tests.unit.runtime import onnx_models

SIZES = (784, 900, 64, 10)  # 3 MB
CLIENTS = 4
PERIOD = 0.5  # seconds between versions under load


class Job:
    """A server that follows a models.json, as in a pod; versions are the same network with other weights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.revision = 0
        (self.port,) = free_ports(1)
        (folder / "config").mkdir()
        self._values = json.loads(request_bytes(model="m", binary=False, width=SIZES[0]).partition(b"\r\n\r\n")[2])
        self.expected: dict[str, float] = {}  # the first output of each version for the one request that is asked

    @contextlib.contextmanager
    def serving(self) -> Iterator[int]:
        with running(
            [sys.executable, "-m", "edgeward_runtime.cli"],
            port=self.port,
            ready="/v2/health/live",
            log=self.folder / "server.log",
            PYTHONPATH=str(REPOSITORY / "edge-runtime"),
            EDGEWARD_CONFIG_DIR=str(self.folder / "config"),
            EDGEWARD_STORE=str(self.folder / "store"),
            EDGEWARD_HOST="127.0.0.1",
            EDGEWARD_PORT=str(self.port),
            EDGEWARD_DRAIN_SECONDS="0",
            EDGEWARD_POLL_SECONDS="0.05",
        ) as pid:
            yield pid

    def want(self, version: str) -> None:
        content = onnx_models.mlp(SIZES, seed=int(version))
        path = onnx_models.write(self.folder / f"{version}.onnx", content)
        x = np.array(self._values["inputs"][0]["data"], np.float32).reshape(1, -1)
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        self.expected[version] = float(session.run(None, {"x": x})[0][0][0])
        self.revision += 1
        entry = {"name": "m", "version": version, "digest": onnx_models.digest(content), "sources": [path.as_uri()]}
        document = {
            "contract": 1,
            "revision": self.revision,
            "job": {"namespace": "bench", "name": "m"},
            "models": [entry],
        }
        temporary = self.folder / "config" / ".new"
        temporary.write_text(json.dumps(document))
        temporary.rename(self.folder / "config" / "models.json")

    def serves(self, version: str) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(self._url("/edgeward/v1/status")) as page:
            models = json.load(page)["models"]
            return any(one["version"] == version and one["state"] == "Serving" for one in models)
        return False

    def wait(self, version: str) -> None:
        deadline = time.monotonic() + 30
        while not self.serves(version):
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"version {version} does not serve: {(self.folder / 'server.log').read_text()[-500:]}"
                )
            time.sleep(0.02)

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


def under_load(folder: Path, *, swaps: int, steady: float, say: Callable[[str], None]) -> dict[str, Any]:
    """swap_p99_ratio is the 99th percentile of the time with swaps over that without, in one run."""
    folder.mkdir()
    job = Job(folder)
    misrouted = 0

    def right(number: int, head: bytes, body: bytes) -> bool:
        nonlocal misrouted
        answer = json.loads(body)
        if abs(answer["outputs"][0]["data"][0] - job.expected[answer["model_version"]]) > 1e-3:
            misrouted += 1
        return True

    with job.serving(), on_client_core():
        job.want("1")
        job.wait("1")
        request = request_bytes(model="m", binary=False, width=SIZES[0])

        def load(seconds: float, until: Callable[[], bool] = lambda: False) -> Load:
            return closed_loop(
                job.port, lambda number: request, clients=CLIENTS, seconds=seconds, check=right, until=until
            )

        load(1)
        calm = load(steady)
        state = {"version": 1, "next": 0.0}

        def turn() -> bool:
            """Asks for the next version when the last one serves and its time has come; true after the last."""
            now = time.monotonic()
            if now < state["next"]:
                return False
            state["next"] = now + 0.1
            if not job.serves(str(int(state["version"]))):
                return False
            if state["version"] > swaps:
                return True
            state["version"] += 1
            job.want(str(int(state["version"])))
            state["next"] = now + PERIOD
            if state["version"] % 10 == 0:
                say(f"  swap {int(state['version'])} of {swaps}")
            return False

        moved = load(swaps * 10 * PERIOD, until=turn)
    return {
        "swaps": int(state["version"]) - 1,
        "swap_failed": calm.failed + moved.failed,
        "swap_misrouted": misrouted,
        "swap_p99_ratio": round(moved.quantile(0.99) / calm.quantile(0.99), 2),
        "swap_p99_ms": round(moved.quantile(0.99) * 1000, 2),
        "swap_steady_p99_ms": round(calm.quantile(0.99) * 1000, 2),
        "swap_slowest_ms": round(max(moved.latencies) * 1000, 1),
        "swap_requests": len(moved.latencies),
    }


def memory(folder: Path, *, swaps: int, say: Callable[[str], None]) -> dict[str, Any]:
    """PSS of a server with a 3 MB model before and after so many versions of it, one request each."""
    folder.mkdir()
    job = Job(folder)
    request = request_bytes(model="m", binary=False, width=SIZES[0])
    with job.serving() as pid:
        for number in range(1, swaps + 2):
            job.want(str(number))
            job.wait(str(number))
            closed_loop(job.port, lambda _: request, clients=1, seconds=0.01)
            if number == 1:
                time.sleep(1)
                before = pss_mb(pid)
            if number % 50 == 0:
                say(f"  version {number} of {swaps}: {pss_mb(pid)} MB")
        time.sleep(1)
        after = pss_mb(pid)
    return {
        "pss_mb_before_swaps": before,
        "pss_mb_after_swaps": after,
        f"pss_ratio_after_{swaps}_swaps": round(after / before, 3),
    }
