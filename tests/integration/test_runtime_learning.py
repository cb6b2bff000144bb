"""Capture, feedback and drift in the real server: what is kept in each redaction mode, that a planted string leaves in none below
Raw, that a bad disk hurts no answer, that a label finds its answer however late."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import signal
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgeward_runtime.capture import reader
from tests.integration.test_runtime_serving import Server
from tests.unit.runtime import onnx_models
from tests.unit.runtime.onnx_models import digest

CANARY = "CANARY-7f3a"
TTL, MIB = 3600, 2**20


def softmax_model() -> bytes:
    """x float32[N,4] -> y = softmax(x), a classifier that a test can steer."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 4]) for name in "xy")
    return onnx_models._model([helper.make_node("Softmax", ["x"], ["y"], axis=1)], [x], [y])


def entry(folder: Path, content: bytes, *, version: str = "1", **parameters: Any) -> dict[str, Any]:
    path = onnx_models.write(folder / f"model-{version}.onnx", content)
    return {
        "name": "m", "version": version, "digest": digest(content), "sources": [path.as_uri()], "parameters": parameters,
    }  # fmt: skip


def want(server: Server, model: dict[str, Any], capture: dict[str, Any] | None, revision: int = 1) -> None:
    document = {
        "contract": 1,
        "revision": revision,
        "job": {"namespace": "shop", "name": "reader"},
        "models": [model],
        **({} if capture is None else {"capture": capture}),
    }
    temporary = server.folder / "config" / ".new"
    temporary.write_text(json.dumps(document))
    temporary.rename(server.folder / "config" / "models.json")
    server.until(lambda: server.get("/edgeward/v1/status")[1]["revision"] == revision)
    server.until(lambda: server.serves(model["version"]))


def captured(redaction: str, **others: Any) -> dict[str, Any]:
    rules = [{"when": "Always"}, {"when": "Error", "priority": 9}]
    return {"redaction": redaction, "rules": rules, "ttlSeconds": TTL, "maxBytes": 4 * MIB, **others}


def ring(server: Server) -> Path:
    return server.folder / "store" / "capture" / "shop" / "reader"


def stats(server: Server) -> dict[str, Any]:
    status, document = server.get("/edgeward/v1/capture")
    assert status == 200
    return document


def kept(server: Server, count: int) -> list[reader.Record]:
    server.until(lambda: stats(server)["kept"] >= count)
    return list(reader.records(ring(server)))


def nothing_in(folder: Path) -> bool:
    """Also while it is replaced, when there is no file for a moment."""
    with contextlib.suppress(sqlite3.OperationalError):
        return not list(reader.records(folder))
    return False


def ask(server: Server, values: list[list[float]], request_id: str) -> list[float]:
    rows = np.array(values)
    document = {
        "id": request_id,
        "inputs": [{"name": "x", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}],
    }
    status, answer, _ = server.infer(document)
    assert status == 200 and answer["id"] == request_id
    return answer["outputs"][0]["data"]


def tell(server: Server, document: object, *, path: str = "/v2/models/m/feedback") -> tuple[int, dict[str, Any]]:
    status, _headers, body = server.request("POST", path, json.dumps(document).encode())
    return status, json.loads(body)


def accuracy(server: Server) -> dict[str, int]:
    return stats(server)["models"][0].get("accuracy", {})


@pytest.fixture
def folder(tmp_path):
    return tmp_path


@pytest.fixture
def server(folder):
    one = Server(folder)
    yield one
    if one.process.poll() is None:
        assert one.stop() == 0


def everything_that_leaves(server: Server) -> bytes:
    """Every file of the store and the log, and all that the server tells about itself."""
    server.until(lambda: stats(server)["picked"] or stats(server)["redaction"] in ("Sketch", "None"))
    pages = [
        server.request("GET", path)[2]
        for path in ("/metrics", "/edgeward/v1/status", "/edgeward/v1/capture", "/v2/models/stats")
    ]
    server.stop()  # what was queued is written
    files = [path for path in server.folder.rglob("*") if path.is_file() and path.parent.name != "config"]
    return b"\n".join([*pages, *(path.read_bytes() for path in files)])


def plant(server: Server) -> None:
    """In everything that a client can send."""
    document: dict[str, Any] = {
        "id": f"{CANARY}-id",
        "parameters": {"note": f"{CANARY}-parameter"},
        "inputs": [{"name": "x", "shape": [2], "datatype": "BYTES", "data": [f"{CANARY}-one", f"{CANARY}-two"]}],
    }
    status, _, _ = server.infer(document)
    assert status == 200
    tell(server, {"id": f"{CANARY}-id", "label": f"{CANARY}-label"})
    tell(server, {"id": f"{CANARY}-other", "label": 3})
    tell(server, {"id": f"{CANARY}-id", "labels": [1, 2]})
    # Errors that repeat what came: no such model, no number, no such id.
    server.infer({**document, "id": f"{CANARY}-late", "inputs": [{**document["inputs"][0], "name": f"{CANARY}-name"}]})
    server.request("POST", f"/v2/models/{CANARY}-model/feedback", b"{}")


@pytest.mark.parametrize("mode", ["None", "Sketch", "Features"])
def test_a_planted_string_does_not_leave(server, mode):
    """An identity model: what comes in goes out, in the answer too."""
    model = entry(server.folder, onnx_models.identity(TensorProto.STRING))
    want(server, model, captured(mode))
    plant(server)
    if mode == "Features":
        kept(server, 1)
    (server.folder / "model-1.onnx").unlink()
    assert CANARY.encode() not in everything_that_leaves(server)


def test_the_search_for_it_finds_it_where_it_may_be(server):
    model = entry(server.folder, onnx_models.identity(TensorProto.STRING))
    want(server, model, captured("Raw"))
    plant(server)
    kept(server, 1)
    assert CANARY.encode() in everything_that_leaves(server)


@pytest.mark.parametrize("element", [TensorProto.UINT8, TensorProto.FLOAT, TensorProto.INT32])
def test_text_as_numbers_does_not_leave_either(server, element):
    """As bytes, as floats, as token numbers; the identity hands them through to the output."""
    datatype = {TensorProto.UINT8: "UINT8", TensorProto.FLOAT: "FP32", TensorProto.INT32: "INT32"}[element]
    kind = {"UINT8": np.uint8, "FP32": np.float32, "INT32": np.int32}[datatype]
    secret = np.frombuffer(f"{CANARY}{CANARY}{CANARY}".encode(), np.uint8).astype(kind)
    want(server, entry(server.folder, onnx_models.identity(element, (None, None))), captured("Features"))
    document = {"inputs": [{"name": "x", "shape": [1, len(secret)], "datatype": datatype, "data": secret.tolist()}]}
    assert server.infer(document)[0] == 200
    kept(server, 1)
    (server.folder / "model-1.onnx").unlink()
    gone = everything_that_leaves(server)
    assert secret.tobytes() not in gone
    assert CANARY.encode() not in gone
    assert json.dumps(secret.tolist()[:6])[1:-1].replace(" ", "").encode() not in gone


def test_raw_keeps_all_of_it_and_features_what_the_model_thinks(server):
    model = entry(server.folder, softmax_model())
    want(server, model, captured("Raw"))
    answer = ask(server, [[1, 2, 3, 4]], "a")
    (raw,) = kept(server, 1)
    assert raw.tensors["inputs/x"].tolist() == [[1, 2, 3, 4]]
    assert raw.tensors["outputs/y"].ravel().tolist() == pytest.approx(answer)
    assert raw.header["id"] == "a" and raw.header["classes"] == [3] and raw.header["why"] == ["Always"]
    assert raw.header["confidence"][0] == pytest.approx(max(answer), abs=1e-6)
    assert (raw.header["model"], raw.header["version"], raw.header["digest"]) == ("m", "1", model["digest"])

    want(server, model, captured("Features"), revision=2)
    ask(server, [[4, 3, 2, 1]], "b")
    (features,) = kept(server, 2)  # what was kept under Raw went with the mode
    assert list(features.tensors) == ["outputs/y"]
    assert "id" not in features.header and features.header["classes"] == [0]
    assert features.header["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [1, 4]}]

    want(server, model, captured("Sketch"), revision=3)
    ask(server, [[4, 3, 2, 1]], "c")
    assert tell(server, {"id": "c", "label": 0}) == (200, {"outcome": "Joined"})
    server.until(lambda: nothing_in(ring(server)))

    want(server, model, None, revision=4)
    server.until(lambda: not (ring(server) / "ring.db").exists())


def test_low_confidence_and_errors_are_picked(server):
    rules = [{"when": "LowConfidence", "priority": 5}, {"when": "Always", "every": 10}]
    want(server, entry(server.folder, softmax_model(), capture={"lowConfidence": "0.5"}), captured("Raw", rules=rules))
    for index in range(20):
        ask(server, [[9, 0, 0, 0]], f"sure{index}")
    ask(server, [[9, 0, 0, 0], [0, 0, 0, 0]], "unsure")
    found = kept(server, 3)
    assert [record.header["id"] for record in found] == ["sure0", "sure10", "unsure"]
    assert found[2].header["why"] == ["Always", "LowConfidence"]
    assert stats(server)["picked"] == {"Always": 2, "LowConfidence": 1}


def test_what_the_model_fails_at_is_kept(server):
    """Gathers out of range: the run fails. A request that never reached the model is not one of them."""
    x = helper.make_tensor_value_info("x", TensorProto.INT64, [None])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])
    table = onnx_models.numpy_helper.from_array(np.ones(3, np.float32), "table")
    content = onnx_models._model([helper.make_node("Gather", ["table", "x"], ["y"])], [x], [y], [table])
    want(server, entry(server.folder, content), captured("Raw", rules=[{"when": "Error"}]))
    request = {"name": "x", "shape": [1], "datatype": "INT64", "data": [7]}
    status, _, _ = server.infer({"id": "bad", "inputs": [request]})
    assert status == 400
    assert server.infer({"inputs": [{**request, "datatype": "FP32"}]})[0] == 400
    (record,) = kept(server, 1)
    assert record.header["status"] == 400 and record.header["id"] == "bad" and record.header["error"]
    assert record.tensors["inputs/x"].tolist() == [7]


def test_every_way_a_label_can_come(server):
    model = entry(server.folder, softmax_model())
    want(server, model, captured("Features"))
    ask(server, [[0, 9, 0, 0]], "a")
    # At once: before its row is committed, which takes half a second.
    assert tell(server, {"id": "a", "label": 1}) == (200, {"outcome": "Joined"})
    assert tell(server, {"id": "a", "label": 1}) == (200, {"outcome": "Repeated"})
    assert tell(server, {"id": "a", "label": 2}) == (200, {"outcome": "Replaced"})
    ask(server, [[9, 0, 0, 0], [0, 9, 0, 0]], "b")
    assert (
        tell(server, {"id": "b", "labels": [0, 3]}, path="/v2/models/m/versions/1/feedback")[1]["outcome"] == "Joined"
    )
    # Before the answer: kept, and counted when it comes.
    assert tell(server, {"id": "early", "label": 0}) == (202, {"outcome": "Kept"})
    ask(server, [[9, 0, 0, 0]], "early")
    server.until(lambda: accuracy(server) == {"right": 3, "wrong": 1, "uncomparable": 0})
    # A number that is no class, and rows that do not match.
    ask(server, [[9, 0, 0, 0]], "c")
    assert tell(server, {"id": "c", "label": 0.5})[1]["outcome"] == "Joined"
    ask(server, [[9, 0, 0, 0]], "d")
    assert tell(server, {"id": "d", "labels": [0, 1]})[1]["outcome"] == "Joined"
    assert accuracy(server) == {"right": 3, "wrong": 1, "uncomparable": 3}
    counters = server.status()["models"][0]["counters"]
    assert counters["feedback"] == {"right": 3, "wrong": 1, "uncomparable": 3}
    metrics = server.get("/metrics")[1]
    assert (
        f'edgeward_feedback_rows_total{{digest="{model["digest"]}",model="m",result="Right",version="1"}} 3.0'
        in metrics
    )
    # After a restart nothing is remembered but what the ring has.
    kept(server, 5)
    server.stop()
    again = Server(server.folder)
    try:
        again.until(lambda: again.serves("1"))
        assert tell(again, {"id": "a", "label": 2}) == (200, {"outcome": "Repeated"})
        assert tell(again, {"id": "b", "labels": [0, 1]}) == (200, {"outcome": "Replaced"})
        assert accuracy(again) == {}  # they were counted once
        found = {tuple(record.header["classes"]): record.label for record in reader.records(ring(again))}
        assert found[(0, 1)] == [0, 1]
    finally:
        again.stop()


def test_a_label_joins_an_answer_that_only_the_ring_remembers(server):
    model = entry(server.folder, softmax_model())
    want(server, model, captured("Features"))
    ask(server, [[0, 9, 0, 0]], "a")
    kept(server, 1)
    server.stop()
    again = Server(server.folder)
    try:
        again.until(lambda: again.serves("1"))
        assert tell(again, {"id": "a", "label": 1}) == (200, {"outcome": "Joined"})
        again.until(lambda: accuracy(again) == {"right": 1, "wrong": 0, "uncomparable": 0})
    finally:
        again.stop()


def test_two_replicas_of_a_node_share_a_ring(server):
    """The label is told to the other one."""
    model = entry(server.folder, softmax_model())
    want(server, model, captured("Raw"))
    other = Server(server.folder)
    try:
        other.until(lambda: other.serves("1"))
        ask(server, [[0, 9, 0, 0]], "a")
        ask(other, [[0, 9, 0, 0]], "b")
        kept(server, 1)
        assert {record.header["id"] for record in kept(other, 1)} == {"a", "b"}
        assert tell(other, {"id": "a", "label": 1}) == (200, {"outcome": "Joined"})
        assert tell(server, {"id": "b", "label": 2}) == (200, {"outcome": "Joined"})
        other.until(lambda: accuracy(other).get("right") == 1)
        server.until(lambda: accuracy(server).get("wrong") == 1)
    finally:
        other.stop()


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (["id"], "must be an object"),
        ({"label": 1}, "id must be"),
        ({"id": "", "label": 1}, "id must be"),
        ({"id": "a" * 2000, "label": 1}, "id must be"),
        ({"id": "a"}, "either label"),
        ({"id": "a", "label": 1, "labels": [1]}, "either label"),
        ({"id": "a", "labels": []}, "a list of 1"),
        ({"id": "a", "labels": [1] * 2000}, "a list of 1"),
        ({"id": "a", "label": -1}, "number of a class"),
        ({"id": "a", "label": True}, "number of a class"),
        ({"id": "a", "label": {"x": 1}}, "number of a class"),
        ({"id": "a", "label": "cat"}, "none of the model's labels"),
    ],
)
def test_feedback_that_makes_no_sense(folder, document, expected, shared_server):
    status, answer = tell(shared_server, document)
    assert status == 400 and expected in answer["error"]


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory):
    one = Server(tmp_path_factory.mktemp("shared"))
    want(one, entry(one.folder, softmax_model()), captured("Features"))
    yield one
    one.stop()


def test_feedback_has_bounds_and_a_method(shared_server):
    assert shared_server.request("GET", "/v2/models/m/feedback")[0] == 405
    assert shared_server.request("POST", "/v2/models/m/feedback", b"{" * 100_000)[0] == 413
    assert shared_server.request("POST", "/v2/models/m/feedback", b"{")[0] == 400
    assert shared_server.request("POST", "/v2/models/unknown/feedback", b"{}")[0] == 404
    assert shared_server.request("POST", "/v2/models/m/versions//feedback", b"{}")[0] in (404, 405)


def test_without_capture_there_is_no_feedback_and_nothing_on_disk(server):
    want(server, entry(server.folder, softmax_model()), None)
    ask(server, [[1, 2, 3, 4]], "a")
    status, answer = tell(server, {"id": "a", "label": 1})
    assert status == 501 and "feedback is off" in answer["error"]
    assert not (server.folder / "store" / "capture").exists()
    assert stats(server)["redaction"] == "None"


def test_a_store_that_cannot_be_written_hurts_no_answer(server):
    model = entry(server.folder, softmax_model())
    want(server, model, None)
    (server.folder / "store" / "capture").write_text("a file where a folder has to be")
    want(server, model, captured("Raw"), revision=2)
    for index in range(5):
        ask(server, [[1, 2, 3, 4]], f"{index}")
    server.until(lambda: stats(server)["off"] == "Unwritable")
    server.until(lambda: stats(server)["dropped"].get("Unwritable") == 5)
    metrics = server.get("/metrics")[1]
    assert 'edgeward_capture_off{reason="Unwritable"} 1.0' in metrics
    assert 'edgeward_capture_failures_total{reason="Unwritable"}' in metrics
    assert tell(server, {"id": "unknown", "label": 1})[0] == 503


def test_a_disk_that_takes_no_more_hurts_no_answer(server):
    """A limit of the process on the size of files does what a full disk does: writes fail beyond it."""
    want(server, entry(server.folder, softmax_model()), captured("Raw", maxBytes=64 * MIB))
    ask(server, [[1, 2, 3, 4]], "first")
    kept(server, 1)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))

    def off() -> bool:
        ask(server, [[1, 2, 3, 4]] * 500, "large")
        return bool(stats(server)["off"])

    server.until(off, 60)
    assert stats(server)["off"] in ("DiskFull", "Unwritable")
    ask(server, [[1, 2, 3, 4]], "after")
    assert server.get("/v2/health/ready")[0] == 200
    # What was kept before can be read.
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert "first" in [record.header["id"] for record in reader.records(ring(server))]


def test_a_kill_leaves_a_ring_that_goes_on(server):
    model = entry(server.folder, softmax_model())
    want(server, model, captured("Raw"))
    for index in itertools.count():
        ask(server, [[1, 2, 3, 4]], f"{index}")
        if stats(server)["kept"]:
            break
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    before = [record.header["id"] for record in reader.records(ring(server))]
    assert "0" in before
    again = Server(server.folder)
    try:
        again.until(lambda: again.serves("1"))
        ask(again, [[1, 2, 3, 4]], "after")
        kept(again, 1)
        assert [record.header["id"] for record in reader.records(ring(again))] == [*before, "after"]
    finally:
        again.stop()


def test_drift_without_a_reference_is_told_from_the_first_requests(server):
    """And sketches of it are in the ring at the end."""
    want(server, entry(server.folder, softmax_model()), captured("Sketch"))
    random = np.random.default_rng(1)

    def rows(shift: float) -> None:
        for _ in range(30):
            ask(server, random.normal(shift, 1.0, (32, 4)).tolist(), "r")

    def state() -> dict[tuple[str, str], dict[str, Any]]:
        model = stats(server)["models"][0]
        return {(one["of"], one["name"]): one for one in model.get("drift", [])}

    def calm() -> bool:
        rows(0.0)
        return state().get(("Input", "x"), {}).get("psi") is not None

    server.until(calm, 60)
    assert state()["Input", "x"]["psi"] < 0.2
    assert state()["Input", "x"]["reference"] == "Provisional"
    metrics = server.get("/metrics")[1]
    assert 'edgeward_drift_psi{digest="' in metrics and 'of="Confidence"' in metrics

    def moved() -> bool:
        rows(3.0)
        return state()["Input", "x"]["psi"] > 0.25

    server.until(moved, 60)
    drift = server.status()["models"][0]["counters"]["drift"]
    assert drift["psi"] > 0.25 and drift["reference"] == "Provisional"
    server.stop()
    ((model, _digest, _at, sketch),) = reader.sketches(ring(server))
    assert model == "m" and sketch["origin"] == "Provisional" and sketch["format"] == 1
    assert {one["of"] for one in sketch["histograms"]} == {"Input", "Output", "Confidence"}
