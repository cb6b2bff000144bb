"""What the runtimes measured, as a decision may use it: Measured comes from an agent, Traffic goes into a Job.

The agent knows counters and no specs; what depends on a job's spec (its latency bound) is worked out here.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from .model import Job, Traffic

LATENCY_BOUNDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""upper bounds of the latency histogram in seconds, those of the runtime; one more bucket takes what is above"""
HOUR = 3600.0
NO_LATENCIES = (0.0,) * (len(LATENCY_BOUNDS) + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Of one job at one site, over `window` seconds that ended `at`; `hour_*` over `hour_window` seconds. None: not
    measured. Requests are those that were answered and those that failed on the server's side (HTTP 5xx, overload
    included); what a client got wrong (4xx) is neither load to size for nor a miss of the service.
    """

    job: str
    """namespace/name"""
    site: str
    digest: str
    """the model that most of the pods serve now"""
    at: float
    window: float
    arrivals: float | None = None
    """requests a second, all models of the job"""
    replicas: int = 0
    """pods that reported within the window"""
    service_seconds: float | None = None
    """mean of decoding, running and encoding one request of `digest`, without waiting"""
    latency_p95: float | None = None
    transfer_seconds: float | None = None
    samples: int = 0
    """answered requests of `digest` within the window"""
    hour_latency: tuple[float, ...] = NO_LATENCIES
    """answered requests by latency, see LATENCY_BOUNDS"""
    hour_errors: float = 0.0
    hour_window: float = 0.0
    hour_samples: float = 0.0
    hour_service_seconds: float | None = None
    hour_transfers: float = 0.0
    hour_transfer_seconds: float | None = None
    cpu_p95: float | None = None
    memory_p95: float | None = None
    memory_peak: float | None = None
    """bytes that a pod was seen to use at most within the hour"""


def below(latencies: Sequence[float], bound: float) -> float:
    """How many of a histogram's values are at most `bound` seconds; within a bucket they are taken as evenly spread.

    Above the last bound nothing is known but that it is above, so nothing there counts.
    """
    if bound < 0:
        return 0.0
    index = bisect_left(LATENCY_BOUNDS, bound)
    count = float(sum(latencies[:index]))
    if index < len(LATENCY_BOUNDS):
        low = LATENCY_BOUNDS[index - 1] if index else 0.0
        count += latencies[index] * (bound - low) / (LATENCY_BOUNDS[index] - low)
    return count


def quantile(latencies: Sequence[float], share: float) -> float | None:
    """The latency that `share` of the values do not exceed, seconds; None without values, the last bound when it lies
    above that. Interpolated within the bucket, as Prometheus' histogram_quantile does."""
    total = sum(latencies)
    if total <= 0:
        return None
    wanted, passed = share * total, 0.0
    for index, bound in enumerate(LATENCY_BOUNDS):
        if latencies[index] and passed + latencies[index] >= wanted:
            low = LATENCY_BOUNDS[index - 1] if index else 0.0
            return low + (bound - low) * (wanted - passed) / latencies[index]
        passed += latencies[index]
    return LATENCY_BOUNDS[-1]


PEAK_STEP = 2**24
"""bytes to which a peak is rounded up"""
STEADY = 50
"""requests that make a share sure enough to replace the one that was told"""
STEP = 0.01
"""a share that differs by less from what was told is the same: noise must not change the order of jobs"""


def with_traffic(jobs: Iterable[Job], measured: Iterable[Measured], *, learning: bool = True) -> tuple[Job, ...]:
    """The jobs with what was measured of them. learning: whether how content their clients are counts as well."""
    found: dict[str, list[Measured]] = {}
    for item in measured:
        found.setdefault(item.job, []).append(item)
    return tuple(_with_traffic(job, found.get(job.key, ()), learning) for job in jobs)


def _with_traffic(job: Job, measured: Sequence[Measured], learning: bool) -> Job:
    traffic = facts(measured, slo_latency=job.slo_latency)
    content = satisfaction(job, traffic) if learning else None
    if not traffic and content is None:
        return job
    peaks = [item.memory_peak for item in measured if item.memory_peak is not None]
    return replace(
        job,
        traffic=traffic,
        satisfaction_shortfall=None if content is None else round(1 - content, 3),
        memory_peak=math.ceil(max(peaks) / PEAK_STEP) * PEAK_STEP if peaks and learning else None,
    )


def satisfaction(job: Job, traffic: Sequence[Traffic]) -> float | None:
    """Live satisfaction: the share of the last hour's requests that were answered within slo.latency, in hundredths.
    None without such a bound, or when there were no requests.

    What status tells stands while nobody has measured long enough to know better, as after a change of leader.
    """
    told = job.learned.satisfaction
    if job.slo_latency is None:
        return None
    requests = sum(item.hour_requests for item in traffic)
    measured_whole = bool(traffic) and min(item.hour_window for item in traffic) >= HOUR
    if requests < STEADY and not measured_whole and (told is not None or not requests):
        return told
    if not requests:
        return None
    share = sum(item.within_slo for item in traffic) / requests
    return told if told is not None and abs(share - told) < STEP else round(share, 2)


def facts(measured: Iterable[Measured], *, slo_latency: float | None) -> tuple[Traffic, ...]:
    """Job.traffic from what was measured of one job, by site. slo_latency: seconds at the data's source, so what a
    request spends on the way, where that is known, comes off it here."""
    return tuple(_traffic(item, slo_latency) for item in sorted(measured, key=lambda item: item.site))


def _traffic(item: Measured, slo_latency: float | None) -> Traffic:
    answered = sum(item.hour_latency)
    within = 0.0
    if slo_latency is not None:
        within = below(item.hour_latency, slo_latency - (item.transfer_seconds or 0.0))
    return Traffic(
        site=item.site,
        digest=item.digest,
        at=item.at,
        window=item.window,
        arrivals=item.arrivals,
        replicas=item.replicas,
        service_seconds=item.service_seconds,
        latency_p95=item.latency_p95,
        transfer_seconds=item.transfer_seconds,
        samples=item.samples,
        within_slo=int(within + 1e-6),
        hour_requests=int(answered + item.hour_errors + 1e-6),
        hour_window=item.hour_window,
        hour_samples=int(item.hour_samples + 1e-6),
        hour_service_seconds=item.hour_service_seconds,
        hour_transfers=int(item.hour_transfers + 1e-6),
        hour_transfer_seconds=item.hour_transfer_seconds,
        cpu_p95=item.cpu_p95,
        memory_p95=item.memory_p95,
    )
