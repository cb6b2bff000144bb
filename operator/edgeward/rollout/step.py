"""One step of every rollout: what each site is told to serve now, and how far the release is.

First form: a new version goes to every site at once, and what a site refuses leaves its old version serving. Waves and
gates will decide here which sites are told already; nothing outside this module need know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from edgeward.fleet.model import Fleet, Job, ModelVersion, Release, ServedModel, SiteModels


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


@dataclass(frozen=True, slots=True)
class ReleaseStep:
    key: str
    target: ModelVersion | None
    current: ModelVersion | None
    """the last version that finished: target when nothing is pending or failed, else what status said"""
    sites: tuple[SiteStep, ...] = ()
    """those that should serve the target: not of jobs that are pinned elsewhere or gone, not where a job has left"""
    paused: bool = False

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
    _told: Mapping[tuple[str, str], ModelVersion | None] = field(default_factory=dict)

    def told(self, job: str, site: str) -> ModelVersion | None:
        """What a site that has the job already should be told; None when there is no release to say so."""
        return self._told.get((job, site))

    def release(self, key: str) -> ReleaseStep | None:
        return next((item for item in self.releases if item.key == key), None)


def step(fleet: Fleet) -> RolloutStep:
    """The next step of every release of the Fleet. The same Fleet gives the same step; applying it twice changes nothing."""
    connected = {site.name for site in fleet.sites if site.connected}
    jobs = {job.key: job for job in fleet.jobs}
    releases: list[ReleaseStep] = []
    told: dict[tuple[str, str], ModelVersion | None] = {}
    for release in fleet.releases:
        steps = [_site(models, release, connected, jobs.get(models.job)) for models in release.sites]
        told |= {(item.job, item.site): item.told for item in steps}
        counted = (
            item
            for models, item in zip(release.sites, steps, strict=True)
            if models.replicas and _wants_target(jobs.get(models.job), release)
        )
        releases.append(_release(release, tuple(counted)))
    return RolloutStep(releases=tuple(releases), _told=told)


def _wants_target(job: Job | None, release: Release) -> bool:
    """A job with a problem may want it: what its spec says cannot be told, so it is not called done."""
    if job is None:
        return False
    target = _target(release)
    return job.problem is not None or target is None or job.model_digest == target.digest


def _target(release: Release) -> ModelVersion | None:
    return None if release.problem else release.target


def _release(release: Release, sites: tuple[SiteStep, ...]) -> ReleaseStep:
    target = _target(release)
    done = target is not None and all(item.state in (SiteState.UPDATED, SiteState.OFFLINE) for item in sites)
    finished = done and any(item.state is SiteState.UPDATED for item in sites)
    current = target if finished else release.current
    return ReleaseStep(key=release.key, target=target, current=current, sites=sites, paused=release.paused)


def _site(models: SiteModels, release: Release, connected: set[str], job: Job | None) -> SiteStep:
    told, target = models.told, _target(release)
    held = release.paused and told is not None
    problem = job.problem if job else None
    # A job whose pin does not match the target keeps what it was told; see edgeward.fleet.build. So does one with a
    # problem: its Assignments are left alone.
    if target is not None and not held and not problem and job is not None and job.model_digest == target.digest:
        told = target
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
        return says(SiteState.PENDING, reason="Paused", message="spec.paused holds this site")
    return says(SiteState.PENDING, reason="RollingOut", message="on its way")
