"""Reading a runtime's counters: its own page is understood, and a page that lies is no reading."""

from __future__ import annotations

import pytest

from edgeward.agent.exposition import Counts, read
from edgeward.fleet.traffic import LATENCY_BOUNDS
from edgeward_runtime.metrics import MetricsPage, RuntimeCollector, ServerStats
from edgeward_runtime.model import Model
from edgeward_runtime.registry import Registry

DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def model(version: str, digest: str) -> Model:
    return Model(name='m "1"\\', version=version, digest=digest, session=None, inputs={}, outputs={})


def page(registry: Registry) -> str:
    collector = RuntimeCollector(models=registry.versions, server=ServerStats(), pending=lambda: 0, limit=9)
    return MetricsPage(collector).render().decode()


def test_the_page_of_a_real_runtime() -> None:
    registry, old, new = Registry(), model("1", OTHER), model("2", DIGEST)
    registry.flip(old)
    old.stats.success(rows=1, duration=3_000_000, parse=1_000_000, queue=500_000, infer=1_000_000, output=500_000)
    registry.flip(new)
    for milliseconds in (4, 40):
        new.stats.success(
            rows=3,
            duration=milliseconds * 10**6,
            parse=10**6,
            queue=10**6,
            infer=(milliseconds - 3) * 10**6,
            output=10**6,
        )
    new.stats.failure(400)
    new.stats.failure(503)
    new.stats.failure(500)
    found = read(page(registry))
    assert found.serving == DIGEST and set(found.digests) == {DIGEST, OTHER}
    counts = found.digests[DIGEST]
    assert (counts.served, counts.errors, counts.busy) == (2, 2, pytest.approx(0.042))
    assert {LATENCY_BOUNDS[index]: count for index, count in enumerate(counts.latency) if count} == {0.005: 1, 0.05: 1}
    assert found.digests[OTHER].served == 1 and found.digests[OTHER].busy == pytest.approx(0.0025)
    assert found.started and found.started > 1e9 and found.cpu and found.memory and found.memory > 1e6


def bare(value: str = "5", digest: str = DIGEST, **more: str) -> str:
    lines = [
        f'edgeward_model_info{{model="m",version="1",digest="{digest}",state="Serving"}} 1.0',
        f'nv_inference_request_success{{model="m",version="1"}} {value}',
        *(f"{name} {said}" for name, said in more.items()),
    ]
    return "\n".join(lines)


@pytest.mark.parametrize("value", ["NaN", "-1", "+Inf", "1e300", "many", "", "0x5"])
def test_a_value_that_cannot_be_is_no_reading(value: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read(bare(value))


def test_a_histogram_that_falls_is_no_reading() -> None:
    buckets = [
        f'edgeward_request_duration_seconds_bucket{{model="m",version="1",le="{bound}"}} {count}'
        for bound, count in (("0.1", 5), ("+Inf", 4))
    ]
    with pytest.raises(ValueError, match="falls"):
        read("\n".join([bare(), *buckets]))


def test_more_versions_than_a_runtime_keeps_are_no_reading() -> None:
    with pytest.raises(ValueError, match="versions"):
        read("\n".join(f'nv_inference_request_success{{model="m",version="{n}"}} 1' for n in range(1000)))


def test_buckets_of_another_runtime_go_where_their_bounds_lie() -> None:
    said = [("0.03", 2), ("0.7", 5), ("20", 6), ("+Inf", 7)]
    buckets = [
        f'edgeward_request_duration_seconds_bucket{{model="m",version="1",le="{bound}"}} {count}'
        for bound, count in said
    ]
    counts = read("\n".join([bare(), *buckets])).digests[DIGEST]
    assert {index: count for index, count in enumerate(counts.latency) if count} == {
        LATENCY_BOUNDS.index(0.05): 2,
        LATENCY_BOUNDS.index(1.0): 3,
        len(LATENCY_BOUNDS): 2,
    }


def test_what_is_not_a_digest_counts_for_nothing_and_the_rest_of_the_page_is_not_read() -> None:
    assert read(bare(digest="latest")).digests == {}
    assert read("go_goroutines NaN\n" + bare()).digests == {DIGEST: Counts(served=5)}
    assert read("").digests == {}
