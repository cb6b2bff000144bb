"""The sites of a fleet as columns, so that what a job thinks of each of them is computed for all at once."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeward.api.common import LabelSelector
from edgeward.fleet.model import Job, Site
from edgeward.placement.columns import Floats, Rows
from edgeward.placement.distance import Way, site_labels

Mask = NDArray[np.bool_]


class Ways(NamedTuple):
    """`distance.nearest_way` for every site; nan where a Way has None."""

    seconds: Floats
    confidence: Floats
    rtt: Floats
    bandwidth: Floats
    source: Rows
    """number of the site that the way is from; -1 for none"""
    local: Mask


class Sites:
    """Columns have one entry a site, by its number in `every`; what a site does not say is nan."""

    def __init__(self, every: Sequence[Site], listed: Collection[str]) -> None:
        """`listed`: names of those that have an object; the others are known by their nodes' labels alone, and no data
        comes from there."""
        self.every = tuple(every)
        self.number: Mapping[str, int] = {site.name: number for number, site in enumerate(self.every)}
        self.listed: Mask = np.array([site.name in listed for site in self.every], dtype=np.bool_)
        self.rtt = _known([site.rtt for site in self.every])
        bandwidth = _known([site.bandwidth for site in self.every])
        self.bandwidth = np.where(bandwidth > 0, bandwidth, np.nan)
        self.cost_cpu_hour = _price([site.cost_cpu_hour for site in self.every])
        self.cost_egress_gib = _price([site.cost_egress_gib for site in self.every])
        self.watts_per_cpu = _price([site.watts_per_cpu for site in self.every])
        codes: dict[str, int] = {"": -1}
        self.region: Rows = np.array(
            [codes.setdefault(site.region, len(codes)) for site in self.every], dtype=np.intp
        ).reshape(-1)
        """a number for each name of a region; -1 where none is declared"""
        self._labels = [site_labels(site) if here else {} for site, here in zip(self.every, self.listed, strict=True)]
        self._having: dict[tuple[str, str], list[int]] = {}
        for number, labels in enumerate(self._labels):
            for entry in labels.items():
                self._having.setdefault(entry, []).append(number)
        self._sources: dict[Hashable, Rows] = {}
        self._ways: dict[Hashable, Ways] = {}

    def sources(self, selector: LabelSelector | None) -> Rows:
        """The sites where data comes from, by name; none when the job does not say, or none matches."""
        if selector is None:
            return np.zeros(0, dtype=np.intp)
        key = selector_key(selector)
        if key not in self._sources:
            some: Sequence[int] = range(len(self.every))
            if selector.match_labels:
                some = min((self._having.get(entry, []) for entry in selector.match_labels.items()), key=len)
            found = [at for at in some if self.listed[at] and selector.matches(self._labels[at])]
            found.sort(key=lambda at: self.every[at].name)
            self._sources[key] = np.array(found, dtype=np.intp)
        return self._sources[key]

    def ways(self, job: Job) -> Ways:
        """From the source that is nearest by what is known of the ways, to every site."""
        size = max(0, job.request_bytes or 0) + max(0, job.response_bytes or 0)
        sized = job.request_bytes is not None
        key = (selector_key(job.source_selector), size, sized)
        known = self._ways.get(key)
        if known is None:
            sources = self.sources(job.source_selector)
            known = self._ways[key] = (
                self._nearest(sources, size, sized) if len(sources) else self._nowhere(job.source_selector is None)
            )
        return known

    def way(self, ways: Ways, number: int) -> Way:
        """One entry."""
        seconds, confidence, rtt, bandwidth, source, local = (column[number].item() for column in ways)
        return Way(
            seconds=None if seconds != seconds else seconds,
            confidence=confidence,
            rtt=None if rtt != rtt else rtt,
            bandwidth=None if bandwidth != bandwidth else bandwidth,
            source=self.every[source].name if source >= 0 else "",
            local=local,
        )

    def _nowhere(self, unsaid: bool) -> Ways:
        size = len(self.every)
        nothing = np.full(size, np.nan)
        confidence = np.full(size, 1.0 if unsaid else 0.5)
        return Ways(nothing, confidence, nothing, nothing, np.full(size, -1), np.zeros(size, dtype=np.bool_))

    def _nearest(self, sources: Rows, size: int, sized: bool) -> Ways:
        has_rtt, has_band = ~np.isnan(self.rtt), ~np.isnan(self.bandwidth)
        rtts = np.where(has_rtt, self.rtt, 0.0)
        nothing = self._nowhere(False)
        best = Ways(
            nothing.seconds.copy(),
            nothing.confidence.copy(),
            nothing.rtt.copy(),
            nothing.bandwidth.copy(),
            nothing.source.copy(),
            nothing.local.copy(),
        )
        best.local[sources] = True
        for turn, source in enumerate(sources.tolist()):
            narrow = np.fmin(self.bandwidth, self.bandwidth[source])
            wire = np.where(np.isnan(narrow), 0.0, 8.0 * size / narrow)
            seconds = (rtts[source] + rtts) + wire
            known = has_rtt.astype(np.float64) + has_band + float(has_rtt[source]) + float(has_band[source])
            believed = known / 4 * (1.0 if sized else 0.5)
            nearer = (seconds < best.seconds) | ((seconds == best.seconds) & (believed > best.confidence)) | (turn == 0)
            rtt = np.where(has_rtt & has_rtt[source], rtts[source] + rtts, np.nan)
            for column, values in zip(best, (seconds, believed, rtt, narrow, source), strict=False):
                np.copyto(column, values, where=nearer)
        here = best.local
        best.seconds[here], best.confidence[here], best.rtt[here], best.bandwidth[here] = 0.0, 1.0, 0.0, np.nan
        best.source[here] = np.flatnonzero(here)
        return best


def selector_key(selector: LabelSelector | None) -> Hashable:
    """Equal for selectors that say the same."""
    if selector is None:
        return None
    asked = tuple((item.key, item.operator, tuple(item.values)) for item in selector.match_expressions)
    return tuple(sorted(selector.match_labels.items())), asked


def _known(values: Sequence[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64).reshape(-1)


def _price(values: Sequence[float | None]) -> Floats:
    """What is below 0 or endless is no price."""
    known = _known(values)
    return np.where((known >= 0) & (known < np.inf), known, np.nan)
