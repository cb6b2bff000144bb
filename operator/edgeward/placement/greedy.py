"""Places new replicas of one job, one after the other, each on the node that is best once the earlier ones are there.

The solver (solve/) decides whole priority tiers at once; this is its floor, and what is done where it gave no advice.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from edgeward.placement.ledger import Ledger, NodeState
from edgeward.placement.scoring import PRECISION, Scorer

Key = tuple[float, int, int, int]
"""smallest first: -score, -free cpu, -free memory, rank"""


def fill(
    need: int,
    candidates: Sequence[NodeState],
    *,
    job: int,
    scorer: Scorer,
    ledger: Ledger,
    on_node: dict[int, int],
    at_site: dict[str, int],
    fits: Callable[[NodeState], bool],
) -> list[NodeState]:
    """The node of each replica placed, at most `need` of them; `on_node` and `at_site` count the job's replicas.

    A placement changes its own node's score and, by the same amount, that of every node of its site. So the nodes
    wait in a heap per site, without the site's part, and only the chosen site is looked at again: n replicas over m
    nodes cost n log m, not n m.
    """
    shelves: dict[str, list[tuple[Key, NodeState]]] = {}
    for state in candidates:
        shelves.setdefault(state.site.name, []).append((_key(state, scorer, on_node), state))
    sites: list[tuple[Key, str]] = []
    for site, shelf in shelves.items():
        heapq.heapify(shelf)
        sites.append((_with_site(shelf[0][0], scorer, at_site.get(site, 0)), site))
    heapq.heapify(sites)

    chosen: list[NodeState] = []
    while len(chosen) < need and sites:
        _, site = heapq.heappop(sites)
        shelf = shelves[site]
        _, state = heapq.heappop(shelf)
        if chosen and not fits(state):  # a limit of its site or of a quota may have been reached since
            if shelf:
                heapq.heappush(sites, (_with_site(shelf[0][0], scorer, at_site.get(site, 0)), site))
            continue
        ledger.place(job, state)
        on_node[state.index] = on_node.get(state.index, 0) + 1
        at_site[site] = at_site.get(site, 0) + 1
        chosen.append(state)
        if fits(state):
            heapq.heappush(shelf, (_key(state, scorer, on_node), state))
        if shelf:
            heapq.heappush(sites, (_with_site(shelf[0][0], scorer, at_site[site]), site))
    return chosen


def _key(state: NodeState, scorer: Scorer, on_node: dict[int, int]) -> Key:
    base = scorer.base(state, on_node.get(state.index, 0), present=False, stays=False)
    free = state.free
    return -round(base, PRECISION), -free.cpu, -free.memory, state.rank


def _with_site(key: Key, scorer: Scorer, at_site: int) -> Key:
    return -round(-key[0] + scorer.site_part(at_site), PRECISION), *key[1:]
