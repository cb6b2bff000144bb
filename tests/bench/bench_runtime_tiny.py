"""What a request costs beyond the model, and what the server weighs; MLServer and KServe's Python server beside it.

CPU per request is measured from outside: the time that the scheduler says all threads of the server's processes ran (in
nanoseconds; utime and stime are counted in ticks) over the requests of one keep-alive client, the server pinned to one
core and the client to another. The model is a 64-32-10 MLP, float32[1,64]; what bare session.run
takes of it, in a loop in a process pinned the same way, is subtracted. Memory is PSS summed over processes.

    python -m tests.bench.bench_runtime_tiny            # prints the figures as JSON
    python -m tests.bench.bench_runtime_tiny --no-peers
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.unit.runtime import onnx_models

REPOSITORY = Path(__file__).parents[2]
SERVER_CORE, CLIENT_CORE = 0, 1
WARM, REQUESTS, ROUNDS = 1000, 20_000, 5
PEER_WARM, PEER_REQUESTS = 300, 2000


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("EDGEWARD_CACHE") or f"{base}/edgeward") / "bench"


# -- processes --------------------------------------------------------------------------------------------------------


def tree(pid: int) -> list[int]:
    """The process and all below it."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def cpu_us(pid: int) -> float:
    total = 0
    for one in tree(pid):
        for path in Path(f"/proc/{one}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(path.read_text().split()[0])
    return total / 1000


def pss_mb(pid: int) -> float:
    """MB are 10^6 bytes."""
    total = 0
    for one in tree(pid):
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return round(total * 1024 / 1e6, 1)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        ones = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in ones:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in ones]


@contextlib.contextmanager
def running(
    command: list[str], *, port: int, ready: str, log: Path, cwd: Path | None = None, **environment: str
) -> Iterator[int]:
    """A server pinned to its core, once `ready` answers 200; ended with all its processes."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(SERVER_CORE), *command],
            env={**os.environ, **environment}, cwd=cwd, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not _answers(port, ready):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"did not start: {log.read_text(errors='replace')[-400:]}")
            time.sleep(0.1)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(port: int, path: str) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as one:
        one.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return one.recv(64).startswith(b"HTTP/1.1 200")
    return False


# -- load -------------------------------------------------------------------------------------------------------------


def request_bytes(*, model: str, binary: bool, width: int = 64) -> bytes:
    values = [0.1 * (number % 7) for number in range(width)]
    x: dict[str, Any] = {"name": "x", "shape": [1, width], "datatype": "FP32"}
    extra, tail = b"", b""
    if binary:
        import numpy as np

        tail = np.array(values, "<f4").tobytes()
        document = {
            "inputs": [{**x, "parameters": {"binary_data_size": len(tail)}}],
            "parameters": {"binary_data_output": True},
        }
    else:
        document = {"inputs": [{**x, "data": values}]}
    text = json.dumps(document, separators=(",", ":")).encode()
    if binary:
        extra = b"Inference-Header-Content-Length: %d\r\n" % len(text)
    kind = b"application/octet-stream" if binary else b"application/json"
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: localhost\r\n".encode()
    return head + b"Content-Type: %b\r\n%bContent-Length: %d\r\n\r\n" % (kind, extra, len(text + tail)) + text + tail


def ask(one: socket.socket, request: bytes) -> None:
    """One request on a kept connection; anything but a whole 200 is an error."""
    one.sendall(request)
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(one)
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"{head[:200]!r} {body[:300]!r}")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    size = len(body)
    while size < length:
        size += len(_some(one))


def _some(one: socket.socket) -> bytes:
    data = one.recv(65536)
    if not data:
        raise RuntimeError("the server closed the connection")
    return data


@dataclass(frozen=True, kw_only=True)
class Cost:
    cpu_us: float  # of the server per request
    wall_us: float


def cost(port: int, pid: int, request: bytes, *, warm: int, requests: int, rounds: int) -> Cost:
    """Median over the rounds. Runs in the client's process, which pins itself to its core meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CLIENT_CORE})
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as one:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(warm):
                ask(one, request)
            cpu, wall = [], []
            for _ in range(rounds):
                cpu_before, start = cpu_us(pid), time.perf_counter()
                for _ in range(requests):
                    ask(one, request)
                wall.append((time.perf_counter() - start) * 1e6 / requests)
                cpu.append((cpu_us(pid) - cpu_before) / requests)
        return Cost(cpu_us=round(statistics.median(cpu), 1), wall_us=round(statistics.median(wall), 1))
    finally:
        os.sched_setaffinity(0, before)


BARE = """
import os, sys, time
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy as np, onnxruntime, statistics
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
x = np.ones((1, 64), np.float32)
rounds = []
for _ in range(7):
    start = time.process_time()
    for _ in range(10000):
        session.run(["y"], {"x": x})
    rounds.append((time.process_time() - start) / 10000 * 1e6)
print(statistics.median(rounds))
"""


ECHO = """
import asyncio, sys, uvloop
answer = b"HTTP/1.1 200 OK\\r\\ncontent-length: 280\\r\\n\\r\\n" + bytes(280)

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(answer)

async def main():
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()

asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main())
"""


def floor_us(folder: Path, *, requests: int) -> float:
    """CPU of a request at a server that does nothing but answer as many bytes: what the kernel and the event loop take of
    each. On a virtual machine this is often most of it."""
    (port,) = free_ports(1)
    with running([sys.executable, "-c", ECHO, str(port)], port=port, ready="/", log=folder / "echo.log") as pid:
        request = request_bytes(model="tiny", binary=True)
        return cost(port, pid, request, warm=WARM, requests=requests, rounds=3).cpu_us


def bare_session_run_us(model: Path) -> float:
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-c", BARE, str(model)]
    return round(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout), 2)


# -- ours -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def ours(model: Path, folder: Path, **settings: str) -> Iterator[tuple[int, int]]:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "edgeward_runtime.cli", str(model), "--host", "127.0.0.1", "--port", str(port)]
    path = str(REPOSITORY / "edge-runtime")
    with running(
        command,
        port=port,
        ready="/v2/health/ready",
        log=folder / "ours.log",
        PYTHONPATH=path,
        EDGEWARD_DRAIN_SECONDS="0",
        **settings,
    ) as pid:
        yield port, pid


def measure_ours(folder: Path, *, requests: int = REQUESTS) -> dict[str, Any]:
    tiny = onnx_models.write(folder / "tiny.onnx", onnx_models.mlp(batch=1))
    three = onnx_models.write(folder / "three.onnx", onnx_models.mlp((784, 900, 64, 10)))
    bare = bare_session_run_us(tiny)
    with ours(tiny, folder) as (port, pid):
        measured = cost(
            port, pid, request_bytes(model="tiny", binary=True), warm=WARM, requests=requests, rounds=ROUNDS
        )
    with ours(three, folder) as (port, pid):
        request = request_bytes(model="three", binary=True, width=784)
        cost(port, pid, request, warm=0, requests=500, rounds=1)
        _answers(port, "/metrics")
        pss = pss_mb(pid)
    return {
        "cpu_us_added_tiny": round(measured.cpu_us - bare, 1),
        "cpu_us_request_tiny": measured.cpu_us,
        "cpu_us_floor": floor_us(folder, requests=requests // 2),
        "wall_us_request_tiny": measured.wall_us,
        "cpu_us_session_run": bare,
        "pss_mb_runtime": pss,
        "model_bytes_for_pss": three.stat().st_size,
    }


# -- peers ------------------------------------------------------------------------------------------------------------


def environment(name: str) -> Path:
    """A virtual environment of its own in the cache, from requirements/bench-NAME.txt; its bin folder."""
    requirements = REPOSITORY / "requirements" / f"bench-{name}.txt"
    folder = cache() / f"{name}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "-q", "--python", "3.11", str(folder)], check=True, capture_output=True)
        python = str(folder / "bin" / "python")
        install = [uv, "pip", "install", "-q", "--python", python, "--require-hashes", "-r", str(requirements)]
        subprocess.run(install, check=True, capture_output=True)
        (folder / "complete").touch()
    return folder / "bin"


def version(bin_folder: Path, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run(
        [str(bin_folder / "python"), "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


MLSERVER_MODEL = """
import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Tiny(MLModel):
    async def load(self) -> bool:
        self._session = onnxruntime.InferenceSession(self.settings.parameters.uri, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32, copy=False)
        (y,) = self._session.run(["y"], {"x": x})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", y)])
"""

KSERVE_SERVER = """
import sys
import uuid

import onnxruntime
from kserve import InferOutput, InferResponse, Model, ModelServer


class Tiny(Model):
    def __init__(self) -> None:
        super().__init__("tiny")
        self.session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        (y,) = self.session.run(["y"], {"x": payload.inputs[0].as_numpy()})
        output = InferOutput(name="y", shape=list(y.shape), datatype="FP32")
        output.set_data_from_numpy(y, binary_data=True)
        return InferResponse(response_id=payload.id or str(uuid.uuid4()), model_name=self.name, infer_outputs=[output])


ModelServer(http_port=int(sys.argv[2]), enable_grpc=False).start([Tiny()])
"""


def measure_mlserver(folder: Path, model: Path, *, requests: int = PEER_REQUESTS) -> dict[str, Any]:
    bin_folder = environment("mlserver")
    home = folder / "mlserver"
    home.mkdir()
    http, grpc, metrics = free_ports(3)
    (home / "tiny_model.py").write_text(MLSERVER_MODEL)
    settings = {"debug": False, "host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    (home / "settings.json").write_text(json.dumps(settings))
    description = {"name": "tiny", "implementation": "tiny_model.Tiny", "parameters": {"uri": str(model)}}
    (home / "model-settings.json").write_text(json.dumps(description))
    command = [str(bin_folder / "mlserver"), "start", "."]
    with running(
        command, port=http, ready="/v2/models/tiny/ready", log=folder / "mlserver.log", cwd=home, PYTHONPATH=str(home),
        PATH=f"{bin_folder}:{os.environ['PATH']}",
    ) as pid:  # fmt: skip
        request = request_bytes(model="tiny", binary=False)
        measured = cost(http, pid, request, warm=PEER_WARM, requests=requests, rounds=3)
        pss = pss_mb(pid)
    return {
        "cpu_us_request": measured.cpu_us,
        "wall_us_request": measured.wall_us,
        "pss_mb": pss,
        "version": version(bin_folder, "mlserver"),
        "command": "mlserver start . (parallel_workers default 1, debug false)",
        "encoding": "JSON; it takes no binary tensors",
    }


def measure_kserve(folder: Path, model: Path, *, requests: int = PEER_REQUESTS) -> dict[str, Any]:
    bin_folder = environment("kserve")
    script = folder / "kserve_server.py"
    script.write_text(KSERVE_SERVER)
    (http,) = free_ports(1)
    command = [str(bin_folder / "python"), str(script), str(model), str(http)]
    with running(command, port=http, ready="/v2/models/tiny/ready", log=folder / "kserve.log") as pid:
        request = request_bytes(model="tiny", binary=True)
        measured = cost(http, pid, request, warm=PEER_WARM, requests=requests, rounds=3)
        pss = pss_mb(pid)
    return {
        "cpu_us_request": measured.cpu_us,
        "wall_us_request": measured.wall_us,
        "pss_mb": pss,
        "version": version(bin_folder, "kserve"),
        "command": "ModelServer(enable_grpc=False).start([model]), one worker",
        "encoding": "binary",
    }


def measure(*, peers: bool = True) -> dict[str, Any]:
    """The figures. A peer that could not be run is null, with the reason under `peers`."""
    with tempfile.TemporaryDirectory(prefix="edgeward-bench-") as name:
        folder = Path(name)
        result = measure_ours(folder)
        result["peers"] = {}
        for peer, run in (("mlserver", measure_mlserver), ("kserve", measure_kserve)) if peers else ():
            result[f"cpu_us_{peer}"] = None
            try:
                details = run(folder, folder / "tiny.onnx")
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                output = getattr(error, "stderr", None) or b""
                result["peers"][peer] = {"reason": f"{error} {output[-300:]!r}"[:800]}
                continue
            result[f"cpu_us_{peer}"] = round(details["cpu_us_request"] - result["cpu_us_session_run"], 1)
            result["peers"][peer] = details
        result["load_average"] = round(os.getloadavg()[0], 2)
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-peers", action="store_true", help="measure the runtime only")
    print(json.dumps(measure(peers=not parser.parse_args().no_peers), indent=2))


if __name__ == "__main__":
    main()
