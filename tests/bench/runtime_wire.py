"""What the encoding and the protocol cost: a picture as JSON and as binary, and gRPC beside REST."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from onnx import TensorProto, helper

from tests.bench.bench_runtime_tiny import bare_session_run_us, cost, cpu_us, free_ports, ours, request_bytes
from tests.bench.runtime_load import on_client_core
from tests.unit.runtime import onnx_models

SHAPE = [1, 3, 224, 224]


def picture_model() -> bytes:
    """x float32[1,3,224,224] -> y float32[1,3], the mean of each channel: hardly any time in the model."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])
    return onnx_models._model([helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)], [x], [y])


def picture_request(*, binary: bool) -> bytes:
    values = np.random.default_rng(1).random(SHAPE, np.float32)
    x: dict[str, Any] = {"name": "x", "shape": SHAPE, "datatype": "FP32"}
    tail = values.tobytes() if binary else b""
    if binary:
        x["parameters"] = {"binary_data_size": len(tail)}
    else:
        x["data"] = values.ravel().tolist()
    text = json.dumps({"inputs": [x]}, separators=(",", ":")).encode()
    head = f"POST /v2/models/picture/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(text + tail)}\r\n"
    if binary:
        head += f"Inference-Header-Content-Length: {len(text)}\r\n"
    return head.encode() + b"\r\n" + text + tail


def json_over_binary(folder: Path, *, requests: int, rounds: int) -> dict[str, Any]:
    model = onnx_models.write(folder / "picture.onnx", picture_model())
    with ours(model, folder) as (port, pid):
        found = {
            kind: cost(port, pid, picture_request(binary=kind == "binary"), warm=5, requests=requests, rounds=rounds)
            for kind in ("binary", "json")
        }
    return {
        "json_over_binary_224": round(found["json"].wall_us / found["binary"].wall_us, 1),
        "json_over_binary_224_cpu": round(found["json"].cpu_us / found["binary"].cpu_us, 1),
        "binary_224_ms": round(found["binary"].wall_us / 1000, 2),
        "json_224_ms": round(found["json"].wall_us / 1000, 2),
    }


def grpc_over_rest(folder: Path, *, requests: int, rounds: int) -> dict[str, Any]:
    """CPU of the server beyond session.run for the same row, by Triton's client over gRPC and in binary over REST."""
    model = onnx_models.write(folder / "tiny.onnx", onnx_models.mlp(batch=1))
    bare = bare_session_run_us(model)
    (grpc_port,) = free_ports(1)
    with ours(model, folder, EDGEWARD_GRPC_PORT=str(grpc_port)) as (port, pid):
        rest = cost(port, pid, request_bytes(model="tiny", binary=True), warm=500, requests=requests, rounds=rounds)
        with on_client_core():
            client = triton.InferenceServerClient(f"127.0.0.1:{grpc_port}")
            x = triton.InferInput("x", [1, 64], "FP32")
            x.set_data_from_numpy(np.ones((1, 64), np.float32))
            cpu: list[float] = []
            wall: list[float] = []
            for number in range(rounds + 1):
                before, start = cpu_us(pid), time.perf_counter()
                for _ in range(requests):
                    client.infer("tiny", [x])
                if number:  # the first warms
                    cpu.append((cpu_us(pid) - before) / requests)
                    wall.append((time.perf_counter() - start) * 1e6 / requests)
            client.close()
    return {
        "grpc_over_rest_cpu": round((statistics.median(cpu) - bare) / (rest.cpu_us - bare), 2),
        "cpu_us_request_grpc": round(statistics.median(cpu), 1),
        "wall_us_request_grpc": round(statistics.median(wall), 1),
    }
