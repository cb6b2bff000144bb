"""Counters that cost next to nothing per request, rendered only when Prometheus asks.

A request adds to plain integers of its model version, in the event loop's thread: no lock, no label lookup. The text
is made at scrape time. Triton's names are used where the meaning is Triton's, so that its dashboards work; they carry
no _total suffix and are therefore exposed untyped.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from edgeward_runtime.model import Model

# Upper bounds of the latency histogram in nanoseconds, and as Prometheus prints them.
BOUNDS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BOUNDS_NS = tuple(round(bound * 1e9) for bound in BOUNDS_S)


_LONGEST_TRANSFER = 60.0  # seconds
_MOST_SIZES = 64  # of runs, told apart: a client chooses its rows


class ModelStats:
    """Of one model version since it was loaded. Times are nanoseconds."""

    __slots__ = (
        "batches",
        "buckets",
        "dropped",
        "duration_ns",
        "executions",
        "failed_ns",
        "failures",
        "infer_ns",
        "input_ns",
        "last_ns",
        "missing_channels",
        "near_duplicates",
        "observer_failures",
        "output_ns",
        "prepared_bytes",
        "queue_ns",
        "record_bytes",
        "records",
        "rows",
        "successes",
        "transfer_seconds",
        "transfers",
    )

    def __init__(self) -> None:
        self.buckets = [0] * (len(_BOUNDS_NS) + 1)
        self.successes = self.executions = self.rows = 0
        self.failures: dict[int, int] = {}  # by HTTP status
        self.failed_ns = 0
        self.last_ns = 0  # perf_counter_ns of the last answer, 0 before the first
        self.duration_ns = self.queue_ns = self.input_ns = self.infer_ns = self.output_ns = 0
        self.transfers, self.transfer_seconds = 0, 0.0
        self.records = self.record_bytes = self.prepared_bytes = self.near_duplicates = 0
        self.missing_channels: dict[str, int] = {}
        self.observer_failures = 0  # answered calls that capture, drift or a mirror could not be told of
        self.batches: dict[int, list[int]] = {}  # rows of a run -> runs, decoding, model and encoding ns
        self.dropped: dict[str, int] = {}  # never run: full, refused, expired, gone

    def success(
        self, rows: int, duration: int, parse: int, queue: int, infer: int, output: int, together: int = 1
    ) -> None:
        """`together`: rows of the run; 0 if it was counted with another of its requests."""
        self.successes += 1
        if together:
            self.executions += 1
            runs = self.batches.get(together)
            if runs is not None:
                runs[0] += 1
                runs[1] += parse
                runs[2] += infer
                runs[3] += output
            elif len(self.batches) < _MOST_SIZES:
                self.batches[together] = [1, parse, infer, output]
        self.rows += rows
        self.duration_ns += duration
        self.input_ns += parse
        self.queue_ns += queue
        self.infer_ns += infer
        self.output_ns += output
        self.buckets[bisect_left(_BOUNDS_NS, duration)] += 1

    def failure(self, status: int) -> None:
        self.failures[status] = self.failures.get(status, 0) + 1

    def drop(self, why: str) -> None:
        self.dropped[why] = self.dropped.get(why, 0) + 1

    def transferred(self, said: bytes) -> None:
        """What a client says that its last request and answer spent on the way. Anybody can send it: what is no time
        that a request can take is not counted."""
        try:
            seconds = float(said)
        except ValueError:
            return
        if 0 <= seconds <= _LONGEST_TRANSFER:
            self.transfers += 1
            self.transfer_seconds += seconds

    def histogram(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative buckets and the sum in seconds, as Prometheus wants them."""
        total = 0
        cumulative: list[tuple[str, float]] = []
        for bound, count in zip([*map(str, BOUNDS_S), "+Inf"], self.buckets, strict=True):
            total += count
            cumulative.append((bound, total))
        return cumulative, self.duration_ns / 1e9


class ServerStats:
    """Of the process: what belongs to no model version."""

    def __init__(self) -> None:
        self.unrouted: dict[int, int] = {}  # errors that reached no model, by HTTP status
        self.swaps: dict[tuple[str, str], int] = {}  # (model, result): Serving, or the reason of the refusal
        self.load_seconds: dict[str, float] = {}  # the last load of each model, warm-up included

    def swap(self, model: str, result: str) -> None:
        self.swaps[model, result] = self.swaps.get((model, result), 0) + 1


class RuntimeCollector(Collector):
    """Turns the plain counters into metric families at scrape time. `models` yields (model, state) for every version
    that has counters, drained ones included: a counter that vanishes would look like a reset."""

    def __init__(
        self,
        *,
        models: Callable[[], Iterable[tuple[Model, str]]],
        server: ServerStats,
        pending: Callable[[], int],
        limit: int,
    ) -> None:
        self._models = models
        self._server = server
        self._pending = pending
        self._limit = limit

    def collect(self) -> Iterator[Metric]:
        models = list(self._models())
        yield from self._triton(models)
        yield from self._per_version(models)
        yield from self._process()

    def _triton(self, models: list[tuple[Model, str]]) -> Iterator[Metric]:
        values: tuple[tuple[str, str, Callable[[ModelStats], float]], ...] = (
            ("nv_inference_request_success", "Requests answered with 200", lambda s: s.successes),
            ("nv_inference_request_failure", "Requests answered with an error", lambda s: sum(s.failures.values())),
            ("nv_inference_count", "Rows inferred", lambda s: s.rows),
            ("nv_inference_exec_count", "Runs of the model", lambda s: s.executions),
            (
                "nv_inference_request_duration_us",
                "Request time, body read to answer built",
                lambda s: s.duration_ns // 1000,
            ),
            ("nv_inference_queue_duration_us", "Time waiting for the worker", lambda s: s.queue_ns // 1000),
            ("nv_inference_compute_input_duration_us", "Time decoding requests", lambda s: s.input_ns // 1000),
            ("nv_inference_compute_infer_duration_us", "Time in the model", lambda s: s.infer_ns // 1000),
            ("nv_inference_compute_output_duration_us", "Time encoding answers", lambda s: s.output_ns // 1000),
        )
        for name, text, value in values:
            family = Metric(name, text, "unknown")
            for model, _state in models:
                family.add_sample(name, {"model": model.name, "version": model.version}, value(model.stats))
            yield family
        name = "nv_inference_pending_request_count"
        pending = Metric(name, "Requests waiting or running", "gauge")
        pending.add_sample(name, {}, self._pending())
        yield pending

    def _per_version(self, models: list[tuple[Model, str]]) -> Iterator[Metric]:
        labels = ["model", "version"]
        latency = HistogramMetricFamily(
            "edgeward_request_duration_seconds", "Request time, body read to answer built", labels=labels
        )
        requests = CounterMetricFamily("edgeward_requests", "Infer requests by HTTP status", labels=[*labels, "code"])
        info = GaugeMetricFamily(
            "edgeward_model_info", "1 for every version known", labels=[*labels, "digest", "state"]
        )
        inflight = GaugeMetricFamily("edgeward_model_inflight", "Requests that hold this version", labels=labels)
        batch_rows = GaugeMetricFamily(
            "edgeward_batch_rows",
            "Rows that may run together, 1 = no batching, for the reason",
            labels=[*labels, "reason"],
        )
        dropped = CounterMetricFamily("edgeward_dropped", "Requests that never ran", labels=[*labels, "reason"])
        unobserved = CounterMetricFamily(
            "edgeward_observer_failures", "Answers that capture, drift or copies missed by an error", labels=labels
        )
        transfer = SummaryMetricFamily(
            "edgeward_client_transfer_seconds", "Time on the way, as clients report it", labels=labels
        )
        yield from _records([model for model, _state in models if model.chain is not None])
        for model, state in models:
            key = [model.name, model.version]
            transfer.add_metric(key, model.stats.transfers, model.stats.transfer_seconds)
            latency.add_metric(key, *model.stats.histogram())
            for code, count in sorted({200: model.stats.successes, **model.stats.failures}.items()):
                requests.add_metric([*key, str(code)], count)
            info.add_metric([*key, model.digest, state], 1)
            inflight.add_metric(key, model.inflight)
            unobserved.add_metric(key, model.stats.observer_failures)
            batch_rows.add_metric([*key, model.batch_off], model.batch_rows)
            for reason in ("expired", "full", "gone", "refused"):
                dropped.add_metric([*key, reason], model.stats.dropped.get(reason, 0))
        yield from (latency, requests, info, inflight, batch_rows, dropped, unobserved, transfer)

    def _process(self) -> Iterator[Metric]:
        server = self._server
        unrouted = CounterMetricFamily("edgeward_unrouted_errors", "Errors before a model was known", labels=["code"])
        for code, count in sorted(server.unrouted.items()):
            unrouted.add_metric([str(code)], count)
        swaps = CounterMetricFamily(
            "edgeward_model_swaps", "Attempts to bring a version live", labels=["model", "result"]
        )
        for (model, result), count in sorted(server.swaps.items()):
            swaps.add_metric([model, result], count)
        loads = GaugeMetricFamily("edgeward_model_load_seconds", "Last load and warm-up", labels=["model"])
        for model, seconds in sorted(server.load_seconds.items()):
            loads.add_metric([model], seconds)
        yield from (unrouted, swaps, loads)
        yield GaugeMetricFamily("edgeward_queue_length", "Requests waiting or running", value=self._pending())
        yield GaugeMetricFamily("edgeward_queue_limit", "Requests that may wait or run before 503", value=self._limit)


def _records(models: list[Model]) -> Iterator[Metric]:
    """Of versions with preprocessing."""
    if not models:
        return
    labels = ["model", "version"]
    records = CounterMetricFamily("edgeward_records", "Pictures and tables answered", labels=labels)
    size = CounterMetricFamily(
        "edgeward_record_bytes", "Records as received, and what preprocessing made of them", labels=[*labels, "stage"]
    )
    duplicates = CounterMetricFamily(
        "edgeward_near_duplicates", "Records answered as the one before, without a run", labels=labels
    )
    missing = CounterMetricFamily(
        "edgeward_missing_channels", "Records that a fusion completed", labels=[*labels, "channel"]
    )
    for model in models:
        key, stats = [model.name, model.version], model.stats
        records.add_metric(key, stats.records)
        size.add_metric([*key, "received"], stats.record_bytes)
        size.add_metric([*key, "prepared"], stats.prepared_bytes)
        duplicates.add_metric(key, stats.near_duplicates)
        for channel, count in sorted(stats.missing_channels.items()):
            missing.add_metric([*key, channel], count)
    yield from (records, size, duplicates, missing)


class MetricsPage:
    def __init__(self, *collectors: Collector) -> None:
        self._registry = CollectorRegistry()
        for collector in collectors:
            self._registry.register(collector)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def render(self) -> bytes:
        """Prometheus text format 0.0.4."""
        return generate_latest(self._registry)
