"""What sites remember of a release, beside what its own status does: a hub that is rebuilt from Git finds here what must
not be tried again, and how often it was. Pure.

Each try of a version has a number, its attempt, which goes up with every `retry`. A site writes it beside a refusal, so a
refusal of an attempt before the one in force says nothing any more, however late it is heard.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from edgeward.api.assignment import RefusedHere
from edgeward.api.common import parse_time
from edgeward.api.modelrelease import RefusedVersion
from edgeward.fleet.model import ModelVersion, Release, SiteModels
from edgeward.rollout.model import Refused

MOST = 10
"""versions that a release, and a site for a model, remember"""
SITE, RELEASE = "Site", "Release"
GATE = "Gate"


def attempt_told(release: Release) -> int:
    """Of the target, the highest that a site was told."""
    assert release.target is not None
    return max((told.attempt for told in _told(release.sites) if _is(told, release.target)), default=0)


def attempt_in_force(release: Release) -> int:
    """Of the target: as the release remembers it, and where it remembers nothing as the sites were told."""
    said = release.remembered
    own = said.attempt if said is not None and release.target and said.target == release.target.identity else 0
    return max(own, attempt_told(release))


def attempt_known(release: Release) -> int:
    """Of the target, the highest that anybody remembers: a retry must go beyond it."""
    assert release.target is not None
    target = release.target
    said = (one.attempt for one in release.refused if one.identity == target.identity)
    here = (
        one.attempt
        for models in release.sites
        for one in models.avoids
        if one.identity == target.identity or _of(one, target)
    )
    return max([attempt_in_force(release), *said, *here])


def refused(release: Release) -> tuple[Refused, ...]:
    """The versions that the release went back from: what its status says, and what sites remember of it where the status
    does not know better, the oldest first.

    It does where the version is the target of a later attempt, or has finished since.
    """
    found = {one.identity: _said(one) for one in release.refused}
    in_force = attempt_in_force(release) if release.target is not None else 0
    for one in (one for models in release.sites for one in models.avoids if one.scope == RELEASE):
        later = release.target is not None and one.identity == release.target.identity and in_force > one.attempt
        finished = any(
            done.digest == one.digest
            and done.version == one.version
            and parse_time(done.finished) >= parse_time(one.at)
            for done in release.history
        )
        known = found.get(one.identity)
        if later or finished or (known is not None and known.attempt >= one.attempt):
            continue
        found[one.identity] = Refused(
            version=one.identity, reason=one.reason, at=parse_time(one.at), attempt=one.attempt, name=one.version
        )
    return tuple(sorted(found.values(), key=lambda one: (one.at, one.version))[-MOST:])


def of_site(models: SiteModels, version: ModelVersion, *, attempt: int) -> RefusedHere | None:
    """The site's own refusal of an artifact (see variants.lowered), in this attempt or a later one."""
    return next(
        (
            one
            for one in models.avoids
            if one.scope == SITE and one.identity == version.identity and one.attempt >= attempt
        ),
        None,
    )


def fell_back(models: SiteModels, told: ModelVersion | None) -> RefusedHere | None:
    """Why the site went back from what it is told, by itself: it serves the version before, which may be the same bytes
    under other parameters."""
    here = of_site(models, told, attempt=told.attempt) if told is not None else None
    return here if here is not None and here.step == GATE else None


def counted(
    version: ModelVersion | None, models: SiteModels, target: ModelVersion, attempt: int
) -> ModelVersion | None:
    """What a site is told, with the attempt that it is told in: never one below what it was told of the same version."""
    if version is None:
        return None
    known = [
        one.attempt for one in (models.told, models.beside) if one is not None and one.identity == version.identity
    ]
    return replace(version, attempt=max([attempt if _is(version, target) else 0, *known]))


def _is(told: ModelVersion, target: ModelVersion) -> bool:
    """Whether what a site was told is an artifact of the target."""
    artifacts = (target.digest, *(one.artifact.digest for one in target.variants))
    return told.digest in artifacts and told.parameters == target.parameters


def _of(one: RefusedHere, target: ModelVersion) -> bool:
    return one.version == target.version and one.digest in (
        target.digest,
        *(variant.artifact.digest for variant in target.variants),
    )


def _told(sites: Iterable[SiteModels]) -> Iterable[ModelVersion]:
    return (told for models in sites for told in (models.told, models.beside) if told is not None)


def _said(one: RefusedVersion) -> Refused:
    return Refused(
        version=one.identity, reason=one.reason, at=parse_time(one.at), attempt=one.attempt, name=one.version
    )
