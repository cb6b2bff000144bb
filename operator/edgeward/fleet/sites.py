"""Which node belongs to which site, from labels and from Site objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgeward.api.site import Site as SiteObject

from .names import KUBEEDGE_EDGE_ROLE, LABEL_SITE, LABEL_TIER, OPENYURT_POOL

TIERS = ("edge", "fog", "cloud")


@dataclass(frozen=True, slots=True)
class Membership:
    """Where each node is, and which Site objects claimed a node that an older one has."""

    site: Mapping[str, str]
    tier: Mapping[str, str]
    overlaps: Mapping[str, tuple[str, ...]]
    """site name -> nodes that it also matches but that an older Site holds"""


def tier_of(labels: Mapping[str, str]) -> str:
    """edge, fog or cloud by label, KubeEdge's role for edge; empty when the node says nothing (or nonsense)."""
    tier = labels.get(LABEL_TIER, "")
    if tier in TIERS:
        return tier
    return "edge" if not tier and KUBEEDGE_EDGE_ROLE in labels else ""


def membership(nodes: Mapping[str, Mapping[str, str]], sites: Iterable[SiteObject]) -> Membership:
    """nodes: name -> labels. A node that nothing names a tier or site for is not Edgeward's and is left out.

    A node in a named pool without a tier counts as edge: pools are what edge sites are made of, and cloud nodes are
    the ones that a platform team labels.
    """
    site: dict[str, str] = {}
    tier: dict[str, str] = {}
    overlaps: dict[str, list[str]] = {}
    declared = sorted(sites, key=lambda item: (item.created, item.name))
    for name, labels in nodes.items():
        claims = [item for item in declared if _claims(item, labels)]
        for late in claims[1:]:
            overlaps.setdefault(late.name, []).append(name)
        own_tier = tier_of(labels)
        if claims:
            site[name] = claims[0].name
            tier[name] = claims[0].spec.tier or own_tier or "edge"
            continue
        place = labels.get(LABEL_SITE) or labels.get(OPENYURT_POOL) or own_tier
        if place:
            site[name], tier[name] = place, own_tier or "edge"
    return Membership(site=site, tier=tier, overlaps={key: tuple(sorted(value)) for key, value in overlaps.items()})


def node_selector(site: SiteObject) -> Mapping[str, str]:
    """The labels that make a node one of the site's."""
    return site.spec.node_selector or {LABEL_SITE: site.name}


def _claims(site: SiteObject, labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in node_selector(site).items())
