"""One job at one site of a release: what it is told to serve, and how far it is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from edgeward.api.assignment import Activation, LocalGate, Watch
from edgeward.fleet.model import Job, ModelVersion, Problem, Release, ServedModel, SiteModels
from edgeward.rollout import recall
from edgeward.rollout.variants import Ground, at_site, described, lifted, lowered


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
    version: ModelVersion | None = None
    """the release's version that `told` is an artifact of"""
    watch: Watch | None = None
    """what the site is to report while its wave bakes"""
    local_gates: tuple[LocalGate, ...] | None = None
    """what the site checks of the new version by itself; None: whatever it was told of the one that it has"""
    previous: ModelVersion | None = None
    """what the site goes back to by itself from `told`; None beside a canary, whose way back is `told`"""
    variant: str = ""
    """how a person tells the variant of the target that the site takes, "" for the main artifact"""
    activation: Activation | None = None
    """when the site may begin to serve the new version; None: at once, as every way back"""
    staged: bool = False
    """the new version is on the site's disks, and waits for its moment"""


def target_of(release: Release) -> ModelVersion | None:
    return None if release.problem else release.target


def whole_of(models: SiteModels, known: Mapping[str, ModelVersion], ground: Ground) -> ModelVersion | None:
    """The release's version that the site was told."""
    return lifted(models.told, known.values(), ground) if models.told is not None else None


def at_once(
    models: SiteModels,
    release: Release,
    connected: set[str],
    job: Job | None,
    *,
    known: Mapping[str, ModelVersion],
    ground: Ground,
) -> SiteStep:
    """Of a release that goes everywhere at once, or a job that takes no part in its waves."""
    told, target = models.told, target_of(release)
    version = whole_of(models, known, ground)
    held = release.paused and told is not None
    problem = job.problem if job else None
    # A job whose pin does not match the target keeps what it was told; see edgeward.fleet.build. So does one with a
    # problem: its Assignments are left alone.
    if job is not None and job.pinned:
        # What it names, whatever the release does; what it has while nobody knows what it names.
        if job.pin is not None and not problem:
            told, version = lowered(job.pin, ground, has=at_site(models)), job.pin
    elif target is not None and not held and not problem and job is not None and job.model_digest == target.digest:
        told, version = lowered(target, ground, has=at_site(models)), target
    return state_of(models, release, connected, told=told, version=version, ground=ground, problem=problem)


def state_of(
    models: SiteModels,
    release: Release,
    connected: set[str],
    *,
    told: ModelVersion | None,
    version: ModelVersion | None,
    ground: Ground,
    problem: Problem | None,
    waits: str = "",
) -> SiteStep:
    """How far a site is that is told `told`, an artifact of `version`, from now on. `waits`: what a rollout in waves
    waits for; nothing once it has gone back."""
    whole, has = target_of(release), at_site(models)
    target = lowered(whole, ground, has=has) if whole is not None else None
    variant = described(whole, target.digest) if whole is not None and target is not None else ""
    serves = next((model for model in models.served if model.serving), None)

    def says(state: SiteState, reason: str = "", message: str = "") -> SiteStep:
        return SiteStep(
            job=models.job,
            site=models.site,
            told=told,
            serves=serves,
            state=state,
            reason=reason,
            message=message,
            version=version,
            variant=variant,
            staged=told is not None and models.waits(told),
        )

    if told is None:
        return says(SiteState.PENDING, reason="NoRunnableModel", message="no version is known")
    here = recall.fell_back(models, recall.counted(told, models, told, 0))
    if here is not None and models.site in connected:
        return says(SiteState.FAILED, reason=f"{here.step}Failed", message=here.reason)
    wanted = target is not None and (told.digest, told.parameters) == (target.digest, target.parameters)
    of_told = next((model for model in models.served if model.of(told)), None)
    # A policy that came after the version: it serves on, and is not what was asked for.
    distrusted = of_told is not None and of_told.serving and of_told.refused_step == "Signature"
    if target is not None and wanted and of_told is not None and of_told.serving and not distrusted:
        others = [model for model in models.served if model.serving and not model.of(told)]
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
    if target is not None and not wanted:
        if release.paused:
            return says(SiteState.PENDING, reason="Paused", message="spec.paused holds this site")
        if not waits:
            return says(SiteState.PENDING, reason="RolledBack", message=f"keeps {told.version}, see status.refused")
        return says(SiteState.PENDING, reason="WaitingForSites", message=f"its wave has not come: {waits}"[:1024])
    return says(SiteState.PENDING, reason="RollingOut", message="on its way")
