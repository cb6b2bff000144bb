"""Swaps of a real server: none loses or misroutes a request, memory comes back, a canary gets its share, and a version
that fails at any step changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.test_runtime_serving import Server, publish, row, server
from tests.runtime_swaps import pss_ratio, swap_under_load
from tests.unit.runtime.http_source import Source, serving
from tests.unit.runtime.onnx_models import stamped


@pytest.fixture
def source() -> Iterator[Source]:
    with serving() as one:
        yield one


def test_fifty_swaps_under_constant_load(tmp_path, source):
    with server(tmp_path) as one:
        found = swap_under_load(one, source, 50)
        assert found.failed == [] and found.misrouted == []
        assert found.requests > 500
        one.until(lambda: sum("drained" in line["message"] for line in one.lines()) == 50)


@pytest.mark.parametrize("swaps", [30, pytest.param(200, marks=pytest.mark.full)])
def test_native_memory_comes_back(tmp_path, source, swaps):
    with server(tmp_path) as one:
        assert pss_ratio(one, source, swaps) < 1.2


def state(one: Server, version: str) -> str | None:
    model = one.model(version)
    return model["state"] if model else None


def versions(one: Server, count: int, **fields: object) -> dict[str, str]:
    """Which version answered which of so many requests."""
    found = {}
    for number in range(count):
        status, answer, _rest = one.infer({**row(1, 1, 1, 1), "id": f"user-{number}", **fields})
        assert status == 200 and answer["outputs"][0]["data"][0] == float(answer["model_version"])
        found[f"user-{number}"] = answer["model_version"]
    return found


def test_a_canary(tmp_path, source):
    stable, new = publish(source, "1", stamped(1)), publish(source, "2", stamped(2))
    with server(tmp_path) as one:
        one.want(stable)
        one.until(lambda: one.serves("1"))
        # Copies first, then a share of the traffic.
        one.want(stable, {**new, "role": "Canary", "traffic": "30%", "mirrorRequests": 5}, revision=2)
        one.until(lambda: state(one, "2") == "Mirroring")
        assert set(versions(one, 20).values()) == {"1"}
        one.until(lambda: versions(one, 1) and one.serves("2"))
        mirror = one.model("2")["counters"]["mirror"]
        assert mirror["requests"] >= 5 and mirror["failed"] == 0
        assert sum(mirror["agreement"]["counts"]) == mirror["requests"]
        first = versions(one, 200)
        assert 30 <= sum(version == "2" for version in first.values()) <= 90
        assert versions(one, 200) == first, "the same id goes to the same version"
        for version in ("1", "2"):
            answer = one.infer({**row(1, 1, 1, 1), "id": "user-0"}, path=f"/v2/models/m/versions/{version}/infer")
            assert answer[1]["model_version"] == version
        shown = one.model("2")
        assert (shown["role"], shown["traffic"], shown["serving"]) == ("Canary", "30%", True)
        assert shown["counters"]["requests"] >= 60 and shown["counters"]["errors"] == 0
        metrics = one.get("/metrics")[1]
        assert 'edgeward_canary_traffic_ratio{model="m",version="2"} 0.3' in metrics
        assert 'edgeward_mirrored_requests_total{model="m",result="' in metrics
        # A larger share keeps those that it had; no share gives all back; what was loaded is not loaded again.
        one.want(stable, {**new, "role": "Canary", "traffic": "60%", "mirrorRequests": 5}, revision=3)
        one.until(lambda: one.status()["revision"] == 3)
        more = versions(one, 200)
        assert all(more[user] == "2" for user, version in first.items() if version == "2") and more != first
        # Promoted: the canary's own model goes on.
        one.want(new, revision=4)
        one.until(lambda: one.serves("2") and one.model("1") is None)
        assert set(versions(one, 20).values()) == {"2"}
        assert one.model("2")["counters"]["requests"] > shown["counters"]["requests"]


def test_a_canary_that_goes_takes_nothing_with_it(tmp_path, source):
    stable, new = publish(source, "1", stamped(1)), publish(source, "2", stamped(2))
    with server(tmp_path) as one:
        one.want(stable, {**new, "role": "Canary", "traffic": "50%"})
        one.until(lambda: one.serves("1") and one.serves("2"))
        assert set(versions(one, 50).values()) == {"1", "2"}
        one.want(stable, revision=2)
        one.until(lambda: one.status()["revision"] == 2)
        assert set(versions(one, 50).values()) == {"1"}
        assert one.infer(row(1, 1, 1, 1), path="/v2/models/m/versions/2/infer")[0] == 404
        one.until(lambda: any("drained" in line["message"] for line in one.lines()))


def test_copies_before_the_flip(tmp_path, source):
    with server(tmp_path) as one:
        one.want(publish(source, "1", stamped(1)))
        one.until(lambda: one.serves("1"))
        one.want(publish(source, "2", stamped(2), mirrorRequests=10), revision=2)
        one.until(lambda: state(one, "2") == "Mirroring")
        seen = one.until(lambda: versions_until(one, "2"))
        assert seen >= 10
        mirror = one.model("2")["counters"]["mirror"]
        assert mirror["requests"] >= 10 and mirror["failed"] == 0


def versions_until(one: Server, version: str) -> int:
    """Asks until that version answers; how often it did not."""
    number = 0
    while one.infer(row(1, 1, 1, 1))[1]["model_version"] != version:
        number += 1
    return number
