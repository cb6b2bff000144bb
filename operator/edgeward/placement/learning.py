"""What a plan takes from what happened: measured over predicted times by model and site, a first estimate where nothing
was published, the weight of failures, and how many resources a replica really uses.

The figures that decide are those that status tells: they change only when the measurements differ from them by more
than noise (`band`), so no sample moves a score by itself, and a leader that has measured nothing yet decides as the one
before it. Fresh measurements replace what is remembered once they rest on as many requests; what is not confirmed for
an hour fades to "as predicted".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeward.fleet.model import Exclusion, Fleet, Job, Lesson, RightSize, Site, SiteLesson, Traffic
from edgeward.placement.columns import Floats
from edgeward.placement.distance import data_sources, nearest_way
from edgeward.placement.freshness import SECONDS_OF_ONE, are_seconds, confidence
from edgeward.placement.settings import LearningSettings, PlanSettings

MOST_CORES, MOST_BYTES = 4096.0, 2.0**50
"""of one replica; more is garbage"""
SHORTEST_WAY = 1e-4
"""seconds; a predicted way that is shorter has no ratio worth the name"""
LISTED_SITES = 20


@dataclass(frozen=True, slots=True)
class Observed:
    """A ratio (or a time) and how many requests it rests on."""

    value: float
    weight: float


Place = tuple[str, str]
"""model digest and site"""


class Learned:
    """What is known of every model and site at one instant; made once a plan."""

    def __init__(self, fleet: Fleet, settings: PlanSettings) -> None:
        self._now = fleet.now
        self._settings = settings.learning
        self._service: dict[str, float] = {}
        self._stated: dict[str, float] = {}
        self._execution: dict[Place, float] = {}
        self._transfer: dict[Place, float] = {}
        self._fresh: dict[Place, tuple[float, float]] = {}
        """requests behind what was measured just now, executions and transfers"""
        if self._settings.enabled:
            self._learn(fleet, settings)

    def service_seconds(self, job: Job) -> float | None:
        """Of one request on a node of speed 1: as published, else as measured anywhere; None when neither is known."""
        return job.service_seconds if are_seconds(job.service_seconds) else self._service.get(job.model_digest)

    def execution(self, job: Job, site: str) -> float:
        """By what a predicted time of execution at this site is to be multiplied; 1 when nothing was learned."""
        return self._execution.get((job.model_digest, site), 1.0)

    def transfer(self, job: Job, site: str) -> float:
        return self._transfer.get((job.model_digest, site), 1.0)

    def executions(self, job: Job, sites: Sequence[Site]) -> Floats:
        """`execution` for each of the sites."""
        return _by_site(self._execution, job.model_digest, sites)

    def transfers(self, job: Job, sites: Sequence[Site]) -> Floats:
        return _by_site(self._transfer, job.model_digest, sites)

    def lesson(self, job: Job) -> Lesson:
        """What the job's status is to tell from now on: as it was told, unless that changed by more than noise."""
        if not self._settings.enabled:
            return Lesson()
        told = {item.site: item for item in job.learned.sites}
        measured = {item.site for item in job.traffic}
        sites = [self._site(job, site, told.get(site)) for site in sorted(told.keys() | measured)]
        return Lesson(
            service_seconds=None if are_seconds(job.service_seconds) else self._service.get(job.model_digest),
            satisfaction=None if job.satisfaction_shortfall is None else round(1 - job.satisfaction_shortfall, 3),
            window=0.0 if job.satisfaction_shortfall is None else _window(job),
            sites=_listed([item for item in sites if item is not None], told),
            right_size=right_size(job, self._settings),
        )

    # How it is learned ---------------------------------------------------------------------------------------------

    def _learn(self, fleet: Fleet, settings: PlanSettings) -> None:
        times: dict[Place, list[Observed]] = {}
        ways: dict[Place, list[Observed]] = {}
        told: dict[Place, list[SiteLesson]] = {}
        remembered: dict[str, list[tuple[float, float]]] = {}
        speeds = {node.name: node.speed for node in fleet.nodes}
        sites = {site.name: site for site in fleet.sites}
        for job in fleet.jobs:
            if are_seconds(job.service_seconds) and job.service_seconds is not None:
                self._stated[job.model_digest] = job.service_seconds
            for item in job.learned.sites:
                told.setdefault((job.model_digest, item.site), []).append(item)
            if are_seconds(job.learned.service_seconds) and job.learned.service_seconds is not None:
                newest = max((item.at for item in job.learned.sites), default=0.0)
                remembered.setdefault(job.model_digest, []).append((newest, job.learned.service_seconds))
            for entry in job.traffic:
                believed = _believed(entry, fleet, settings)
                if believed <= 0 or not entry.digest or entry.digest != job.model_digest:
                    continue
                place = entry.digest, entry.site
                if entry.hour_service_seconds is not None and are_seconds(entry.hour_service_seconds):
                    at_one = entry.hour_service_seconds * _speed(job, entry.site, speeds)
                    times.setdefault(place, []).append(Observed(at_one, believed * entry.hour_samples))
                way = _way(job, entry.site, sites)
                if way and entry.hour_transfer_seconds is not None and are_seconds(entry.hour_transfer_seconds):
                    ratio = entry.hour_transfer_seconds / way
                    ways.setdefault(place, []).append(Observed(ratio, believed * entry.hour_transfers))
        self._learn_service(times, remembered)
        for place in times.keys() | ways.keys() | told.keys():
            reference = self._stated.get(place[0], self._service.get(place[0]))
            ratios = [Observed(o.value / reference, o.weight) for o in times.get(place, ())] if reference else []
            before = told.get(place, ())
            self._execution[place], run = self._factor(ratios, [(i.execution, i.samples, i.at) for i in before])
            self._transfer[place], sent = self._factor(
                ways.get(place, ()), [(i.transfer, i.samples, i.at) for i in before]
            )
            self._fresh[place] = run, sent

    def _learn_service(
        self, times: Mapping[Place, list[Observed]], remembered: Mapping[str, list[tuple[float, float]]]
    ) -> None:
        """The first estimate, where no time was published: the mean of what the sites took, each scaled to speed 1. A
        site counts by how sure its figure is, so that one busy site is not the measure of all."""
        by_digest: dict[str, list[Observed]] = {}
        for (digest, _), group in times.items():
            mean, weight = _mean(group)
            if weight >= self._settings.few:
                by_digest.setdefault(digest, []).append(Observed(mean, weight / (weight + self._settings.prior)))
        for digest in by_digest.keys() | remembered.keys():
            before = max(remembered.get(digest, ()), default=None)
            fresh = _rounded(_mean(by_digest[digest])[0]) if digest in by_digest else None
            known = before[1] if before else None
            if fresh is not None and (known is None or not self._alike(fresh, known)):
                known = fresh
            if known is not None:
                self._service[digest] = known

    def _factor(
        self, fresh: Iterable[Observed], told: Iterable[tuple[float | None, int, float]]
    ) -> tuple[float, float]:
        """The correction, and the requests behind the fresh part of it that decided (0 when the remembered one did)."""
        s = self._settings
        ratio, weight = _mean(fresh)
        believed = [
            (value, min(samples, s.enough) * self._faded(at), at) for value, samples, at in told if are_seconds(value)
        ]
        best = max(believed, key=lambda item: (item[1], item[2]), default=None)
        if weight >= s.few and (best is None or min(weight, s.enough) >= best[1]):
            # Shrunk toward 1: `prior` requests that took just what was predicted are counted in.
            now = self._bounded(ratio ** (weight / (weight + s.prior)))
            if best is not None and best[0] is not None and self._alike(now, best[0]):
                return self._bounded(best[0]), weight
            return round(now, 3), weight
        if best is None or best[0] is None:
            return 1.0, 0.0
        return self._bounded(best[0]) ** self._faded(best[2]), 0.0

    def _site(self, job: Job, site: str, told: SiteLesson | None) -> SiteLesson | None:
        place = job.model_digest, site
        run, sent = self._fresh.get(place, (0.0, 0.0))
        if not run and not sent:
            forgotten = told is None or self._faded(told.at) < self._settings.forgotten
            return None if forgotten else told
        now = SiteLesson(
            site=site,
            execution=self._execution[place] if run else told.execution if told else None,
            transfer=self._transfer[place] if sent else told.transfer if told else None,
            samples=int(max(run, sent)),
            at=float(int(self._now)),
        )
        if told is None or (now.execution, now.transfer) != (told.execution, told.transfer):
            return now
        return now if self._now - told.at >= self._settings.holds else told

    def _faded(self, at: float) -> float:
        """1 while it was confirmed within `holds`, then a half for every `half_life`."""
        late = self._now - at - self._settings.holds
        return 1.0 if late <= 0 else 0.5 ** (late / self._settings.half_life)

    def _alike(self, one: float, other: float) -> bool:
        return abs(math.log(one / other)) <= math.log(1.0 + self._settings.band)

    def _bounded(self, factor: float) -> float:
        return min(max(factor, 1.0 / self._settings.bound), self._settings.bound)


def failure_weight(exclusions: Iterable[tuple[Exclusion, float]], *, now: float, memory: float) -> float:
    """1 where nothing failed, toward 0 the more often and the more recently replicas were refused.

    exclusions: with how much each counts, 1 for the job's own. An exclusion that has ended loses weight evenly until it
    is forgotten after `memory` seconds; each further refusal in a row halves what is left.
    """
    left = 1.0
    for exclusion, counts in exclusions:
        fresh = 1.0 - min(1.0, max(0.0, now - exclusion.until) / memory) if memory > 0 else 0.0
        left *= 1.0 - min(1.0, max(0.0, counts)) * fresh * (1.0 - 0.5 ** min(max(0, exclusion.count), 32))
    return left


class Failures:
    """Where replicas were refused, by any job of a Fleet; made once a plan. Most nodes have nothing to look up."""

    OTHERS, NEARBY = 0.5, 0.25
    """how much a refusal counts that another job had on the node, and one at the site but on another node"""

    def __init__(self, fleet: Fleet, settings: PlanSettings) -> None:
        self._now, self._memory = fleet.now, settings.exclusion_memory
        self._by_node: dict[str, list[tuple[str, Exclusion]]] = {}
        self._by_site: dict[str, list[tuple[str, Exclusion]]] = {}
        sites = {node.name: node.site for node in fleet.nodes}
        for job in fleet.jobs:
            for exclusion in job.exclusions:
                self._by_node.setdefault(exclusion.node, []).append((job.key, exclusion))
                if exclusion.node in sites:
                    self._by_site.setdefault(sites[exclusion.node], []).append((job.key, exclusion))

    @property
    def empty(self) -> bool:
        return not self._by_node

    def weight(self, job: str, node: str, site: str) -> float:
        """1 where nothing failed, toward 0 for a job (namespace/name) where much did, and lately."""
        nearby = self._by_site.get(site, ())
        here = self._by_node.get(node, ())
        if not nearby and not here:
            return 1.0
        counted = [(item, 1.0 if owner == job else self.OTHERS) for owner, item in here]
        counted += [(item, self.NEARBY) for owner, item in nearby if owner == job and item.node != node]
        return failure_weight(counted, now=self._now, memory=self._memory)


def right_size(job: Job, settings: LearningSettings) -> RightSize | None:
    """The requests that the use of the last hour suggests, where they differ from those of the job by more than
    `differs`; what was proposed before stands while the use suggests much the same, or nothing is measured.

    The largest 95th percentile of any site counts, since the requests hold for all of them.
    """
    before = job.learned.right_size
    told = RightSize() if before is None else before
    cpu, memory = told.cpu, told.memory
    uses = [
        item
        for item in job.traffic
        if item.hour_window >= settings.coverage and item.hour_requests >= settings.enough and item.hour_requests > 0
    ]
    measured = bool(uses) and len(uses) == len(job.traffic)
    if measured and all(_usable(item.cpu_p95, MOST_CORES) and _usable(item.memory_p95, MOST_BYTES) for item in uses):
        cores = max(item.cpu_p95 or 0.0 for item in uses)
        bytes_ = max(item.memory_p95 or 0.0 for item in uses)
        cpu = _held(_up(cores * 1000 * settings.headroom_cpu, 10), cpu, settings.differs)
        memory = _held(_up(bytes_ * settings.headroom_memory, 8 * 2**20), memory, settings.differs)
    cpu = cpu if cpu is not None and _differs(cpu, job.request.cpu, settings.differs) else None
    memory = memory if memory is not None and _differs(memory, job.request.memory, settings.differs) else None
    if cpu is None and memory is None:
        return None
    if (cpu, memory) == (told.cpu, told.memory):
        return told
    hour = min((item.hour_window for item in uses), default=0.0)
    headroom = f"with {settings.headroom_cpu - 1:.0%} and {settings.headroom_memory - 1:.0%} to spare"
    return RightSize(cpu, memory, f"95th percentile of {hour / 60:.0f} minutes, {headroom}" if measured else told.basis)


def _by_site(learned: Mapping[Place, float], digest: str, sites: Sequence[Site]) -> Floats:
    if not learned:
        return np.ones(len(sites))
    return np.array([learned.get((digest, site.name), 1.0) for site in sites], dtype=np.float64).reshape(-1)


# Small parts -------------------------------------------------------------------------------------------------------


def _believed(entry: Traffic, fleet: Fleet, settings: PlanSettings) -> float:
    """0..1, as of any live figure by its age; nothing from the future."""
    age = fleet.now - entry.at
    if not math.isfinite(age) or age < -fleet.scrape_interval:
        return 0.0
    return confidence(max(0.0, age), scrape_interval=fleet.scrape_interval, settings=settings)


def _usable(value: float | None, most: float) -> bool:
    return value is not None and 0 <= value <= most


def _mean(observed: Iterable[Observed]) -> tuple[float, float]:
    """The geometric mean by weight, for ratios, and the sum of the weights; (1, 0) of nothing."""
    logs = [(math.log(item.value), item.weight) for item in observed if item.weight > 0 and item.value > 0]
    total = math.fsum(weight for _, weight in logs)
    return (math.exp(math.fsum(log * weight for log, weight in logs) / total), total) if total > 0 else (1.0, 0.0)


def _speed(job: Job, site: str, speeds: Mapping[str, float]) -> float:
    """Of the nodes that hold the job's replicas there."""
    held = [
        (speeds.get(item.node, 1.0), item.replicas) for item in job.placed if item.site == site and item.replicas > 0
    ]
    held = [(speed, count) for speed, count in held if speed > 0 and math.isfinite(speed)]
    return sum(speed * count for speed, count in held) / sum(count for _, count in held) if held else 1.0


def _way(job: Job, site: str, sites: Mapping[str, Site]) -> float | None:
    """Predicted seconds of a transfer, None where there is nothing that could be wrong by a factor."""
    if site not in sites:
        return None
    seconds = nearest_way(job, data_sources(job, sites), sites[site]).seconds
    return seconds if seconds is not None and SHORTEST_WAY <= seconds <= SECONDS_OF_ONE[1] else None


def _rounded(value: float) -> float:
    """Three digits, and no more decimals than status has."""
    return max(round(float(f"{value:.3g}"), 6), SECONDS_OF_ONE[0])


def _window(job: Job) -> float:
    """Of the satisfaction; told anew only when it has doubled or halved."""
    now = max((item.hour_window for item in job.traffic), default=0.0)
    told = job.learned.window
    if now <= 0 or (told > 0 and told / 2 < now < told * 2):
        return told
    return float(max(60, round(now / 60) * 60))


def _listed(sites: list[SiteLesson], told: Mapping[str, SiteLesson]) -> tuple[SiteLesson, ...]:
    """At most LISTED_SITES by name: those told already, then those that differ most from what was predicted."""

    def off(item: SiteLesson) -> float:
        return max(
            (abs(math.log(it)) for it in (item.execution, item.transfer) if it is not None and are_seconds(it)),
            default=0,
        )

    kept = sorted(sites, key=lambda item: (item.site not in told, -off(item), item.site))[:LISTED_SITES]
    return tuple(sorted(kept, key=lambda item: item.site))


def _up(value: float, step: int) -> int:
    return max(1, math.ceil(value / step)) * step


def _differs(value: int, other: int, share: float) -> bool:
    return abs(value - other) > share * max(other, 1)


def _held(value: int, told: int | None, share: float) -> int:
    return told if told is not None and not _differs(value, told, share) else value
