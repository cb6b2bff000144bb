"""One step of every rollout: what each site is told to serve now, and how far the release is.

Without spec.rollout a new version goes to every site at once, and what a site refuses leaves its old version serving.
With it, waved.py asks the state machine who is told what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgeward.api.common import format_time
from edgeward.api.modelrelease import GateStatus, RefusedVersion, ReleasedVersion, RolloutStatus, TrackedVersion
from edgeward.fleet import windows
from edgeward.fleet.model import Fleet, Job, ModelVersion, Release, Site, SiteModels
from edgeward.rollout import gated, looks, podmemory, recall, waved
from edgeward.rollout.machine import advance
from edgeward.rollout.model import Decision, Hold, Phase, Progress, Question, Told
from edgeward.rollout.site_step import SiteState, SiteStep, at_once, state_of, target_of, whole_of
from edgeward.rollout.variants import Ground, Grounds, at_site, lowered


@dataclass(frozen=True, slots=True)
class ReleaseStep:
    key: str
    target: ModelVersion | None
    current: ModelVersion | None
    """the last version that finished: target when nothing is pending or failed, else what status said"""
    sites: tuple[SiteStep, ...] = ()
    """those that should serve the target: not of jobs that are pinned elsewhere or gone, not where a job has left"""
    paused: bool = False
    first: ModelVersion | None = None
    """what a site that is new to the model is told"""
    decision: Decision | None = None
    """of the state machine, for a release with spec.rollout"""
    remembered: RolloutStatus | None = None
    refused: tuple[RefusedVersion, ...] = ()
    history: tuple[ReleasedVersion, ...] = ()
    gates: tuple[GateStatus, ...] = ()
    """how they stand"""
    tracked: TrackedVersion | None = None
    following: str = ""
    """what is wrong with the repository that it follows, see Release.following"""
    questions: tuple[Question, ...] = ()
    """to the hub's Prometheus"""

    def count(self, state: SiteState) -> int:
        """Sites in this state. A site with several jobs of one model counts once, by the worst of them."""
        return sum(1 for worst in self.by_site().values() if worst is state)

    def by_site(self) -> dict[str, SiteState]:
        order = list(SiteState)
        worst: dict[str, SiteState] = {}
        for step in self.sites:
            known = worst.get(step.site, SiteState.UPDATED)
            worst[step.site] = max(known, step.state, key=order.index)
        return worst


@dataclass(frozen=True, slots=True)
class RolloutStep:
    releases: tuple[ReleaseStep, ...] = ()
    _told: Mapping[tuple[str, str], SiteStep] = field(default_factory=dict)

    def told(self, job: str, site: str) -> ModelVersion | None:
        """What a site that has the job already should be told; None when there is no release to say so."""
        step = self._told.get((job, site))
        return step.told if step is not None else None

    def site(self, job: str, site: str) -> SiteStep | None:
        return self._told.get((job, site))

    def release(self, key: str) -> ReleaseStep | None:
        return next((item for item in self.releases if item.key == key), None)


def step(fleet: Fleet) -> RolloutStep:
    """The next step of every release of the Fleet. The same Fleet gives the same step; applying it twice changes nothing."""
    connected = {site.name for site in fleet.sites if site.connected}
    sites = {site.name: site for site in fleet.sites}
    jobs = {job.key: job for job in fleet.jobs}
    releases: list[ReleaseStep] = []
    told: dict[tuple[str, str], SiteStep] = {}
    grounds = Grounds(fleet)
    for release in fleet.releases:
        decision: Decision | None = None
        questions: tuple[Question, ...] = ()
        known = waved.versions(release, grounds)
        attempt = recall.attempt_in_force(release) if release.target is not None else 0
        if target_of(release) is None or (release.rollout is None and not waved.has_a_say(release)):
            steps = [
                at_once(models, release, connected, jobs.get(models.job), known=known, ground=grounds.of(models))
                for models in release.sites
            ]
        else:
            steps, decision, questions = _waved(release, fleet, connected, jobs, known, grounds)
        steps = [
            _counted(models, release, item, decision.progress.attempt if decision is not None else attempt)
            for models, item in zip(release.sites, steps, strict=True)
        ]
        steps = [
            item
            if (job := jobs.get(item.job)) is not None and job.pinned
            else _timed(item, release, sites.get(item.site), decision, now=fleet.now)
            for item in steps
        ]
        told |= {(item.job, item.site): item for item in steps}
        counted = (
            item
            for models, item in zip(release.sites, steps, strict=True)
            if models.replicas and _wants_target(jobs.get(models.job), release)
        )
        said = _release(release, tuple(counted), decision, known, questions, now=fleet.now)
        releases.append(replace(said, tracked=release.tracked, following=release.following))
    return RolloutStep(releases=tuple(releases), _told=told)


def _wants_target(job: Job | None, release: Release) -> bool:
    """A job with a problem may want it: what its spec says cannot be told, so it is not called done."""
    if job is None or job.pinned:
        return False
    target = target_of(release)
    return job.problem is not None or target is None or job.model_digest == target.digest


def _waved(
    release: Release,
    fleet: Fleet,
    connected: set[str],
    jobs: Mapping[str, Job],
    known: Mapping[str, ModelVersion],
    grounds: Grounds,
) -> tuple[list[SiteStep], Decision, tuple[Question, ...]]:
    """The sites of a release that goes out in waves. A job that is pinned elsewhere, or has a problem, takes no part."""
    parts = [one for one in release.sites if _takes_part(jobs.get(one.job), release)]
    asked = waved.facts(release, parts, fleet, known=known, grounds=grounds)
    # A change of the pods of one of its jobs that has begun is finished first.
    first = next((text for one in parts if (text := podmemory.on_its_way(jobs[one.job]))), "")
    decision = advance(replace(asked, comes_after=first))
    round_ = _round(release, parts, decision, known)
    local, target = gated.local_gates(release), decision.progress.target
    steps = []
    for models in release.sites:
        ground = grounds.of(models)
        if not _takes_part(jobs.get(models.job), release):
            steps.append(at_once(models, release, connected, jobs.get(models.job), known=known, ground=ground))
            continue
        said = decision.told.get(models.site) or _beside_it(models, decision, known, ground)
        has = at_site(models)
        whole = known.get(said.version) if said.version is not None else whole_of(models, known, ground)
        other = known.get(said.beside) if said.beside is not None else None
        told = lowered(whole, ground, has=has) if whole is not None else None
        beside = lowered(other, ground, has=has) if other is not None else None
        if beside is not None and told is not None and (beside.version == told.version or beside.digest == told.digest):
            # Other parameters under the same version, or a variant that both versions have: answers and paths could not
            # tell the two apart.
            whole, told, beside = other, beside, None
        state = state_of(
            models,
            release,
            connected,
            told=beside or told,
            version=whole,
            ground=ground,
            problem=None,
            waits=decision.waits_for,
        )
        back = waved.way_back(whole, release, decision, known) if whole is not None and beside is None else None
        steps.append(
            replace(
                state,
                told=told,
                beside=beside,
                traffic=said.traffic,
                mirror=said.mirror,
                watch=gated.watch(round_, models),
                local_gates=local if target in (said.version, said.beside) else None,
                previous=lowered(back, ground, has=has) if back is not None and release.rollout is not None else None,
            )
        )
    return steps, decision, gated.questions(round_, decision.progress, now=fleet.now)


def _round(
    release: Release, parts: Sequence[SiteModels], decision: Decision, known: Mapping[str, ModelVersion]
) -> gated.Round | None:
    """What is watched: nothing while it is held, for nothing comes of it and nobody knows how long that lasts."""
    if held(decision.progress, release):
        return None
    return gated.round_of(release, parts, decision.progress, stable=decision.stable, known=known)


def held(progress: Progress, release: Release) -> bool:
    return release.paused or progress.hold is not Hold.NONE


def _beside_it(models: SiteModels, decision: Decision, known: Mapping[str, ModelVersion], ground: Ground) -> Told:
    """For where the job has no replica: what it has, unless that was taken back."""
    has = whole_of(models, known, ground)
    gone = {one.version for one in decision.refused}
    return Told(version=decision.stable if has is None or has.identity in gone else has.identity)


def _counted(models: SiteModels, release: Release, item: SiteStep, attempt: int) -> SiteStep:
    """With the attempt that each version is tried in."""
    target = release.target
    if target is None:
        return item
    told = recall.counted(item.told, models, target, attempt)
    version = item.version
    if version is not None and told is not None:
        version = replace(version, attempt=told.attempt)
    return replace(item, told=told, version=version, beside=recall.counted(item.beside, models, target, attempt))


def _timed(item: SiteStep, release: Release, site: Site | None, decision: Decision | None, *, now: float) -> SiteStep:
    """With when the site may begin to serve the new version, if it is told one. The way back waits for nothing."""
    target = target_of(release)
    new = item.beside if item.beside is not None else item.told
    is_target = item.beside is not None or (
        target is not None and item.version is not None and item.version.identity == target.identity
    )
    if new is None or not is_target or (decision is not None and decision.progress.phase is Phase.ROLLED_BACK):
        return item
    asked = windows.activation(release.rollout, site)
    if asked is None or item.state is SiteState.UPDATED:
        return replace(item, activation=asked)
    if release.paused or (decision is not None and held(decision.progress, release)):
        asked = windows.held(asked)
    opening = windows.of(asked, now=now)
    item = replace(item, activation=asked)
    if item.state is not SiteState.PENDING or item.reason != "RollingOut" or opening.open or not item.staged:
        return item
    when = f"opens at {format_time(opening.next)}" if opening.next is not None else "never opens"
    if asked.time_zone and opening.next is None:
        when = _unknown_zone(asked.time_zone) or when
    return replace(item, reason="WaitingForWindow", message=f"fetched and verified, its window {when}")


def _unknown_zone(name: str) -> str:
    try:
        windows.zone_of(name)
    except windows.UnknownTimeZone as error:
        return f"cannot open: Site spec.timeZone: {error}"
    return ""


def _takes_part(job: Job | None, release: Release) -> bool:
    target = target_of(release)
    if job is None or job.pinned or job.problem is not None:
        return False
    return target is not None and job.model_digest == target.digest


def _release(
    release: Release,
    sites: tuple[SiteStep, ...],
    decision: Decision | None,
    known: Mapping[str, ModelVersion],
    questions: tuple[Question, ...],
    *,
    now: float,
) -> ReleaseStep:
    target = target_of(release)
    if target is not None:
        attempt = decision.progress.attempt if decision is not None else recall.attempt_in_force(release)
        target = replace(target, attempt=attempt)
    if decision is not None:
        stable = known.get(decision.stable) if decision.stable is not None else None
        return ReleaseStep(
            key=release.key,
            target=target,
            current=stable or release.current,
            sites=sites,
            paused=release.paused,
            first=target if stable is None or stable == target else stable,
            decision=decision,
            remembered=waved.remembered(decision),
            refused=waved.refused(decision, known),
            history=waved.history(stable, release, now=now),
            gates=looks.statuses(decision.progress),
            questions=questions,
        )
    done = target is not None and all(item.state in (SiteState.UPDATED, SiteState.OFFLINE) for item in sites)
    finished = done and any(item.state is SiteState.UPDATED for item in sites)
    current = target if finished else release.current
    return ReleaseStep(
        key=release.key,
        target=target,
        current=current,
        sites=sites,
        paused=release.paused,
        first=target,
        remembered=waved.kept(release, finished=finished, now=now),
        refused=waved.still_refused(release),
        history=waved.history(target if finished else None, release, now=now),
    )
