"""The gRPC port beside its protocol: overload, deadlines, the way a server ends, and that it costs nothing when off.
What clients may say and are answered is in conformance/test_grpc.py."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc

from tests.cluster.paths import REPOSITORY
from tests.integration.test_runtime_serving import LIMIT, Server, free_port, server
from tests.unit.runtime import onnx_models


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "slow.onnx"
    return onnx_models.write(path, onnx_models.as_long_as_asked())


class Rpc:
    def __init__(self, port: int) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def infer(self, work: int = 0, **options: Any) -> Any:
        x = messages.ModelInferRequest.InferInputTensor(name="x", datatype="INT64", shape=[1, 1])
        x.contents.int64_contents.append(work)
        request = messages.ModelInferRequest(model_name="slow", inputs=[x])
        return self.stub.ModelInfer(request, **{"timeout": LIMIT, "wait_for_ready": True, **options})


@pytest.fixture
def running(slow: Path, tmp_path: Path) -> Iterator[tuple[Server, Rpc]]:
    port = free_port()
    with server(tmp_path, str(slow), EDGEWARD_GRPC_PORT=str(port), EDGEWARD_QUEUE="1", EDGEWARD_THREADS="1") as one:
        one.until(lambda: one.get("/v2/health/ready")[0] == 200)
        rpc = Rpc(port)
        yield one, rpc
        rpc.channel.close()


def pending(one: Server) -> float:
    _status, text = one.get("/metrics")
    return float(next(line for line in text.splitlines() if line.startswith("edgeward_queue_length")).split()[1])


LONG = 1000  # products: a second, more or less


def test_a_full_queue_is_resource_exhausted_and_a_drain_lets_calls_finish(running):
    one, rpc = running
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(rpc.infer, LONG)
        one.until(lambda: pending(one) == 1)
        with pytest.raises(grpc.RpcError) as caught:
            rpc.infer()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "queue is full" in caught.value.details()
        one.process.send_signal(signal.SIGTERM)
        assert first.result().outputs[0].shape == [1, 1]
    assert one.process.wait(LIMIT) == 0


def test_a_call_whose_deadline_passes_is_not_run(slow, tmp_path):
    port = free_port()
    with server(tmp_path, str(slow), EDGEWARD_GRPC_PORT=str(port), EDGEWARD_THREADS="1") as one:
        rpc = Rpc(port)
        one.until(lambda: one.get("/v2/health/ready")[0] == 200)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(rpc.infer, LONG)
            one.until(lambda: pending(one) == 1)
            with pytest.raises(grpc.RpcError) as caught:
                rpc.infer(timeout=0.02)
            assert caught.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)
            assert first.result().outputs
        (stats,) = rpc.stub.ModelStatistics(messages.ModelStatisticsRequest(name="slow"), timeout=LIMIT).model_stats
        assert stats.execution_count == 1
        rpc.channel.close()


def test_calls_that_outlast_the_grace_are_cut_off_and_the_process_ends(slow, tmp_path):
    port = free_port()
    settings = {"EDGEWARD_GRACE_SECONDS": "1", "EDGEWARD_DRAIN_SECONDS": "0"}
    with server(tmp_path, str(slow), EDGEWARD_GRPC_PORT=str(port), EDGEWARD_THREADS="1", **settings) as one:
        rpc = Rpc(port)
        one.until(lambda: one.get("/v2/health/ready")[0] == 200)
        answered: list[Any] = []
        calls = [threading.Thread(target=lambda: answered.append(outcome(rpc))) for _ in range(6)]
        for call in calls:
            call.start()
        one.until(lambda: pending(one) == 6)
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(LIMIT) == 0
        for call in calls:
            call.join(LIMIT)
        assert len(answered) == 6
        rpc.channel.close()


def outcome(rpc: Rpc) -> Any:
    try:
        return rpc.infer(8 * LONG)
    except grpc.RpcError as failure:
        return failure.code()


def test_a_port_that_is_taken_ends_the_start(slow, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "edgeward_runtime.cli", str(slow), "--host", "127.0.0.1"]
        done = subprocess.run(
            [*command, "--port", str(free_port()), "--grpc-port", str(port)],
            env={"PYTHONPATH": str(REPOSITORY / "edge-runtime")}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 1 and "cannot listen" in done.stderr


def test_without_a_port_nothing_of_grpc_is_loaded(slow, tmp_path):
    with server(tmp_path, str(slow)) as one:
        one.until(lambda: one.get("/v2/health/ready")[0] == 200)
        mapped = Path(f"/proc/{one.process.pid}/maps").read_text()
    assert "onnxruntime" in mapped and "cygrpc" not in mapped
