"""What clients send stays out of the log: a canary on every way that a request can go wrong."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.integration.test_runtime_serving import LIMIT, Server, free_port, server
from tests.unit.runtime.onnx_models import identity, write

CANARY = "xanthocanary"
NUMBER = 81726354  # a value of a tensor, which onnxruntime quotes when it does not like it


def picks_by_index() -> bytes:
    """y = table[x]: an index beyond the table fails while it runs."""
    x = helper.make_tensor_value_info("x", TensorProto.INT64, [None])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])
    table = numpy_helper.from_array(np.ones(3, np.float32), "table")
    graph = helper.make_graph([helper.make_node("Gather", ["table", "x"], ["y"])], "graph", [x], [y], [table])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.fixture
def strings(tmp_path: Path) -> Iterator[Server]:
    path = write(tmp_path / "m.onnx", identity(TensorProto.STRING))
    with server(tmp_path, str(path), EDGEWARD_LOG_LEVEL="debug", EDGEWARD_MAX_JSON_BYTES="4096") as one:
        yield one


def said(one: Server) -> str:
    """The whole log once the server has ended."""
    one.stop()
    return (one.folder / "log").read_text()


def body(**changes: Any) -> bytes:
    tensor = {"name": "x", "shape": [1], "datatype": "BYTES", "data": [CANARY], **changes}
    return json.dumps({"id": CANARY, "parameters": {"note": CANARY}, "inputs": [tensor]}).encode()


def test_bodies_that_are_served_or_refused(strings: Server) -> None:
    infer, raw = "/v2/models/m/infer", CANARY.encode()
    length = {"Inference-Header-Content-Length": "10"}
    asked: list[tuple[str, str, bytes, dict[str, str], int]] = [
        ("POST", infer, body(), {}, 200),
        ("POST", infer, raw, {"Inference-Header-Content-Length": "0"}, 200),
        ("POST", infer, raw, {}, 400),
        ("POST", infer, b'{"' + raw, {}, 400),
        ("POST", infer, b'{"inputs": [' + b"[" * 2000 + raw, {}, 400),
        ("POST", infer, body(name=CANARY), {}, 400),
        ("POST", infer, body(datatype=CANARY), {}, 400),
        ("POST", infer, body(datatype="FP32"), {}, 400),
        ("POST", infer, body(shape=[CANARY]), {}, 400),
        ("POST", infer, body(shape=[2]), {}, 400),
        ("POST", infer, body(data=[[CANARY], CANARY]), {}, 400),
        ("POST", infer, body(data=CANARY), {}, 400),
        ("POST", infer, body(parameters={"binary_data_size": CANARY}), {}, 400),
        ("POST", infer, body(data=[CANARY * 1000]), {}, 413),
        ("POST", infer, b'{"inputs":' + raw, length, 400),
        ("POST", infer, raw, {"Inference-Header-Content-Length": CANARY}, 400),
        ("POST", infer, raw, {"Content-Encoding": "gzip"}, 400),
        ("POST", infer, gzip.compress(raw)[:-4], {"Content-Encoding": "gzip"}, 400),
        ("POST", infer, raw, {"Content-Encoding": CANARY}, 415),
        ("POST", infer, raw, {"Content-Type": "image/png"}, 415),
        ("POST", infer, raw, {"X-Other": CANARY, "Authorization": f"Bearer {CANARY}"}, 400),
        ("POST", f"/v2/models/{CANARY}/infer", body(), {}, 404),
        ("POST", f"/v2/repository/models/{CANARY}/load", raw, {}, 400),
        ("POST", "/v2/repository/index", raw, {}, 400),
        ("GET", f"/{CANARY}?{CANARY}", b"", {}, 404),
        ("PUT", infer, raw, {}, 405),
    ]
    for method, path, content, headers, status in asked:
        got = strings.request(method, path, content, headers)
        assert got[0] == status or (status >= 400 and 400 <= got[0] < 500), (method, path, content[:80], got)
    with socket.create_connection(("127.0.0.1", strings.port), timeout=LIMIT) as client:
        client.sendall(raw + b" / HTTP/9\r\n\r\n")
        assert b" 400 " in client.recv(4096)
    with socket.create_connection(("127.0.0.1", strings.port), timeout=LIMIT) as client:
        client.sendall(f"POST {infer} HTTP/1.1\r\nContent-Length: 500\r\n\r\n{CANARY}".encode())
    assert strings.request("GET", "/v2/health/live")[0] == 200
    log = said(strings)
    assert "serving" in log
    assert CANARY not in log.lower()


def test_values_that_a_run_does_not_like(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", picks_by_index())
    port = free_port()
    with server(tmp_path, str(path), EDGEWARD_LOG_LEVEL="debug", EDGEWARD_GRPC_PORT=str(port)) as one:
        document = {"inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "data": [NUMBER]}]}
        status, answer, _ = one.infer(document)
        assert status >= 400
        assert str(NUMBER) in answer["error"], "the client, whose value it is, is told"
        import tritonclient.grpc as triton

        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            tensor = triton.InferInput("x", [1], "INT64")
            tensor.set_data_from_numpy(np.array([NUMBER]))
            with pytest.raises(triton.InferenceServerException, match=str(NUMBER)):
                client.infer("m", [tensor], request_id=CANARY)
        metrics = one.get("/metrics")[1] + json.dumps(one.status())
        log = said(one)
        for text in (log, metrics):
            assert str(NUMBER) not in text and CANARY not in text
