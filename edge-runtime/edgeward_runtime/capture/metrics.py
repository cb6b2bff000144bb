"""Capture, feedback and drift for Prometheus. A score is there once there are rows enough for it: none is not zero."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgeward_runtime.learning import Learning


class LearningCollector(Collector):
    def __init__(self, learning: Learning) -> None:
        self._learning = learning

    def collect(self) -> Iterator[Metric]:
        yield from self._capture()
        yield from self._feedback()
        yield from self._drift()

    def _capture(self) -> Iterator[Metric]:
        stats = self._learning.stats
        by_label = (
            ("edgeward_capture_picked", "Requests that a rule chose", "when", stats.picked),
            ("edgeward_capture_dropped", "Requests chosen and not kept", "reason", stats.dropped),
            ("edgeward_capture_failures", "Times the disk switched capture off", "reason", stats.failures),
        )
        for name, text, label, counts in by_label:
            family = CounterMetricFamily(name, text, labels=[label])
            for key, count in sorted(counts.items()):
                family.add_metric([key], count)
            yield family
        plain = (
            ("edgeward_capture_kept", "Requests written to the ring", stats.kept),
            ("edgeward_capture_evicted", "Requests dropped from the ring for others", stats.evicted),
            ("edgeward_capture_expired", "Requests dropped from the ring for their age", stats.expired),
            ("edgeward_capture_resets", "Rings begun anew because the file was damaged", stats.resets),
            ("edgeward_capture_sketches", "Sketches written to the ring", stats.sketches),
        )
        for name, text, count in plain:
            yield CounterMetricFamily(name, text, value=count)
        yield GaugeMetricFamily("edgeward_capture_bytes", "Of the ring on disk", value=stats.bytes)
        yield GaugeMetricFamily("edgeward_capture_records", "In the ring", value=stats.records)
        policy = self._learning.policy
        off = GaugeMetricFamily("edgeward_capture_off", "1 while nothing can be written, and why", labels=["reason"])
        if policy is not None and stats.off:
            off.add_metric([stats.off], 1)
        yield off

    def _feedback(self) -> Iterator[Metric]:
        accuracy = self._learning.accuracy
        labels = ["model", "version", "digest", "result"]
        rows = CounterMetricFamily("edgeward_feedback_rows", "Rows of answers that a label was told for", labels=labels)
        for version, counts in accuracy.rows.items():
            for result, count in counts.items():
                rows.add_metric([*version, result], count)
        outcomes = CounterMetricFamily("edgeward_feedback", "Labels told, by what became of them", labels=["outcome"])
        for outcome, count in sorted(accuracy.outcomes.items()):
            outcomes.add_metric([outcome], count)
        yield from (rows, outcomes)

    def _drift(self) -> Iterator[Metric]:
        labels = ["model", "version", "digest", "of", "name", "reference"]
        psi = GaugeMetricFamily("edgeward_drift_psi", "Population stability index of the last hour", labels=labels)
        ks = GaugeMetricFamily("edgeward_drift_ks", "Kolmogorov-Smirnov distance of the last hour", labels=labels)
        rows = GaugeMetricFamily("edgeward_drift_rows", "Rows looked at in the last hour", labels=labels)
        odd = GaugeMetricFamily(
            "edgeward_drift_nonfinite", "NaN and infinities among the values of the last hour", labels=labels
        )
        for version, one in self._learning.drifts():
            key = [*version, one.of, one.name, one.reference]
            rows.add_metric(key, one.rows)
            odd.add_metric(key, one.nan + one.infinite)
            if one.score is not None:
                psi.add_metric(key, one.score.psi)
                ks.add_metric(key, one.score.ks)
        yield from (psi, ks, rows, odd)
        learner = self._learning.learner
        yield CounterMetricFamily("edgeward_drift_samples", "Requests looked at", value=learner.samples)
        yield CounterMetricFamily(
            "edgeward_learning_cpu_seconds", "CPU of the thread that learns", value=learner.cpu_ns / 1e9
        )
