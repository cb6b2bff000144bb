"""A job that names a version or a digest: what that is, from the release's history, else what sites report, else what the
registry said. Pure.

A pinned job takes no part in rollouts: it is told its version at once, and neither a pause nor a way back moves it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from edgeward.api.inferencejob import ModelRef
from edgeward.api.modelrelease import ReleasedVersion, Track

from .model import Followed, ModelVersion, Release

_REFERENCE = re.compile(r"(?P<repository>oci://[^/]+/.*?)(?::[^/@:]+)?(?:@sha256:[0-9a-f]{64})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    version: ModelVersion | None = None
    message: str = ""
    """why no version is known, for a person"""
    asks: Track | None = None
    """what the registry is to be asked: its constraint is the tag or digest. None when it is known without"""


def pinned(pin: ModelRef, release: Release | None, looked: Mapping[str, Followed]) -> Pin:
    """looked: what the registry said, by asked_key()."""
    wanted = pin.version or pin.digest or ""
    if release is None:
        return Pin(message=f"there is no ModelRelease {pin.name} to take {wanted} from")
    for version in _known(release):
        if pin.version is not None and version.version == pin.version:
            return Pin(version=version)
        if pin.digest is not None and (found := _artifact(version, pin.digest)) is not None:
            return Pin(version=found)
    track = _asks(release, wanted)
    if track is None:
        text = f"{wanted} is neither in the history of ModelRelease {pin.name} nor at a site, and only registries are asked"
        return Pin(message=text)
    said = looked.get(asked_key(release.namespace, track))
    if said is None or said.asked != track:
        return Pin(message=f"{track.repository} has not been asked for {wanted} yet", asks=track)
    if said.found is None:
        return Pin(message=f"{track.repository} is asked for {wanted}: {said.problem}", asks=track)
    found = replace(
        _plain(release, said.found.version, said.found.artifact.digest, (track.repository,)),
        variants=tuple(said.found.variants) if pin.version is not None else (),
    )
    return Pin(version=found, asks=track)


def asked_key(namespace: str, track: Track) -> str:
    """No release has a name of this form."""
    return f"{namespace}/{track.repository}@{track.constraint}"


def finished(release: Release, one: ReleasedVersion) -> ModelVersion:
    """A version of the history."""
    return ModelVersion(
        name=release.name,
        version=one.version,
        digest=one.digest,
        sources=tuple(one.sources),
        parameters=dict(one.parameters),
        signature=one.signature,
        pull_secret=one.pull_secret or "",
        pace=release.target.pace if release.target else "",
        variants=tuple(one.variants),
    )


def _known(release: Release) -> Iterator[ModelVersion]:
    """The nearest first: what is wanted, what finished, what sites were told, what they serve."""
    if release.target is not None and release.problem is None:
        yield release.target
    for one in release.history:
        yield finished(release, one)
    for models in release.sites:
        yield from (one for one in (models.told, models.beside) if one is not None)
    repository = _repository(release)
    for models in release.sites if repository else ():
        for served in models.served:
            if served.serving and served.version and served.digest.startswith("sha256:"):
                yield _plain(release, served.version, served.digest, (repository,))


def _artifact(version: ModelVersion, digest: str) -> ModelVersion | None:
    """The one artifact of that digest: a digest names bytes, the same at every site."""
    if digest == version.digest:
        return replace(version, variants=())
    for one in version.variants:
        if one.artifact.digest == digest:
            return replace(
                version,
                digest=digest,
                sources=(one.artifact.uri, *one.artifact.mirrors),
                signature=one.artifact.signature or version.signature,
                pull_secret=one.artifact.pull_secret or version.pull_secret,
                variants=(),
            )
    return None


def _plain(release: Release, version: str, digest: str, sources: Iterable[str]) -> ModelVersion:
    target = release.target
    return ModelVersion(
        name=release.name,
        version=version,
        digest=digest,
        sources=tuple(sources),
        parameters=dict(target.parameters) if target else {},
        signature=target.signature if target else None,
        pull_secret=target.pull_secret if target else "",
        pace=target.pace if target else "",
    )


def _repository(release: Release) -> str:
    """Of the release's own artifact, without tag and digest; "" when that is no registry."""
    sources = release.target.sources if release.target else ()
    found = (_REFERENCE.fullmatch(one) for one in sources)
    return next((one["repository"] for one in found if one is not None), "")


def _asks(release: Release, wanted: str) -> Track | None:
    repository, target = _repository(release), release.target
    if not repository or target is None:
        return None
    return Track(
        repository=repository,
        constraint=wanted,
        interval="5m",
        pull_secret=target.pull_secret or None,
        signature=target.signature,
    )
