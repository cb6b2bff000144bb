"""The checks for all nodes at once, as far as they say the same for many.

Thousands of nodes come in a few hundred kinds: what a job says of one of a kind, it says of all. And most nodes have
plainly room for one more replica, which columns tell without asking each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeward.placement.ask import Ask
from edgeward.placement.columns import Rows
from edgeward.placement.constraints import FIT_CHECKS, SPEC_CHECKS, STATE_CHECKS, Miss, first_miss
from edgeward.placement.ledger import Ledger, NodeState

Mask = NDArray[np.bool_]


class StaticMisses(Mapping[int, Miss]):
    """Why nodes are no place for a job, whatever else is placed: by index, held once a kind."""

    def __init__(self, kinds: Rows, misses: Sequence[Miss | None]) -> None:
        self._kinds = kinds
        self._misses = misses
        self.passes: Mask = (
            np.array([miss is None for miss in misses], dtype=np.bool_)[kinds]
            if misses
            else (np.zeros(0, dtype=np.bool_))
        )
        """by index of Ledger.states"""

    def __getitem__(self, index: int) -> Miss:
        miss = self._misses[int(self._kinds[index])]
        if miss is None:
            raise KeyError(index)
        return miss

    def __iter__(self) -> Iterator[int]:
        return iter(np.nonzero(~self.passes)[0].tolist())

    def __len__(self) -> int:
        return int(np.count_nonzero(~self.passes))


def static_misses(ask: Ask, ledger: Ledger) -> StaticMisses:
    """SPEC_CHECKS and STATE_CHECKS for every node."""
    misses = [first_miss(ask, head, SPEC_CHECKS) or first_miss(ask, head, STATE_CHECKS) for head in ledger.kinds.heads]
    return StaticMisses(ledger.kinds.of, misses)


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
        | (table.allocatable_storage[rows] - table.requested_storage[rows] < need.storage)
    )
    # Of a pool the sums also count what waits for it to grow, which takes room on none of its nodes.
    return full & ~table.pool[rows]


def that_fit(ask: Ask, ledger: Ledger, states: Sequence[NodeState]) -> list[NodeState]:
    """Those of `states` that pass FIT_CHECKS now."""
    if not states:
        return []
    rows = np.array([state.index for state in states], dtype=np.intp)
    sure = plainly_fits(ask, ledger, rows).tolist()
    full = has_no_room(ask, ledger, rows).tolist()
    return [
        state
        for state, fits, lacks in zip(states, sure, full, strict=True)
        if fits or (not (lacks and not state.held.get(ask.index)) and first_miss(ask, state, FIT_CHECKS) is None)
    ]
