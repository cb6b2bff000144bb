"""100 jobs placed by metrics of some age, against what fresh ones would have said.

Each node's cpu wanders about a mean of its own, which has to do with what is requested there, as an Ornstein-Uhlenbeck
process does: exp(-age/TAU) of a deviation is left after `age` seconds. A miss is a job whose node, by the figures of
now, scores more than GAIN below the node that a plan by those figures gives it: what would be worth a move.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

from edgeward.fleet.model import Fleet, Live, Node, Sample
from edgeward.placement import PlanSettings, plan
from edgeward.placement.ask import Ask
from edgeward.placement.ledger import Ledger
from edgeward.placement.scoring import Company, Scorer

from .placement_fleets import NOW, fleet
from .placement_policies import age_ignored, missing_is_zero

AGES = (0, 30, 60, 180, 300)
TAU = 90.0
SPREAD = 0.25
"""standard deviation of a node's load about its mean, as a share of its cores"""
JOBS, NODES = 100, 200
SETTINGS = PlanSettings()


def pair(age: float, seed: int) -> tuple[Fleet, Fleet]:
    """The fleet by the figures of now, and by those of `age` seconds ago."""
    base = fleet(JOBS, NODES, seed)
    draw = random.Random(f"stale/{seed}")
    left = math.exp(-age / TAU)
    now_nodes, old_nodes = [], []
    for node in base.nodes:
        mean = min(0.9, node.foreign.cpu / node.allocatable.cpu * draw.uniform(0.7, 1.3))
        then = draw.gauss(0, SPREAD)
        now = left * then + math.sqrt(1 - left * left) * draw.gauss(0, SPREAD)
        now_nodes.append(_with_load(node, mean + now, NOW))
        old_nodes.append(_with_load(node, mean + then, NOW - age))
    jobs = tuple(replace(job, replicas=1) for job in base.jobs)
    return replace(base, nodes=tuple(now_nodes), jobs=jobs), replace(base, nodes=tuple(old_nodes), jobs=jobs)


def _with_load(node: Node, share: float, at: float) -> Node:
    cores = node.allocatable.cpu / 1000
    memory = Sample(float(node.foreign.memory), at)
    return replace(node, live=Live(Sample(min(0.99, max(0.01, share)) * cores, at), memory))


def misses(now: Fleet, seen: Fleet) -> int:
    """Jobs that the figures `seen` send where, by those of now, they are worse off than need be."""
    best, decided = plan(now, SETTINGS), plan(seen, SETTINGS)
    ledger = Ledger(now, SETTINGS)
    count = 0
    for index, job in enumerate(now.jobs):
        ours, theirs = decided.job(job.key), best.job(job.key)
        if not (ours and theirs and ours.placements and theirs.placements):
            continue
        scorer = Scorer(Ask(index, job, ledger), SETTINGS)
        scores = []
        for spot in (ours.placements[0], theirs.placements[0]):
            state = ledger.find(spot.site, spot.node)
            assert state is not None
            scores.append(scorer.score(state, Company(), present=False, stays=False))
        count += scores[0] < scores[1] - SETTINGS.gain
    return count


def measure(seeds: int) -> dict[str, float]:
    """Mean misses of 100 jobs, by age and by how the age is taken."""
    figures: dict[str, float] = {}
    for age in AGES:
        found = {"": 0, "_missing_is_zero": 0, "_age_ignored": 0}
        for seed in range(seeds):
            now, old = pair(age, seed)
            found[""] += misses(now, old)
            found["_missing_is_zero"] += misses(now, missing_is_zero(old))
            found["_age_ignored"] += misses(now, age_ignored(old))
        figures |= {f"stale_misses_{age}{how}": round(count / seeds, 2) for how, count in found.items()}
    return figures
