"""An elastic site while a plan is made: one place for a job, made of the nodes that are there now.

A replica fits as long as one of those nodes takes it. Beyond that the site may still take replicas, whose pods wait
until the autoscaler brings a node for them; the planner asks for that last, when no node anywhere fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeward.fleet.model import Node, Resources, Site
from edgeward.fleet.names import pool_name
from edgeward.placement.freshness import Reading

if TYPE_CHECKING:
    from edgeward.placement.ledger import NodeState


def pool_node(site: Site, members: Sequence[NodeState]) -> Node:
    """What stands for all nodes of the site: their sums, their labels, and the speed of the slowest."""
    total, foreign = Resources(), Resources()
    for member in members:
        total += member.node.allocatable
        foreign += member.node.foreign
    return Node(
        name=pool_name(site.name),
        site=site.name,
        tier=site.tier,
        arch=members[0].node.arch if members else "",
        labels=site.node_labels,
        allocatable=total,
        foreign=foreign,
        speed=min((member.node.speed for member in members), default=1.0),
    )


def pool_reading(readings: Sequence[Reading], capacities: Sequence[float]) -> Reading:
    """One figure for the sum: the utilisation of the nodes whose figures are believed, scaled to all of them.

    Each counts by its capacity and its confidence; the whole is believed as far as its capacity is. As old as the
    oldest figure that is in it.
    """
    total = sum(capacities)
    weights = [
        capacity * reading.confidence for reading, capacity in zip(readings, capacities, strict=True) if capacity > 0
    ]
    believed = sum(weights)
    note = next((reading.note for reading in readings if reading.note), "")
    if believed <= 0 or total <= 0:
        return Reading(note=note)
    in_it = [
        (reading, capacity)
        for reading, capacity in zip(readings, capacities, strict=True)
        if capacity > 0 and reading.confidence > 0
    ]
    used = sum(reading.confidence * reading.value for reading, _ in in_it)
    ages = [reading.age for reading, _ in in_it if reading.age is not None]
    times = [reading.at for reading, _ in in_it if reading.at is not None]
    return Reading(
        value=used * total / believed,
        confidence=min(1.0, believed / total),
        age=max(ages, default=None),
        at=min(times, default=None),
        note=note,
    )


def charge(pool: NodeState, job: int, request: Resources) -> NodeState | None:
    """One more replica of the job will run on some node of the pool: as the stock scheduler would have it, on the one
    with the most room. Where none has any, it waits for a node to come and takes room from nobody.

    Returns that node.
    """
    fitting = [member for member in pool.usable.get(job, pool.members) if member.free.covers(request)]
    if not fitting:
        return None
    taken = max(fitting, key=lambda member: (member.free.cpu, member.free.memory, -member.rank))
    taken.requested += request
    return taken
