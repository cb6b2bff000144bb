"""What the jobs of one priority tier want, in columns: the solver's picture of a tier, taken when its turn begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeward.fleet.model import Resources
from edgeward.placement.columns import Floats, Rows
from edgeward.placement.decide import Decision, Need, places_of
from edgeward.placement.incumbents import Crowd
from edgeward.placement.ledger import Ledger
from edgeward.placement.sieve import that_fit

FRACTIONS = (0.0, 0.15, 0.35, 0.6, 0.85, 1.0)
"""of a node's free cpu: where the fall of a score is measured"""
USUAL = FRACTIONS[3]


@dataclass(slots=True)
class Lines:
    """How far a replica's score falls when others of the tier add U millicores to its node: at least c U - d, for each
    line and row. [lines, rows]"""

    roots: Floats
    """sqrt(c times the replica's own request)"""
    own: Floats
    """c times the replica's own request, plus d"""


@dataclass(slots=True)
class Want:
    """Replicas of one job that want a place, and what each place is worth to one of them at the tier's start.

    All columns have one entry a row, and rows are in the order of rank, so that no name decides anything.
    """

    decision: Decision
    need: Need
    count: int
    rows: Rows
    first: Floats
    """score of the first replica on a node, without what depends on the whole site"""
    further: Floats
    """of one that joins others of its job there"""
    most: Rows
    """how many replicas at most have room on a node"""
    takes: Floats
    """1, or 0 where a replica that leaves holds its room for it"""
    site_first: Floats
    """what the site adds for the first replica there"""
    site_further: Floats
    usual: Floats
    """score per millicore that others add to the node, over half of what is free; an estimate to round by"""
    at_site: dict[str, int]
    """replicas of the job that stay, by site"""
    on_node: dict[int, int]
    stays: dict[int, int]
    """the same by the number of the site"""

    def stays_at(self, site: int) -> int:
        return self.stays.get(site, 0)

    @property
    def cpu(self) -> int:
        return self.decision.ask.request.cpu


def wants_of(decisions: Sequence[Decision], ledger: Ledger) -> list[Want]:
    """Those that want something and have somewhere to go."""
    asked = [
        (decision, need)
        for decision in decisions
        if decision.turn.job.model_digest and decision.turn.job.problem is None
        for need in decision.needs
        if need.count > 0
    ]
    found = []
    for decision, need in asked:
        want = _want(decision, need, ledger)
        if want is not None:
            found.append(want)
    return found


def _want(decision: Decision, need: Need, ledger: Ledger) -> Want | None:
    scorer, ask = decision.scorer, decision.ask
    rows = that_fit(ask, ledger, places_of(need, ledger, decision.rows))
    if not len(rows):
        return None
    rows = rows[np.argsort(ledger.columns.rank[rows], kind="stable")]
    crowd = Crowd(decision.standings)
    on_node = {s.state.index: crowd.on_node[s.site, s.node] for s in decision.standings if s.state is not None}
    at_site = dict(crowd.at_site)
    first = scorer.column(ledger, rows)
    spread = scorer.weights["spread"]
    further = first - 0.5 * spread
    takes = np.ones(len(rows))
    own = ledger.is_held(ask.index, rows) | np.isin(rows, np.fromiter(on_node, dtype=np.intp))
    for at in np.nonzero(own)[0].tolist():
        state = ledger.states[rows[at]]
        held = on_node.get(state.index, 0)
        if held or ask.index in state.held:
            first[at] = scorer.base(state, held, present=False, stays=False)
            # k more beside h that stay share k/(2(h + k)), so each has at most what the first of them has.
            further[at] = first[at] if held else first[at] - 0.5 * spread
            takes[at] = 0.0 if state.has_room_held(ask.index) else 1.0
    stays = {ledger.site_columns.number[site]: count for site, count in at_site.items() if count}
    at_sites = np.zeros(len(ledger.site_list))
    at_sites[list(stays)] = list(stays.values())
    beside = at_sites[ledger.columns.site[rows]]
    site_first = 0.5 * spread / (1.0 + beside)
    return Want(
        decision=decision,
        need=need,
        count=need.count,
        rows=rows,
        first=first,
        further=further,
        most=_most(need.count, ask.request, ledger, rows, takes),
        takes=takes,
        site_first=site_first,
        site_further=np.where(beside > 0, site_first, 0.0),
        usual=_usual(decision, ledger, rows),
        at_site=at_site,
        on_node=on_node,
        stays=stays,
    )


def _most(count: int, request: Resources, ledger: Ledger, rows: Rows, takes: Floats) -> Rows:
    """Whole replicas by what is free, at least the one that fits; any number where room is held for it."""
    table = ledger.columns
    fits = np.full(len(rows), float(count))
    for need, allocatable, requested in (
        (request.cpu, table.allocatable_cpu, table.requested_cpu),
        (request.memory, table.allocatable_memory, table.requested_memory),
        (request.pods, table.allocatable_pods, table.requested_pods),
        (request.storage, table.allocatable_storage, table.requested_storage),
    ):
        if need > 0:
            fits = np.minimum(fits, (allocatable[rows] - requested[rows]) // need)
    most: Rows = np.where(takes > 0, np.maximum(fits, 1.0), float(count)).astype(np.intp)
    return most


def _usual(decision: Decision, ledger: Ledger, rows: Rows) -> Floats:
    scorer, load = decision.scorer, _free_beside(decision, ledger, rows) * USUAL
    falls = scorer.column(ledger, rows) - scorer.column(ledger, rows, (load, np.zeros(len(rows))))
    return falls / np.maximum(load, 1.0)


def _free_beside(decision: Decision, ledger: Ledger, rows: Rows) -> Floats:
    """Millicores that others may add beside one replica."""
    table = ledger.columns
    return np.maximum(table.allocatable_cpu[rows] - table.requested_cpu[rows] - decision.ask.request.cpu, 1.0)


def lines_of(want: Want, ledger: Ledger, at: Rows) -> Lines:
    """For the places `at` (positions in want.rows), while the ledger is as it was when the want was made.

    Lines below the fall of the score, from the score itself at a few loads.

    The fall grows with load, in headroom and load evenly, in completion faster and faster, until a term has reached 0
    and falls no more. The line through two loads one millicore apart lies below a convex fall everywhere else; where
    another load that was measured shows less (a term that is at 0), the line is turned until it does not, so that no
    line ever promises too much of a fall.
    """
    decision, rows = want.decision, want.rows[at]
    ask, scorer = decision.ask, decision.scorer
    free = _free_beside(decision, ledger, rows)
    nothing = np.zeros(len(rows))
    now = scorer.column(ledger, rows)
    loads = np.array([np.maximum(free * fraction, 0.0) for fraction in FRACTIONS])
    falls = np.array([now - scorer.column(ledger, rows, (load, nothing)) for load in loads])
    after = np.array([now - scorer.column(ledger, rows, (load + 1.0, nothing)) for load in loads])
    steep = after - falls
    for other in range(len(FRACTIONS)):
        apart = loads[other] - loads
        with np.errstate(divide="ignore", invalid="ignore"):
            chord = (falls[other] - falls) / apart
        steep = np.where(apart > 0, np.minimum(steep, chord), steep)
    steep = np.maximum(steep, 0.0)
    less = steep * loads - falls
    for other in range(len(FRACTIONS)):
        less = np.maximum(less, steep * loads[other] - falls[other])
    less += 1e-9
    own = steep * ask.request.cpu
    return Lines(np.sqrt(own), own + less)
