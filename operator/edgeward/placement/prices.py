"""What sites charge and burn, and what stands in for a figure that a site does not say."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

import numpy as np

from edgeward.fleet.model import Site
from edgeward.placement.columns import Floats


class Prices(NamedTuple):
    """The middle of what is known in a fleet; None when no site says."""

    cpu_hour: float | None = None
    egress_gib: float | None = None
    watts: float | None = None

    @property
    def any_cost(self) -> bool:
        return self.cpu_hour is not None or self.egress_gib is not None


def prices(sites: Iterable[Site]) -> Prices:
    listed = list(sites)

    def middle(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return median(known) if known else None

    return Prices(
        cpu_hour=middle(site.cost_cpu_hour for site in listed),
        egress_gib=middle(site.cost_egress_gib for site in listed),
        watts=middle(site.watts_per_cpu for site in listed),
    )


def columns_or(values: Floats, middle: float | None) -> tuple[Floats, Floats]:
    """The values, and the middle where there is none (nan); and whether each is known. Where nobody says anything there
    is no price."""
    unknown = np.isnan(values)
    if middle is None:
        return np.where(unknown, 0.0, values), np.ones(len(values))
    return np.where(unknown, middle, values), np.where(unknown, 0.0, 1.0)
