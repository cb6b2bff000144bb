"""What watching drift, and capture, cost of a request's CPU: a real server under one keep-alive client, pinned as in
bench_runtime_tiny. Three servers of the same model: without, with a drift reference in its artifact, with capture.

The thread that learns says how much CPU it took; what the event loop spends on handing over is timed apart, since it is
less than what two runs of a server differ by.

    python -m tests.bench.runtime_drift         # prints the figures as JSON
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import orjson

from edgeward_runtime.artifact import reference as file
from edgeward_runtime.call import Call
from edgeward_runtime.drift.histogram import Histogram, quantile_bins
from edgeward_runtime.drift.reference import Key, sketch
from edgeward_runtime.learning import Learning
from edgeward_runtime.model import load
from tests.bench.bench_runtime_tiny import REPOSITORY, Cost, cost, free_ports, request_bytes, running
from tests.unit.runtime import onnx_models

MODELS = {"tiny": (64, 32, 10), "mid": (784, 1024, 1024, 1024, 10)}
REQUESTS = {"tiny": 8_000, "mid": 2_000}
ROUNDS = 2
CAPTURE = {
    "redaction": "Features",
    "rules": [{"when": "LowConfidence", "every": 100, "priority": 1}, {"when": "Always", "every": 1000}],
    "maxBytes": 2**26,
}


def artifact(folder: Path, widths: tuple[int, ...]) -> Path:
    """model.onnx and a reference.json of inputs, outputs and, where there is one, confidence."""
    folder.mkdir()
    onnx_models.write(folder / "model.onnx", onnx_models.mlp(widths, batch=1))
    random = np.random.default_rng(1)
    histograms = {}
    for of, name, width in (("Input", "x", widths[0]), ("Output", "y", widths[-1])):
        values = random.normal(size=(2000, width))
        pooled = width > 64
        values = values.reshape(-1, 1) if pooled else values
        key = Key(of, name, () if pooled else tuple(range(width)))
        histograms[key] = Histogram(quantile_bins(values, bins=10))
        histograms[key].add(values, rows=2000)
    (folder / "reference.json").write_bytes(orjson.dumps(file.document(sketch(histograms))))
    return folder


def served(arguments: list[str], name: str, log: Path, **settings: str) -> tuple[Cost, float, float]:
    """CPU of a request, the share of the process's CPU that the learning thread took, and requests a look."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "edgeward_runtime.cli", *arguments]
    with running(
        command, port=port, ready="/v2/health/ready", log=log, PYTHONPATH=str(REPOSITORY / "edge-runtime"),
        EDGEWARD_HOST="127.0.0.1", EDGEWARD_PORT=str(port), EDGEWARD_DRAIN_SECONDS="0", **settings,
    ) as pid:  # fmt: skip
        request = request_bytes(model="model", binary=True, width=MODELS[name][0])
        cost(port, pid, request, warm=0, requests=REQUESTS[name], rounds=1)
        before = figures(port)
        measured = cost(port, pid, request, warm=0, requests=REQUESTS[name], rounds=ROUNDS)
        after = figures(port)
    spent, process, looks = (b - a for a, b in zip(before, after, strict=True))
    return measured, spent / process, ROUNDS * REQUESTS[name] / max(looks, 1)


def figures(port: int) -> tuple[float, float, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        text = page.read().decode()
    names = ("edgeward_learning_cpu_seconds_total", "process_cpu_seconds_total", "edgeward_drift_samples_total")
    first, second, third = (float(re.search(rf"^{name} (\S+)$", text, re.M)[1]) for name in names)  # type: ignore[index]
    return first, second, third


def hand_over_us(folder: Path, *, calls: int = 200_000) -> float:
    """Of the event loop, for a request that is let pass: all but one in some dozens are."""
    loop = asyncio.new_event_loop()
    engine = Mock(spec=["learning"])
    model = load(folder / "model.onnx", name="model", version="1", digest="d", threads=1)
    learning = Learning(engine=engine, loop=loop, models=lambda: [(model, "Serving")], root=folder)
    learning.prepare(model)
    tap = model.tap
    assert tap is not None
    call = Call(model)
    tap.left, tap.due_ns = calls * 10, 2**62
    best = float("inf")
    for _ in range(5):
        start = time.process_time_ns()
        for _ in range(calls):
            learning.answered(call)
        with_it = time.process_time_ns() - start
        start = time.process_time_ns()
        for _ in range(calls):
            pass
        best = min(best, (with_it - (time.process_time_ns() - start)) / calls / 1000)
    loop.close()
    return best


def measure(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, widths in MODELS.items():
        source = artifact(folder / name, widths)
        plain = onnx_models.write(folder / f"{name}-model.onnx", (source / "model.onnx").read_bytes())
        log = folder / "log"
        off, _, _ = served([str(plain), "--name", "model"], name, log)
        drift, share, every = served([str(source), "--name", "model"], name, log)
        config = folder / f"{name}-config"
        config.mkdir()
        entry = {
            "name": "model", "version": "1", "digest": onnx_models.digest(plain.read_bytes()), "sources": [plain.as_uri()],
        }  # fmt: skip
        document = {"contract": 1, "revision": 1, "job": {"namespace": "a", "name": "b"}, "models": [entry]}
        (config / "models.json").write_text(json.dumps({**document, "capture": CAPTURE}))
        settings = {"EDGEWARD_CONFIG_DIR": str(config), "EDGEWARD_STORE": str(folder / f"{name}-store")}
        capture, capture_share, _ = served([], name, log, **settings)
        hook = hand_over_us(source)
        result[name] = {
            "cpu_us_request_off": off.cpu_us,
            "cpu_us_request_drift": drift.cpu_us,
            "cpu_us_request_capture": capture.cpu_us,
            "drift_thread_share": round(share, 4),
            "drift_hand_over_us": round(hook, 3),
            "drift_share": round(share + hook / off.cpu_us, 4),
            "drift_one_request_in": round(every, 1),
            "capture_thread_share": round(capture_share, 4),
        }
    return result


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder)), indent=1))


if __name__ == "__main__":
    main()
