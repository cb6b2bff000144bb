"""What batching while busy gains and costs: a 4 ms model against a bare loop of session.run at the same batch, and a
middling one with and without, under 16 clients and under one."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench.bench_runtime_tiny import SERVER_CORE, ours, request_bytes
from tests.bench.runtime_load import closed_loop, on_client_core
from tests.unit.runtime import onnx_models

CLIENTS = 16
ROUNDS = 5
MID = (784, 1024, 1024, 1024, 10)

BARE_ROWS = """
import os, sys, time
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
(one,) = session.get_inputs()
x = np.ones((int(sys.argv[2]), 2048), np.int32)
names = [output.name for output in session.get_outputs()]
session.run(names, {one.name: x})
runs, start = 0, time.perf_counter()
while time.perf_counter() - start < float(sys.argv[3]):
    session.run(names, {one.name: x})
    runs += 1
print(runs * len(x) / (time.perf_counter() - start))
"""


def stats(port: int, model: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/{model}/stats") as page:
        found: dict[str, Any] = json.load(page)["model_stats"][0]
        return found


def magika(folder: Path, model: Path, *, seconds: float) -> dict[str, Any]:
    """Rows a second of 16 clients with a row each, over what a loop of session.run makes at the mean batch of that run."""
    path = folder / "magika.onnx"
    path.write_bytes(model.read_bytes())
    row = bytes(range(256)) * 8
    document = {
        "inputs": [
            {"name": "bytes", "shape": [1, 2048], "datatype": "INT32", "parameters": {"binary_data_size": 4 * len(row)}}
        ],
        "parameters": {"binary_data_output": True},
    }
    text = json.dumps(document).encode()
    body = text + b"".join(byte.to_bytes(4, "little") for byte in row)
    head = (
        b"POST /v2/models/magika/infer HTTP/1.1\r\nHost: localhost\r\nInference-Header-Content-Length: %d\r\n"
        b"Content-Length: %d\r\n\r\n" % (len(text), len(body))
    )
    shares, served, alone, latencies = [], [], [], []
    with ours(path, folder) as (port, _pid), on_client_core():
        closed_loop(port, lambda number: head + body, clients=CLIENTS, seconds=1)
        for _ in range(ROUNDS):  # in turns: machines are not the same from minute to minute
            before = stats(port, "magika")
            load = closed_loop(port, lambda number: head + body, clients=CLIENTS, seconds=seconds / ROUNDS)
            after = stats(port, "magika")
            if load.failed:
                raise RuntimeError(f"{load.failed} of {len(load.latencies)} requests failed")
            rows = after["inference_count"] - before["inference_count"]
            batch = rows / (after["execution_count"] - before["execution_count"])
            command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-c", BARE_ROWS, str(path)]
            arguments = [str(round(batch)), str(seconds / ROUNDS)]
            bare = float(subprocess.run([*command, *arguments], capture_output=True, text=True, check=True).stdout)
            shares.append(load.rate / bare)
            served.append(load.rate)
            alone.append(bare)
            latencies += load.latencies
    latencies.sort()
    return {
        "throughput_share_magika": round(statistics.median(shares), 3),
        "magika_rows_per_s": round(statistics.median(served), 1),
        "magika_rows_per_s_bare": round(statistics.median(alone), 1),
        "magika_mean_batch": round(batch, 2),
        "magika_p50_ms": round(latencies[len(latencies) // 2] * 1000, 1),
        "magika_p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1000, 1),
    }


def mid(folder: Path, *, seconds: float, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Two servers of the same model, one that batches and one that does not, in turns on the same core."""
    model = onnx_models.write(folder / "mid.onnx", onnx_models.mlp(MID))
    request = request_bytes(model="mid", binary=True, width=MID[0])
    found: dict[tuple[bool, int], list[Any]] = {}
    with ExitStack() as stack:
        ports = {
            True: stack.enter_context(ours(model, folder))[0],
            False: stack.enter_context(ours(model, folder, EDGEWARD_BATCH_ROWS="1"))[0],
        }
        stack.enter_context(on_client_core())
        for number in range(rounds + 1):
            for clients in (CLIENTS, 1):
                for batching, port in ports.items():
                    load = closed_loop(port, lambda number: request, clients=clients, seconds=seconds)
                    if load.failed:
                        raise RuntimeError(f"{load.failed} requests failed")
                    if number:  # the first round warms
                        found.setdefault((batching, clients), []).append((load.rate, load.quantile(0.5)))
            say(f"  mid, round {number} of {rounds}")
        counted = stats(ports[True], "mid")

    def median(batching: bool, clients: int, which: int) -> float:
        return statistics.median(one[which] for one in found[batching, clients])

    return {
        "batching_gain_mid": round(median(True, CLIENTS, 0) / median(False, CLIENTS, 0), 2),
        "idle_added_ms": round((median(True, 1, 1) - median(False, 1, 1)) * 1000, 3),
        "mid_rows_per_s": round(median(True, CLIENTS, 0), 1),
        "mid_rows_per_s_alone": round(median(False, CLIENTS, 0), 1),
        "mid_p50_ms": round(median(True, CLIENTS, 1) * 1000, 2),
        "mid_p50_ms_alone": round(median(False, CLIENTS, 1) * 1000, 2),
        "mid_one_client_p50_ms": round(median(True, 1, 1) * 1000, 3),
        "mid_batch_sizes": {str(each["batch_size"]): each["compute_infer"]["count"] for each in counted["batch_stats"]},
    }
