from __future__ import annotations

import time
from time import perf_counter_ns
from typing import Any

import pytest

from edgeward_runtime import repository
from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.model import Model

REFUSED = {"step": "Load", "reason": "NotOnnx", "message": "no graph", "at": "2026-01-01T00:00:00Z"}


def listed(version: str, state: str, *, name: str = "m", serving: bool = False, **fields: Any) -> dict[str, Any]:
    return {"name": name, "version": version, "state": state, "serving": serving, **fields}


def model(version: str, *, loaded: bool = False) -> Model:
    one = Model(name="m", version=version, digest="sha256:0", session=None, inputs={}, outputs={})
    if loaded:
        one.session = object()  # type: ignore[assignment]
    return one


STATUS = [
    listed("3", "Failed", refused=REFUSED),
    listed("2", "Serving", serving=True),
    listed("7", "Fetching", name="b"),
]


def test_the_index_tells_every_version_with_its_state():
    versions = [(model("2", loaded=True), "Serving"), (model("1", loaded=True), "Drained"), (model("0"), "Drained")]
    assert repository.index(STATUS, versions, {}) == [
        {"name": "b", "version": "7", "state": "LOADING", "reason": "Fetching"},
        {"name": "m", "version": "0", "state": "UNAVAILABLE", "reason": "unloaded"},
        {"name": "m", "version": "1", "state": "UNLOADING", "reason": "draining"},
        {"name": "m", "version": "2", "state": "READY", "reason": ""},
        {"name": "m", "version": "3", "state": "UNAVAILABLE", "reason": "Load: NotOnnx: no graph"},
    ]
    assert repository.index(STATUS, versions, {"ready": True}) == [
        {"name": "m", "version": "2", "state": "READY", "reason": ""}
    ]


def test_a_version_that_failed_while_it_serves_is_ready():
    """After a restart the version that served comes up first; fetching it again may fail."""
    (only,) = repository.index([listed("2", "Failed", serving=True, refused=REFUSED)], [], {})
    assert only["state"] == "READY"


def test_a_model_that_serves_needs_no_load():
    repository.load("m", STATUS, {})
    repository.load("m", STATUS, {"parameters": {"unload_dependents": True}})


@pytest.mark.parametrize(
    ("name", "asked", "status", "said"),
    [
        ("x", {}, 404, "failed to load 'x': no such model"),
        ("b", {}, 503, "failed to load 'b': version 7 is LOADING: Fetching"),
        ("m", {"parameters": {"config": "{}"}}, 400, "config or files cannot be given"),
        ("m", {"parameters": {"file:1/model.onnx": "AAAA"}}, 400, "config or files cannot be given"),
        ("m", {"parameters": [1]}, 400, "must be an object"),
    ],
)
def test_what_load_cannot_do(name, asked, status, said):
    with pytest.raises(ProtocolError) as caught:
        repository.load(name, STATUS, asked)
    assert caught.value.status == status and said in caught.value.text


def test_a_failed_model_says_why_it_is_not_loaded():
    with pytest.raises(ProtocolError, match="NotOnnx"):
        repository.load("m", STATUS[:1], {})


def test_unload_is_refused():
    with pytest.raises(ProtocolError, match="InferenceJob") as caught:
        repository.unload("m")
    assert caught.value.status == 400


def test_options():
    assert repository.options(b"") == {} == repository.options(b"{}")
    assert repository.options(b'{"ready":true}') == {"ready": True}
    for body in (b"{", b"[]", b"1", b"\xff"):
        with pytest.raises(ProtocolError) as caught:
            repository.options(body)
        assert caught.value.status == 400
    with pytest.raises(ProtocolError, match="ready must be"):
        repository.index(STATUS, [], {"ready": "yes"})


def test_statistics_are_the_counters():
    one, fresh = model("1"), model("2")
    for _ in range(2):
        one.stats.success(rows=3, duration=100, parse=10, queue=20, infer=30, output=40, together=3)
    one.stats.failure(400)
    one.stats.failed_ns = 7
    one.stats.last_ns = perf_counter_ns()
    document = repository.statistics([one, fresh])
    first, second = document["model_stats"]  # type: ignore[misc, index]
    assert abs(first.pop("last_inference") - time.time() * 1000) < 60_000
    assert first == {
        "name": "m",
        "version": "1",
        "inference_count": 6,
        "execution_count": 2,
        "inference_stats": {
            "success": {"count": 2, "ns": 200},
            "fail": {"count": 1, "ns": 7},
            "queue": {"count": 2, "ns": 40},
            "compute_input": {"count": 2, "ns": 20},
            "compute_infer": {"count": 2, "ns": 60},
            "compute_output": {"count": 2, "ns": 80},
            "cache_hit": {"count": 0, "ns": 0},
            "cache_miss": {"count": 0, "ns": 0},
        },
        "batch_stats": [
            {
                "batch_size": 3,
                "compute_input": {"count": 2, "ns": 20},
                "compute_infer": {"count": 2, "ns": 60},
                "compute_output": {"count": 2, "ns": 80},
            }
        ],
    }
    assert second["last_inference"] == 0 and second["inference_stats"]["success"] == {"count": 0, "ns": 0}
