"""Which artifact of a version a site takes. Pure.

A release goes out as a whole: its target, its way back and what it refuses are versions. What stands in an Assignment
and what pods report is the digest of one artifact. `lowered` goes from the one to the other, `lifted` back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from edgeward.api.common import parse_bytes
from edgeward.api.modelrelease import Variant, VariantMatch
from edgeward.fleet.model import Fleet, ModelVersion, SiteModels
from edgeward.fleet.names import is_pool

_ARCH = "kubernetes.io/arch"


@dataclass(frozen=True, slots=True)
class Ground:
    """What a job runs on at a site."""

    tier: str = ""
    nodes: tuple[tuple[str, int | None], ...] = ()
    """architecture ("" when unknown) and allocatable bytes of memory (None when unknown) of each node; nodes that are
    gone from the cluster are not among them"""


class Grounds:
    """Of a Fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._nodes = {node.name: node for node in fleet.nodes}
        self._sites = {site.name: site for site in fleet.sites}

    def at(self, site: str, nodes: Iterable[str]) -> Ground:
        known = self._sites.get(site)
        found: list[tuple[str, int | None]] = []
        for name in nodes:
            node = self._nodes.get(name)
            if is_pool(name):
                # Whatever node comes next may be another one: only what makes a node the site's own holds for all.
                found.append((known.node_labels.get(_ARCH, "") if known else "", None))
            elif node is not None:
                found.append((node.arch, node.allocatable.memory))
        return Ground(tier=known.tier if known else "", nodes=tuple(found))

    def of(self, models: SiteModels) -> Ground:
        return self.at(models.site, models.nodes)


def taken(version: ModelVersion, ground: Ground, *, has: frozenset[str] = frozenset()) -> Variant | None:
    """The first variant that matches; None: the main artifact.

    An architecture or a memory matches where all nodes do: ONNX runs anywhere, so a mixed site takes the main artifact.
    has: digests that are at the site. Where none of its nodes is known (all are gone for now) it keeps what it has.
    """
    if not ground.nodes and has:
        kept = [one for one in version.variants if one.artifact.digest in has]
        if kept or version.digest in has:
            return kept[0] if kept else None
    return next((one for one in version.variants if _fits(one.match, ground)), None)


def _fits(match: VariantMatch, ground: Ground) -> bool:
    if match.tier is not None and match.tier != ground.tier:
        return False
    most = parse_bytes(match.max_memory) if match.max_memory is not None else None
    if (match.arch is not None or most is not None) and not ground.nodes:
        return False
    return all(
        (match.arch is None or arch == match.arch) and (most is None or (memory is not None and memory <= most))
        for arch, memory in ground.nodes
    )


def lowered(version: ModelVersion, ground: Ground, *, has: frozenset[str] = frozenset()) -> ModelVersion:
    """The version as a site is told it: with one artifact. A variant that says nothing of its signature must be signed
    as the main artifact must."""
    if not version.variants:
        return version
    variant = taken(version, ground, has=has)
    if variant is None:
        return replace(version, variants=())
    artifact = variant.artifact
    return replace(
        version,
        digest=artifact.digest,
        sources=(artifact.uri, *artifact.mirrors),
        signature=artifact.signature or version.signature,
        pull_secret=artifact.pull_secret or version.pull_secret,
        variants=(),
    )


def lifted(told: ModelVersion, known: Iterable[ModelVersion], ground: Ground) -> ModelVersion:
    """The version that what a site was told is an artifact of; `told` itself when it is of none of the `known`.

    Two versions may share an artifact. Then the one that the site was told by name counts, and among those the first of
    `known`. A site whose nodes changed may have another artifact than it would be told now.
    """
    able = [one for one in known if one.parameters == told.parameters and told.digest in digests(one)]
    able = [one for one in able if lowered(one, ground).digest == told.digest] or able
    named = [one for one in able if one.version == told.version]
    return (named or able or [told])[0]


def digests(version: ModelVersion) -> tuple[str, ...]:
    """Of all its artifacts, the main one first."""
    return (version.digest, *(one.artifact.digest for one in version.variants))


def at_site(models: SiteModels) -> frozenset[str]:
    """Digests that a site was told or serves."""
    told = (one.digest for one in (models.told, models.beside) if one is not None)
    return frozenset((*told, *(one.digest for one in models.served if one.serving)))


def described(version: ModelVersion, digest: str) -> str:
    """How a person tells a variant: by its match, such as "tier=edge,arch=arm64"; "" for the main artifact."""
    for one in version.variants:
        if one.artifact.digest == digest and digest != version.digest:
            match = one.match.model_dump(mode="json", by_alias=True, exclude_none=True)
            return ",".join(f"{key}={value}" for key, value in match.items()) or "any"
    return ""
