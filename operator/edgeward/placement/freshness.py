"""How far a measured figure is believed, and what becomes of it when it is not."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from edgeward.fleet.model import Job, Sample
from edgeward.placement.columns import Number
from edgeward.placement.settings import PlanSettings

SECONDS_OF_ONE = (1e-6, 3600.0)
"""between which one execution or one transfer can be believed to take"""
NO_FIGURE = "no figure at all"
NOT_A_NUMBER, NEGATIVE, FROM_THE_FUTURE = "not a number", "negative", "from the future"
STANDS_STILL = "not a moment of cpu time though pods run there: a counter that stands still"


@dataclass(frozen=True, slots=True)
class Reading:
    """A sample as a decision may use it. Confidence 0 means that the value must not be used at all."""

    value: float = 0.0
    confidence: float = 0.0
    age: float | None = None
    """seconds; None when there is no believable sample"""
    at: float | None = None
    note: str = ""
    """why it was not believed; empty when it was, or when there simply is none"""
    why: str = ""
    """the same in a few words without figures, which stay as they are from one scrape to the next; empty when believed"""


def confidence(age: float, *, scrape_interval: float, settings: PlanSettings) -> float:
    """1 up to two scrapes of age, falling linearly to 0 at `expiry`; ages in seconds."""
    fresh = settings.fresh_scrapes * scrape_interval
    if age <= fresh:
        return 1.0
    if age >= settings.expiry:
        return 0.0
    return (settings.expiry - age) / (settings.expiry - fresh)


def read(
    sample: Sample | None,
    *,
    what: str,
    capacity: float,
    now: float,
    scrape_interval: float,
    settings: PlanSettings,
    distrust: str = "",
) -> Reading:
    """Judge one sample of `what` on a node that has `capacity` of it. Rubbish becomes unknown, never zero.

    distrust: why newer samples were refused where they were read. This one is then an older one, judged by its age.
    """
    if sample is None:
        return Reading(note=f"{what}: {distrust}" if distrust else "", why=distrust or NO_FIGURE)
    value, at = sample.value, sample.at
    rubbish = implausible(sample, now=now, slack=scrape_interval)
    if rubbish:
        return Reading(note=f"{what}: {_in_figures(rubbish, sample, now)}", why=rubbish)
    if value > capacity * settings.absurd_factor:
        text = f"{what}: {value:g} is far beyond the {capacity:g} that the node has"
        return Reading(note=text, why="far beyond what the node has")
    age = max(0.0, now - at)
    believed = confidence(age, scrape_interval=scrape_interval, settings=settings)
    old = f"{age:.0f} s old" if believed == 0 else ""
    why = "" if believed >= 1 else distrust or "too old"
    return Reading(value, believed, age, at, f"{what}: {distrust or old}" if why and (distrust or old) else "", why)


def implausible(sample: Sample, *, now: float, slack: float) -> str:
    """What is wrong with a sample on any node, in words without figures; empty when nothing is.

    slack: seconds by which the clock that stamped it may be ahead.
    """
    if not math.isfinite(sample.value) or not math.isfinite(sample.at):
        return NOT_A_NUMBER
    if sample.value < 0:
        return NEGATIVE
    if sample.at > now + slack:
        return FROM_THE_FUTURE
    return ""


def _in_figures(rubbish: str, sample: Sample, now: float) -> str:
    if rubbish == NOT_A_NUMBER:
        return f"{sample.value} at {sample.at} is not a number to reckon with"
    return f"{sample.value:g} is negative" if rubbish == NEGATIVE else f"measured {sample.at - now:.0f} s in the future"


def earliest_starts(jobs: Iterable[Job]) -> dict[str, float]:
    """When the oldest of the replicas that are visible on a node was started, by node."""
    found: dict[str, float] = {}
    for job in jobs:
        for placed in job.placed:
            if placed.started:
                found[placed.node] = min(found.get(placed.node, math.inf), placed.started[0])
    return found


def stands_still(sample: Sample | None, running_since: float | None, scrape_interval: float) -> bool:
    """Whether a node that has run a replica for long says that it used no cpu at all. That is no idle node but a counter
    that does not count any more: an exporter that hangs is scraped all the same, and each time looks fresh. Without a
    replica, exactly zero may be true: then nothing is in the cgroup of the pods.

    For long: eight scrapes, twice the window of the rate and some more.
    """
    return (
        sample is not None
        and sample.value == 0
        and running_since is not None
        and sample.at - running_since >= 8 * scrape_interval
    )


def are_seconds(value: float | None) -> bool:
    """Whether one execution or transfer can have taken so long."""
    return value is not None and SECONDS_OF_ONE[0] <= value <= SECONDS_OF_ONE[1]


def blend(live: Number, requested: Number, confidence: Number) -> Number:
    """The value slides from the live figure (confidence 1) to the requested one (0); floats or columns."""
    return confidence * live + (1.0 - confidence) * requested
