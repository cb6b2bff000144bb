from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from edgeward_runtime.metrics import MetricsPage, RuntimeCollector, ServerStats
from edgeward_runtime.model import Model
from edgeward_runtime.registry import Registry


def model(version: str) -> Model:
    return Model(name="m", version=version, digest="sha256:" + version * 64, session=None, inputs={}, outputs={})


def samples(registry: Registry, stats: ServerStats | None = None) -> dict[tuple, float]:
    collector = RuntimeCollector(models=registry.versions, server=stats or ServerStats(), pending=lambda: 3, limit=9)
    text = MetricsPage(collector).render().decode()
    found: dict[tuple, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in found, f"{key} twice"
            found[key] = sample.value
    return found


def success(one: Model, milliseconds: float = 2.0) -> None:
    duration = int(milliseconds * 1e6)
    one.stats.success(rows=2, duration=duration, parse=10_000, queue=20_000, infer=30_000, output=40_000)


def test_counters_of_a_version():
    registry, one = Registry(), model("1")
    registry.flip(one)
    success(one)
    success(one, 200)
    one.stats.failure(400)
    found, labels = samples(registry), (("model", "m"), ("version", "1"))
    assert found["nv_inference_request_success", *labels] == 2
    assert found["nv_inference_request_failure", *labels] == 1
    assert found["nv_inference_count", *labels] == 4
    assert found["nv_inference_queue_duration_us", *labels] == 40
    assert found["nv_inference_request_duration_us", *labels] == 202_000
    assert found["edgeward_requests_total", ("code", "400"), *labels] == 1
    bucket = "edgeward_request_duration_seconds_bucket"
    assert [found[bucket, ("le", le), *labels] for le in ("0.001", "0.0025", "0.1", "0.25", "+Inf")] == [0, 1, 1, 2, 2]
    assert found["edgeward_request_duration_seconds_count", *labels] == 2
    assert found["edgeward_queue_length",] == 3 and found["edgeward_queue_limit",] == 9


def test_what_clients_say_of_the_way_is_counted_if_it_can_be() -> None:
    registry, one = Registry(), model("1")
    registry.flip(one)
    for said in (b"0.25", b"1e-1", b"", b"-1", b"nan", b"inf", b"1e9", b"soon", b"\xff", b"61"):
        one.stats.transferred(said)
    found, labels = samples(registry), (("model", "m"), ("version", "1"))
    assert found["edgeward_client_transfer_seconds_count", *labels] == 2
    assert found["edgeward_client_transfer_seconds_sum", *labels] == 0.35


def test_a_version_that_comes_back_counts_on():
    registry = Registry()
    for version in ("1", "2", "1"):
        one = model(version)
        registry.carry_over(one)
        registry.flip(one)
        success(one)
    found = samples(registry)
    name = "nv_inference_request_success"
    assert found[name, ("model", "m"), ("version", "1")] == 2
    assert found[name, ("model", "m"), ("version", "2")] == 1


def test_many_versions_do_not_grow_without_bound():
    registry = Registry()
    for number in range(100):
        registry.flip(model(str(number)))
    assert len(list(registry.versions())) <= 17


def test_server_counters():
    stats = ServerStats()
    stats.unrouted[404] = 2
    stats.swap("m", "Serving")
    stats.swap("m", "NotOnnx")
    found = samples(Registry(), stats)
    assert found["edgeward_unrouted_errors_total", ("code", "404")] == 2
    assert found["edgeward_model_swaps_total", ("model", "m"), ("result", "NotOnnx")] == 1
