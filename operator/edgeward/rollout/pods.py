"""A change of a job's pods goes out as a model's version does: by the waves of its release, within the sites' windows, and
back if the new pods do not come up. The same state machine decides; a version is the identity of a PodSpec here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edgeward.api.assignment import Watch
from edgeward.fleet import windows
from edgeward.fleet.model import Fleet, Job, Release, Site
from edgeward.fleet.podspec import JobPods, PodSpec
from edgeward.rollout import podgates, podmemory, waved
from edgeward.rollout.machine import advance
from edgeward.rollout.model import Facts, Member, Phase, Strategy
from edgeward.rollout.podmemory import Memory
from edgeward.rollout.step import RolloutStep, held


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPodStep:
    """What the sites of one job are told of its pods from now on."""

    told: Mapping[str, PodSpec] = field(default_factory=dict)
    """by site"""
    first: PodSpec
    """for a site that is new to the job"""
    remembered: Mapping[str, Any] = field(default_factory=dict)
    """for status.podRollout; empty: nothing"""
    waits_for: str = ""
    """what a site waits for, of a job whose change is not everywhere; empty when nothing is held back"""
    watch: Mapping[str, Watch] = field(default_factory=dict)
    """by site, what is to be reported while a wave bakes"""
    paused: bool = False
    """spec.paused of its release holds it"""


def step(fleet: Fleet, rollout: RolloutStep) -> Mapping[str, JobPodStep]:
    """By job. One that cannot be read or has a problem is not in it: its Assignments are left alone."""
    releases = {release.key: release for release in fleet.releases}
    sites = {site.name: site for site in fleet.sites}
    found = {}
    for job in fleet.jobs:
        if job.pods is not None and job.problem is None:
            release = releases.get(f"{job.namespace}/{job.model_name}")
            found[job.key] = _of_job(job, job.pods, release, sites, fleet.now, rollout)
    return found


def _of_job(
    job: Job, pods: JobPods, release: Release | None, sites: Mapping[str, Site], now: float, rollout: RolloutStep
) -> JobPodStep:
    memory, wanted = podmemory.recalled(pods.remembered, [one.site for one in pods.sites]), pods.wanted
    if memory is not None and (release is None or release.problem is not None):
        # Nobody says any more how it may go out: all is left as it is.
        first, open_ = memory.finished or wanted, any(one.told.identity != wanted.identity for one in pods.sites)
        lacking = "its ModelRelease is missing" if release is None else "its ModelRelease says nothing that can be done"
        waits = f"a word on how it may go out: {lacking}" if open_ else ""
        return JobPodStep(
            told={one.site: one.told for one in pods.sites}, first=first, remembered=pods.remembered, waits_for=waits
        )
    if release is None or release.rollout is None:
        return _at_once(pods, sites, now)
    if memory is None and all(one.told.identity == wanted.identity for one in pods.sites):
        # What a job begins with goes everywhere at once: nothing of it serves yet.
        begun = any(one.updated for one in pods.sites)
        return JobPodStep(first=wanted, told=_all(pods), remembered=podmemory.done(wanted, now=now) if begun else {})
    known = {one.told.identity: one.told for one in pods.sites}
    if memory is not None and memory.finished is not None:
        known[memory.finished.identity] = memory.finished
    known[wanted.identity] = wanted
    before = memory.progress if memory is not None else None
    round_ = podgates.round_of(job.key, pods.sites, release, before, target=wanted.identity)
    decision = advance(_facts(job, pods, release, memory, sites, now, rollout, round_))
    round_ = podgates.round_of(job.key, pods.sites, release, decision.progress, target=wanted.identity)
    stable = known.get(decision.stable) if decision.stable is not None else None
    told = {name: known[said.version] for name, said in decision.told.items() if said.version is not None}
    on_its_way = decision.progress.phase is not Phase.DONE
    return JobPodStep(
        told={one.site: told.get(one.site, one.told) for one in pods.sites},
        first=stable or wanted,
        remembered=podmemory.told(decision, stable),
        waits_for=(decision.waits_for or decision.progress.why) if on_its_way else "",
        watch=podgates.watches(round_) if not held(decision.progress, release) else {},
        paused=on_its_way and release.paused,
    )


def _all(pods: JobPods) -> Mapping[str, PodSpec]:
    return {one.site: pods.wanted for one in pods.sites}


def _at_once(pods: JobPods, sites: Mapping[str, Site], now: float) -> JobPodStep:
    """Without spec.rollout: everywhere, but for a site that is frozen or outside its windows."""
    shut = [
        one
        for one in pods.sites
        if one.told.identity != pods.wanted.identity and one.replicas and not _open(None, sites.get(one.site), now)
    ]
    told = {**_all(pods), **{one.site: one.told for one in shut}}
    waits = (
        f"site {shut[0].site}, which is frozen or outside its window"
        + (f" and {len(shut) - 1} more" if shut[1:] else "")
        if shut
        else ""
    )
    return JobPodStep(first=pods.wanted, told=told, waits_for=waits)


def _open(release: Release | None, site: Site | None, now: float) -> bool:
    """Whether the pods at the site may change now: it is not frozen, and within its windows."""
    if site is not None and site.frozen:
        return False
    asked = windows.activation(release.rollout if release is not None else None, site)
    return windows.of(asked, now=now).open


def _facts(
    job: Job,
    pods: JobPods,
    release: Release,
    memory: Memory | None,
    sites: Mapping[str, Site],
    now: float,
    rollout: RolloutStep,
    round_: podgates.PodRound,
) -> Facts:
    assert release.rollout is not None
    asked = waved.strategy(
        release.rollout, gates=round_.gates, automatic=release.automatic_rollback, paused=release.paused
    )
    failing = podgates.failing(round_)
    members = tuple(
        Member(
            name=one.site,
            labels=sites[one.site].labels if one.site in sites else {},
            # A frozen one is told of nothing and waited for by nobody, as one that is away.
            connected=one.site in sites and sites[one.site].connected and not sites[one.site].frozen,
            told=one.told.identity,
            base=one.told.identity,
            serves=one.told.identity if one.updated else None,
            refused=one.broken if one.told.identity == pods.wanted.identity else "",
            available=one.ready > 0 and one.site not in failing,
            shut=not _open(release, sites.get(one.site), now),
        )
        for one in pods.sites
        if one.replicas
    )
    return Facts(
        now=now,
        target=pods.wanted.identity,
        stable=memory.finished.identity if memory is not None and memory.finished is not None else None,
        strategy=_of_pods(asked),
        members=members,
        progress=memory.progress if memory is not None else None,
        samples=podgates.samples(round_, memory.progress if memory is not None else None, sites, pods.sites),
        refused=memory.refused if memory is not None else (),
        command=waved.command(pods.command),
        comes_after=_model_on_its_way(release, rollout),
    )


def _of_pods(asked: Strategy) -> Strategy:
    """Old and new pods answer side by side while a site changes: there is no share of the traffic to choose."""
    return replace(asked, waves=tuple(replace(one, traffic=None, mirror=0) for one in asked.waves))


def _model_on_its_way(release: Release, rollout: RolloutStep) -> str:
    """Two rollouts of one job never interleave: the one that has begun is finished first. But the first version of all
    may need the change to come up at all, and there is none to go back to meanwhile."""
    said = rollout.release(release.key)
    decision = said.decision if said is not None else None
    if decision is None or decision.stable is None or not decision.progress.begun:
        return ""
    return f"the rollout of model {release.name}"
