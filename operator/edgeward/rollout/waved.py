"""A release of the Fleet as the state machine's facts, and what it decided as the status that remembers it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from edgeward.api.common import format_time, parse_time, seconds
from edgeward.api.modelrelease import (
    RefusedVersion,
    ReleasedVersion,
    Rollout,
    RolloutStatus,
)
from edgeward.api.modelrelease import Wave as AskedWave
from edgeward.fleet import windows
from edgeward.fleet.model import Fleet, ModelVersion, Release, Site, SiteModels
from edgeward.fleet.pins import finished
from edgeward.rollout import gated, looks, recall
from edgeward.rollout.model import (
    Command,
    Decision,
    Facts,
    Gate,
    Hold,
    Member,
    Phase,
    Progress,
    Refused,
    Strategy,
    Wave,
)
from edgeward.rollout.variants import Ground, Grounds, at_site, digests, lifted, lowered

_VERBS = ("pause", "promote", "abort", "retry")
# Steps of a site that fail for want of the bytes, not for what they are: tried again by the site, never a verdict.
_OF_THE_WAY = ("Fetch", "Verify", "Signature")


def facts(
    release: Release,
    parts: Sequence[SiteModels],
    fleet: Fleet,
    *,
    known: Mapping[str, ModelVersion],
    grounds: Grounds,
) -> Facts:
    """`parts`: what takes part, job by job; a site with several is one member. What has no replica at a site cannot serve
    there, so it is no member. `known`: see versions()."""
    assert release.target is not None
    sites = {site.name: site for site in fleet.sites}
    by_site: dict[str, list[SiteModels]] = {}
    for one in parts:
        if one.replicas:
            by_site.setdefault(one.site, []).append(one)
    target = release.target.identity
    progress, stable = _progress(release), _stable(release, known)
    attempt = recall.attempt_in_force(release)
    round_ = gated.round_of(release, parts, progress, stable=stable, known=known)
    failing = gated.failing(round_)
    return Facts(
        now=fleet.now,
        target=target,
        stable=stable,
        strategy=strategy(
            release.rollout or Rollout(),
            gates=gated.machine_gates(release.gates),
            automatic=release.automatic_rollback,
            paused=release.paused,
        ),
        members=tuple(
            _member(
                name,
                models,
                release.target,
                known=known.values(),
                grounds=grounds,
                attempt=attempt,
                labels=sites[name].labels if name in sites else {},
                connected=name in sites and sites[name].connected,
                begins=_begins(release, sites.get(name), now=fleet.now),
                answers=not any((one.job, name) in failing for one in models),
            )
            for name, models in sorted(by_site.items())
        ),
        progress=progress,
        samples=gated.samples(round_, progress, fleet) if round_ is not None and progress is not None else {},
        variants=tuple(round_.by_variant()) if round_ is not None else ("",),
        refused=recall.refused(release),
        attempt=recall.attempt_told(release),
        known_attempt=recall.attempt_known(release),
        command=command(release.command),
    )


def has_a_say(release: Release) -> bool:
    """Whether a release without spec.rollout needs the state machine all the same: somebody said retry, or its target is one
    that it went back from."""
    assert release.target is not None
    said = command(release.command)
    if (
        said is not None
        and said.verb == "retry"
        and (release.remembered is None or release.remembered.token != said.token)
    ):
        return True
    return any(one.version == release.target.identity for one in recall.refused(release))


def kept(release: Release, *, finished: bool, now: float) -> RolloutStatus | None:
    """What a release without spec.rollout goes on to remember: the command that it acted on last, and the attempt."""
    said, target = release.remembered, release.target
    if said is None or target is None or not (said.token or said.attempt):
        return None
    same = said.target == target.identity
    return RolloutStatus(
        target=target.identity,
        phase="Done" if finished else "Rolling",
        started=said.started if same else format_time(now),
        token=said.token,
        attempt=said.attempt if same else recall.attempt_told(release),
    )


def command(text: str) -> Command | None:
    """VERB@TOKEN; None for anything else."""
    verb, at, token = text.partition("@")
    return Command(verb=verb, token=token) if at and token and verb in _VERBS else None


def strategy(asked: Rollout, *, gates: tuple[Gate, ...], automatic: bool, paused: bool) -> Strategy:
    most = asked.max_unavailable_sites or ""
    return Strategy(
        waves=tuple(_wave(one) for one in asked.waves),
        gates=gates,
        max_unavailable=int(most) if most.isdigit() else None,
        max_unavailable_percent=int(most[:-1]) if most.endswith("%") else None,
        concurrent=asked.pace.concurrent_downloads if asked.pace else None,
        deadline=seconds(asked.deadline) if asked.deadline else None,
        automatic_rollback=automatic,
        paused=paused,
    )


def _wave(asked: AskedWave) -> Wave:
    sites = asked.sites
    return Wave(
        name=asked.name,
        count=sites.count if sites else None,
        percent=sites.percent if sites else None,
        selects=sites.selector.matches if sites and sites.selector is not None else None,
        names=frozenset(sites.names) if sites and sites.names is not None else None,
        traffic=int(asked.traffic.removesuffix("%")) if asked.traffic is not None else None,
        mirror=asked.mirror or 0,
        bake=seconds(asked.bake) if asked.bake else 0.0,
        max_concurrent=asked.max_concurrent,
    )


def _stable(release: Release, known: Mapping[str, ModelVersion]) -> str | None:
    """The last version that finished. Before the history knows it: the one that status calls current."""
    if release.history:
        return finished(release, release.history[0]).identity
    current = release.current
    return current.identity if current is not None and current.identity in known else None


def versions(release: Release, grounds: Grounds) -> Mapping[str, ModelVersion]:
    """Every version that a site could be told, by identity. What a site was told is mostly an artifact of one of these;
    where nobody remembers the version that it is of, it counts as one."""
    found = {} if release.target is None else {release.target.identity: release.target}
    for one in release.history:
        version = finished(release, one)
        found.setdefault(version.identity, version)
    for models in release.sites:
        for told in (models.told, models.beside):
            if told is not None:
                whole = lifted(told, found.values(), grounds.of(models))
                found.setdefault(whole.identity, whole)
    return found


def _member(
    name: str,
    models: Sequence[SiteModels],
    target: ModelVersion,
    *,
    known: Collection[ModelVersion],
    grounds: Grounds,
    attempt: int,
    labels: Mapping[str, str],
    connected: bool,
    begins: float | None,
    answers: bool,
) -> Member:
    """answers: what it answers is mostly no error, as far as anybody counts."""
    ground = {one.job: grounds.of(one) for one in models}
    told = {_identity(one.beside or one.told, known, ground[one.job]) for one in models}
    base = {_identity(one.told, known, ground[one.job]) for one in models}
    wanted = {one.job: lowered(target, ground[one.job], has=at_site(one)) for one in models}
    refusals = [text for one in models for text in _refusals(one, wanted[one.job], attempt)]
    waits = {
        one.job: _identity(one.beside or one.told, known, ground[one.job]) == target.identity
        and one.waits(wanted[one.job])
        for one in models
    }
    serves = {one.job: _serves(one, known, ground[one.job], waits=waits[one.job]) for one in models}
    return Member(
        name=name,
        labels=labels,
        connected=connected,
        # What comes to a site that has it already, follows.
        told=target.identity if target.identity in told else _one(told, besides=target.identity),
        base=_one(base, besides=target.identity),
        serves=_one(set(serves.values()), besides=target.identity),
        refused=refusals[0] if refusals else "",
        available=answers and all(one.ready > 0 for one in models),
        staged=any(waits.values()) and all(waits[job] or serves[job] == target.identity for job in waits),
        begins=begins,
    )


def _begins(release: Release, site: Site | None, *, now: float) -> float | None:
    asked = windows.activation(release.rollout, site)
    if asked is None:
        return None
    opening = windows.of(asked, now=now)
    moment = opening.since if opening.since is not None else opening.next
    return math.inf if moment is None else moment if moment > -math.inf else None


def _refusals(models: SiteModels, wanted: ModelVersion, attempt: int) -> list[str]:
    """Why a site will not have it: what it remembers of it, else what its pods say."""
    here = recall.of_site(models, wanted, attempt=attempt)
    if here is not None or attempt:
        # Of a later attempt the site's memory alone counts: its pods may not have heard of it yet.
        return [f"{here.step}: {here.reason}"] if here is not None else []
    return [
        f"{served.refused_step}: {served.refused_message or served.refused_reason}"
        for served in models.served
        if served.of(wanted) and served.refused_step and served.refused_step not in _OF_THE_WAY
    ]


def _one(found: set[str | None], *, besides: str) -> str | None:
    """What several jobs of a site have in common; where they differ, the one that is not the target: it is not there yet."""
    if len(found) == 1:
        return next(iter(found))
    return min((one for one in found if one is not None and one != besides), default=None)


def _identity(told: ModelVersion | None, known: Collection[ModelVersion], ground: Ground) -> str | None:
    return lifted(told, known, ground).identity if told is not None else None


def _serves(models: SiteModels, known: Collection[ModelVersion], ground: Ground, *, waits: bool = False) -> str | None:
    """The version that answers. A canary that serves beside the old one counts as the target: it is what is watched.
    What the site went back from by itself does not answer, even where the version before is the same bytes."""
    serving = [served for served in models.served if served.serving]
    told = models.beside or models.told
    if waits and told is not None:
        # Also where it has a share of the requests already: it is to have all of them.
        serving = [one for one in serving if not one.of(told)]
    if told is not None and recall.fell_back(models, told) is not None:
        back = models.told if models.beside is not None else None
        others = {one.identity for one in serving if not one.of(told)}
        return _identity(back, known, ground) if back is not None else min(others, default=None)
    if told is not None and any(one.of(told) for one in serving) and (models.beside is not None or len(serving) == 1):
        return _identity(told, known, ground)
    if models.told is not None and any(one.of(models.told) for one in serving):
        return _identity(models.told, known, ground)
    other = min(serving, key=lambda one: one.identity, default=None)
    if other is None:
        return None
    of = {one.identity for one in known if one.variants and other.digest in digests(one)}
    return of.pop() if len(of) == 1 else other.identity


def _progress(release: Release) -> Progress | None:
    """As it is remembered; None when nothing is."""
    said = release.remembered
    if said is None:
        return None
    return Progress(
        target=said.target,
        phase=Phase(said.phase),
        wave=said.wave,
        members=tuple(said.members),
        started=parse_time(said.started),
        baking_since=parse_time(said.baking_since) if said.baking_since else None,
        hold=Hold(said.hold or ""),
        token=said.token,
        attempt=said.attempt,
        why=said.why,
        looks=looks.looks(release.looked),
    )


def remembered(decision: Decision) -> RolloutStatus:
    progress = decision.progress
    return RolloutStatus(
        target=progress.target,
        phase=progress.phase.value,
        wave=progress.wave,
        members=progress.members,
        started=format_time(progress.started),
        baking_since=format_time(progress.baking_since) if progress.baking_since is not None else None,
        hold=progress.hold.value or None,
        token=progress.token,
        attempt=progress.attempt,
        why=progress.why[:1024],
        waits_for=decision.waits_for[:1024],
    )


def refused(decision: Decision, known: Mapping[str, ModelVersion]) -> tuple[RefusedVersion, ...]:
    return _written(decision.refused, known)


def still_refused(release: Release) -> tuple[RefusedVersion, ...]:
    """Of a release without spec.rollout."""
    return _written(recall.refused(release), {})


def _written(refused: Sequence[Refused], known: Mapping[str, ModelVersion]) -> tuple[RefusedVersion, ...]:
    return tuple(
        RefusedVersion(
            version=known[one.version].version if one.version in known else one.name,
            identity=one.version,
            reason=one.reason[:1024],
            attempt=one.attempt,
            at=format_time(one.at),
        )
        for one in refused[-recall.MOST :]
    )


def way_back(
    told: ModelVersion, release: Release, decision: Decision, known: Mapping[str, ModelVersion]
) -> ModelVersion | None:
    """What a site goes back to by itself from `told`: what finished last before it, and was not refused since."""
    gone = {one.version for one in decision.refused} | {told.identity}
    if told.identity == decision.progress.target and decision.stable not in (None, *gone):
        return known.get(decision.stable or "")
    past = [finished(release, one) for one in release.history]
    at = next((number for number, one in enumerate(past) if one.identity == told.identity), -1)
    return next((one for one in past[at + 1 :] if one.identity not in gone), None)


def history(stable: ModelVersion | None, release: Release, *, now: float) -> tuple[ReleasedVersion, ...]:
    """The versions that finished, the newest first. `stable`: the one that has finished by now."""
    before = release.history
    if stable is None or not stable.sources or (before and finished(release, before[0]).identity == stable.identity):
        return before
    newest = ReleasedVersion(
        version=stable.version,
        digest=stable.digest,
        sources=stable.sources,
        parameters=dict(stable.parameters),
        signature=stable.signature,
        pull_secret=stable.pull_secret or None,
        variants=stable.variants,
        finished=format_time(now),
    )
    return (newest, *before)[:10]
