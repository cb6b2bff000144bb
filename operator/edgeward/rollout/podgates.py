"""The gates of a release while a change of pods bakes. Pure.

Old and new pods serve the same digest, so a site's counters cannot tell them apart; the sites can. The wave's sites, whose
pods are all new by then, are held against those whose turn has not come. So only gates that pods are counted for take
part: not Agreement, which needs both at one site, and no PromQL, whose placeholders name versions of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeward.api.assignment import Watch
from edgeward.api.common import format_duration, format_time
from edgeward.fleet.model import Release, Site, SiteModels
from edgeward.fleet.podspec import SitePods
from edgeward.rollout import gated, pool
from edgeward.rollout.model import Gate, Phase, Progress, Sample

COUNTED = ("ErrorRate", "LatencyP95", "CrashLoop", "Drift", "Accuracy")


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRound:
    """The gates of a change, and while a wave bakes whom they ask."""

    gates: tuple[Gate, ...]
    since: float | None = None
    """what is measured counts from here; None: nothing bakes"""
    mine: tuple[SiteModels, ...] = ()
    others: tuple[SiteModels, ...] = ()


def round_of(
    job: str, sites: Sequence[SitePods], release: Release, progress: Progress | None, *, target: str
) -> PodRound:
    """sites: of the job. A gate that compares is left out where no site was ever left to compare with."""
    asked = gated.machine_gates([one for one in release.gates if one.builtin in COUNTED])
    baking = progress is not None and progress.target == target and progress.phase is Phase.BAKING
    if progress is None or not baking or progress.baking_since is None:
        return PodRound(gates=asked)
    new = {one.site for one in sites if one.told.identity == target}
    models = [one for one in release.sites if one.job == job and one.replicas]
    others = gated.some([one for one in models if one.site not in new])
    known = {one.gate for one in progress.looks if one.baseline is not None}
    asked = tuple(one for one in asked if not one.baseline or others or one.name in known)
    if not asked:
        return PodRound(gates=())
    return PodRound(
        gates=asked,
        since=float(int(progress.baking_since + asked[0].initial_delay)),
        mine=tuple(one for one in models if one.site in new and one.site in progress.members),
        others=others,
    )


def samples(
    round_: PodRound, progress: Progress | None, sites: Mapping[str, Site], pods: Sequence[SitePods]
) -> Mapping[tuple[str, str], Sample]:
    """By gate and variant, of which there is none here."""
    if round_.since is None or progress is None:
        return {}
    up = {one.site for one in pods if one.updated and one.site in sites and sites[one.site].connected}
    remembered = {one.gate: one.baseline for one in progress.looks}
    mine = [
        pool.Part(site=one.site, new=_digest(one), needed=one.site in up, counters=one.counters) for one in round_.mine
    ]
    others = [pool.Part(site=one.site, old=frozenset({_digest(one)}), counters=one.counters) for one in round_.others]
    return {
        (gate.name, ""): pool.counted(gate, mine, others, since=round_.since, remembered=remembered.get(gate.name))
        for gate in round_.gates
    }


def failing(round_: PodRound) -> frozenset[str]:
    """Sites that answer with more errors than a gate lets pass."""
    since = round_.since
    return frozenset(
        one.site
        for one in (*round_.mine, *round_.others)
        if since is not None and pool.fails_too_often(round_.gates, one.counters, _digest(one), since=since)
    )


def watches(round_: PodRound) -> Mapping[str, Watch]:
    """By site, what its agent is to report. The others do while a gate compares with them."""
    if round_.since is None or not round_.gates:
        return {}
    asked = Watch(
        since=format_time(round_.since), interval=format_duration(min(gate.interval for gate in round_.gates))
    )
    found = {one.site: asked for one in round_.mine}
    if any(gate.baseline for gate in round_.gates):
        found |= {one.site: asked for one in round_.others}
    return found


def _digest(one: SiteModels) -> str:
    return one.told.digest if one.told is not None else ""
