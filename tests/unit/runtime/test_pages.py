"""Every address but infer, without a socket."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.messages import Request
from edgeward_runtime.metrics import MetricsPage, RuntimeCollector, ServerStats
from edgeward_runtime.model import Model
from edgeward_runtime.pages import Pages
from edgeward_runtime.registry import Registry


def model(name: str, version: str) -> Model:
    return Model(name=name, version=version, digest="sha256:0", session=None, inputs={}, outputs={})


@pytest.fixture
def pages() -> Pages:
    """m: version 2 serves, 1 did; late: wanted, fetched."""
    registry = Registry()
    registry.wanted = frozenset({"m", "late"})
    registry.flip(model("m", "1"))
    registry.flip(model("m", "2"))
    status = [
        {"name": "m", "version": "2", "state": "Serving", "serving": True},
        {"name": "late", "version": "1", "state": "Fetching", "serving": False},
    ]
    collector = RuntimeCollector(models=registry.versions, server=ServerStats(), pending=lambda: 0, limit=1)
    return Pages(
        registry=registry,
        metrics=MetricsPage(collector),
        status=lambda: {"models": status},
        server_name="edge",
    )


def request(path: str, method: str = "GET", body: bytes = b"") -> Request:
    one = Request()
    one.path, one.method, one.body = path, method.encode(), body
    return one


def get(pages: Pages, path: str) -> Any:
    return orjson.loads(pages.answer(request(path)).body)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2/models/m/stats", [("m", "2"), ("m", "1")]),
        ("/v2/models/m/versions/2/stats", [("m", "2")]),
        ("/v2/models/m/versions/1/stats", [("m", "1")]),
        ("/v2/models/stats", [("m", "2"), ("m", "1")]),
    ],
)
def test_statistics(pages, path, expected):
    assert [(one["name"], one["version"]) for one in get(pages, path)["model_stats"]] == expected


def test_a_model_may_be_called_stats(pages):
    pages.registry.flip(model("stats", "1"))
    assert get(pages, "/v2/models/stats")["name"] == "stats"
    assert get(pages, "/v2/models/stats/stats")["model_stats"][0]["name"] == "stats"


def test_metadata_and_readiness_of_a_version(pages):
    assert get(pages, "/v2/models/m/versions/2")["versions"] == ["2"]
    assert get(pages, "/v2/models/m/versions/2/ready") == {"name": "m", "ready": True}
    assert get(pages, "/v2")["extensions"] == ["binary_tensor_data", "model_repository", "statistics"]


def test_the_repository(pages):
    index = orjson.loads(pages.answer(request("/v2/repository/index", "POST")).body)
    assert [(one["name"], one["version"], one["state"]) for one in index] == [
        ("late", "1", "LOADING"),
        ("m", "1", "UNAVAILABLE"),
        ("m", "2", "READY"),
    ]
    ready = orjson.loads(pages.answer(request("/v2/repository/index", "POST", b'{"ready":true}')).body)
    assert [one["version"] for one in ready] == ["2"]
    assert pages.answer(request("/v2/repository/models/m/load", "POST")).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/late", 503),
        ("GET", "/v2/models/late/stats", 503),
        ("GET", "/v2/models/other/stats", 404),
        ("GET", "/v2/models/m/versions/9/stats", 404),
        ("GET", "/v2/models/m/versions/1/ready", 404),
        ("GET", "/v2/models/m/version/2/stats", 404),
        ("GET", "/v2/repository/index", 405),
        ("POST", "/v2/repository", 405),
        ("POST", "/v2/repository/", 404),
        ("POST", "/v2/repository/models/m", 404),
        ("POST", "/v2/repository/models/m/reload", 404),
        ("POST", "/v2/repository/models/other/load", 404),
        ("POST", "/v2/repository/models/late/load", 503),
        ("POST", "/v2/repository/models/m/unload", 400),
        ("POST", "/v2/models/m/stats", 405),
        ("GET", "/v3", 404),
    ],
)
def test_what_is_not_there(pages, method, path, status):
    with pytest.raises(ProtocolError) as caught:
        pages.answer(request(path, method))
    assert caught.value.status == status
    assert caught.value.extra.startswith(b"allow: ") == (status == 405)


def test_a_body_that_could_not_be_unpacked(pages):
    asked = request("/v2/repository/index", "POST")
    asked.refused = ProtocolError(413, "too large")
    with pytest.raises(ProtocolError, match="too large"):
        pages.answer(asked)


def test_a_server_that_runs_no_models_any_more_says_so(pages):
    pages.registry.wanted = frozenset({"m"})
    assert [pages.answer(request(f"/v2/health/{what}")).status for what in ("live", "ready")] == [200, 200]
    dead = replace(pages, alive=lambda: False)
    for what in ("live", "ready"):
        answer = dead.answer(request(f"/v2/health/{what}"))
        assert answer.status == 503 and orjson.loads(answer.body)["live"] is False
