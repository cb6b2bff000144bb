"""Elastic sites: their nodes come and go by an autoscaler, so a job is placed at the site as a whole.

What runs there is known by the name of the pool (`names.pool_name`), in Assignments and in the Fleet alike. Which node
each pod is bound to is the scheduler's business; the Fleet keeps it only to know what is free where.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .model import Node, Site
from .names import pool_name

Started = Mapping[tuple[str, str], tuple[float, ...]]
"""start times of our own pods by (job, node)"""


@dataclass(frozen=True, slots=True)
class Pooled:
    places: Mapping[str, Node]
    """by name, all that an Assignment can name: the nodes, and a stand-in for each pool, which is never lost"""
    started: Started
    """with the pods of an elastic site under the name of its pool"""
    on: Mapping[tuple[str, str], tuple[str, ...]]
    """by (job, pool): the nodes of those pods, in the same order"""


def pooled(nodes: Mapping[str, Node], sites: Iterable[Site], started: Started) -> Pooled:
    """nodes: by name."""
    elastic = {site.name: site for site in sites if site.elastic}
    if not elastic:
        return Pooled(nodes, started, {})
    places = dict(nodes)
    for site in elastic.values():
        places[pool_name(site.name)] = Node(name=pool_name(site.name), site=site.name, tier=site.tier)
    kept: dict[tuple[str, str], tuple[float, ...]] = {}
    bound: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for (job, node), times in started.items():
        there = nodes.get(node)
        if there is None or there.site not in elastic:
            kept[job, node] = times
        else:
            bound.setdefault((job, pool_name(there.site)), []).extend((time, node) for time in times)
    for at, pods in bound.items():
        pods.sort()
        kept[at] = tuple(time for time, _ in pods)
    return Pooled(places, kept, {at: tuple(node for _, node in pods) for at, pods in bound.items()})
