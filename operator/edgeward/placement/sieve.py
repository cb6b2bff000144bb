"""The checks for all nodes at once, as far as they say the same for many.

Thousands of nodes come in a few hundred kinds: what a job says of one of a kind, it says of all. And most nodes have
plainly room for one more replica, which columns tell without asking each.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping

import numpy as np

from edgeward.api.reasons import NodeRejection
from edgeward.placement.ask import Ask
from edgeward.placement.columns import Floats, Rows
from edgeward.placement.constraints import FIT_CHECKS, SPEC_CHECKS, STATE_CHECKS, Check, Miss, first_miss
from edgeward.placement.ledger import Ledger, NodeState
from edgeward.placement.sites import Mask, selector_key

STATIC_CHECKS = SPEC_CHECKS + STATE_CHECKS
"""what cannot change during a plan"""
PASSES = -1


def _of_site(state: NodeState) -> Hashable:
    return state.site.name


def _same(_: Ask) -> Hashable:
    return ()


_LOOKS: Mapping[NodeRejection, tuple[Callable[[NodeState], Hashable], Callable[[Ask], Hashable | None]]] = {
    NodeRejection.TIER_MISMATCH: (lambda s: s.node.tier, lambda a: a.job.tiers),
    NodeRejection.SITE_MISMATCH: (_of_site, lambda a: selector_key(a.job.site_selector)),
    NodeRejection.NODE_SELECTOR_MISMATCH: (
        lambda s: tuple(sorted(s.node.labels.items())),
        lambda a: tuple(sorted(a.job.node_selector.items())),
    ),
    NodeRejection.UNTOLERATED_TAINT: (lambda s: s.node.taints, lambda a: a.job.tolerations),
    NodeRejection.RESIDENCY_FORBIDS: (
        _of_site,
        lambda a: () if a.job.residency == "Anywhere" else (a.job.residency, selector_key(a.job.source_selector)),
    ),
    NodeRejection.ARCH_MISMATCH: (lambda s: s.node.arch, lambda a: a.job.architectures),
    NodeRejection.LATENCY_TOO_HIGH: (
        lambda s: (s.site.name, s.node.speed),
        lambda a: () if a.job.slo_latency is None else None,
    ),
    NodeRejection.BANDWIDTH_TOO_LOW: (_of_site, lambda a: (a.job.min_bandwidth,)),
    NodeRejection.DRAIN_TOO_SLOW: (_of_site, lambda a: () if a.job.max_drain is None else None),
    NodeRejection.NODE_NOT_READY: (lambda s: (s.node.ready, s.node.not_ready_since), _same),
    NodeRejection.NODE_UNSCHEDULABLE: (lambda s: s.node.unschedulable, _same),
    NodeRejection.SITE_UNSCHEDULABLE: (_of_site, _same),
    NodeRejection.SITE_FROZEN: (_of_site, _same),
    NodeRejection.SITE_DISCONNECTED: (_of_site, _same),
}
"""All that a check looks at, of a node and of a job: what is alike in that gets the same answer, so it is asked once.
None: of the job so much that nothing is gained by remembering the answer. A check that is not here is asked of each
kind of node, for each job."""


class StaticMisses(Mapping[int, Miss]):
    """Why nodes are no place for a job, whatever else is placed: by index, held once a kind."""

    def __init__(self, kinds: Rows, which: Rows, distances: Floats, of_pools: Mapping[int, Miss]) -> None:
        """`which`, `distances`: by kind, the first of STATIC_CHECKS that it fails, or PASSES, and by how much; pools
        have their Miss in `of_pools`, by kind too."""
        self.first: Rows = which[kinds] if len(kinds) else np.zeros(0, dtype=np.intp)
        """by index of Ledger.states"""
        self.passes: Mask = self.first == PASSES
        self._kinds, self._distances, self._of_pools = kinds, distances, of_pools

    def __getitem__(self, index: int) -> Miss:
        first = int(self.first[index])
        if first == PASSES:
            raise KeyError(index)
        kind = int(self._kinds[index])
        return self._of_pools.get(kind) or Miss(STATIC_CHECKS[first], float(self._distances[kind]))

    def __iter__(self) -> Iterator[int]:
        return iter(np.nonzero(~self.passes)[0].tolist())

    def __len__(self) -> int:
        return int(np.count_nonzero(~self.passes))

    def distances(self, rows: Rows) -> Floats:
        return self._distances[self._kinds[rows]]


def no_misses(ledger: Ledger) -> StaticMisses:
    nothing = len(ledger.kinds.heads)
    return StaticMisses(ledger.kinds.of, np.full(nothing, PASSES, dtype=np.intp), np.zeros(nothing), {})


def static_misses(ask: Ask, ledger: Ledger) -> StaticMisses:
    """SPEC_CHECKS and STATE_CHECKS for every node."""
    heads = ledger.kinds.heads
    which = np.full(len(heads), PASSES, dtype=np.intp)
    distances = np.full(len(heads), np.nan)
    for number, check in enumerate(STATIC_CHECKS):
        lacks = _lacks(check, ask, ledger)
        if lacks is not None:
            new = (which == PASSES) & ~np.isnan(lacks)
            which[new], distances[new] = number, lacks[new]
    of_pools = {}
    for kind in ledger.kinds.pools:
        miss = first_miss(ask, heads[kind], SPEC_CHECKS) or first_miss(ask, heads[kind], STATE_CHECKS)
        which[kind] = PASSES if miss is None else STATIC_CHECKS.index(miss.check)
        if miss is not None:
            of_pools[kind], distances[kind] = miss, miss.distance
    return StaticMisses(ledger.kinds.of, which, distances, of_pools)


def _lacks(check: Check, ask: Ask, ledger: Ledger) -> Floats | None:
    """By kind, how far it is from passing one check, nan where it passes; None where all pass. Pools are not asked."""
    of_node, of_job = _LOOKS.get(check.reason, (None, None))
    asks = None if of_job is None else of_job(ask)
    if asks is not None and (check.reason, asks) in ledger.answers:
        return ledger.answers[check.reason, asks]
    numbers, heads = ledger.kinds.alike(check.reason, of_node)
    said = [check.lacks(ask, head) for head in heads]
    answer = None
    if any(distance is not None for distance in said):
        answer = np.array([np.nan if distance is None else distance for distance in said], dtype=np.float64)[numbers]
    if asks is not None:
        ledger.answers[check.reason, asks] = answer
    return answer


def plainly_fits(ask: Ask, ledger: Ledger, rows: Rows) -> Mask:
    """Where a replica passes all FIT_CHECKS for certain; elsewhere only the checks themselves tell."""
    job, need, table = ask.job, ask.request, ledger.columns
    special = (
        need.extended
        or job.memory_peak is not None
        or job.slo_latency is not None
        or job.exclusions
        or job.max_per_site is not None
        or job.min_sites is not None
        or ask.namespace_use.lacks(need.cpu) is not None
    )
    if special:
        return np.zeros(len(rows), dtype=np.bool_)
    open_sites = np.array(
        [ask.site_use[site.name].lacks(need.cpu) is None for site in ledger.site_list], dtype=np.bool_
    )
    fits: Mask = (
        (table.allocatable_cpu[rows] - table.requested_cpu[rows] >= need.cpu)
        & (table.allocatable_memory[rows] - table.requested_memory[rows] >= need.memory)
        & (table.allocatable_pods[rows] - table.requested_pods[rows] >= need.pods)
        & (table.allocatable_storage[rows] - table.requested_storage[rows] >= need.storage)
        & open_sites[table.site[rows]]
        & ~table.pool[rows]
    )
    return fits


def has_no_room(ask: Ask, ledger: Ledger, rows: Rows) -> Mask:
    """Where a replica fails one of FIT_CHECKS for certain: too little of something, and none of its own to take over."""
    need, table = ask.request, ledger.columns
    full: Mask = (
        (table.allocatable_cpu[rows] - table.requested_cpu[rows] < need.cpu)
        | (table.allocatable_memory[rows] - table.requested_memory[rows] < need.memory)
        | (table.allocatable_pods[rows] - table.requested_pods[rows] < need.pods)
    )
    if need.storage:
        full |= table.allocatable_storage[rows] - table.requested_storage[rows] < need.storage
    # Of a pool the sums also count what waits for it to grow, which takes room on none of its nodes.
    return full & ~table.pool[rows]


def lacks_of_room(ask: Ask, ledger: Ledger, rows: Rows) -> Iterator[tuple[Check, Floats]]:
    """The first checks of FIT_CHECKS, in their order, with what each node lacks: above 0 it fails for certain, as far as
    it passes those before."""
    need, table = ask.request, ledger.columns
    asked = ~table.pool[rows] & ~ledger.is_held(ask.index, rows)
    columns = (
        (need.cpu, table.allocatable_cpu, table.requested_cpu),
        (need.memory, table.allocatable_memory, table.requested_memory),
        (need.pods, table.allocatable_pods, table.requested_pods),
        (need.storage, table.allocatable_storage, table.requested_storage),
    )
    for check, (amount, allocatable, requested) in zip(FIT_CHECKS, columns, strict=False):
        if amount or check.reason is not NodeRejection.INSUFFICIENT_STORAGE:
            yield check, np.where(asked, amount - (allocatable[rows] - requested[rows]), 0.0)


def that_fit(ask: Ask, ledger: Ledger, rows: Rows) -> Rows:
    """Those of `rows` that pass FIT_CHECKS now, in their order."""
    passes = plainly_fits(ask, ledger, rows)
    doubtful = ~passes & (~has_no_room(ask, ledger, rows) | ledger.is_held(ask.index, rows))
    for at in np.nonzero(doubtful)[0].tolist():
        passes[at] = first_miss(ask, ledger.states[rows[at]], FIT_CHECKS) is None
    return rows[passes]
