"""The terms that rest on the site alone: how far it is from the data, what it costs and what it burns.

Each is 0..1 with 1 the best, beside how far its figures are known. What is not known counts as the middle: half of a
time's value, the median of the known prices. So it never looks near, and never free.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np

from edgeward.fleet.model import Site
from edgeward.placement.ask import Ask
from edgeward.placement.columns import Floats
from edgeward.placement.prices import columns_or

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
    """Of one job; every site is looked at once."""

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

    @cached_property
    def columns(self) -> Mapping[str, tuple[Floats, Floats]]:
        """By term, only those that apply: its value and its confidence at each site, by number."""
        made = {
            "transfer": self._transfer,
            "gravity": self._gravity,
            "latency": self._latency,
            "cost": self._cost,
            "energy": self._energy,
        }
        return {name: made[name]() for name in made if name in self.applies}

    def forget(self) -> None:
        """The columns, until they are asked for again."""
        self.__dict__.pop("columns", None)

    def of(self, site: Site) -> Mapping[str, Worth]:
        """By term, only those that apply."""
        number = self._ask.sites.number[site.name]
        return {name: Worth(*(column[number].item() for column in pair)) for name, pair in self.columns.items()}

    def _transfer(self) -> tuple[Floats, Floats]:
        """s/(s + T_d)"""
        ways = self._ask.ways
        known = self._s / (self._s + self._ask.transfers)
        return ways.confidence * known + (1.0 - ways.confidence) * UNKNOWN, ways.confidence

    def _latency(self) -> tuple[Floats, Floats]:
        """s/(s + rtt)"""
        rtt = self._ask.ways.rtt
        unknown = np.isnan(rtt)
        return np.where(unknown, UNKNOWN, self._s / (self._s + rtt)), np.where(unknown, 0.0, 1.0)

    def _gravity(self) -> tuple[Floats, Floats]:
        """1 where the data comes from, a half in its region, else 0."""
        sites, ways = self._ask.sites, self._ask.ways
        regions = sites.region[sites.sources(self._ask.job.source_selector)]
        near = np.isin(sites.region, regions[regions >= 0])
        return np.where(ways.local, 1.0, np.where(near, 0.5, 0.0)), np.ones(len(near))

    def _cost(self) -> tuple[Floats, Floats]:
        """1 - price of an hour here / price of an hour at the dearest site"""
        hourly, known = self._hourly()
        return self._of_most(hourly), known

    def _energy(self) -> tuple[Floats, Floats]:
        """1 - watts a core here / watts a core where it takes most"""
        watts, known = columns_or(self._ask.sites.watts_per_cpu, self._middle.watts)
        return self._of_most(watts), known

    def _of_most(self, amounts: Floats) -> Floats:
        most = float(np.max(amounts[self._ask.sites.listed], initial=0.0))
        return 1.0 - amounts / most if most > 0 else np.ones(len(amounts))

    def _hourly(self) -> tuple[Floats, Floats]:
        """What one replica costs there in an hour: its cores, and the stream that leaves a site. Requests leave the source
        at its price, answers this site at its own; slo.throughput of them, without which there is no stream to pay."""
        job, ways, sites = self._ask.job, self._ask.ways, self._ask.sites
        cpu, known = columns_or(sites.cost_cpu_hour, self._middle.cpu_hour)
        total = cpu * self._ask.request.cpu / 1000
        if not job.slo_throughput:
            return total, known
        travels = (ways.source >= 0) & ~ways.local
        price, sure = columns_or(sites.cost_egress_gib, self._middle.egress_gib)
        for sender, size in ((ways.source, job.request_bytes), (np.arange(len(total)), job.response_bytes)):
            more = price[sender] * job.slo_throughput * 3600.0 * max(0, size or 0) / GIB
            total = np.where(travels, total + more, total)
            known = np.where(travels, np.minimum(known, sure[sender]), known)
        return total, known
