"""The checks for all nodes at once, as far as they say the same for many.

Thousands of nodes come in a few hundred kinds: what a job says of one of a kind, it says of all. And
whether one more replica has room is told by columns, but for the few nodes that have some of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping

import numpy as np

from edgeward.api.reasons import NodeRejection
from edgeward.placement import links
from edgeward.placement.ask import Ask
from edgeward.placement.columns import MANY, Floats, Rows
from edgeward.placement.constraints import FIT_CHECKS, SPEC_CHECKS, STATE_CHECKS, Check, Miss, first_miss
from edgeward.placement.ledger import Ledger, NodeState
from edgeward.placement.quotas import spread_lacks
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
        self.first = which.astype(np.int8)[kinds] if len(kinds) else np.zeros(0, dtype=np.int8)
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


def fit_columns(ask: Ask, ledger: Ledger, rows: Rows) -> Iterator[tuple[Check, Floats | float | None]]:
    """FIT_CHECKS in their order, each with what the nodes in `rows` lack, nan where they pass; None where only the check
    itself tells. That is said of nodes that are no pools and have none of the job's replicas: see `own_or_pool`."""
    for check in FIT_CHECKS:
        column = _FITS.get(check.reason)
        yield check, None if column is None else column(ask, ledger, rows)


def own_or_pool(ask: Ask, ledger: Ledger, rows: Rows) -> Mask:
    """Where only the checks themselves tell: a replica may take over the room of one of its own, and of a pool the sums
    also count what waits for it to grow, which takes room on none of its nodes."""
    return ledger.columns.pool[rows] | ledger.is_held(ask.index, rows)


def _lack(amounts: Floats) -> Floats:
    return np.where(amounts > 0, amounts, np.nan)


def _cpu(ask: Ask, ledger: Ledger, rows: Rows) -> Floats:
    table = ledger.columns
    return _lack(ask.request.cpu - (table.allocatable_cpu[rows] - table.requested_cpu[rows]))


def _memory(ask: Ask, ledger: Ledger, rows: Rows) -> Floats:
    return _lack(ask.request.memory - _free_memory(ledger, rows))


def _free_memory(ledger: Ledger, rows: Rows) -> Floats:
    return ledger.columns.allocatable_memory[rows] - ledger.columns.requested_memory[rows]


def _pods(ask: Ask, ledger: Ledger, rows: Rows) -> Floats:
    table = ledger.columns
    return _lack(ask.request.pods - (table.allocatable_pods[rows] - table.requested_pods[rows]))


def _storage(ask: Ask, ledger: Ledger, rows: Rows) -> Floats | float:
    table = ledger.columns
    if not ask.request.storage:
        return math.nan
    return _lack(ask.request.storage - (table.allocatable_storage[rows] - table.requested_storage[rows]))


def _extended(ask: Ask, ledger: Ledger, rows: Rows) -> float | None:
    return None if ask.request.extended else math.nan


def _peak(ask: Ask, ledger: Ledger, rows: Rows) -> Floats | float:
    peak = ask.job.memory_peak
    return math.nan if peak is None or peak <= ask.request.memory else _lack(peak - _free_memory(ledger, rows))


def _excluded(ask: Ask, ledger: Ledger, rows: Rows) -> Floats | float:
    if not ask.job.exclusions or not ask.excluded:
        return math.nan
    out = np.full(len(ledger.states), np.nan)
    for name, exclusion in ask.excluded.items():
        out[ledger.rows_named(name)] = exclusion.until - ask.now
    return out[rows]


def _spread(ask: Ask, ledger: Ledger, rows: Rows) -> Floats | float:
    job = ask.job
    if job.max_per_site is None and job.min_sites is None:
        return math.nan
    of_empty = spread_lacks(job, {}, "")
    over = np.full(len(ledger.site_list), math.nan if of_empty is None else of_empty)
    for site in ask.spots:
        number = ledger.site_columns.number.get(site)
        if number is not None:
            lacks = spread_lacks(job, ask.spots, site)
            over[number] = math.nan if lacks is None else lacks
    return over[ledger.columns.site[rows]]


def _site_quota(ask: Ask, ledger: Ledger, rows: Rows) -> Floats | float:
    if not ledger.limited_sites:
        return math.nan
    over = np.full(len(ledger.site_list), np.nan)
    for number in ledger.limited_sites:
        lacks = ask.over_site_quota(ledger.site_list[number].name)
        over[number] = math.nan if lacks is None else lacks
    return over[ledger.columns.site[rows]]


def _namespace_quota(ask: Ask, ledger: Ledger, rows: Rows) -> float | None:
    if not ask.namespace_use.limited:
        return math.nan
    if ledger.may_replace(ask.index):
        return None
    lacks = ask.over_namespace_quota()
    return math.nan if lacks is None else lacks


def _backlog(ask: Ask, ledger: Ledger, rows: Rows) -> Floats | float:
    bound = ask.job.slo_latency
    if bound is None or ask.service is None:
        return math.nan
    table, seconds = ledger.columns, ask.ways.seconds[ledger.columns.site[rows]]
    over = (
        links.busy_seconds(
            way=np.where(np.isnan(seconds), 0.0, seconds),
            service=ask.service,
            speed=table.speed[rows],
            cores=table.allocatable_cpu[rows] / 1000,
            used=table.cpu[rows],
            in_flight=table.in_flight_cpu[rows] / 1000,
            believed=table.cpu_confidence[rows],
            op=MANY,
        )
        - bound
    )
    return np.where(over > links.NOISE, over, np.nan)


_FITS: Mapping[NodeRejection, Callable[[Ask, Ledger, Rows], Floats | float | None]] = {
    NodeRejection.INSUFFICIENT_CPU: _cpu,
    NodeRejection.INSUFFICIENT_MEMORY: _memory,
    NodeRejection.INSUFFICIENT_PODS: _pods,
    NodeRejection.INSUFFICIENT_STORAGE: _storage,
    NodeRejection.INSUFFICIENT_EXTENDED: _extended,
    NodeRejection.INSUFFICIENT_MEMORY_PEAK: _peak,
    NodeRejection.EXCLUDED: _excluded,
    NodeRejection.SPREAD_EXCEEDED: _spread,
    NodeRejection.SITE_QUOTA_EXCEEDED: _site_quota,
    NodeRejection.NAMESPACE_QUOTA_EXCEEDED: _namespace_quota,
    NodeRejection.BACKLOG_TOO_LONG: _backlog,
}
"""the columns of a check; one that has none is asked of each node"""


def that_fit(ask: Ask, ledger: Ledger, rows: Rows) -> Rows:
    """Those of `rows` that pass FIT_CHECKS now, in their order."""
    return rows[fits(ask, ledger, rows)]


def fits(ask: Ask, ledger: Ledger, rows: Rows) -> Mask:
    """Which of `rows` pass FIT_CHECKS now."""
    unsure = own_or_pool(ask, ledger, rows)
    passes = ~unsure
    for _, lacks in fit_columns(ask, ledger, rows):
        if lacks is None:
            unsure |= passes
            break
        passes &= np.isnan(lacks)
    for at in np.nonzero(unsure)[0].tolist():
        passes[at] = first_miss(ask, ledger.states[rows[at]], FIT_CHECKS) is None
    return passes
