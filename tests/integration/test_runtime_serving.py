"""The real server as a process, real ONNX models, real HTTP: the protocol's basics, swaps under load, bad versions, restarts."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from onnx import TensorProto

from tests.runtime_artifacts import external, golden_of
from tests.unit.runtime import onnx_models
from tests.unit.runtime.http_source import Source, serving
from tests.unit.runtime.onnx_models import constant_times, digest
from tests.unit.runtime.signing import pair

REPOSITORY = Path(__file__).parents[2]
STATUS = jsonschema.Draft202012Validator(
    json.loads((REPOSITORY / "edge-runtime" / "contract" / "status.schema.json").read_text())
)
LIMIT = 20.0  # seconds for anything to happen on a busy machine


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Server:
    """One edgeward-serve process. The folder holds its config and its store, so that another one can take over from it."""

    def __init__(
        self, folder: Path, *arguments: str, port: int = 0, launcher: Sequence[str] = (), **settings: str
    ) -> None:
        self.folder = folder
        self.host = settings.get("EDGEWARD_HOST", "127.0.0.1")
        self.port = port or free_port()
        (folder / "config").mkdir(exist_ok=True)
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("EDGEWARD_")},
            "PYTHONPATH": str(REPOSITORY / "edge-runtime"),
            "EDGEWARD_CONFIG_DIR": str(folder / "config"),
            "EDGEWARD_STORE": str(folder / "store"),
            "EDGEWARD_HOST": "127.0.0.1",
            "EDGEWARD_PORT": str(self.port),
            "EDGEWARD_POLL_SECONDS": "0.05",
            "EDGEWARD_DRAIN_SECONDS": "0.2",
            **settings,
        }
        self.log = (folder / "log").open("ab")
        command = [*launcher, sys.executable, "-m", "edgeward_runtime.cli", *arguments]
        self.process = subprocess.Popen(command, env=environment, stderr=self.log)
        self.until(lambda: self.get("/v2/health/live")[0] == 200)

    def until(self, condition: Callable[[], Any], limit: float = LIMIT) -> Any:
        deadline = time.monotonic() + limit
        while True:
            with contextlib.suppress(OSError):
                if result := condition():
                    return result
            assert self.process.poll() is None, f"the server ended: {self.lines()[-3:]}"
            assert time.monotonic() < deadline, f"not within {limit} s: {self.lines()[-3:]}"
            time.sleep(0.02)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]

    def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=LIMIT)
        try:
            connection.request(method, path, body or None, headers or {})
            answer = connection.getresponse()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> tuple[int, Any]:
        status, headers, body = self.request("GET", path)
        return status, json.loads(body) if headers["content-type"] == "application/json" else body.decode()

    def infer(
        self, document: Any, *, name: str = "m", tail: bytes = b"", path: str | None = None
    ) -> tuple[int, Any, bytes]:
        """Status, the JSON of the answer, and the bytes after it. With `tail` it is a binary request."""
        text = document if isinstance(document, bytes) else json.dumps(document).encode()
        headers = {"Inference-Header-Content-Length": str(len(text))} if tail else {}
        status, answered, body = self.request("POST", path or f"/v2/models/{name}/infer", text + tail, headers)
        length = int(answered.get("inference-header-content-length", len(body)))
        assert (answered["content-type"] == "application/octet-stream") == (
            length < len(body) or "inference-header-content-length" in answered
        )
        return status, json.loads(body[:length]), body[length:]

    def want(self, *models: dict[str, Any], revision: int = 1, contract: int = 1, **more: Any) -> None:
        """Writes the config as a kubelet does, by rename."""
        document = {
            "contract": contract,
            "revision": revision,
            "job": {"namespace": "shop", "name": "reader"},
            "models": models,
            **more,
        }
        temporary = self.folder / "config" / ".new"
        temporary.write_text(json.dumps(document))
        temporary.rename(self.folder / "config" / "models.json")

    def status(self) -> dict[str, Any]:
        status, document = self.get("/edgeward/v1/status")
        assert status == 200
        STATUS.validate(document)
        return document

    def model(self, version: str) -> dict[str, Any] | None:
        return next((model for model in self.status()["models"] if model["version"] == version), None)

    def serves(self, version: str) -> bool:
        model = self.model(version)
        return model is not None and model["state"] == "Serving"

    def refused(self, version: str) -> dict[str, Any] | None:
        model = self.model(version)
        return model.get("refused") if model else None

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(LIMIT)
        self.log.close()
        return code


@contextlib.contextmanager
def server(
    folder: Path, *arguments: str, port: int = 0, launcher: Sequence[str] = (), **settings: str
) -> Iterator[Server]:
    one = Server(folder, *arguments, port=port, launcher=launcher, **settings)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            one.stop(signal.SIGKILL)


@pytest.fixture
def source() -> Iterator[Source]:
    with serving() as one:
        yield one


def entry(version: str, content: bytes, *sources: str, **fields: Any) -> dict[str, Any]:
    return {"name": "m", "version": version, "digest": digest(content), "sources": list(sources), **fields}


def publish(source: Source, version: str, content: bytes, **fields: Any) -> dict[str, Any]:
    source.files[f"/{version}.onnx"] = content
    return entry(version, content, source.url(f"/{version}.onnx"), **fields)


def row(*values: float) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": list(values)}]}


# -- the protocol -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("simple")
    path = onnx_models.write(folder / "simple.onnx", onnx_models.sum_and_difference())
    with server(folder, str(path), EDGEWARD_MAX_BODY_BYTES="100000") as one:
        yield one


def int32(name: str, values: Any, **fields: Any) -> dict[str, Any]:
    return {"name": name, "datatype": "INT32", "shape": [1, 16], "data": list(values), **fields}


BOTH = {"inputs": [int32("INPUT0", range(16)), int32("INPUT1", [1] * 16)]}


def test_health_and_metadata(simple):
    assert simple.get("/v2/health/live") == (200, {"live": True})
    assert simple.get("/v2/health/ready") == (200, {"ready": True, "live": True})
    status, document = simple.get("/v2")
    assert status == 200 and document["name"] == "edgeward" and "binary_tensor_data" in document["extensions"]
    assert simple.get("/v2/models") == (200, {"models": ["simple"]})
    for path in ("/v2/models/simple", "/v2/models/simple/versions/1", "/v2/models/simple?verbose=1"):
        status, document = simple.get(path)
        assert status == 200 and (document["name"], document["versions"], document["platform"]) == (
            "simple",
            ["1"],
            "onnx_onnxv1",
        )
        assert {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in document["inputs"]} == {
            "INPUT0": ("INT32", [1, 16]),
            "INPUT1": ("INT32", [1, 16]),
        }
    for path in ("/v2/models/simple/ready", "/v2/models/simple/versions/1/ready"):
        assert simple.get(path) == (200, {"name": "simple", "ready": True})


def test_json_in_and_out(simple):
    for path in ("/v2/models/simple/infer", "/v2/models/simple/versions/1/infer"):
        status, document, rest = simple.infer({**BOTH, "id": "42"}, path=path)
        assert status == 200 and rest == b""
        assert (document["model_name"], document["model_version"], document["id"]) == ("simple", "1", "42")
        outputs = {output["name"]: output["data"] for output in document["outputs"]}
        assert outputs == {"OUTPUT0": list(range(1, 17)), "OUTPUT1": list(range(-1, 15))}


def test_binary_in_and_out(simple):
    first, second = np.arange(16, dtype="<i4"), np.full(16, 2, "<i4")
    inputs = [
        {"name": name, "datatype": "INT32", "shape": [1, 16], "parameters": {"binary_data_size": 64}}
        for name in ("INPUT0", "INPUT1")
    ]
    document = {"inputs": inputs, "outputs": [{"name": "OUTPUT1", "parameters": {"binary_data": True}}]}
    status, answer, rest = simple.infer(document, name="simple", tail=first.tobytes() + second.tobytes())
    assert status == 200 and answer["id"]
    assert answer["outputs"] == [
        {"name": "OUTPUT1", "datatype": "INT32", "shape": [1, 16], "parameters": {"binary_data_size": 64}}
    ]
    assert np.frombuffer(rest, "<i4").tolist() == (first - second).tolist()


def test_one_input_binary_the_other_json_and_outputs_mixed(simple):
    document = {
        "inputs": [
            int32("INPUT1", [5] * 16),
            {"name": "INPUT0", "datatype": "INT32", "shape": [1, 16], "parameters": {"binary_data_size": 64}},
        ],
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": False}}, {"name": "OUTPUT1"}],
    }
    status, answer, rest = simple.infer(document, name="simple", tail=np.zeros(16, "<i4").tobytes())
    assert status == 200 and answer["outputs"][0]["data"] == [5] * 16
    assert np.frombuffer(rest, "<i4").tolist() == [-5] * 16


BAD = [
    (b"", {}, 400, "JSON"),
    (b"{", {}, 400, "JSON"),
    (b'{"inputs":' + b"[" * 5000, {}, 400, "depth"),
    (BOTH["inputs"], {}, 400, "JSON object"),
    ({"inputs": [BOTH["inputs"][0]]}, {}, 400, "missing inputs ['INPUT1']"),
    ({"inputs": [int32("INPUT9", range(16)), BOTH["inputs"][1]]}, {}, 400, "unexpected input 'INPUT9'"),
    ({"inputs": [int32("INPUT0", range(16), datatype="FP32"), BOTH["inputs"][1]]}, {}, 400, "takes INT32"),
    ({"inputs": [int32("INPUT0", range(16), shape=[16]), BOTH["inputs"][1]]}, {}, 400, "takes [1, 16]"),
    ({"inputs": [int32("INPUT0", range(16), shape=[1, -16]), BOTH["inputs"][1]]}, {}, 400, "non-negative"),
    ({"inputs": [int32("INPUT0", range(15)), BOTH["inputs"][1]]}, {}, 400, "needs 16"),
    ({"inputs": [int32("INPUT0", ["a"] * 16), BOTH["inputs"][1]]}, {}, 400, "does not hold INT32"),
    (BOTH, {"Inference-Header-Content-Length": "99999"}, 400, "Inference-Header-Content-Length"),
    (BOTH, {"Inference-Header-Content-Length": "-1"}, 400, "not a number"),
    (BOTH, {"Inference-Header-Content-Length": "10"}, 400, "JSON"),
    (BOTH, {"Inference-Header-Content-Length": "0"}, 400, "one input"),
    (BOTH, {"Content-Encoding": "gzip"}, 400, "not valid gzip"),
    (BOTH, {"Content-Encoding": "br"}, 415, "br"),
    (gzip.compress(b" " * 100_001), {"Content-Encoding": "gzip"}, 413, "limit of 100000"),
    (b"a" * 100_001, {}, 413, "over the limit of 100000"),
]


@pytest.mark.parametrize(("body", "headers", "expected", "said"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_bad_requests(simple, body, headers, expected, said):
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, answered, answer = simple.request("POST", "/v2/models/simple/infer", text, headers)
    assert status == expected and said in json.loads(answer)["error"]
    assert answered["content-type"] == "application/json"
    assert simple.infer(BOTH, name="simple")[0] == 200, "the server goes on"


@pytest.mark.parametrize(
    ("method", "path", "expected", "said"),
    [
        ("GET", "/v2/models/other", 404, "Request for unknown model"),
        ("GET", "/v2/models/other/ready", 404, "Request for unknown model"),
        ("GET", "/v2/models/simple/versions/2", 404, "Request for unknown model"),
        ("POST", "/v2/models/other/infer", 404, "Request for unknown model"),
        ("POST", "/v2/models/simple/versions/9/infer", 404, "Request for unknown model"),
        ("POST", "/v2/models/infer", 404, "no such path"),
        ("GET", "/v2/models/simple/nothing", 404, "no such path"),
        ("GET", "/", 404, "no such path"),
        ("GET", "/v2/models/", 404, "Request for unknown model"),
        ("GET", "/v2/models/simple/infer", 405, "POST"),
        ("POST", "/v2/health/live", 405, "GET"),
        ("DELETE", "/v2/models/simple", 405, "GET"),
    ],
)
def test_wrong_addresses(simple, method, path, expected, said):
    status, _headers, body = simple.request(method, path, b"{}" if method == "POST" else b"")
    assert status == expected and said in json.loads(body)["error"]


def test_metrics(simple):
    before = simple.get("/metrics")[1]
    simple.infer(BOTH, name="simple")
    after = simple.get("/metrics")[1]

    def value(text: str, name: str) -> float:
        return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + "{"))

    for name in ("nv_inference_request_success", "nv_inference_count", "edgeward_request_duration_seconds_count"):
        assert value(after, name) == value(before, name) + 1


def test_no_outbound_connection(simple):
    """Every TCP socket of the process is the listening one or an accepted one."""
    inodes = set()
    for descriptor in Path(f"/proc/{simple.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            link = os.readlink(descriptor)
            if link.startswith("socket:["):
                inodes.add(link[8:-1])
    seen = 0
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{simple.process.pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes:
                seen += 1
                assert int(fields[1].rpartition(":")[2], 16) == simple.port, line
    assert seen >= 1


def test_strings_and_half_precision(tmp_path):
    text = onnx_models.write(tmp_path / "text.onnx", onnx_models.identity(TensorProto.STRING))
    with server(tmp_path, str(text)) as one:
        x = {"name": "x", "datatype": "BYTES", "shape": [2], "data": ["grün", ""]}
        assert one.infer({"inputs": [x]}, name="text")[1]["outputs"][0]["data"] == ["grün", ""]
        raw = struct.pack("<I", 3) + b"abc" + struct.pack("<I", 0)
        binary = {"name": "x", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(raw)}}
        _status, answer, rest = one.infer(
            {"inputs": [binary], "parameters": {"binary_data_output": True}}, name="text", tail=raw
        )
        assert rest == raw and answer["outputs"][0]["parameters"] == {"binary_data_size": len(raw)}
    half = onnx_models.write(tmp_path / "half.onnx", onnx_models.identity(TensorProto.FLOAT16))
    with server(tmp_path, str(half)) as one:
        raw = np.array([1.5, -2], "<f2").tobytes()
        x = {"name": "x", "datatype": "FP16", "shape": [2], "parameters": {"binary_data_size": 4}}
        status, answer, rest = one.infer(
            {"inputs": [x], "parameters": {"binary_data_output": True}}, name="half", tail=raw
        )
        assert status == 200 and rest == raw
        status, answer, _rest = one.infer({"inputs": [x]}, name="half", tail=raw)
        assert status == 200 and answer["outputs"][0]["data"] == [1.5, -2]


# -- versions ---------------------------------------------------------------------------------------------------------


class Load:
    """Clients that ask without a pause, over kept connections, and note every answer: (time, version, value) or the failure."""

    def __init__(self, port: int, clients: int = 3) -> None:
        self.answers: list[tuple[float, str, float]] = []
        self.failures: list[str] = []
        self._port = port
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(LIMIT)

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=LIMIT)
        body = json.dumps(row(1, 1, 1, 1)).encode()
        while not self._stop.is_set():
            try:
                connection.request("POST", "/v2/models/m/infer", body)
                answer = connection.getresponse()
                text = answer.read()
                if answer.status != 200:
                    self.failures.append(f"{answer.status} {text!r}")
                    continue
                document = json.loads(text)
                self.answers.append((time.monotonic(), document["model_version"], document["outputs"][0]["data"][0]))
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()


def test_swaps_under_constant_load(tmp_path, source):
    with server(tmp_path) as one:
        assert one.get("/v2/health/ready")[0] == 503
        one.want(publish(source, "1", constant_times(1)))
        one.until(lambda: one.serves("1"))
        assert one.get("/v2/health/ready")[0] == 200
        live = {"1": (0.0, float("inf"))}
        with Load(one.port) as load:
            for number in range(2, 8):
                version = str(number)
                asked = time.monotonic()
                one.want(publish(source, version, constant_times(number)), revision=number)
                one.until(lambda version=version: one.serves(version))
                live[str(number - 1)] = (live[str(number - 1)][0], time.monotonic())
                live[version] = (asked, float("inf"))
                time.sleep(0.1)
        assert load.failures == []
        for at, version, value in load.answers:
            assert value == float(version), "the answer comes from the version that it names"
            start, end = live[version]
            assert start <= at <= end + 1.0
        assert {version for _at, version, _value in load.answers} == set(live)
        assert one.status()["revision"] == 7 and len(one.status()["models"]) == 1
        metrics = one.get("/metrics")[1]
        assert 'edgeward_model_swaps_total{model="m",result="Serving"} 7.0' in metrics
        one.until(lambda: sum("drained" in line["message"] for line in one.lines()) == 6)


def test_a_bad_new_version_keeps_the_old_serving(tmp_path, source):
    good = constant_times(1)
    bad = {
        "empty": (b"", "Verify", "Empty"),
        "truncated": (good[:-20], "Load", "NotOnnx"),
        "not-onnx": (b"<html>Not Found</html>", "Load", "NotOnnx"),
        "sequence": (onnx_models.with_sequence_output(), "Load", "LoadFailed"),
        "broken": (onnx_models.fails_on_zeros(), "Schema", "SchemaChanged"),
        "other-schema": (constant_times(2, width=5), "Schema", "SchemaChanged"),
    }
    with server(tmp_path) as one:
        one.want(publish(source, "good", good))
        one.until(lambda: one.serves("good"))
        revision = 1

        def check(wanted: dict[str, Any], step: str, reason: str) -> None:
            nonlocal revision
            revision += 1
            one.want(wanted, revision=revision)
            refused = one.until(lambda: one.refused(wanted["version"]))
            assert (refused["step"], refused["reason"]) == (step, reason)
            assert one.serves("good") and one.get("/v2/health/ready")[0] == 200
            status, answer, _rest = one.infer(row(1, 2, 3, 4))
            assert status == 200 and answer["model_version"] == "good"

        with Load(one.port, clients=1) as load:
            for version, (content, step, reason) in bad.items():
                check(publish(source, version, content), step, reason)
            source.files["/wrong.onnx"] = constant_times(9)
            check(entry("wrong", good + b"x", source.url("/wrong.onnx")), "Verify", "DigestMismatch")
            check(entry("gone", good + b"y", source.url("/gone.onnx")), "Fetch", "NotFound")
            check(entry("nobody", good + b"z", f"http://127.0.0.1:{free_port()}/x"), "Fetch", "Unreachable")
            one.want(publish(source, "next", constant_times(2)), revision=99)
            one.until(lambda: one.serves("next"))
        assert load.failures == []
        asked = source.requests.count("/wrong.onnx")
        assert asked == 1, "wrong bytes are not fetched again for a minute"


def test_a_missing_artifact_that_appears_later(tmp_path, source):
    content = constant_times(1)
    with server(tmp_path) as one:
        one.want(entry("1", content, source.url("/late.onnx")))
        one.until(lambda: one.refused("1"))
        assert one.get("/v2/health/ready")[0] == 503
        status, answer, _rest = one.infer(row(1, 1, 1, 1))
        assert status == 503 and "not ready" in answer["error"]
        source.files["/late.onnx"] = content
        one.until(lambda: one.serves("1"))


def test_restart_offline_serves_last_good(tmp_path):
    with serving() as source, server(tmp_path) as one:
        one.want(publish(source, "1", constant_times(1)))
        one.until(lambda: one.serves("1"))
        # The kill comes when a new version is on its way and the source has gone: the worst moment.
        source.status = 503
        one.want(entry("2", constant_times(2), source.url("/2.onnx")), revision=2)
        one.until(lambda: one.refused("2"))
        one.stop(signal.SIGKILL)
    with server(tmp_path) as one:
        one.until(lambda: one.serves("1"))
        assert one.get("/v2/health/ready")[0] == 200
        assert one.infer(row(1, 1, 1, 1))[1]["model_version"] == "1"
        assert one.until(lambda: one.refused("2"))["reason"] == "Unreachable"


def test_restart_with_a_corrupted_blob_fetches_it_again(tmp_path, source):
    content = constant_times(1)
    with server(tmp_path) as one:
        one.want(publish(source, "1", content))
        one.until(lambda: one.serves("1"))
        assert one.stop() == 0
    blob = tmp_path / "store" / "blobs" / "sha256" / digest(content).removeprefix("sha256:")
    blob.chmod(0o644)
    blob.write_bytes(content[:-1] + b"\0")
    with server(tmp_path) as one:
        one.until(lambda: one.serves("1"))
        assert source.requests == ["/1.onnx", "/1.onnx"] and blob.read_bytes() == content


def test_restart_with_a_config_of_a_newer_contract(tmp_path, source):
    with server(tmp_path) as one:
        one.want(publish(source, "1", constant_times(1)))
        one.until(lambda: one.serves("1"))
        one.want(entry("2", b"x", "https://models.example.com/x"), contract=2, revision=2)
        refused = one.until(lambda: one.status().get("configRefused"))
        assert refused["reason"] == "UnsupportedContract" and one.serves("1")
        one.stop()
    with server(tmp_path) as one:
        one.until(lambda: one.serves("1"))
        assert one.get("/v2/health/ready")[0] == 200


def test_json_over_its_limit(tmp_path, source):
    with server(tmp_path, EDGEWARD_MAX_JSON_BYTES="1024") as one:
        one.want(publish(source, "1", constant_times(1)))
        one.until(lambda: one.serves("1"))
        status, answer, _rest = one.infer({**row(1, 1, 1, 1), "id": "x" * 2000})
        assert status == 413 and "binary data" in answer["error"]


def test_two_servers_share_a_store(tmp_path, source):
    wanted = publish(source, "1", constant_times(1))
    source.chunk, source.seconds_per_chunk = 64, 0.1
    (tmp_path / "other").mkdir()
    with server(tmp_path) as one, server(tmp_path / "other", EDGEWARD_STORE=str(tmp_path / "store")) as other:
        one.want(wanted)
        other.want(wanted)
        one.until(lambda: one.serves("1"))
        other.until(lambda: other.serves("1"))
        assert source.requests == ["/1.onnx"]


def test_a_store_that_cannot_be_written(tmp_path, source):
    (tmp_path / "store").write_text("a file, not a folder")
    with server(tmp_path) as one:
        one.want(publish(source, "1", constant_times(1)))
        refused = one.until(lambda: one.refused("1"))
        assert (refused["step"], refused["reason"]) == ("Fetch", "StoreUnwritable")
        assert one.get("/v2/health/live")[0] == 200 and one.get("/v2/health/ready")[0] == 503


# -- start and stop ---------------------------------------------------------------------------------------------------


def test_sigterm_finishes_what_runs(tmp_path, source):
    with server(tmp_path, EDGEWARD_DRAIN_SECONDS="3") as one:
        one.want(publish(source, "1", constant_times(1)))
        one.until(lambda: one.serves("1"))
        with Load(one.port) as load:
            time.sleep(0.2)
            one.process.send_signal(signal.SIGTERM)
            one.until(lambda: one.get("/v2/health/ready")[0] == 503)
            assert one.infer(row(1, 1, 1, 1))[0] == 200, "not ready, but still answering"
            time.sleep(0.2)
            load._stop.set()
        assert load.failures == [] and load.answers
        assert one.process.wait(LIMIT) == 0
        assert one.lines()[-1]["message"] == "stopped"


def test_the_port_is_taken(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "edge-runtime"), "EDGEWARD_STORE": str(tmp_path)}
        command = [
            sys.executable,
            "-m",
            "edgeward_runtime.cli",
            "--host",
            "127.0.0.1",
            "--port",
            str(taken.getsockname()[1]),
        ]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=LIMIT)
    assert done.returncode == 1 and b"cannot listen" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "settings", "code", "said"),
    [
        (["missing.onnx"], {}, 2, "missing.onnx is not there"),
        ([__file__], {}, 1, "NotOnnx"),
        ([], {"EDGEWARD_PORT": "x"}, 2, "EDGEWARD_PORT"),
        ([], {"EDGEWARD_STOER": "/x"}, 2, "EDGEWARD_STOER is not a setting"),
    ],
)
def test_wrong_starts(arguments, settings, code, said):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "edge-runtime"), **settings}
    command = [sys.executable, "-m", "edgeward_runtime.cli", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == code and said in done.stderr


class Checker:
    """edgeward-model, as a user calls it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str) -> tuple[int, str]:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "edge-runtime")}
        code = "import sys; from edgeward_runtime.cli import model; sys.exit(model())"
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=environment, cwd=self.folder, capture_output=True, text=True, timeout=LIMIT,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def report(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        code, said = self("check", "--json", *arguments)
        return code, json.loads(said)


def test_what_a_model_needs(tmp_path):
    model = Checker(tmp_path)
    path = onnx_models.write(tmp_path / "m.onnx", onnx_models.mlp((64, 512, 512, 10)))
    code, report = model.report("m.onnx", "--threads", "1")
    assert code == 0 and report["runs"] and report["threads"] == 1
    assert report["digest"] == digest(path.read_bytes()) and report["bytes"] == path.stat().st_size
    assert report["opsets"] == {"ai.onnx": 17} and report["inputs"][0]["shape"] == [-1, 64]
    assert 0 < report["latencySeconds"] < LIMIT
    # At least the weights, at most a part of the process.
    assert 64 * 512 * 4 < report["memoryBytes"] < report["processBytes"]
    path.write_bytes(b"rubbish, rubbish")
    code, report = model.report("m.onnx")
    assert code == 1 and not report["runs"] and report["reason"] == "NotOnnx"
    code, said = model("check", "m.onnx")
    assert code == 1 and "will not run     Load: NotOnnx: not an ONNX file" in said
    assert model("check", "none.onnx")[0] == 2


def test_what_an_artifacts_folder_needs(tmp_path):
    model = Checker(tmp_path)
    folder = tmp_path / "signs"
    folder.mkdir()
    for name, content in {"model.onnx": constant_times(2), **golden_of(2), "labels.txt": b"stop\n"}.items():
        (folder / name).write_bytes(content)
    code, report = model.report("signs")
    assert code == 0 and report["parts"] == ["golden", "labels"]
    for name, content in golden_of(3).items():
        (folder / name).write_bytes(content)
    code, report = model.report("signs")
    assert code == 1 and (report["step"], report["reason"]) == ("Golden", "GoldenMismatch")
    (folder / "model.onnx").write_bytes(external("../secret"))
    (tmp_path / "secret").write_bytes(b"0123456789abcdef")
    assert model.report("signs")[1]["reason"] == "UnsafePath"
    (folder / "model.onnx").write_bytes(external("w.bin"))
    (folder / "golden.json").unlink()
    assert model.report("signs")[1]["reason"] == "ExternalDataMissing"
    (folder / "w.bin").write_bytes(b"\0" * 16)
    code, report = model.report("signs/model.onnx")
    assert code == 0 and report["externalData"] == ["w.bin"]


def test_a_file_is_signed_and_checked(tmp_path):
    model = Checker(tmp_path)
    mine, other = pair("p256"), pair("ed25519", "other")
    onnx_models.write(tmp_path / "m.onnx", constant_times(2))
    for name, one in (("mine", mine), ("other", other)):
        (tmp_path / f"{name}.key").write_bytes(one.private)
        (tmp_path / f"{name}.pub").write_text(one.public)
    asked = ("m.onnx", "--key", "mine.pub")
    code, report = model.report(*asked)
    assert code == 1 and report["runs"] and report["signature"]["reason"] == "SignatureMissing"
    for key, verified in (("other", False), ("mine", True), ("mine", True)):
        assert model("sign", "m.onnx", "--key", f"{key}.key")[0] == 0
        code, report = model.report(*asked)
        assert (code == 0, report["signature"]["verified"]) == (verified, verified)
    assert model.report("m.onnx", "--key", "other.pub")[0] == 0  # the first signature is still there
    assert len(json.loads((tmp_path / "m.onnx.sig").read_text())["signatures"]) == 3
    onnx_models.write(tmp_path / "m.onnx", constant_times(3))
    assert model.report(*asked)[1]["signature"]["reason"] == "SignatureInvalid"
    assert "no private key" in model("sign", "m.onnx", "--key", "mine.pub")[1]


def test_the_package_installs_alone(tmp_path):
    """Its own pyproject, without anything of the operator: what the image does."""
    shutil.copytree(
        REPOSITORY / "edge-runtime",
        tmp_path / "source",
        ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"),
    )
    target = tmp_path / "site"
    uv = Path(sys.executable).with_name("uv")
    build = [str(uv), "pip", "install", "-q", "--no-deps", "--target", str(target), str(tmp_path / "source")]
    subprocess.run(build, check=True, timeout=120)
    names = {path.name for path in target.iterdir()}
    assert "edgeward_runtime" in names and "edgeward" not in names
    assert (target / "bin" / "edgeward-serve").exists() and (target / "edgeward_runtime" / "py.typed").exists()
