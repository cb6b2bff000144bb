"""How many replicas a job needs: measured arrivals over what one replica sustains, within the bounds of spec.scaling.

Work that arrives is arrivals x seconds of one execution: so many replicas would be busy all the time (offered load, in
erlangs). Divided by the utilization aimed at it is the demand, in replicas; the same as arrivals over a throughput of
utilization / seconds. A replica is taken to run one request at a time, as Edgeward's runtime does; a server that runs
several at once sustains more than is reckoned here, so the error is on the side of too many.

Up at once; down only after fewer have sufficed for a whole window, and then to the most that this window wanted. That
and the tolerance follow the HorizontalPodAutoscaler (stabilization window, --horizontal-pod-autoscaler-tolerance).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from edgeward.fleet.model import Bounds, Job, Scaled, Traffic
from edgeward.placement.freshness import are_seconds
from edgeward.placement.settings import ScalingSettings

MOST_ARRIVALS = 1e9
"""requests a second at one site; more is garbage"""
ROUNDING = 1e-9
"""part of a demand that is an error of reckoning, and no reason for one replica more"""
NAMED_SITES = 3


@dataclass(frozen=True, slots=True)
class Sizing:
    """How many from now on, what to remember, and why. `scaled` and `message` change only with the decision; the three
    figures drift with every sample and are news only beside another decision."""

    scaled: Scaled
    message: str
    arrivals: float | None = None
    """requests a second, of all sites that were believed"""
    throughput: float | None = None
    """requests a second that one replica sustains"""
    measured_at: float | None = None
    """the oldest of what was believed"""

    @property
    def decision(self) -> tuple[object, ...]:
        return self.scaled, self.message


@dataclass(frozen=True, slots=True)
class _Measured:
    arrivals: float
    throughput: float | None
    stated: bool
    """throughput is slo.throughput, for nothing was measured"""
    at: float
    silent: tuple[str, ...]
    """sites with replicas that serve and have no fresh figures; what arrives there is unknown, not zero"""

    @property
    def demand(self) -> float | None:
        """In replicas."""
        if self.arrivals == 0:
            return 0.0
        return None if self.throughput is None else self.arrivals / self.throughput


def desired(job: Job, *, now: float, settings: ScalingSettings) -> Sizing | None:
    """None for a job that is not sized, or whose problem keeps it as it is. job.replicas is what the decision before
    wanted, within the bounds."""
    bounds, held = job.scaling, max(0, job.replicas)
    if bounds is None or job.problem is not None:
        return None
    if held == 0:
        return Sizing(Scaled(0), "stopped: spec.replicas is 0")
    before = job.scaled or Scaled(held)
    waiting = Scaled(held, before.low_since, min(before.low_peak, held))
    seen = _measured(job, now=now, settings=settings)
    if seen is None:
        return Sizing(waiting, f"held: {_why_nothing(job, now=now, settings=settings)}")

    def sizing(scaled: Scaled, message: str) -> Sizing:
        return Sizing(scaled, message, seen.arrivals, seen.throughput, seen.at)

    demand = seen.demand
    if demand is None:
        text = "held: what one replica sustains is not measured yet, and slo.throughput does not say it"
        return sizing(waiting, text)
    need = _within(bounds, demand)
    if need > held and demand > held * (1 + settings.tolerance):
        after = Scaled(need)  # what is silent could only ask for more
    elif seen.silent:
        after = waiting
    else:
        fewer = need if need < held and demand < held * (1 - settings.tolerance) else None
        after = _waited(waiting, fewer, now=now, settings=settings)
    return sizing(after, _told(after, seen, bounds, settings))


def _told(after: Scaled, seen: _Measured, bounds: Bounds, settings: ScalingSettings) -> str:
    """Made of what was decided and of what is silent, not of figures: else a noisy load would have news all the time."""
    told = "measured arrivals over " + ("slo.throughput" if seen.stated else "measured throughput")
    if after.low_since is not None and after.low_peak < after.replicas:
        told += f"; fewer would do, which must last {settings.window:g} s"
    elif after.replicas == bounds.highest:
        told += f"; maxReplicas {bounds.highest} allows no more"
    if seen.silent:
        told += f"; there are no fresh figures of {_names(seen.silent)}, so it will not be fewer"
    return told


def _within(bounds: Bounds, demand: float) -> int:
    return bounds.highest if demand > bounds.highest else max(bounds.lowest, math.ceil(demand * (1 - ROUNDING)))


def _waited(held: Scaled, fewer: int | None, *, now: float, settings: ScalingSettings) -> Scaled:
    """The window goes on, ends, or begins. fewer: how many would do by this look, None when none fewer would.

    A look that wants all of them spends the window: it ends without effect, and the next begins after its end. Begun
    anew at each such look, it would write a status for every second sample of a noisy load; so it may take up to two
    windows to scale down. One that nobody could judge at its end, because figures were missing, does not count either.
    """
    since, peak = held.low_since, held.low_peak
    late = settings.window + settings.stale_after
    if since is not None and not -settings.stale_after <= now - since <= late:
        since = None
    if since is None:
        return Scaled(held.replicas) if fewer is None else Scaled(held.replicas, now, fewer)
    peak = max(peak, held.replicas if fewer is None else fewer)
    if now - since < settings.window:
        return Scaled(held.replicas, since, peak)
    if fewer is None:
        return Scaled(held.replicas)
    return Scaled(peak) if peak < held.replicas else Scaled(held.replicas, now, fewer)


# What was measured -------------------------------------------------------------------------------------------------


def _measured(job: Job, *, now: float, settings: ScalingSettings) -> _Measured | None:
    """None when there is nothing to believe, or nothing that serves."""
    believed = _believed(job.traffic, now=now, settings=settings)
    if not believed or not any(placed.ready for placed in job.placed):
        return None
    arrivals = sum(entry.arrivals or 0.0 for entry in believed)
    rated = [(entry.arrivals or 0.0, entry.service_seconds) for entry in believed if are_seconds(entry.service_seconds)]
    served, busy = sum(rate for rate, _ in rated), sum(rate * (seconds or 0.0) for rate, seconds in rated)
    measured = settings.utilization * served / busy if busy > 0 else None
    stated = job.slo_throughput if job.slo_throughput is not None and job.slo_throughput > 0 else None
    return _Measured(
        arrivals=arrivals,
        throughput=stated if measured is None else measured,
        stated=measured is None and stated is not None,
        at=min(entry.at for entry in believed),
        silent=_silent(job, believed, now=now, settings=settings),
    )


def _believed(traffic: Iterable[Traffic], *, now: float, settings: ScalingSettings) -> list[Traffic]:
    """The newest of each (site, digest) whose time and arrivals can be believed."""
    newest: dict[tuple[str, str], Traffic] = {}
    for entry in traffic:
        fresh = math.isfinite(entry.at) and -settings.stale_after <= now - entry.at <= settings.stale_after
        counted = entry.arrivals is not None and 0 <= entry.arrivals <= MOST_ARRIVALS
        known = newest.get((entry.site, entry.digest))
        if fresh and counted and (known is None or known.at < entry.at):
            newest[entry.site, entry.digest] = entry
    return [newest[key] for key in sorted(newest)]


def _silent(job: Job, believed: Iterable[Traffic], *, now: float, settings: ScalingSettings) -> tuple[str, ...]:
    """Replicas that have just started have had no time to report; lost ones have been replaced."""
    expected: dict[str, int] = {}
    for placed in job.placed:
        away = None if placed.lost_since is None else now - placed.lost_since
        if away is not None and away >= job.lost_after and job.replace_lost:
            continue
        begun = placed.started or (placed.since,) * placed.ready
        young = sum(1 for at in begun if now - at < settings.stale_after)
        expected[placed.site] = expected.get(placed.site, 0) + max(0, placed.ready - young)
    reported: dict[str, int] = {}
    for entry in believed:
        reported[entry.site] = reported.get(entry.site, 0) + entry.replicas
    return tuple(sorted(site for site, count in expected.items() if reported.get(site, 0) < count))


def _why_nothing(job: Job, *, now: float, settings: ScalingSettings) -> str:
    if not any(placed.ready for placed in job.placed):
        return "no replica serves, so no arrivals are measured"
    if not job.traffic:
        return "no arrivals are measured yet"
    return f"no figures that can be believed and are younger than {settings.stale_after:g} s"


def _names(sites: tuple[str, ...]) -> str:
    more = len(sites) - NAMED_SITES
    return ", ".join(sites[:NAMED_SITES]) + (f" and {more} more sites" if more > 0 else "")
