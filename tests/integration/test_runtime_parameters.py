"""A real server whose version gets other parameters, and one that keeps a version on its disk for later."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.test_runtime_learning import captured, entry, softmax_model, tell
from tests.integration.test_runtime_serving import Server, publish, server
from tests.runtime_swaps import SIZES, Clients
from tests.unit.runtime.http_source import Source, serving
from tests.unit.runtime.onnx_models import stamped


@pytest.fixture
def source() -> Iterator[Source]:
    with serving() as one:
        yield one


def loads(one: Server) -> tuple[list[str], int]:
    """What the server says of loading: the time that the last one took, and the process that it was in."""
    lines = [line for line in one.get("/metrics")[1].splitlines() if line.startswith("edgeward_model_load_seconds{")]
    return lines, one.process.pid


def test_other_parameters_are_live_without_a_load_or_a_lost_request(tmp_path, source):
    model = publish(source, "1", stamped(1, SIZES))
    with server(tmp_path) as one:
        one.want(model)
        one.until(lambda: one.serves("1"))
        before = loads(one)
        with Clients(one.port) as clients:
            for revision in range(2, 22):
                one.want({**model, "parameters": {"capture": {"lowConfidence": revision / 100}}}, revision=revision)
                one.until(lambda revision=revision: one.status()["revision"] == revision and one.serves("1"))
            one.until(lambda: len(clients.answers) > 100)
        assert clients.failures == []
        assert {answer.value for answer in clients.answers} == {1.0}
        assert loads(one) == before and source.requests.count("/1.onnx") == 1
        one.until(lambda: sum("drained" in line["message"] for line in one.lines()) == 20)
        assert one.model("1")["counters"]["requests"] == len(clients.answers), "they count on"


def classify(one: Server, number: int) -> None:
    x = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0, 1.0, 1.0, 1.5]}
    assert one.infer({"id": f"id-{number}", "inputs": [x]})[0] == 200


def test_thresholds_sampling_and_names_of_classes_are_live(tmp_path):
    with server(tmp_path) as one:

        def want(revision: int, **parameters: Any) -> None:
            model = entry(one.folder, softmax_model(), **parameters)
            low = captured("Features", rules=[{"when": "LowConfidence"}])
            one.want(model, revision=revision, capture=low)
            one.until(lambda: one.status()["revision"] == revision and one.model("1")["state"] in ("Serving", "Failed"))

        def picked() -> dict[str, int]:
            return one.get("/edgeward/v1/capture")[1]["picked"]

        want(1, capture={"lowConfidence": 0.1}, labels=["go", "stop"])
        classify(one, 1)
        assert tell(one, {"id": "id-1", "label": "stop"})[0] == 200
        assert tell(one, {"id": "id-1", "label": "yield"})[0] == 400
        assert not any(picked().values()), "nothing is that unsure"
        want(2, capture={"lowConfidence": 0.9}, labels=["go", "yield"])
        classify(one, 2)
        one.until(lambda: picked().get("LowConfidence") == 1)
        assert tell(one, {"id": "id-2", "label": "yield"})[0] == 200
        assert tell(one, {"id": "id-2", "label": "stop"})[0] == 400
        want(3, capture={"lowConfidence": 0.9, "rules": [{"when": "Always"}]}, labels=["go", "yield"])
        classify(one, 3)
        one.until(lambda: picked().get("Always") == 1)
        want(4, capture={"lowConfidence": 2})
        refused = one.status()["models"][0]["refused"]
        assert (refused["step"], refused["reason"]) == ("Load", "ParametersInvalid")
        classify(one, 4)
        one.until(lambda: picked().get("Always") == 2)


def test_a_staged_version_goes_live_from_disk(tmp_path, source):
    old, new = publish(source, "1", stamped(1)), publish(source, "2", stamped(2))
    with server(tmp_path) as one:
        one.want(old, {**new, "role": "Staged"})
        one.until(lambda: one.serves("1") and one.model("2")["state"] == "Staged")
        assert not one.model("2")["serving"] and one.get("/v2/models/m/versions/2/ready")[0] != 200
        assert source.requests.count("/2.onnx") == 1
        one.stop()
    # No network any more, and another process.
    source.status = 503
    with server(tmp_path) as one:
        one.want(old, {**new, "role": "Staged"}, revision=2)
        one.until(lambda: one.serves("1") and one.model("2")["state"] == "Staged")
        one.want(new, revision=3)
        one.until(lambda: one.serves("2") and one.model("1") is None)


def test_a_staged_version_that_is_not_what_was_asked_for_is_not_kept(tmp_path, source):
    old, new = publish(source, "1", stamped(1)), publish(source, "2", stamped(2))
    source.files["/2.onnx"] = source.files["/2.onnx"][:-1] + b"x"
    with server(tmp_path) as one:
        one.want(old, {**new, "role": "Staged"})
        one.until(lambda: one.serves("1") and (one.model("2") or {}).get("refused"))
        assert one.model("2")["refused"]["reason"] == "DigestMismatch"
        assert not list((tmp_path / "store").rglob(new["digest"].removeprefix("sha256:")))
        assert one.get("/v2/health/ready")[0] == 200
