"""What the jobs of one priority tier want, in columns: the solver's picture of a tier, taken when its turn begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeward.placement.columns import Floats, Rows
from edgeward.placement.constraints import FIT_CHECKS, first_miss
from edgeward.placement.decide import Decision, Need
from edgeward.placement.incumbents import Crowd
from edgeward.placement.ledger import Ledger, NodeState


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
    takes: Floats
    """1, or 0 where a replica that leaves holds its room for it"""
    site_first: Floats
    """what the site adds for the first replica there"""
    site_further: Floats
    slope: Floats
    """an upper bound of any replica's score falls at least by this much for each millicore that others add there"""
    at_site: dict[str, int]
    """replicas of the job that stay, by site"""
    on_node: dict[int, int]

    @property
    def cpu(self) -> int:
        return self.decision.ask.request.cpu

    @property
    def root(self) -> float:
        return math.sqrt(self.cpu)


def wants_of(decisions: Sequence[Decision], ledger: Ledger) -> list[Want]:
    """Those that want something and have somewhere to go."""
    asked = [
        (decision, need)
        for decision in decisions
        if decision.turn.job.model_digest and decision.turn.job.problem is None
        for need in decision.needs
        if need.count > 0
    ]
    step = min((d.ask.request.cpu for d, _ in asked if d.ask.request.cpu > 0), default=0)
    found = []
    for decision, need in asked:
        want = _want(decision, need, ledger, step)
        if want is not None:
            found.append(want)
    return found


def room(decision: Decision, need: Need) -> list[NodeState]:
    """The places that take one more replica now."""
    ask = decision.ask
    return [
        state
        for state in decision.allowed
        if need.site in (None, state.site.name) and first_miss(ask, state, FIT_CHECKS) is None
    ]


def _want(decision: Decision, need: Need, ledger: Ledger, step: int) -> Want | None:
    scorer, ask = decision.scorer, decision.ask
    states = sorted(room(decision, need), key=lambda state: state.rank)
    if not states:
        return None
    crowd = Crowd(decision.standings)
    on_node = {s.state.index: crowd.on_node[s.site, s.node] for s in decision.standings if s.state is not None}
    at_site = dict(crowd.at_site)
    rows = np.array([state.index for state in states], dtype=np.intp)
    first = scorer.column(ledger, rows)
    spread = scorer.weights["spread"]
    further = first - 0.5 * spread
    takes = np.ones(len(rows))
    for at, state in enumerate(states):
        held = on_node.get(state.index, 0)
        if held or ask.index in state.held:
            first[at] = scorer.base(state, held, present=False, stays=False)
            # k more beside h that stay share k/(2(h + k)), so each has at most what the first of them has.
            further[at] = first[at] if held else first[at] - 0.5 * spread
            takes[at] = 0.0 if state.has_room_held(ask.index) else 1.0
    beside = np.array([at_site.get(state.site.name, 0) for state in states], dtype=np.float64)
    site_first = 0.5 * spread / (1.0 + beside)
    return Want(
        decision=decision,
        need=need,
        count=need.count,
        rows=rows,
        first=first,
        further=further,
        takes=takes,
        site_first=site_first,
        site_further=np.where(beside > 0, site_first, 0.0),
        slope=_slope(decision, ledger, rows, step),
        at_site=at_site,
        on_node=on_node,
    )


def _slope(decision: Decision, ledger: Ledger, rows: Rows, step: int) -> Floats:
    """How fast the score falls at least, per millicore that other replicas of the tier add to a node.

    Scores fall with load: linearly in headroom and load, faster and faster in completion, and not at all once a term
    has reached 0. A function that is concave and then flat lies below the line through its value at 0 and the higher of
    the two chords' ends: the chord to the smallest amount that another replica can add (`step`), and the one to all
    that is free. So the smaller of the two slopes never promises too much of a fall.
    """
    if step <= 0:
        return np.zeros(len(rows))
    table, ask, scorer = ledger.columns, decision.ask, decision.scorer
    free = table.allocatable_cpu[rows] - table.requested_cpu[rows] - ask.request.cpu
    least, most = np.full(len(rows), float(step)), np.maximum(free, float(step))
    nothing = np.zeros(len(rows))
    now = scorer.column(ledger, rows)
    near = (now - scorer.column(ledger, rows, (least, nothing))) / least
    far = (now - scorer.column(ledger, rows, (most, nothing))) / most
    return np.maximum(np.minimum(near, far), 0.0)
