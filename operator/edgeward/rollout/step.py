"""One step of every rollout: what each site is told to serve now, and how far the release is.

Without spec.rollout a new version goes to every site at once, and what a site refuses leaves its old version serving.
With it, waved.py asks the state machine who is told what.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from edgeward.api.modelrelease import RefusedVersion, ReleasedVersion, RolloutStatus
from edgeward.fleet.model import Fleet, Job, ModelVersion, Problem, Release, ServedModel, SiteModels
from edgeward.rollout import waved
from edgeward.rollout.machine import advance
from edgeward.rollout.model import Decision


class SiteState(StrEnum):
    UPDATED = "Updated"
    PENDING = "Pending"
    FAILED = "Failed"
    OFFLINE = "Offline"


@dataclass(frozen=True, slots=True)
class SiteStep:
    """One (job, site) of a release."""

    job: str
    """namespace/name"""
    site: str
    state: SiteState
    told: ModelVersion | None
    """what the site should be told from now on"""
    serves: ServedModel | None
    """what it serves; None when nothing"""
    reason: str = ""
    message: str = ""
    beside: ModelVersion | None = None
    """the new version as a canary, with its share of the requests and the share it gets copies of, per cent"""
    traffic: int = 0
    mirror: int = 0


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
    jobs = {job.key: job for job in fleet.jobs}
    releases: list[ReleaseStep] = []
    told: dict[tuple[str, str], SiteStep] = {}
    for release in fleet.releases:
        decision: Decision | None = None
        known: Mapping[str, ModelVersion] = {}
        if release.rollout is None or _target(release) is None:
            steps = [_site(models, release, connected, jobs.get(models.job)) for models in release.sites]
        else:
            known = waved.versions(release)
            steps, decision = _waved(release, fleet, connected, jobs, known)
        told |= {(item.job, item.site): item for item in steps}
        counted = (
            item
            for models, item in zip(release.sites, steps, strict=True)
            if models.replicas and _wants_target(jobs.get(models.job), release)
        )
        releases.append(_release(release, tuple(counted), decision, known, now=fleet.now))
    return RolloutStep(releases=tuple(releases), _told=told)


def _wants_target(job: Job | None, release: Release) -> bool:
    """A job with a problem may want it: what its spec says cannot be told, so it is not called done."""
    if job is None:
        return False
    target = _target(release)
    return job.problem is not None or target is None or job.model_digest == target.digest


def _target(release: Release) -> ModelVersion | None:
    return None if release.problem else release.target


def _waved(
    release: Release,
    fleet: Fleet,
    connected: set[str],
    jobs: Mapping[str, Job],
    known: Mapping[str, ModelVersion],
) -> tuple[list[SiteStep], Decision]:
    """The sites of a release that goes out in waves. A job that is pinned elsewhere, or has a problem, takes no part."""
    parts = [one for one in release.sites if _takes_part(jobs.get(one.job), release)]
    decision = advance(waved.facts(release, parts, fleet, known=known))
    steps = []
    for models in release.sites:
        if not _takes_part(jobs.get(models.job), release):
            steps.append(_site(models, release, connected, jobs.get(models.job)))
            continue
        said = decision.told[models.site]
        told = known.get(said.version) if said.version is not None else models.told
        beside = known.get(said.beside) if said.beside is not None else None
        if beside is not None and told is not None and beside.version == told.version:
            # Other parameters under the same version: answers and paths could not tell the two apart.
            told, beside = beside, None
        state = _state(models, release, connected, told=beside or told, problem=None, waits=decision.waits_for)
        steps.append(replace(state, told=told, beside=beside, traffic=said.traffic, mirror=said.mirror))
    return steps, decision


def _takes_part(job: Job | None, release: Release) -> bool:
    target = _target(release)
    return job is not None and job.problem is None and target is not None and job.model_digest == target.digest


def _release(
    release: Release,
    sites: tuple[SiteStep, ...],
    decision: Decision | None,
    known: Mapping[str, ModelVersion],
    *,
    now: float,
) -> ReleaseStep:
    target = _target(release)
    if decision is not None:
        stable = known.get(decision.stable) if decision.stable is not None else None
        return ReleaseStep(
            key=release.key,
            target=target,
            current=stable or release.current,
            sites=sites,
            paused=release.paused,
            first=stable or target,
            decision=decision,
            remembered=waved.remembered(decision),
            refused=waved.refused(decision, known),
            history=waved.history(stable, release, now=now),
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
        refused=release.refused,
        history=waved.history(target if finished else None, release, now=now),
    )


def _site(models: SiteModels, release: Release, connected: set[str], job: Job | None) -> SiteStep:
    told, target = models.told, _target(release)
    held = release.paused and told is not None
    problem = job.problem if job else None
    # A job whose pin does not match the target keeps what it was told; see edgeward.fleet.build. So does one with a
    # problem: its Assignments are left alone.
    if target is not None and not held and not problem and job is not None and job.model_digest == target.digest:
        told = target
    return _state(models, release, connected, told=told, problem=problem)


def _state(
    models: SiteModels,
    release: Release,
    connected: set[str],
    *,
    told: ModelVersion | None,
    problem: Problem | None,
    waits: str = "",
) -> SiteStep:
    """How far a site is that is told `told` from now on. `waits`: what a rollout in waves waits for."""
    target = _target(release)
    serves = next((model for model in models.served if model.serving), None)

    def says(state: SiteState, reason: str = "", message: str = "") -> SiteStep:
        return SiteStep(
            job=models.job, site=models.site, told=told, serves=serves, state=state, reason=reason, message=message
        )

    if told is None:
        return says(SiteState.PENDING, reason="NoRunnableModel", message="no version is known")
    of_told = next((model for model in models.served if model.digest == told.digest), None)
    # A policy that came after the version: it serves on, and is not what was asked for.
    distrusted = of_told is not None and of_told.serving and of_told.refused_step == "Signature"
    if (
        target is not None
        and told.digest == target.digest
        and of_told is not None
        and of_told.serving
        and not distrusted
    ):
        others = [model for model in models.served if model.serving and model.digest != told.digest]
        if not others:
            return says(SiteState.UPDATED)
    if models.site not in connected:
        return says(SiteState.OFFLINE, reason="SiteDisconnected", message="catches up when it is back")
    if of_told is not None and of_told.refused_step and (distrusted or not of_told.serving):
        return says(
            SiteState.FAILED,
            reason=f"{of_told.refused_step}Failed",
            message=f"{of_told.refused_reason}: {of_told.refused_message}",
        )
    if problem is not None:
        return says(SiteState.PENDING, reason=problem.reason, message=f"{models.job}: {problem.message}")
    if target is not None and told.digest != target.digest:
        if release.paused:
            return says(SiteState.PENDING, reason="Paused", message="spec.paused holds this site")
        return says(SiteState.PENDING, reason="WaitingForSites", message=f"its wave has not come: {waits}"[:1024])
    return says(SiteState.PENDING, reason="RollingOut", message="on its way")
