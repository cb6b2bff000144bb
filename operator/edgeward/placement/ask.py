"""One job as the checks and the scores see it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from edgeward.fleet.model import Exclusion, Job, Resources, Site
from edgeward.placement.distance import Way, data_sources, nearest_way
from edgeward.placement.ledger import Ledger
from edgeward.placement.quotas import Usage


class Ask:
    """Made once a job, so that what does not depend on the node is computed once, and what depends on the site alone
    once a site."""

    def __init__(self, index: int, job: Job, ledger: Ledger) -> None:
        self.index = index
        self.job = job
        self.now = ledger.now
        self.learned = ledger.learned
        self.failures = ledger.failures
        self.prices = ledger.prices
        self.measures_memory = ledger.measures_memory
        self.request: Resources = ledger.requests[index]
        self.sites = ledger.sites
        self.site_use: Mapping[str, Usage] = ledger.site_use
        """what is placed at each site, by all jobs; kept true by the ledger, as the two below"""
        self.namespace_use: Usage = ledger.namespace_use[job.namespace]
        self._ledger = ledger
        self.spots: Mapping[str, int] = ledger.spots[index]
        """replicas of this job by site, without those that are lost and may be replaced"""
        self._ways: dict[str, Way] = {}

    @cached_property
    def excluded(self) -> Mapping[str, Exclusion]:
        """The exclusions in force, by node."""
        return {exclusion.node: exclusion for exclusion in self.job.exclusions if exclusion.until > self.now}

    @cached_property
    def sources(self) -> tuple[Site, ...]:
        """The sites where the data comes from."""
        return data_sources(self.job, self.sites)

    @cached_property
    def source_regions(self) -> frozenset[str]:
        return frozenset(site.region for site in self.sources if site.region)

    @cached_property
    def service(self) -> float | None:
        """Seconds of one request on a node of speed 1; None when neither published nor measured, or nothing sane."""
        return self.learned.service_seconds(self.job)

    def over_site_quota(self, site: str) -> float | None:
        """None when the site's quota has room for one more replica, be it that of one that it replaces."""
        staying = self._ledger.may_leave(self.index, site)
        return self.site_use[site].lacks(self.request.cpu, staying.sites[site] if staying else 0)

    def over_namespace_quota(self, site: str = "") -> float | None:
        """As over_site_quota, of the namespace, for one more replica at the site."""
        staying = self._ledger.may_leave(self.index, site)
        return self.namespace_use.lacks(self.request.cpu, staying.sites.total() if staying else 0)

    def way(self, site: Site) -> Way:
        known = self._ways.get(site.name)
        if known is None:
            known = self._ways[site.name] = nearest_way(self.job, self.sources, site)
        return known
