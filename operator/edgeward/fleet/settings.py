"""What of a cluster's facts a Fleet makes, with the defaults of the design."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    refused_after: float = 60.0
    """seconds a pod may be refused before its node is excluded for the job"""
    pool_patience: float = 600.0
    """seconds a pod may wait at an elastic site for the pool to grow before the site is excluded for the job"""
    scrape_interval: float = 15.0
    architectures: frozenset[str] = frozenset({"amd64", "arm64"})
    """for which there is a runtime image"""
    max_priority_tier: int = 5
    """the highest of a namespace whose labels do not say"""
    learning: bool = True
    """whether live satisfaction counts"""
