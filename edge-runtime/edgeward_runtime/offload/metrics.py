"""Offloading on the metrics page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgeward_runtime.offload.forward import Forwarder


class OffloadCollector(Collector):
    """`forwarder` answers the one in use, None while the job asks for none."""

    def __init__(self, forwarder: Callable[[], Forwarder | None]) -> None:
        self._forwarder = forwarder

    def collect(self) -> Iterator[Metric]:
        forwarder = self._forwarder()
        if forwarder is None:
            return
        stats = forwarder.stats
        requests = CounterMetricFamily(
            "edgeward_offload_requests",
            "Requests for the other server: why, and what came of it",
            labels=["why", "outcome"],
        )
        for (why, outcome), count in sorted(stats.outcomes.items()):
            requests.add_metric([why, outcome], count)
        seconds = CounterMetricFamily(
            "edgeward_offload_seconds", "Time of answered exchanges", labels=["encoding", "part"]
        )
        for (encoding, part), total in sorted(stats.seconds.items()):
            seconds.add_metric([encoding, part], total)
        exchanges = CounterMetricFamily("edgeward_offload_exchanges", "Answered exchanges", labels=["encoding"])
        for encoding, count in sorted(stats.exchanges.items()):
            exchanges.add_metric([encoding], count)
        compared = CounterMetricFamily(
            "edgeward_offload_answers", "Answers of both whose top classes were compared", labels=["agree"]
        )
        compared.add_metric(["true"], stats.agreed)
        compared.add_metric(["false"], stats.compared - stats.agreed)
        moved = CounterMetricFamily("edgeward_offload_bytes", "As they travelled", labels=["direction"])
        moved.add_metric(["sent"], stats.sent_bytes)
        moved.add_metric(["received"], stats.received_bytes)
        yield from (requests, seconds, exchanges, compared, moved)
        yield CounterMetricFamily(
            "edgeward_offload_unscored", "Answers whose hardness cannot be told", value=stats.unscored
        )
        yield GaugeMetricFamily(
            "edgeward_offload_threshold",
            "Hardness (0 to 1) above which a request goes elsewhere; +Inf before enough was seen",
            value=forwarder.threshold,
        )
        yield GaugeMetricFamily(
            "edgeward_offload_route_open", "1 = not known to be down", value=forwarder.route.open(perf_counter())
        )
