"""What must hold for a replica to be on a node, as a list of small checks in the order in which they are made.

Each check gives None when the node passes, else how far it is from passing (any unit, compared within one check only),
and a text for the one that is nearest. To add a constraint, add a Check at its place in CHECKS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeward.api.common import LabelSelector, format_time
from edgeward.api.reasons import NodeRejection
from edgeward.fleet.model import Taint
from edgeward.fleet.names import LABEL_MAX_CPU, LABEL_MAX_REPLICAS
from edgeward.fleet.places import KNOWN_OTHERWISE
from edgeward.placement import links, quotas, room
from edgeward.placement.ask import Ask
from edgeward.placement.distance import site_labels
from edgeward.placement.ledger import NodeState

_BINDING = frozenset({"NoSchedule", "NoExecute"})


@dataclass(frozen=True, slots=True)
class Check:
    reason: NodeRejection
    lacks: Callable[[Ask, NodeState], float | None]
    """None: passes; else the distance from passing"""
    miss: Callable[[Ask, NodeState], str]
    """for people: what this node lacks, its name first. A time of day and not an age, and no live figure: a text that
    changes with every look would be written with every look"""
    binds_incumbents: bool = False
    """whether a replica that is there already has to leave when this stops holding"""


@dataclass(frozen=True, slots=True)
class Miss:
    """The first check that a node fails."""

    check: Check
    distance: float
    at: NodeState | None = None
    """of a pool: its node that came nearest"""


def first_miss(ask: Ask, state: NodeState, checks: Sequence[Check]) -> Miss | None:
    if state.pool:
        return _pool_miss(ask, state, checks)
    for check in checks:
        distance = check.lacks(ask, state)
        if distance is not None:
            return Miss(check, distance)
    return None


def _pool_miss(ask: Ask, pool: NodeState, checks: Sequence[Check]) -> Miss | None:
    """A pool passes when one of its nodes passes all; else what keeps out the node that comes furthest.

    Of a pool without nodes only the site can be judged, and there is no room in it.
    """
    of_site = [check for check in checks if not of_a_node(check.reason)]
    of_node = [check for check in checks if of_a_node(check.reason)]
    if pool.has_room_held(ask.index):
        of_node = [check for check in of_node if not of_room(check.reason)]
    for check in of_site:
        distance = check.lacks(ask, pool)
        if distance is not None:
            return Miss(check, distance)
    rooms = [check for check in of_node if of_room(check.reason)]
    candidates = pool.members if any(check.reason in _OF_A_KIND for check in of_node) else usable(ask, pool)
    if not candidates:
        return Miss(rooms[0], float("inf")) if rooms else None
    best: tuple[int, float, Miss] | None = None
    for member in candidates:
        for depth, check in enumerate(of_node):
            distance = check.lacks(ask, member)
            if distance is not None:
                if best is None or (-depth, distance) < best[:2]:
                    best = (-depth, distance, Miss(check, distance, member))
                break
        else:
            return None
    return best[2] if best else None


def usable(ask: Ask, pool: NodeState) -> tuple[NodeState, ...]:
    """The nodes of a pool that a job may use, full or not; asked once a job, since a plan changes nothing of it."""
    known = pool.usable.get(ask.index)
    if known is None:
        checks = [check for check in (*SPEC_CHECKS, *STATE_CHECKS) if of_a_node(check.reason)]
        known = tuple(member for member in pool.members if first_miss(ask, member, checks) is None)
        pool.usable[ask.index] = known
    return known


def can_grow(ask: Ask, pool: NodeState) -> bool:
    """Whether a node that is like those of the pool would take a replica: nothing but the want of one is in the way.

    A pool that has no node at all says nothing of what its next one is like, and unknown never rejects.
    """
    if any(check.lacks(ask, pool) is not None for check in CHECKS if not of_a_node(check.reason)):
        return False
    kind = [check for check in SPEC_CHECKS if of_a_node(check.reason)]
    alike = [member for member in pool.members if first_miss(ask, member, kind) is None]
    return not pool.members or any(member.node.allocatable.covers(ask.request) for member in alike)


def of_a_node(reason: NodeRejection) -> bool:
    """Whether a constraint is about one node; all others are about its site or the job and hold for a pool at once."""
    return of_room(reason) or reason in _OF_A_KIND or reason is NodeRejection.BACKLOG_TOO_LONG


def of_room(reason: NodeRejection) -> bool:
    return reason.startswith("Insufficient")


_OF_A_KIND = frozenset(
    {
        NodeRejection.NODE_SELECTOR_MISMATCH,
        NodeRejection.UNTOLERATED_TAINT,
        NodeRejection.ARCH_MISMATCH,
        NodeRejection.NODE_NOT_READY,
        NodeRejection.NODE_UNSCHEDULABLE,
    }
)


def selector_text(selector: LabelSelector) -> str:
    """As kubectl writes it."""
    parts = [f"{key}={value}" for key, value in sorted(selector.match_labels.items())]
    for item in selector.match_expressions:
        if item.operator in ("In", "NotIn"):
            parts.append(f"{item.key} {item.operator.lower()} ({','.join(item.values)})")
        else:
            parts.append(item.key if item.operator == "Exists" else f"!{item.key}")
    return ",".join(parts)


def blocking_taints(ask: Ask, state: NodeState, effects: frozenset[str] = _BINDING) -> list[Taint]:
    return [
        taint
        for taint in state.node.taints
        if taint.effect in effects
        and taint.key not in KNOWN_OTHERWISE
        and not any(toleration.tolerates(taint) for toleration in ask.job.tolerations)
    ]


def _unless(holds: bool, distance: float = 1.0) -> float | None:
    return None if holds else distance


def _lacking(amount: int) -> float | None:
    return float(amount) if amount > 0 else None


def _tier(ask: Ask, state: NodeState) -> float | None:
    return _unless(state.node.tier in ask.job.tiers)


def _tier_miss(ask: Ask, state: NodeState) -> str:
    wanted = " or ".join(sorted(ask.job.tiers)) or "no tier at all"
    return f"{state.node.name} is {state.node.tier or 'of no tier'}, not {wanted}"


def _site(ask: Ask, state: NodeState) -> float | None:
    selector = ask.job.site_selector
    if not selector.match_labels and not selector.match_expressions:
        return None
    return _unless(selector.matches(site_labels(state.site)))


def _site_miss(ask: Ask, state: NodeState) -> str:
    return f"site {state.site.name} of {state.node.name} does not match {selector_text(ask.job.site_selector)}"


def _unmet(ask: Ask, state: NodeState) -> list[tuple[str, str]]:
    labels = state.node.labels
    return [(key, value) for key, value in sorted(ask.job.node_selector.items()) if labels.get(key) != value]


def _node_selector(ask: Ask, state: NodeState) -> float | None:
    return _lacking(len(_unmet(ask, state))) if ask.job.node_selector else None


def _node_selector_miss(ask: Ask, state: NodeState) -> str:
    key, value = _unmet(ask, state)[0]
    has = state.node.labels.get(key)
    return f"{state.node.name} has {f'{key}={has}' if has is not None else f'no label {key}'}, not {key}={value}"


def _taint(ask: Ask, state: NodeState) -> float | None:
    return _lacking(len(blocking_taints(ask, state))) if state.node.taints else None


def _taint_miss(ask: Ask, state: NodeState) -> str:
    taint = blocking_taints(ask, state)[0]
    value = f"={taint.value}" if taint.value else ""
    return f"{state.node.name} has taint {taint.key}{value}:{taint.effect}"


def _evicting(ask: Ask, state: NodeState) -> float | None:
    return _lacking(len(blocking_taints(ask, state, frozenset({"NoExecute"})))) if state.node.taints else None


def _evicting_miss(ask: Ask, state: NodeState) -> str:
    taint = blocking_taints(ask, state, frozenset({"NoExecute"}))[0]
    return f"{state.node.name} has taint {taint.key}:{taint.effect}"


def _draining_taints(ask: Ask, state: NodeState) -> list[Taint]:
    """A taint that the control plane sets for a condition passes with it; any other is somebody's word to leave."""
    return [taint for taint in blocking_taints(ask, state) if not taint.key.startswith("node.kubernetes.io/")]


def _draining(ask: Ask, state: NodeState) -> float | None:
    return _lacking(len(_draining_taints(ask, state))) if state.node.taints else None


def _draining_miss(ask: Ask, state: NodeState) -> str:
    taint = _draining_taints(ask, state)[0]
    return f"{state.node.name} has taint {taint.key}:{taint.effect}"


def _arch(ask: Ask, state: NodeState) -> float | None:
    return _unless(state.node.arch in ask.job.architectures)


def _arch_miss(ask: Ask, state: NodeState) -> str:
    known = " or ".join(sorted(ask.job.architectures)) or "no architecture"
    return f"{state.node.name} is {state.node.arch}, the model runs on {known}"


def _ready(ask: Ask, state: NodeState) -> float | None:
    if state.node.ready:
        return None
    since = state.node.not_ready_since
    return 1.0 if since is None else max(0.0, ask.now - since)


def _ready_miss(_: Ask, state: NodeState) -> str:
    since = state.node.not_ready_since
    return f"{state.node.name} is not ready" + ("" if since is None else f" since {format_time(since)}")


def _cordoned(_: Ask, state: NodeState) -> float | None:
    return _unless(not state.node.unschedulable)


def _cordoned_miss(_: Ask, state: NodeState) -> str:
    return f"{state.node.name} is cordoned"


def _site_open(_: Ask, state: NodeState) -> float | None:
    return _unless(not state.site.unschedulable)


def _site_open_miss(_: Ask, state: NodeState) -> str:
    return f"site {state.site.name} of {state.node.name} takes nothing new (spec.unschedulable)"


def _site_frozen(_: Ask, state: NodeState) -> float | None:
    return _unless(not state.site.frozen)


def _site_frozen_miss(_: Ask, state: NodeState) -> str:
    return f"site {state.site.name} of {state.node.name} is frozen"


def _site_connected(_: Ask, state: NodeState) -> float | None:
    return _unless(state.site.connected)


def _site_connected_miss(_: Ask, state: NodeState) -> str:
    return f"site {state.site.name} of {state.node.name} is not connected"


def _spread(ask: Ask, state: NodeState) -> float | None:
    if ask.job.max_per_site is None and ask.job.min_sites is None:
        return None
    return quotas.spread_lacks(ask.job, ask.spots, state.site.name)


def _spread_miss(ask: Ask, state: NodeState) -> str:
    return quotas.spread_text(ask.job, ask.spots, state.site.name)


def _site_quota(ask: Ask, state: NodeState) -> float | None:
    return ask.over_site_quota(state.site.name)


def _site_quota_miss(ask: Ask, state: NodeState) -> str:
    return f"site {state.site.name}: {ask.site_use[state.site.name].text(ask.request.cpu)}"


def _namespace_quota(ask: Ask, state: NodeState) -> float | None:
    return ask.over_namespace_quota(state.site.name)


def _namespace_quota_miss(ask: Ask, _: NodeState) -> str:
    return namespace_quota_text(ask)


def namespace_quota_text(ask: Ask) -> str:
    labels = {"replicas": LABEL_MAX_REPLICAS, "of_cpu": LABEL_MAX_CPU}
    return f"namespace {ask.job.namespace}: {ask.namespace_use.text(ask.request.cpu, **labels)}"


def _excluded(ask: Ask, state: NodeState) -> float | None:
    exclusion = ask.excluded.get(state.node.name) if ask.job.exclusions else None
    return None if exclusion is None else exclusion.until - ask.now


def _excluded_miss(ask: Ask, state: NodeState) -> str:
    exclusion = ask.excluded[state.node.name]
    why = exclusion.reason + (f": {exclusion.message}" if exclusion.message else "")
    return f"{state.node.name} refused it ({why}), tried again at {format_time(exclusion.until)}"


SPEC_CHECKS: tuple[Check, ...] = (
    Check(NodeRejection.TIER_MISMATCH, _tier, _tier_miss, binds_incumbents=True),
    Check(NodeRejection.SITE_MISMATCH, _site, _site_miss, binds_incumbents=True),
    Check(NodeRejection.NODE_SELECTOR_MISMATCH, _node_selector, _node_selector_miss, binds_incumbents=True),
    Check(NodeRejection.UNTOLERATED_TAINT, _taint, _taint_miss),
    Check(NodeRejection.RESIDENCY_FORBIDS, links.residency, links.residency_miss, binds_incumbents=True),
    Check(NodeRejection.ARCH_MISMATCH, _arch, _arch_miss, binds_incumbents=True),
    Check(NodeRejection.LATENCY_TOO_HIGH, links.latency, links.latency_miss),
    Check(NodeRejection.BANDWIDTH_TOO_LOW, links.bandwidth, links.bandwidth_miss),
    Check(NodeRejection.DRAIN_TOO_SLOW, links.drain, links.drain_miss),
)
"""what the job says; a node that fails one of these is no place for it at any hour"""

STATE_CHECKS: tuple[Check, ...] = (
    Check(NodeRejection.NODE_NOT_READY, _ready, _ready_miss),
    Check(NodeRejection.NODE_UNSCHEDULABLE, _cordoned, _cordoned_miss),
    Check(NodeRejection.SITE_UNSCHEDULABLE, _site_open, _site_open_miss),
    Check(NodeRejection.SITE_FROZEN, _site_frozen, _site_frozen_miss),
    Check(NodeRejection.SITE_DISCONNECTED, _site_connected, _site_connected_miss),
)
"""what the node and its site say now"""

FIT_CHECKS: tuple[Check, ...] = (
    Check(NodeRejection.INSUFFICIENT_CPU, room.cpu, room.cpu_miss),
    Check(NodeRejection.INSUFFICIENT_MEMORY, room.memory, room.memory_miss),
    Check(NodeRejection.INSUFFICIENT_PODS, room.pods, room.pods_miss),
    Check(NodeRejection.INSUFFICIENT_STORAGE, room.storage, room.storage_miss),
    Check(NodeRejection.INSUFFICIENT_EXTENDED, room.extended, room.extended_miss),
    Check(NodeRejection.INSUFFICIENT_MEMORY_PEAK, room.peak, room.peak_miss),
    Check(NodeRejection.EXCLUDED, _excluded, _excluded_miss),
    Check(NodeRejection.SPREAD_EXCEEDED, _spread, _spread_miss),
    Check(NodeRejection.SITE_QUOTA_EXCEEDED, _site_quota, _site_quota_miss),
    Check(NodeRejection.NAMESPACE_QUOTA_EXCEEDED, _namespace_quota, _namespace_quota_miss),
    # Last, as the only one that rests on a live figure: how many nodes miss the others must not change with it.
    Check(NodeRejection.BACKLOG_TOO_LONG, links.backlog, links.backlog_miss),
)
"""what changes while a plan is made, and what the cluster refused"""

_SITE_FIT_CHECKS = tuple(
    check
    for check in FIT_CHECKS
    if check.reason
    in (
        NodeRejection.SPREAD_EXCEEDED,
        NodeRejection.SITE_QUOTA_EXCEEDED,
        NodeRejection.NAMESPACE_QUOTA_EXCEEDED,
    )
)


def site_is_closed(ask: Ask, state: NodeState) -> bool:
    """Whether no more of the job's replicas may come to this site however many are placed elsewhere. Those that stay
    until they are replaced may open it again."""
    return not ask.may_replace and any(check.lacks(ask, state) is not None for check in _SITE_FIT_CHECKS)


CHECKS = SPEC_CHECKS + STATE_CHECKS + FIT_CHECKS

MOVE_CHECKS = tuple(check for check in FIT_CHECKS if check.reason is not NodeRejection.NAMESPACE_QUOTA_EXCEEDED)
"""of a move: it adds nothing to the namespace"""

INCUMBENT_CHECKS: tuple[Check, ...] = (
    *(check for check in SPEC_CHECKS if check.binds_incumbents),
    Check(NodeRejection.UNTOLERATED_TAINT, _evicting, _evicting_miss, binds_incumbents=True),
)
"""what moves a replica that is there, wherever it is: NoExecute evicts"""

DRAIN_CHECKS: tuple[Check, ...] = (
    Check(NodeRejection.NODE_UNSCHEDULABLE, _cordoned, _cordoned_miss, binds_incumbents=True),
    Check(NodeRejection.UNTOLERATED_TAINT, _draining, _draining_miss, binds_incumbents=True),
)
"""what says that a node is to be emptied. A pool's pods are free to go to another of its nodes, and one that cannot be
reached is no place that anything could leave: both are left to what they are."""
