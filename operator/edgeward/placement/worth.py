"""The terms that rest on the site alone: how far it is from the data, what it costs and what it burns.

Each is 0..1 with 1 the best, beside how far its figures are known. What is not known counts as the middle: half of a
time's value, the median of the known prices. So it never looks near, and never free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from edgeward.fleet.model import Site
from edgeward.placement.ask import Ask
from edgeward.placement.prices import known_or

SITE_TERMS = ("transfer", "latency", "gravity", "cost", "energy")
GIB = float(1 << 30)
UNKNOWN = 0.5
USUAL_LINK = 1e8
"""bit/s; a job's data over such a link is what its transfers are measured by"""
USUAL_SERVICE = 0.1
"""seconds of a request of which nothing was measured, for the same purpose"""


class Worth(NamedTuple):
    """A term's value and how far it is known."""

    value: float
    confidence: float = 1.0


def yardstick(ask: Ask) -> float:
    """s: seconds that a request of this job takes anyway, on an idle reference node with its data over a usual link.

    A time that is as long as s is worth a half, so 50 ms more weigh a lot for a short request and little for a long one.
    """
    size = max(0, ask.job.request_bytes or 0) + max(0, ask.job.response_bytes or 0)
    return (USUAL_SERVICE if ask.service is None else ask.service) + 8.0 * size / USUAL_LINK


class SiteTerms:
    """Of one job; each site is looked at once."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._middle = middle = ask.prices
        self._s = yardstick(ask)
        sourced = bool(ask.sources)
        self.applies = frozenset(
            name
            for name, can_tell in (
                ("transfer", sourced and ask.job.request_bytes is not None),
                ("gravity", sourced),
                ("latency", sourced),
                ("cost", middle.any_cost),
                ("energy", middle.watts is not None),
            )
            if can_tell
        )
        """terms for which there is anything to tell sites apart by; the others count for nothing"""
        self._dearest = max((self._hourly(site)[0] for site in ask.sites.values()), default=0.0)
        self._hottest = max((self._watts(site)[0] for site in ask.sites.values()), default=0.0)

    def of(self, site: Site) -> Mapping[str, Worth]:
        """By term, only those that apply."""
        made = {
            "transfer": self._transfer,
            "gravity": self._gravity,
            "latency": self._latency,
            "cost": self._cost,
            "energy": self._energy,
        }
        return {name: made[name](site) for name in made if name in self.applies}

    def _transfer(self, site: Site) -> Worth:
        """s/(s + T_d)"""
        way = self._ask.way(site)
        seconds = (way.seconds or 0.0) * self._ask.learned.transfer(self._ask.job, site.name)
        known = self._s / (self._s + seconds)
        return Worth(way.confidence * known + (1.0 - way.confidence) * UNKNOWN, way.confidence)

    def _latency(self, site: Site) -> Worth:
        """s/(s + rtt)"""
        rtt = self._ask.way(site).rtt
        return Worth(UNKNOWN, 0.0) if rtt is None else Worth(self._s / (self._s + rtt))

    def _gravity(self, site: Site) -> Worth:
        """1 where the data comes from, a half in its region, else 0."""
        if self._ask.way(site).local:
            return Worth(1.0)
        return Worth(0.5 if site.region and site.region in self._ask.source_regions else 0.0)

    def _cost(self, site: Site) -> Worth:
        """1 - price of an hour here / price of an hour at the dearest site"""
        hourly, known = self._hourly(site)
        return Worth(1.0 - hourly / self._dearest if self._dearest > 0 else 1.0, known)

    def _energy(self, site: Site) -> Worth:
        """1 - watts a core here / watts a core where it takes most"""
        watts, known = self._watts(site)
        return Worth(1.0 - watts / self._hottest if self._hottest > 0 else 1.0, known)

    def _watts(self, site: Site) -> tuple[float, float]:
        return known_or(site.watts_per_cpu, self._middle.watts)

    def _hourly(self, site: Site) -> tuple[float, float]:
        """What one replica costs here in an hour: its cores, and the stream that leaves a site. Requests leave the source
        at its price, answers this site at its own; slo.throughput of them, without which there is no stream to pay."""
        job, way = self._ask.job, self._ask.way(site)
        cpu, known = known_or(site.cost_cpu_hour, self._middle.cpu_hour)
        total = cpu * self._ask.request.cpu / 1000
        source = self._ask.sites.get(way.source)
        if source is None or way.local or not job.slo_throughput:
            return total, known
        for sender, size in ((source, job.request_bytes), (site, job.response_bytes)):
            price, sure = known_or(sender.cost_egress_gib, self._middle.egress_gib)
            total += price * job.slo_throughput * 3600.0 * max(0, size or 0) / GIB
            known = min(known, sure)
        return total, known
