"""What models cost each site in bytes and seconds, as Prometheus metrics, read from the Assignments as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgeward.cluster.resources import Object
from edgeward.fleet.names import LABEL_SITE

_LABELS = ["site", "namespace", "job", "model", "version"]


class SiteBytes(Collector):
    """A series for each version that a site has in its status, so none ever counts down: with its version it goes."""

    def __init__(self, assignments: Callable[[], Iterable[Object]]) -> None:
        self._assignments = assignments

    def collect(self) -> Iterator[Metric]:
        received = CounterMetricFamily(
            "edgeward_model_received_bytes", "bytes of a model that came to the site over its link", labels=_LABELS
        )
        shared = CounterMetricFamily(
            "edgeward_model_shared_bytes", "bytes of a model that nodes of the site got from each other", labels=_LABELS
        )
        seconds = GaugeMetricFamily(
            "edgeward_model_fetch_seconds", "time that the slowest pod took to fetch a model", labels=_LABELS
        )
        for (*labels, _digest), model in sorted(self._models().items()):
            received.add_metric(labels, model.get("received", 0))
            shared.add_metric(labels, model.get("shared", 0))
            if "seconds" in model:
                seconds.add_metric(labels, float(model["seconds"]))
        yield from (received, shared, seconds)

    def _models(self) -> dict[tuple[str, ...], Object]:
        found: dict[tuple[str, ...], Object] = {}
        taken: set[tuple[str, ...]] = set()
        for raw in self._assignments():
            job, site = raw["spec"]["job"], (raw["metadata"].get("labels") or {}).get(LABEL_SITE, "")
            for model in (raw.get("status") or {}).get("models") or []:
                labels = (site, job["namespace"], job["name"], model["name"], model["version"])
                # Two digests under one version number, which nobody should have, may not make two series of one name.
                if labels not in taken:
                    taken.add(labels)
                    found[(*labels, model["digest"])] = model
        return found
