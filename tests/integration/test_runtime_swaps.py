"""Swaps of a real server: none loses or misroutes a request, memory comes back, a canary gets its share, and a version
that fails at any step changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.cluster.registry import Registry
from tests.integration.test_runtime_serving import Load, Server, publish, row, server
from tests.runtime_artifacts import golden_of, push
from tests.runtime_swaps import pss_ratio, swap_under_load
from tests.unit.runtime.http_source import Source, serving
from tests.unit.runtime.onnx_models import constant_times, stamped


@pytest.fixture
def source() -> Iterator[Source]:
    with serving() as one:
        yield one


@pytest.fixture
def registry(tmp_path) -> Iterator[Registry]:
    folder = tmp_path / "registry"
    folder.mkdir()
    with Registry(folder) as one:
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
        assert pss_ratio(one, source, swaps, anonymous=True) < 1.2


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


# -- two versions that do not fit in memory together -----------------------------------------------------------------

TERABYTE = 10**12
GAP = {"whenTooBig": "OffloadInGap"}


def too_big(registry: Registry, version: int, memory: float, **files: bytes) -> dict[str, object]:
    """An artifact of which somebody measured that it takes so much memory."""
    measured = json.dumps({"memoryBytes": int(memory)}).encode()
    content = {"model.onnx": constant_times(version), "measured.json": measured, **files}
    pushed = push(registry.host, "shop/m", content, version=str(version))
    return {"name": "m", "version": str(version), "digest": pushed.digest, "sources": [pushed.source]}


def test_versions_that_do_not_fit_together(tmp_path, registry):
    old, big = (too_big(registry, 1, TERABYTE), too_big(registry, 2, 0.6 * TERABYTE))
    wrong = too_big(registry, 3, 0.4 * TERABYTE, **golden_of(9))
    with server(tmp_path, EDGEWARD_PLAIN_HTTP_REGISTRIES=registry.host) as one:
        one.want(old)
        one.until(lambda: one.serves("1"))
        with Load(one.port, clients=2) as load:
            one.want(big, revision=2)
            refused = one.until(lambda: one.refused("2"))
            assert (refused["step"], refused["reason"]) == ("Load", "NotEnoughMemory")
        assert load.failures == [] and {version for _at, version, _value in load.answers} == {"1"}
        with Load(one.port, clients=2) as load:
            # The first fails in its gap, and the old one comes back; then the next takes its place in another.
            one.want(wrong, revision=3, modelSwap=GAP)
            refused = one.until(lambda: one.refused("3"))
            assert refused["step"] == "Golden"
            one.until(lambda: one.serves("1") and one.get("/v2/health/ready")[0] == 200)
            one.want(big, revision=4, modelSwap=GAP)
            one.until(lambda: one.serves("2"))
            one.until(lambda: one.get("/v2/health/ready")[0] == 200)
        assert all(failure.startswith("503") and "being replaced" in failure for failure in load.failures)
        assert all(value == float(version) for _at, version, value in load.answers)
        assert {version for _at, version, _value in load.answers} == {"1", "2"}
        assert 'edgeward_model_gap{model="m"} 0.0' in one.get("/metrics")[1]


def test_a_gap_that_another_server_fills(tmp_path, registry, source):
    model = tmp_path / "m.onnx"
    model.write_bytes(constant_times(7))
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    elsewhere.mkdir()
    here.mkdir()
    old, new = too_big(registry, 1, TERABYTE), too_big(registry, 2, 0.6 * TERABYTE)
    with (
        server(elsewhere, str(model)) as other,
        server(here, EDGEWARD_PLAIN_HTTP_REGISTRIES=registry.host) as one,
    ):
        offload = {"url": f"http://127.0.0.1:{other.port}/v2/models/m", "budget": {"requests": "0%"}}
        one.want(old, modelSwap=GAP, offload=offload)
        one.until(lambda: one.serves("1"))
        with Load(one.port, clients=3) as load:
            for revision, wanted in ((2, new), (3, too_big(registry, 3, 0.36 * TERABYTE))):
                one.want(wanted, revision=revision, modelSwap=GAP, offload=offload)
                one.until(lambda wanted=wanted: one.serves(wanted["version"]))
        assert load.failures == []
        values = {value for _at, _version, value in load.answers}
        assert {1.0, 3.0} <= values <= {1.0, 2.0, 3.0, 7.0}


def versions_until(one: Server, version: str) -> int:
    """Asks until that version answers; how often it did not."""
    number = 0
    while one.infer(row(1, 1, 1, 1))[1]["model_version"] != version:
        number += 1
    return number
