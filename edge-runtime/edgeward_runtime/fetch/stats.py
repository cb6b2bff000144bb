"""What fetching and the store tell Prometheus."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgeward_runtime.store import Store

# Label values are kept for as long as the process lives, so there is a bound on them.
_MAX_SOURCES = 64
_OTHER = "other"


class FetchStats:
    """Since the process began, by where it came from: scheme and host, for s3 the bucket."""

    def __init__(self) -> None:
        self.received: dict[str, int] = {}  # bytes, those of tries that failed too
        self.resumed: dict[str, int] = {}  # bytes that were there from an earlier try
        self.seconds: dict[str, float] = {}
        self.reused = 0  # bytes that other files of the store had
        self.shared = 0  # bytes from peers at the same site, in none of the others
        self.results: dict[tuple[str, str], int] = {}  # (source, Fetched or the reason)

    def add(
        self,
        source: str,
        result: str,
        *,
        received: int,
        resumed: int,
        seconds: float,
        reused: int = 0,
        by: Mapping[str, int] | None = None,
    ) -> None:
        """`by`: which sources gave some of the bytes received; the rest came from `source`."""
        label = self._label(source)
        for other, count in (by or {}).items():
            given = self._label(other)
            self.received[given] = self.received.get(given, 0) + count
            received -= count
        self.reused += reused
        self.received[label] = self.received.get(label, 0) + received
        self.resumed[label] = self.resumed.get(label, 0) + resumed
        self.seconds[label] = self.seconds.get(label, 0.0) + seconds
        self.results[label, result] = self.results.get((label, result), 0) + 1

    def _label(self, source: str) -> str:
        parts = urllib.parse.urlsplit(source)
        label = f"{parts.scheme}://{parts.netloc}"
        return label if label in self.received or len(self.received) < _MAX_SOURCES else _OTHER


class StoreCollector(Collector):
    def __init__(self, *, store: Store, stats: FetchStats) -> None:
        self._store = store
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats
        for name, text, values in (
            ("edgeward_fetched_bytes", "Bytes of models that came over the network or from a disk", stats.received),
            ("edgeward_fetch_resumed_bytes", "Bytes of models that were there from an earlier try", stats.resumed),
            ("edgeward_fetch_seconds", "Time spent fetching, tries that failed included", stats.seconds),
        ):
            family = CounterMetricFamily(name, text, labels=["source"])
            for source, value in sorted(dict(values).items()):
                family.add_metric([source], value)
            yield family
        text = "Bytes of models that did not have to come, since other files of the store had them"
        yield CounterMetricFamily("edgeward_fetch_reused_bytes", text, value=stats.reused)
        text = "Bytes of models that came from other pods at the same site"
        yield CounterMetricFamily("edgeward_shared_bytes", text, value=stats.shared)
        results = CounterMetricFamily("edgeward_fetches", "Tries at a source", labels=["source", "result"])
        for (source, result), count in sorted(dict(stats.results).items()):
            results.add_metric([source, result], count)
        yield results
        store, evicted = self._store, self._store.evicted
        yield GaugeMetricFamily("edgeward_store_bytes", "Bytes of models in the store", value=store.used)
        yield GaugeMetricFamily("edgeward_store_quota_bytes", "Bytes it may hold, 0 = no quota", value=store.quota)
        yield CounterMetricFamily(
            "edgeward_store_corrupt_blobs", "Files dropped because their bytes had changed", value=store.corrupted
        )
        yield CounterMetricFamily("edgeward_store_evicted_models", "Models removed to make room", value=evicted.models)
        yield CounterMetricFamily("edgeward_store_evicted_bytes", "Their bytes", value=evicted.size)
