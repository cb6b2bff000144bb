"""One job as the checks and the scores see it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from edgeward.fleet.model import Exclusion, Job, Resources, Site
from edgeward.placement.columns import Floats
from edgeward.placement.distance import Way, nearest_way
from edgeward.placement.ledger import Ledger
from edgeward.placement.quotas import Usage
from edgeward.placement.sites import Sites, Ways


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
        self.sites: Sites = ledger.site_columns
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
        return tuple(self.sites.every[at] for at in self.sites.sources(self.job.source_selector).tolist())

    @cached_property
    def source_regions(self) -> frozenset[str]:
        return frozenset(site.region for site in self.sources if site.region)

    @cached_property
    def service(self) -> float | None:
        """Seconds of one request on a node of speed 1; None when neither published nor measured, or nothing sane."""
        return self.learned.service_seconds(self.job)

    @property
    def may_replace(self) -> bool:
        """Whether one more replica may take the place of one that counts for a quota."""
        return self._ledger.may_replace(self.index)

    def over_site_quota(self, site: str) -> float | None:
        """None when the site's quota has room for one more replica, be it that of one that it replaces."""
        staying = self._ledger.may_leave(self.index, site)
        return self.site_use[site].lacks(self.request.cpu, staying.sites[site] if staying else 0)

    def over_namespace_quota(self, site: str = "") -> float | None:
        """As over_site_quota, of the namespace, for one more replica at the site."""
        staying = self._ledger.may_leave(self.index, site)
        return self.namespace_use.lacks(self.request.cpu, staying.sites.total() if staying else 0)

    @cached_property
    def ways(self) -> Ways:
        """From where the data comes from to every site."""
        return self.sites.ways(self.job)

    @cached_property
    def transfers(self) -> Floats:
        """T_d in seconds to every site, corrected by what was learned; 0 where nothing is known of the way."""
        seconds = self.ways.seconds
        return np.where(np.isnan(seconds), 0.0, seconds) * self.learned.transfers(self.job, self.sites.every)

    def way(self, site: Site) -> Way:
        known = self._ways.get(site.name)
        if known is None:
            number = self.sites.number.get(site.name)
            if number is None:  # none of the fleet
                return nearest_way(self.job, self.sources, site)
            known = self._ways[site.name] = self.sites.way(self.ways, number)
        return known
