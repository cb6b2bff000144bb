"""Places new replicas of one job, one after the other, each on the node that is best once the earlier ones are there.

The solver (solve/) decides whole priority tiers at once; this is its floor, what it rounds with, and what is done where
it gave no advice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgeward.placement.columns import Floats, Rows, floats
from edgeward.placement.ledger import Ledger, NodeState
from edgeward.placement.scoring import PRECISION, Scorer


def fill(
    need: int,
    candidates: Rows,
    *,
    job: int,
    scorer: Scorer,
    ledger: Ledger,
    on_node: Mapping[int, int],
    at_site: Mapping[str, int],
    fits: Callable[[NodeState], bool],
    closed: Callable[[NodeState], bool] = lambda _: False,
    cost: Floats | None = None,
    growth: Floats | None = None,
) -> list[NodeState]:
    """The node of each replica placed, at most `need` of them; `on_node` and `at_site` count the job's replicas there
    already, by index of the node and by name of the site.

    `candidates` have room for one now. `closed`: whether what keeps replicas out of a place keeps them out of its whole
    site until the last one is placed. `cost`, one entry each, is taken off the score, and `growth` is added to it for
    each replica that comes; a place that is not worth its cost is left alone.

    A placement changes its own node's score and, by the same amount, that of every node of its site; only those are
    looked at again. Ties go to the node with more cpu free, then more memory, then by rank.
    """
    if not len(candidates) or need <= 0:
        return []
    table = ledger.columns
    by_rank = np.argsort(table.rank[candidates], kind="stable")
    rows = candidates[by_rank]
    free_cpu = table.allocatable_cpu[rows] - table.requested_cpu[rows]
    free_memory = table.allocatable_memory[rows] - table.requested_memory[rows]
    order = np.lexsort((-free_memory, -free_cpu))
    rows = rows[order]
    costs = np.zeros(len(rows)) if cost is None else cost[by_rank][order]
    grows = None if growth is None else growth[by_rank][order]

    values = scorer.column(ledger, rows)
    own = ledger.is_held(job, rows)
    if on_node:
        own |= np.isin(rows, np.fromiter(on_node, dtype=np.intp))
    for at in np.nonzero(own)[0].tolist():
        row = int(rows[at])
        values[at] = scorer.base(ledger.states[row], on_node.get(row, 0), present=False, stays=False)
    sites = table.site[rows]
    counts = [at_site.get(site.name, 0) for site in ledger.site_list]
    parts = floats([scorer.site_part(count) for count in counts])
    worth = np.round(np.round(values, PRECISION) + parts[sites] - costs, PRECISION)
    here: dict[int, int] = {}
    chosen: list[NodeState] = []
    while len(chosen) < need:
        at = int(np.argmax(worth))
        if worth[at] == -np.inf or (cost is not None and worth[at] <= 0):
            break
        state, site = ledger.states[rows[at]], sites[at]
        if not fits(state):
            worth[sites == site if closed(state) else at] = -np.inf
            continue
        ledger.place(job, state)
        chosen.append(state)
        here[at] = here.get(at, 0) + 1
        beside = on_node.get(state.index, 0) + here[at]
        values[at] = scorer.base(state, beside, present=False, stays=False)
        if grows is not None:
            costs[at] += grows[at]
        counts[site] += 1
        parts[site] = scorer.site_part(counts[site])
        same = np.nonzero(sites == site)[0]
        fresh = np.round(np.round(values[same], PRECISION) + parts[site] - costs[same], PRECISION)
        worth[same] = np.where(worth[same] == -np.inf, -np.inf, fresh)
    return chosen
