"""One step of every rollout: what each site is told to serve now, and how far the release is.

First form: a new version goes to every site at once, and what a site refuses leaves its old version serving. Waves and
gates will decide here which sites are told already; nothing outside this module need know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from edgeward.fleet.model import Fleet, ModelVersion, Release, ServedModel, SiteModels


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
    offline = {site.name for site in fleet.sites if not site.connected}
    pinned = {job.key: job.model_digest for job in fleet.jobs}
    releases = tuple(_release(release, offline, pinned) for release in fleet.releases)
    told = {(item.job, item.site): item.told for release in releases for item in release.sites}
    return RolloutStep(releases=releases, _told=told)


def _release(release: Release, offline: set[str], digests: Mapping[str, str]) -> ReleaseStep:
    target = None if release.problem else release.target
    sites = tuple(_site(models, target, release, offline, digests.get(models.job, "")) for models in release.sites)
    done = target is not None and all(item.state in (SiteState.UPDATED, SiteState.OFFLINE) for item in sites)
    finished = done and any(item.state is SiteState.UPDATED for item in sites)
    return ReleaseStep(key=release.key, target=target, current=target if finished else release.current, sites=sites)


def _site(
    models: SiteModels, target: ModelVersion | None, release: Release, offline: set[str], wanted_digest: str
) -> SiteStep:
    told = models.told
    held = release.paused and told is not None
    # A job whose pin does not match the target keeps what it was told; see edgeward.fleet.build.
    if target is not None and not held and wanted_digest == target.digest:
        told = target
    serves = next((model for model in models.served if model.serving), None)

    def says(state: SiteState, reason: str = "", message: str = "") -> SiteStep:
        return SiteStep(
            job=models.job, site=models.site, told=told, serves=serves, state=state, reason=reason, message=message
        )

    if told is None:
        return says(SiteState.PENDING, reason="NoRunnableModel", message="no version is known")
    of_told = next((model for model in models.served if model.digest == told.digest), None)
    if target is not None and told.digest == target.digest and of_told is not None and of_told.serving:
        others = [model for model in models.served if model.serving and model.digest != told.digest]
        if not others:
            return says(SiteState.UPDATED)
    if models.site in offline:
        return says(SiteState.OFFLINE, reason="SiteDisconnected", message="catches up when it is back")
    if of_told is not None and of_told.refused_step and not of_told.serving:
        return says(
            SiteState.FAILED,
            reason=f"{of_told.refused_step}Failed",
            message=f"{of_told.refused_reason}: {of_told.refused_message}",
        )
    if target is not None and told.digest != target.digest:
        if wanted_digest != target.digest:
            # Pinned elsewhere on purpose: it is where it should be.
            return says(SiteState.UPDATED, reason="Pinned")
        return says(SiteState.PENDING, reason="Paused", message="spec.paused holds this site")
    return says(SiteState.PENDING, reason="RollingOut", message="on its way")
