"""What others do, under our constraints and priority tiers and judged by our scores, so that only the choice differs."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from edgeward.fleet.model import Fleet, Live, Node, Sample
from edgeward.placement.columns import Floats, Rows
from edgeward.placement.decide import Decision, begin, place
from edgeward.placement.ledger import Ledger
from edgeward.placement.order import turns
from edgeward.placement.settings import PlanSettings
from edgeward.placement.sieve import fits
from edgeward.placement.solve.packing import put, score_of

Choice = Callable[[Decision, Ledger, Rows], Floats]
"""what each node is worth to one more replica of the job; the largest is taken"""
TARGET = 0.4
"""of TargetLoadPacking: its default"""


@dataclass(frozen=True)
class Outcome:
    scores: dict[int, float]
    """sum of the scores of what was placed, by priority tier"""
    placed: dict[int, int]
    wanted: dict[int, int]

    @property
    def score(self) -> float:
        return sum(self.scores.values())


@dataclass(frozen=True)
class _Judged:
    decision: Decision


def run(fleet: Fleet, choice: Choice | None, *, judged: Fleet | None = None) -> Outcome:
    """Tier by tier. `choice` None: our greedy. `judged`: the fleet whose figures the scores are taken from, when the
    choice was made by worse ones."""
    settings = PlanSettings()
    ledger, judge = Ledger(fleet, settings), Ledger(judged or fleet, settings)
    scores: dict[int, float] = {}
    placed: dict[int, int] = {}
    wanted: dict[int, int] = {}
    for tier, group in groupby(turns(fleet, settings), key=lambda turn: turn.tier):
        ours = list(group)
        decisions = [begin(turn, ledger, settings) for turn in ours]
        theirs = [_Judged(begin(turn, judge, settings)) for turn in ours]
        wanted[tier] = sum(need.count for decision in decisions for need in decision.needs)
        packing = [
            _greedily(decision, ledger) if choice is None else _by_choice(decision, ledger, choice)
            for decision in decisions
        ]
        done = put(packing, theirs, judge)
        scores[tier] = score_of(done, theirs, judge)
        placed[tier] = sum(len(nodes) for nodes in done)
    return Outcome(scores, placed, wanted)


def _greedily(decision: Decision, ledger: Ledger) -> list[int]:
    place(decision, ledger)
    return [s.state.index for s in decision.standings if s.new and s.state is not None for _ in range(s.count)]


def _by_choice(decision: Decision, ledger: Ledger, choice: Choice) -> list[int]:
    rows = decision.rows
    nodes: list[int] = []
    for need in decision.needs:
        while need.count > 0 and len(rows):
            worth = np.where(fits(decision.ask, ledger, rows), choice(decision, ledger, rows), -np.inf)
            at = int(np.argmax(worth))
            if worth[at] == -np.inf:
                break
            state = ledger.states[rows[at]]
            ledger.place(decision.ask.index, state)
            nodes.append(state.index)
            need.count -= 1
    return nodes


def at_random(seed: int) -> Choice:
    draw = random.Random(seed)
    return lambda _, __, rows: np.array([draw.random() for _ in rows])


def _requested(decision: Decision, ledger: Ledger, rows: Rows) -> Floats:
    """Mean share of cpu and memory that is requested once the replica is there."""
    need, table = decision.ask.request, ledger.columns
    cpu = (table.requested_cpu[rows] + need.cpu) / np.maximum(table.allocatable_cpu[rows], 1)
    memory = (table.requested_memory[rows] + need.memory) / np.maximum(table.allocatable_memory[rows], 1)
    mean: Floats = (cpu + memory) / 2
    return mean


def least_allocated(decision: Decision, ledger: Ledger, rows: Rows) -> Floats:
    """NodeResourcesFit with LeastAllocated, kube-scheduler's default."""
    return 1 - _requested(decision, ledger, rows)


def most_allocated(decision: Decision, ledger: Ledger, rows: Rows) -> Floats:
    return _requested(decision, ledger, rows)


def target_load(decision: Decision, ledger: Ledger, rows: Rows) -> Floats:
    """TargetLoadPacking of kubernetes-sigs/scheduler-plugins: best at 40% of live cpu, the new pod's request added."""
    need, table = decision.ask.request, ledger.columns
    used = table.cpu[rows] + (table.in_flight_cpu[rows] + need.cpu) / 1000
    share = used / np.maximum(table.allocatable_cpu[rows] / 1000, 1e-9)
    rising = (1 - TARGET) * share / TARGET + TARGET
    return np.where(share <= TARGET, rising, np.where(share <= 1, TARGET * (1 - share) / (1 - TARGET), 0.0))


def missing_is_zero(fleet: Fleet) -> Fleet:
    """A node without a sample, or with one that is older than two scrapes, is taken for idle."""
    oldest = fleet.now - 2 * fleet.scrape_interval

    def known(node: Node) -> Node:
        cpu, memory = node.live.cpu, node.live.memory
        zero = Sample(0.0, fleet.now)
        return replace(
            node,
            live=Live(
                cpu if cpu is not None and cpu.at >= oldest else zero,
                memory if memory is not None and memory.at >= oldest else zero,
            ),
        )

    return replace(fleet, nodes=tuple(known(node) for node in fleet.nodes))


def age_ignored(fleet: Fleet) -> Fleet:
    """The last sample is the truth, however old."""

    def fresh(sample: Sample | None) -> Sample | None:
        return None if sample is None else replace(sample, at=fleet.now)

    nodes = (replace(n, live=Live(fresh(n.live.cpu), fresh(n.live.memory))) for n in fleet.nodes)
    return replace(fleet, nodes=tuple(nodes))
