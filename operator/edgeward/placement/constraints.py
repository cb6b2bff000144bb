"""What must hold for a replica to be on a node, as a list of small checks in the order in which they are made.

Each check gives None when the node passes, else how far it is from passing (any unit, compared within one check only),
and a text for the one that is nearest. To add a constraint, add a Check at its place in CHECKS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from edgeward.api.common import LabelSelector
from edgeward.api.reasons import NodeRejection
from edgeward.fleet.build import KNOWN_OTHERWISE
from edgeward.fleet.model import Exclusion, Job, Resources, Site, Taint
from edgeward.placement.ledger import NodeState, bounded_request

_BINDING = frozenset({"NoSchedule", "NoExecute"})


class Ask:
    """One job as the checks see it; made once a job, so that what does not depend on the node is computed once."""

    def __init__(self, index: int, job: Job, now: float) -> None:
        self.index = index
        self.job = job
        self.now = now
        self.request: Resources = bounded_request(job)

    @cached_property
    def excluded(self) -> Mapping[str, Exclusion]:
        """The exclusions in force, by node."""
        return {exclusion.node: exclusion for exclusion in self.job.exclusions if exclusion.until > self.now}


@dataclass(frozen=True, slots=True)
class Check:
    reason: NodeRejection
    lacks: Callable[[Ask, NodeState], float | None]
    """None: passes; else the distance from passing"""
    miss: Callable[[Ask, NodeState], str]
    """for people: what this node lacks, its name first"""
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
    candidates = usable(ask, pool) if len(rooms) == len(of_node) else pool.members
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
    return of_room(reason) or reason in _OF_A_NODE


def of_room(reason: NodeRejection) -> bool:
    return reason.startswith("Insufficient")


_OF_A_NODE = frozenset(
    {
        NodeRejection.NODE_SELECTOR_MISMATCH,
        NodeRejection.UNTOLERATED_TAINT,
        NodeRejection.ARCH_MISMATCH,
        NodeRejection.NODE_NOT_READY,
        NodeRejection.NODE_UNSCHEDULABLE,
    }
)


def site_labels(site: Site) -> Mapping[str, str]:
    """What a siteSelector sees: the Site's labels, and its own name, tier and region even without any."""
    own = {"edgeward.dev/site": site.name, "edgeward.dev/tier": site.tier}
    if site.region:
        own["topology.kubernetes.io/region"] = site.region
    return {**own, **site.labels}


def selector_text(selector: LabelSelector) -> str:
    """As kubectl writes it."""
    parts = [f"{key}={value}" for key, value in sorted(selector.match_labels.items())]
    for item in selector.match_expressions:
        if item.operator in ("In", "NotIn"):
            parts.append(f"{item.key} {item.operator.lower()} ({','.join(item.values)})")
        else:
            parts.append(item.key if item.operator == "Exists" else f"!{item.key}")
    return ",".join(parts)


def cpu_text(millicores: int) -> str:
    return f"{millicores // 1000}" if millicores % 1000 == 0 else f"{millicores}m"


def memory_text(amount: int) -> str:
    """In the largest binary unit that keeps it exact to one decimal, as a person would say it."""
    for unit, size in (("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)):
        if amount >= size:
            return f"{amount / size:.1f}".rstrip("0").rstrip(".") + unit
    return str(amount)


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


def _ready_miss(ask: Ask, state: NodeState) -> str:
    since = state.node.not_ready_since
    return f"{state.node.name} is not ready" + ("" if since is None else f" for {max(0.0, ask.now - since):.0f} s")


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


def _own_room(ask: Ask, state: NodeState) -> bool:
    return bool(state.held) and state.has_room_held(ask.index)


def _cpu(ask: Ask, state: NodeState) -> float | None:
    lack = ask.request.cpu - (state.node.allocatable.cpu - state.requested.cpu)
    return None if lack <= 0 or _own_room(ask, state) else float(lack)


def _cpu_miss(ask: Ask, state: NodeState) -> str:
    return f"{state.node.name} lacks {cpu_text(ask.request.cpu - state.free.cpu)} cpu"


def _memory(ask: Ask, state: NodeState) -> float | None:
    lack = ask.request.memory - (state.node.allocatable.memory - state.requested.memory)
    return None if lack <= 0 or _own_room(ask, state) else float(lack)


def _memory_miss(ask: Ask, state: NodeState) -> str:
    return f"{state.node.name} lacks {memory_text(ask.request.memory - state.free.memory)} memory"


def _pods(ask: Ask, state: NodeState) -> float | None:
    lack = ask.request.pods - (state.node.allocatable.pods - state.requested.pods)
    return None if lack <= 0 or _own_room(ask, state) else float(lack)


def _pods_miss(ask: Ask, state: NodeState) -> str:
    lack = ask.request.pods - state.free.pods
    return f"{state.node.name} has room for {lack} pod{'s' if lack > 1 else ''} too few"


def _excluded(ask: Ask, state: NodeState) -> float | None:
    exclusion = ask.excluded.get(state.node.name) if ask.job.exclusions else None
    return None if exclusion is None else exclusion.until - ask.now


def _excluded_miss(ask: Ask, state: NodeState) -> str:
    exclusion = ask.excluded[state.node.name]
    why = exclusion.reason + (f": {exclusion.message}" if exclusion.message else "")
    return f"{state.node.name} refused it ({why}), tried again in {exclusion.until - ask.now:.0f} s"


SPEC_CHECKS: tuple[Check, ...] = (
    Check(NodeRejection.TIER_MISMATCH, _tier, _tier_miss, binds_incumbents=True),
    Check(NodeRejection.SITE_MISMATCH, _site, _site_miss, binds_incumbents=True),
    Check(NodeRejection.NODE_SELECTOR_MISMATCH, _node_selector, _node_selector_miss, binds_incumbents=True),
    Check(NodeRejection.UNTOLERATED_TAINT, _taint, _taint_miss),
    Check(NodeRejection.ARCH_MISMATCH, _arch, _arch_miss, binds_incumbents=True),
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
    Check(NodeRejection.INSUFFICIENT_CPU, _cpu, _cpu_miss),
    Check(NodeRejection.INSUFFICIENT_MEMORY, _memory, _memory_miss),
    Check(NodeRejection.INSUFFICIENT_PODS, _pods, _pods_miss),
    Check(NodeRejection.EXCLUDED, _excluded, _excluded_miss),
)
"""what changes while a plan is made, and what the cluster refused"""

CHECKS = SPEC_CHECKS + STATE_CHECKS + FIT_CHECKS

INCUMBENT_CHECKS: tuple[Check, ...] = (
    *(check for check in SPEC_CHECKS if check.binds_incumbents),
    Check(NodeRejection.UNTOLERATED_TAINT, _evicting, _evicting_miss, binds_incumbents=True),
)
"""what moves a replica that is there: cordon and NoSchedule only keep new ones out, NoExecute evicts"""
