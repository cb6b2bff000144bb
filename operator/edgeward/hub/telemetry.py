"""The operator's own metrics, read from where the figures are when somebody scrapes. Nothing is counted twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgeward.cluster.client import Client

from .hub import Hub
from .planner import KINDS


class OperatorMetrics(Collector):
    def __init__(
        self,
        *,
        client: Client,
        hub: Hub,
        leading: Callable[[], bool],
        queue: Callable[[], int],
        lag: Callable[[], float],
    ) -> None:
        self._client = client
        self._hub = hub
        self._leading = leading
        self._queue = queue
        self._lag = lag

    def collect(self) -> Iterator[Metric]:
        yield _gauge("edgeward_leader", "1 while this replica holds the Lease", float(self._leading()))
        yield _gauge("edgeward_cache_lag_seconds", "how long the cache has been behind a LIST", self._lag())
        yield _gauge("edgeward_agent_queue", "Assignments waiting to be worked on", float(self._queue()))
        writes = CounterMetricFamily("edgeward_api_writes", "requests that change an object", labels=["verb", "kind"])
        for what, count in self._client.writes.items():
            verb, _, kind = what.partition(" ")
            writes.add_metric([verb, kind], count)
        yield writes
        yield CounterMetricFamily("edgeward_plans", "planner passes", value=self._hub.passes)
        yield CounterMetricFamily("edgeward_failures", "passes and writes that failed", value=self._hub.failed)
        yield from self._solver_metrics()
        if self._hub.last is not None:
            yield from self._plan_metrics()

    def _solver_metrics(self) -> Iterator[Metric]:
        planner = self._hub.planner
        yield CounterMetricFamily("edgeward_solver_starts", "solver processes started", value=planner.worker.starts)
        yield CounterMetricFamily("edgeward_solves", "full solves that gave advice", value=planner.solved)
        failures = CounterMetricFamily("edgeward_solver_failures", "full solves without an answer", labels=["kind"])
        for kind in KINDS:
            failures.add_metric([kind], planner.failures[kind])
        yield failures
        text = "full solves that the wall clock ended before their counts did"
        yield CounterMetricFamily("edgeward_solver_backstops", text, value=planner.backstops)
        yield _gauge(
            "edgeward_solver_running", "1 while there is a solver process", float(planner.worker.pid is not None)
        )
        yield _gauge(
            "edgeward_solve_seconds",
            "time that the last full solve took, the way there and back included",
            planner.seconds,
        )
        yield _gauge(
            "edgeward_solver_peak_bytes", "the most memory that a solver process used", float(planner.worker.peak_bytes)
        )
        guidance = planner.latest
        if guidance is not None and guidance.share_of_bound is not None:
            share = GaugeMetricFamily(
                "edgeward_share_of_bound",
                "score of the places that the last full solve found, over an upper bound of it",
                labels=["priority_tier"],
            )
            share.add_metric(["all"], guidance.share_of_bound)
            for tier in guidance.tiers:
                if tier.share is not None:
                    share.add_metric([str(tier.tier)], tier.share)
            yield share

    def _plan_metrics(self) -> Iterator[Metric]:
        last = self._hub.last
        if last is None:
            return
        yield _gauge("edgeward_plan_seconds", "time that the last plan took", last.seconds)
        yield _gauge("edgeward_nodes", "nodes that carry a tier", float(last.plan.total_nodes))
        yield _gauge("edgeward_nodes_fresh", "of them with fresh live figures", float(last.plan.fresh_nodes))
        wanted = GaugeMetricFamily("edgeward_replicas_wanted", "replicas asked for", labels=["priority_tier"])
        missing = GaugeMetricFamily("edgeward_replicas_missing", "of them without a node", labels=["priority_tier"])
        for tier in range(1, 6):
            jobs = [job for job in last.plan.jobs if job.priority_tier == tier]
            wanted.add_metric([str(tier)], sum(job.wanted for job in jobs))
            missing.add_metric([str(tier)], sum(job.missing for job in jobs))
        yield wanted
        yield missing


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
