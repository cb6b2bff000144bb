"""What spec.track comes to now: from status, and from the last look at the repository. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from edgeward.api.modelrelease import ModelReleaseSpec, Track, TrackedVersion

from . import constraint
from .model import Followed, ModelVersion, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracked:
    version: TrackedVersion | None = None
    following: str = ""
    """what is wrong, see Release.following"""
    problem: Problem | None = None
    """of spec.track itself"""


def tracked_now(track: Track, remembered: TrackedVersion | None, followed: Followed | None) -> Tracked:
    """remembered: of status. followed: the last look since the operator began; one at what spec.track said before does not
    count."""
    if not track.repository.startswith("oci://"):
        text = f"{track.repository} is no repository of versions: only oci:// is followed"
        return Tracked(problem=Problem(reason="InvalidSpec", message=text, path="spec.track.repository"))
    try:
        constraint.parse(track.constraint)
    except constraint.BadConstraint as error:
        problem = Problem(reason="InvalidSpec", message=str(error), path="spec.track.constraint")
        return Tracked(problem=problem)
    known = still_tracked(track, remembered)
    if followed is None or followed.asked != track:
        return Tracked(version=known, following="" if known else "PendingEvaluation: it has not been looked at yet")
    if followed.problem:
        return Tracked(version=followed.found or known, following=followed.problem)
    passed_over = "; ".join(followed.passed_over)
    if followed.found is not None:
        return Tracked(version=followed.found, following=f"PassedOver: {passed_over}" if passed_over else "")
    if passed_over:
        return Tracked(following=f"SignatureFailed: no version of {track.constraint} may be taken: {passed_over}")
    return Tracked(following=f"NotFound: no tag matches {track.constraint}")


def still_tracked(track: Track, remembered: TrackedVersion | None) -> TrackedVersion | None:
    """What was taken before, if it is still what spec.track asks for."""
    if remembered is None or remembered.artifact.uri != track.repository:
        return None
    try:
        wanted = constraint.parse(track.constraint)
    except constraint.BadConstraint:
        return None
    version = constraint.version(remembered.version)
    return remembered if version is not None and wanted.matches(version) else None


def target_of(name: str, spec: ModelReleaseSpec, tracked: TrackedVersion | None) -> ModelVersion | None:
    """The version that is wanted: of spec.artifact, or what spec.track came to. Variants of the spec go before those that
    were found in the repository."""
    pace = (spec.rollout.pace.bandwidth or "") if spec.rollout and spec.rollout.pace else ""
    if spec.track is not None:
        if tracked is None:
            return None
        return ModelVersion(
            name=name,
            version=tracked.version,
            digest=tracked.artifact.digest,
            sources=(tracked.artifact.uri,),
            parameters=dict(spec.parameters),
            signature=spec.track.signature,
            pull_secret=spec.track.pull_secret or "",
            pace=pace,
            variants=tuple(spec.variants or tracked.variants),
        )
    if not spec.artifact or not spec.version:
        return None
    return ModelVersion(
        name=name,
        version=spec.version,
        digest=spec.artifact.digest,
        sources=(spec.artifact.uri, *spec.artifact.mirrors),
        parameters=dict(spec.parameters),
        signature=spec.artifact.signature,
        pull_secret=spec.artifact.pull_secret or "",
        pace=pace,
        variants=tuple(spec.variants),
    )
