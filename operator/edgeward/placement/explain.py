"""Why here, why not there, and what would change it, in figures and in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeward.api.reasons import NodeRejection, Rejection
from edgeward.placement.ask import Ask
from edgeward.placement.columns import Floats, Rows
from edgeward.placement.constraints import (
    CHECKS,
    FIT_CHECKS,
    SPEC_CHECKS,
    Check,
    Miss,
    first_miss,
    namespace_quota_text,
)
from edgeward.placement.incumbents import Crowd, Standing
from edgeward.placement.ledger import Ledger, NodeState
from edgeward.placement.links import ms
from edgeward.placement.model import Explanation, Rejected, RunnerUp, Term
from edgeward.placement.room import lacking_text, shares_of
from edgeward.placement.scoring import Scorer
from edgeward.placement.settings import PlanSettings
from edgeward.placement.sieve import STATIC_CHECKS, StaticMisses, fit_columns, own_or_pool

_DEPTH = {check.reason: depth for depth, check in enumerate(CHECKS)}
_SPEC = frozenset(check.reason for check in SPEC_CHECKS)
_FIT = frozenset(check.reason for check in FIT_CHECKS)


class Misses:
    """Which check each node fails first, counted, with the node that is nearest to passing."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._count: dict[NodeRejection, int] = {}
        self._nearest: dict[NodeRejection, tuple[float, int, Check, NodeState]] = {}

    def add(self, state: NodeState, miss: Miss, *, count: int = 1) -> None:
        """`count`: nodes that fail the same check, of which this one is the nearest to passing."""
        reason = miss.check.reason
        self._count[reason] = self._count.get(reason, 0) + count
        entry = (miss.distance, state.rank, miss.check, miss.at or state)
        nearest = self._nearest.get(reason)
        if nearest is None or entry[:2] < nearest[:2]:
            self._nearest[reason] = entry

    @property
    def reasons(self) -> frozenset[NodeRejection]:
        return frozenset(self._count)

    def deepest(self) -> NodeRejection | None:
        """The constraint that removed the last node: of those that were met, the one that is checked last."""
        return max(self._count, key=_DEPTH.__getitem__, default=None)

    def rejected(self, limit: int) -> tuple[Rejected, ...]:
        reasons = sorted(self._count, key=lambda reason: (-self._count[reason], _DEPTH[reason]))
        return tuple(Rejected(reason.value, self._count[reason], self.nearest(reason)) for reason in reasons[:limit])

    def nearest(self, reason: NodeRejection) -> str:
        _, _, check, state = self._nearest[reason]
        return check.miss(self._ask, state)


def sift(ask: Ask, ledger: Ledger, static: StaticMisses, rows: Rows | None = None) -> tuple[Rows, Misses]:
    """Of `rows` (of all nodes when not given) those that take one more replica, and why the others do not. `static`: the
    misses that cannot change during a plan."""
    misses = Misses(ask)
    if rows is None:
        rows = np.arange(len(ledger.states), dtype=np.intp)
    pool = ledger.columns.pool
    for row in rows[pool[rows] & ~static.passes[rows]].tolist():
        misses.add(ledger.states[row], static[row])
    barred = rows[~pool[rows] & ~static.passes[rows]]
    first, distances = static.first[barred], static.distances(barred)
    for number in np.unique(first).tolist():
        at = first == number
        _add_all(misses, STATIC_CHECKS[number], barred[at], distances[at], ledger)
    rows = rows[static.passes[rows]]
    unsure = own_or_pool(ask, ledger, rows)
    takes = ~unsure
    for check, lacks in fit_columns(ask, ledger, rows):
        if lacks is None:
            unsure |= takes
            break
        at = takes & ~np.isnan(lacks)
        _add_all(misses, check, rows[at], np.broadcast_to(lacks, at.shape)[at], ledger)
        takes &= ~at
    for at in np.nonzero(unsure)[0].tolist():
        state = ledger.states[rows[at]]
        miss = first_miss(ask, state, FIT_CHECKS)
        if miss is None:
            takes[at] = True
        else:
            misses.add(state, miss)
    return rows[takes], misses


def _add_all(misses: Misses, check: Check, rows: Rows, distances: Floats, ledger: Ledger) -> None:
    """All of these nodes fail this check first; the nearest is the one with the least distance, then by rank."""
    if not len(rows):
        return
    nearest = rows[distances == np.min(distances)]
    row = int(nearest[np.argmin(ledger.columns.rank[nearest])])
    misses.add(ledger.states[row], Miss(check, float(np.min(distances))), count=len(rows))


def why_missing(ask: Ask, states: Sequence[NodeState], misses: Misses) -> tuple[str, str]:
    """The reason and the message when no node takes one more replica; where several hold, the one that is declared first
    in `Rejection`."""
    if not states:
        return Rejection.NO_CAPACITY.value, "0/0 nodes fit: the fleet has no node that is labeled for placement"
    deepest = misses.deepest()
    rejected = misses.rejected(len(_DEPTH))
    parts = []
    for entry in rejected:
        shown = entry.reason == deepest or entry.reason in _FIT
        if entry.reason == NodeRejection.BACKLOG_TOO_LONG:
            # Which nodes, and how many, is another answer with every sample, and the message is written when it changes.
            parts.append(f"others {entry.reason} (too busy now for slo.latency {ms(ask.job.slo_latency or 0.0)})")
            continue
        parts.append(f"{entry.count} {entry.reason}" + (f" (nearest: {entry.nearest_miss})" if shown else ""))
    counts = f"0/{len(states)} nodes fit: " + ", ".join(parts)
    too_big = _too_big(ask, states)
    if too_big:
        return Rejection.TOO_BIG_FOR_ANY_NODE.value, f"{too_big}; {counts}"
    if ask.over_namespace_quota() is not None:
        return Rejection.QUOTA_EXCEEDED.value, f"{namespace_quota_text(ask)}; {counts}"
    if deepest is None or deepest not in _FIT:
        return (deepest.value if deepest else Rejection.NO_CAPACITY.value), counts
    if not misses.reasons & (_FIT - {NodeRejection.SITE_QUOTA_EXCEEDED}):
        return Rejection.QUOTA_EXCEEDED.value, counts
    return Rejection.NO_CAPACITY.value, counts


def _too_big(ask: Ask, states: Sequence[NodeState]) -> str:
    """By how much the request exceeds the biggest allowed node even when that is empty; "" when it would fit one."""
    allowed = [
        node
        for state in states
        if first_miss(ask, state, SPEC_CHECKS) is None
        for node in (state.members if state.pool else (state,))
    ]
    if not allowed or any(state.node.allocatable.covers(ask.request) for state in allowed):
        return ""

    def overshoot(state: NodeState) -> tuple[float, int]:
        return max(shares_of(ask.request, state.node.allocatable)), state.rank

    biggest = min(allowed, key=overshoot)
    lacks = lacking_text(ask.request, biggest.node.allocatable)
    return f"even empty, {biggest.node.name}, the biggest node that it may use, lacks {lacks}"


def explain(
    ask: Ask,
    standings: list[Standing],
    others: Rows,
    scorer: Scorer,
    ledger: Ledger,
    misses: Misses,
    settings: PlanSettings,
    *,
    order: str,
    notes: list[str],
) -> Explanation:
    """The best node that holds a replica, beside the best ones that could hold it instead.

    `others` take a replica and hold none. They are scored as if that one replica were there and not where it is, so
    that the scores compare.
    """
    crowd = Crowd(standings)
    scored = [
        (scorer.score(s.state, crowd.beside(s.site, s.node, without=s), present=True, stays=not s.new), s)
        for s in standings
        if s.state is not None
    ]
    rejected = misses.rejected(settings.rejected)
    if not scored:
        return Explanation(rejected=rejected, notes=tuple(notes[: settings.notes]), order=order)
    score, best = min(scored, key=lambda entry: (-entry[0], entry[1].state.rank if entry[1].state else 0))
    state = best.state
    assert state is not None
    terms = scorer.terms(state, crowd.beside(best.site, best.node, without=best), present=True, stays=not best.new)
    scores, capability = scorer.judge(ledger, others, crowd.at_site, best.site)
    capability = max(capability, scorer.capability(state, present=True))
    runners = []
    for at in _first(settings.runners_up, -scores, ledger.columns.rank[others]):
        other, negative = ledger.states[others[at]], -float(scores[at])
        beside = crowd.beside(other.site.name, other.node.name, without=best)
        other_terms = scorer.terms(other, beside, present=False, stays=False)
        why = _why_lower(terms, other_terms, -negative - score, settings.gain)
        figures = scorer.figures(other, present=False, best_capability=capability)
        runners.append(RunnerUp(other.node.name, other.site.name, -negative, other_terms, why, figures))
    doubts = [note for note in (state.cpu.note, state.memory.note) if note]
    if state.cpu.confidence < 1:
        doubts.append(f"cpu of {best.node} is believed to {state.cpu.confidence:.0%}, the rest is its requests")
    return Explanation(
        node=best.node,
        terms=terms,
        figures=scorer.figures(state, present=True, best_capability=capability),
        runners_up=tuple(runners),
        rejected=rejected,
        data_age=state.cpu.age,
        notes=tuple((doubts + notes)[: settings.notes]),
        order=order,
    )


def _first(count: int, keys: Floats, ranks: Rows) -> list[int]:
    """Positions of the smallest, in order; of equals by rank."""
    near = np.arange(len(keys))
    if len(keys) > count > 0:
        near = np.nonzero(keys <= np.partition(keys, count - 1)[count - 1])[0]
    found: list[int] = near[np.lexsort((ranks[near], keys[near]))][:count].tolist()
    return found


def _why_lower(chosen: tuple[Term, ...], other: tuple[Term, ...], advantage: float, gain: float) -> str:
    if advantage > 0:
        return f"scores {advantage:.3f} more; a replica moves only for more than {gain:.2f} that lasts"
    name, cost = max(
        ((mine.name, mine.weight * (mine.value - theirs.value)) for mine, theirs in zip(chosen, other, strict=True)),
        key=lambda entry: entry[1],
    )
    return f"{name} costs it {cost:.3f}" if cost > 0 else "equal; the order of nodes decided"
