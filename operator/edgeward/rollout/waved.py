"""A release of the Fleet as the state machine's facts, and what it decided as the status that remembers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeward.api.common import format_time, parse_time, seconds
from edgeward.api.modelrelease import (
    RefusedVersion,
    ReleasedVersion,
    Rollout,
    RolloutStatus,
)
from edgeward.api.modelrelease import Wave as AskedWave
from edgeward.fleet.model import Fleet, ModelVersion, Release, SiteModels
from edgeward.rollout.model import (
    Command,
    Decision,
    Facts,
    Hold,
    Member,
    Phase,
    Progress,
    Refused,
    Strategy,
    Wave,
)

_VERBS = ("pause", "promote", "abort", "retry")
# Steps of a site that fail for want of the bytes, not for what they are: tried again by the site, never a verdict.
_OF_THE_WAY = ("Fetch", "Verify", "Signature")


def facts(release: Release, parts: Sequence[SiteModels], fleet: Fleet, *, known: Mapping[str, ModelVersion]) -> Facts:
    """`parts`: what takes part, job by job; a site with several is one member. `known`: see versions()."""
    assert release.target is not None and release.rollout is not None
    sites = {site.name: site for site in fleet.sites}
    by_site: dict[str, list[SiteModels]] = {}
    for one in parts:
        by_site.setdefault(one.site, []).append(one)
    target = release.target.identity
    remembered = release.remembered
    return Facts(
        now=fleet.now,
        target=target,
        stable=_stable(release, known),
        strategy=strategy(release.rollout, automatic=release.automatic_rollback, paused=release.paused),
        members=tuple(
            _member(
                name,
                models,
                release.target,
                labels=sites[name].labels if name in sites else {},
                connected=name in sites and sites[name].connected,
            )
            for name, models in sorted(by_site.items())
        ),
        progress=_progress(remembered) if remembered is not None else None,
        refused=tuple(
            Refused(version=one.identity, reason=one.reason, at=parse_time(one.at)) for one in release.refused
        ),
        command=command(release.command),
    )


def command(text: str) -> Command | None:
    """VERB@TOKEN; None for anything else."""
    verb, at, token = text.partition("@")
    return Command(verb=verb, token=token) if at and token and verb in _VERBS else None


def strategy(asked: Rollout, *, automatic: bool, paused: bool) -> Strategy:
    most = asked.max_unavailable_sites or ""
    return Strategy(
        waves=tuple(_wave(one) for one in asked.waves),
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
        return _finished(release, release.history[0]).identity
    current = release.current
    return current.identity if current is not None and current.identity in known else None


def _finished(release: Release, one: ReleasedVersion) -> ModelVersion:
    return ModelVersion(
        name=release.name,
        version=one.version,
        digest=one.digest,
        sources=tuple(one.sources),
        parameters=dict(one.parameters),
        signature=one.signature,
        pull_secret=one.pull_secret or "",
        pace=release.target.pace if release.target else "",
    )


def versions(release: Release) -> Mapping[str, ModelVersion]:
    """Every version that a site could be told, by identity."""
    found = {} if release.target is None else {release.target.identity: release.target}
    for one in release.history:
        version = _finished(release, one)
        found.setdefault(version.identity, version)
    for models in release.sites:
        for told in (models.told, models.beside):
            if told is not None:
                found.setdefault(told.identity, told)
    return found


def _member(
    name: str, models: Sequence[SiteModels], target: ModelVersion, *, labels: Mapping[str, str], connected: bool
) -> Member:
    told = {(one.beside or one.told).identity if one.beside or one.told else None for one in models}  # type: ignore[union-attr]
    base = {one.told.identity if one.told else None for one in models}
    refusals = [
        f"{served.refused_step}: {served.refused_message or served.refused_reason}"
        for one in models
        for served in one.served
        if served.digest == target.digest and served.refused_step and served.refused_step not in _OF_THE_WAY
    ]
    return Member(
        name=name,
        labels=labels,
        connected=connected,
        told=_one(told, besides=target.identity),
        base=_one(base, besides=target.identity),
        serves=_one({_serves(one, target) for one in models}, besides=target.identity),
        refused=refusals[0] if refusals else "",
        available=all(one.ready > 0 or not one.replicas for one in models),
    )


def _one(found: set[str | None], *, besides: str) -> str | None:
    """What several jobs of a site have in common; where they differ, the one that is not the target: it is not there yet."""
    if len(found) == 1:
        return next(iter(found))
    return min((one for one in found if one is not None and one != besides), default=None)


def _serves(models: SiteModels, target: ModelVersion) -> str | None:
    """The version that answers. A canary that serves beside the old one counts as the target: it is what is watched."""
    serving = {served.digest for served in models.served if served.serving}
    told = models.beside or models.told
    if told is not None and told.digest in serving and (models.beside is not None or len(serving) == 1):
        return told.identity
    if models.told is not None and models.told.digest in serving:
        return models.told.identity
    return min(serving, default=None)


def _progress(said: RolloutStatus) -> Progress:
    return Progress(
        target=said.target,
        phase=Phase(said.phase),
        wave=said.wave,
        members=tuple(said.members),
        started=parse_time(said.started),
        baking_since=parse_time(said.baking_since) if said.baking_since else None,
        hold=Hold(said.hold or ""),
        token=said.token,
        why=said.why,
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
        why=progress.why[:1024],
        waits_for=decision.waits_for[:1024],
    )


def refused(decision: Decision, known: Mapping[str, ModelVersion]) -> tuple[RefusedVersion, ...]:
    return tuple(
        RefusedVersion(
            version=known[one.version].version if one.version in known else "",
            identity=one.version,
            reason=one.reason[:1024],
            at=format_time(one.at),
        )
        for one in decision.refused[-10:]
    )


def history(stable: ModelVersion | None, release: Release, *, now: float) -> tuple[ReleasedVersion, ...]:
    """The versions that finished, the newest first. `stable`: the one that has finished by now."""
    before = release.history
    if stable is None or not stable.sources or (before and _finished(release, before[0]).identity == stable.identity):
        return before
    newest = ReleasedVersion(
        version=stable.version,
        digest=stable.digest,
        sources=stable.sources,
        parameters=dict(stable.parameters),
        signature=stable.signature,
        pull_secret=stable.pull_secret or None,
        finished=format_time(now),
    )
    return (newest, *before)[:10]
