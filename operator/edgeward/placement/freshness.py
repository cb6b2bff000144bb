"""How far a measured figure is believed, and what becomes of it when it is not."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeward.fleet.model import Sample
from edgeward.placement.columns import Number
from edgeward.placement.settings import PlanSettings


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
    """Judge one sample of `what` on a node that has `capacity` of it. Rubbish becomes unknown, never zero."""
    if distrust:
        return Reading(note=f"{what}: {distrust}")
    if sample is None:
        return Reading()
    value, at = sample.value, sample.at
    if not math.isfinite(value) or not math.isfinite(at):
        return Reading(note=f"{what}: {value} at {at} is not a number to reckon with")
    if value < 0:
        return Reading(note=f"{what}: {value:g} is negative")
    if value > capacity * settings.absurd_factor:
        return Reading(note=f"{what}: {value:g} is far beyond the {capacity:g} that the node has")
    age = now - at
    if age < -scrape_interval:
        return Reading(note=f"{what}: measured {-age:.0f} s in the future")
    age = max(0.0, age)
    believed = confidence(age, scrape_interval=scrape_interval, settings=settings)
    note = f"{what}: {age:.0f} s old" if believed == 0 else ""
    return Reading(value, believed, age, at, note)


def blend(live: Number, requested: Number, confidence: Number) -> Number:
    """The value slides from the live figure (confidence 1) to the requested one (0); floats or columns."""
    return confidence * live + (1.0 - confidence) * requested
