"""Canaries, copies and gaps, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from edgeward_runtime.agreement import BOUNDS
from edgeward_runtime.registry import Registry


class SwapCollector(Collector):
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        labels = ["model", "version"]
        copies = CounterMetricFamily(
            "edgeward_mirrored_requests", "Copies of requests, by what came of them", labels=[*labels, "result"]
        )
        agreement = HistogramMetricFamily(
            "edgeward_mirror_agreement", "Share of a copy's rows that agree with the answer given", labels=labels
        )
        for model, _state in self._registry.versions():
            seen = model.copies
            if not seen.requests and not seen.dropped:
                continue
            key = [model.name, model.version]
            differed = seen.requests - seen.agreed - seen.failed
            for result, count in (("agreed", seen.agreed), ("differed", differed), ("failed", seen.failed)):
                copies.add_metric([*key, result], count)
            copies.add_metric([*key, "dropped"], seen.dropped)
            total = 0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip([*map(str, BOUNDS), "+Inf"], seen.buckets, strict=True):
                total += count
                buckets.append((bound, total))
            agreement.add_metric(key, buckets, seen.score)
        share = GaugeMetricFamily("edgeward_canary_traffic_ratio", "Share of the requests for a canary", labels=labels)
        away = GaugeMetricFamily(
            "edgeward_model_gap", "1 while no version answers because one makes room for the next", labels=["model"]
        )
        for name, live in self._registry.live.items():
            away.add_metric([name], float(live.away))
            if live.split is not None:
                share.add_metric([name, live.split.canary.version], live.split.percent / 100)
        yield from (copies, agreement, share, away)
