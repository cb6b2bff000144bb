"""Limits over several nodes: of a site, of a namespace, and of one job over the sites.

What counts is what is decided for. A replica that must leave counts until what replaces it has a place, as it stays
where it is if nothing does; its own job may use that count, so that the replacement can come first. One that is lost and
may be started elsewhere does not count. A quota keeps out what is new; it evicts nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from edgeward.fleet.model import Job


@dataclass(slots=True)
class Usage:
    """What is placed under one limit; cpu in millicores."""

    max_replicas: int | None = None
    max_cpu: int | None = None
    replicas: int = 0
    cpu: int = 0

    @property
    def limited(self) -> bool:
        return self.max_replicas is not None or self.max_cpu is not None

    def count(self, replicas: int, cpu: int) -> None:
        """So many more (or fewer, when negative) replicas, each of which requests so much."""
        self.replicas += replicas
        self.cpu += replicas * cpu

    def lacks(self, cpu: int, own: int = 0) -> float | None:
        """None when one more replica with this request may come; else how much is over, the larger of the two shares.
        own: how many of those that count may leave for it; they request as much."""
        replicas, used = self.replicas - own, self.cpu - own * cpu
        over = 0.0
        if self.max_replicas is not None and replicas >= self.max_replicas:
            over = (replicas + 1 - self.max_replicas) / max(1, self.max_replicas)
        if self.max_cpu is not None and cpu > 0 and used + cpu > self.max_cpu:
            over = max(over, (used + cpu - self.max_cpu) / max(1, self.max_cpu))
        return over or None

    def text(self, cpu: int, *, replicas: str = "quota.replicas", of_cpu: str = "quota.cpu") -> str:
        """The quota that keeps one more replica out, what is used of it and what was wanted."""
        if self.max_replicas is not None and self.replicas >= self.max_replicas:
            return f"{replicas} is {self.max_replicas}, {self.replicas} used, 1 more wanted"
        return f"{of_cpu} is {_cores(self.max_cpu or 0)}, {_cores(self.cpu)} used, {_cores(cpu)} more wanted"


@dataclass(slots=True)
class Staying:
    """Replicas of one job that are where they should not be, and stay as long as nothing replaces them."""

    sites: Counter[str]
    """how many at each site; they count for its quota and the namespace's"""
    spare: int
    """replicas that may still be placed without one of these having to leave: more are missing than those"""

    def leave_for(self, site: str, full: bool) -> str:
        """The site that one of them leaves as another replica is placed at `site`; empty when all stay. full: there is
        no quota for it but theirs."""
        if self.spare > 0 and not full:
            self.spare -= 1
            return ""
        known = [name for name, count in self.sites.items() if count > 0]
        if not known:
            return ""
        source = site if self.sites[site] > 0 else max(known, key=lambda name: (self.sites[name], name))
        self.sites[source] -= 1
        return source

    def come_back(self, source: str) -> None:
        """As if the `leave_for` that answered this had not been."""
        if source:
            self.sites[source] += 1
        else:
            self.spare += 1

    def go(self, source: str) -> None:
        """As if that `come_back` had not been."""
        if source:
            self.sites[source] -= 1
        else:
            self.spare -= 1


def _cores(millicores: int) -> str:
    return f"{millicores // 1000}" if millicores % 1000 == 0 else f"{millicores}m"


def spread_lacks(job: Job, spots: Mapping[str, int], site: str) -> float | None:
    """None when one more replica at this site keeps the job's spread; else how many replicas it would be over.

    minSites: of R replicas, at most R - min(minSites, R) may share a site with another one. So as many as there are
    sites for get their place; the others wait, and the job serves meanwhile.
    """
    here = spots.get(site, 0)
    if job.max_per_site is not None and here >= job.max_per_site:
        return float(here + 1 - job.max_per_site)
    if job.min_sites is None or here <= 0 or job.per_site:
        return None
    used = [count for count in spots.values() if count > 0]
    spare = max(0, job.replicas) - min(job.min_sites, max(0, job.replicas))
    sharing = sum(used) - len(used) + 1
    return float(sharing - spare) if sharing > spare else None


def spread_text(job: Job, spots: Mapping[str, int], site: str) -> str:
    here = spots.get(site, 0)
    if job.max_per_site is not None and here >= job.max_per_site:
        return f"site {site} has {here} of at most {job.max_per_site} replicas (spread.maxPerSite)"
    used = sum(1 for count in spots.values() if count > 0)
    return f"site {site} has a replica, and {used} of at least {job.min_sites} sites are used (spread.minSites)"
