"""The newest version of a repository that a release may take, with its variants."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgeward.api.modelrelease import Artifact, Signature, TrackedVersion, Variant, VariantMatch
from edgeward.fleet import constraint
from edgeward_runtime.errors import Refusal

MOST = 32
"""versions that are looked at before it is given up; the newest first"""
MOST_VARIANTS = 16
_PLACES = ("edge", "fog", "cloud")
_NAME = re.compile(r"[A-Za-z0-9]([-+._A-Za-z0-9]{0,61}[A-Za-z0-9])?")  # what a release takes for a version
# They say that a version is not to be had, and nothing of the others. Anything else ends the look: an older version is not
# taken because the registry broke while it gave the newest.
_OF_A_VERSION = (
    "NotFound",
    "UnsupportedArtifact",
    "UnsafePath",
    "TooLarge",
    "DigestMismatch",
    "SignatureMissing",
    "SignatureInvalid",
)


class Repository(Protocol):
    """repository.Models; its tests' stand-in."""

    address: str

    def tags(self) -> Sequence[str]: ...

    def model(self, reference: str) -> Named: ...

    def check_signed(self, digest: str, by: Sequence[str]) -> None: ...


class Named(Protocol):
    @property
    def digest(self) -> str: ...

    @property
    def version(self) -> str:
        """As its manifest says, "" if it does not."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    version: str = ""
    """"" when no version is to be had"""
    digest: str = ""
    variants: tuple[Variant, ...] = ()
    passed_over: tuple[str, ...] = ()
    """what is newer, or belongs to it, and was not taken, with the reason; the newest first"""


@dataclass(slots=True)
class Verified:
    """Signatures that were found good, so that they are fetched once and not with every look."""

    known: set[tuple[str, tuple[str, ...]]] = field(default_factory=set)

    def holds(self, repository: Repository, digest: str, signature: Signature | None) -> str:
        """Empty, or why nobody should trust it. Raises Refusal when that cannot be found out."""
        if signature is None or signature.policy == "Off":
            return ""
        asked = digest, signature.keys
        if asked in self.known:
            return ""
        try:
            repository.check_signed(digest, signature.keys)
        except Refusal as refusal:
            if refusal.reason not in _OF_A_VERSION:
                raise
            return refusal.reason
        self.known.add(asked)
        return ""


def newest(
    repository: Repository,
    wanted: constraint.Constraint,
    signature: Signature | None,
    *,
    current: TrackedVersion | None,
    verified: Verified,
) -> Found:
    """current: what was taken before. It stays although its tag is gone or names something that nobody signed, as long as its
    own signature holds: whoever may write to the registry cannot lead a release back to an older version. Raises Refusal
    when the registry does not answer."""
    tags = repository.tags()
    passed_over: list[str] = []
    candidates = wanted.newest_first(tag for tag in tags if _NAME.fullmatch(tag))
    found = Found()
    for tag in candidates[:MOST]:
        digest, why = _taken(repository, tag, signature, verified)
        if digest:
            variants, without = _variants(repository, tag, tags, signature, verified)
            found = Found(version=tag, digest=digest, variants=variants, passed_over=(*passed_over, *without))
            break
        passed_over.append(f"{tag}: {why}")
    else:
        found = Found(passed_over=tuple(passed_over))
    if current is None or not _newer(current.version, than=found.version):
        return found
    mark = constraint.version(current.version)
    if mark is None or not wanted.matches(mark):
        return found
    if _required(signature) and verified.holds(repository, current.artifact.digest, signature):
        return found
    return Found(
        version=current.version,
        digest=current.artifact.digest,
        variants=current.variants,
        passed_over=found.passed_over
        if current.version in tags
        else (f"{current.version}: its tag is gone", *found.passed_over),
    )


def exact(repository: Repository, reference: str, signature: Signature | None, *, verified: Verified) -> Found:
    """One version by its tag, with its variants, or one artifact by its digest. Raises Refusal when it is not to be had."""
    named = repository.model(reference)
    why = verified.holds(repository, named.digest, signature) if _required(signature) else ""
    if why:
        raise Refusal(step="Signature", reason=why, message=f"{reference} is not signed as asked", permanent=False)
    if reference.startswith("sha256:"):
        return Found(version=named.version or f"sha256-{named.digest[7:19]}", digest=named.digest)
    variants, without = _variants(repository, reference, repository.tags(), signature, verified)
    return Found(version=reference, digest=named.digest, variants=variants, passed_over=tuple(without))


def _newer(version: str, *, than: str) -> bool:
    one, other = constraint.version(version), constraint.version(than)
    return one is not None and (other is None or one > other)


def _required(signature: Signature | None) -> bool:
    return signature is not None and signature.policy == "Require"


def _taken(repository: Repository, tag: str, signature: Signature | None, verified: Verified) -> tuple[str, str]:
    """Digest, or "" and why it is not taken."""
    try:
        digest = repository.model(tag).digest
    except Refusal as refusal:
        if refusal.reason not in _OF_A_VERSION:
            raise
        return "", refusal.reason
    why = verified.holds(repository, digest, signature) if _required(signature) else ""
    return ("", why) if why else (digest, "")


def _variants(
    repository: Repository, tag: str, tags: Iterable[str], signature: Signature | None, verified: Verified
) -> tuple[tuple[Variant, ...], list[str]]:
    """What was published beside it (docs/publish.md), those with more to match first."""
    named = [(match, one) for one in tags if (match := match_of(one, tag)) is not None]
    named.sort(key=lambda item: (-len(item[0].model_fields_set), item[1]))
    found: list[Variant] = []
    without: list[str] = []
    for match, one in named[:MOST_VARIANTS]:
        digest, why = _taken(repository, one, signature, verified)
        if digest:
            found.append(Variant(match=match, artifact=Artifact(uri=repository.address, digest=digest)))
        else:
            without.append(f"{one}: {why}")
    return tuple(found), without


def match_of(tag: str, version: str) -> VariantMatch | None:
    """1.4.0_arch-arm64_tier-edge beside 1.4.0 -> the nodes that it is for; None for another tag."""
    if not tag.startswith(f"{version}_"):
        return None
    said: dict[str, str] = {}
    for part in tag.removeprefix(f"{version}_").split("_"):
        key, dash, value = part.partition("-")
        if key not in ("arch", "tier") or not dash or not value or key in said:
            return None
        if key == "tier" and value not in _PLACES:
            return None
        said[key] = value
    try:
        return VariantMatch.model_validate(said)
    except ValueError:  # whoever may push a tag must not end the following of all others
        return None
