"""Moves of healthy replicas: only for a gain that holds, seldom, and never on data that is not fresh."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from edgeward.fleet.model import Job, Moves, Placed, ProposedMove
from edgeward.placement.incumbents import Crowd, Standing, standing_score
from edgeward.placement.ledger import NodeState
from edgeward.placement.scoring import Scorer
from edgeward.placement.settings import PlanSettings


@dataclass(frozen=True, slots=True)
class Gain:
    """What one replica would gain by going from a standing to a node."""

    source: Standing
    target: NodeState
    gain: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to remember, and the move when its time has come."""

    proposed: ProposedMove | None
    moves: Moves
    move: Gain | None = None


class SiteBudget:
    """Moves that came to or left each site within the window. A replica that moved says when and from which site, in
    its Assignment, so that a new leader counts the same."""

    def __init__(self, jobs: Iterable[Job], now: float, settings: PlanSettings) -> None:
        self._used: Counter[str] = Counter()
        self._limit = settings.moves_per_site
        for job in jobs:
            for placed in moved_lately(job, now, settings):
                self.spend(placed.site, placed.moved_from)

    def allows(self, *sites: str) -> bool:
        return all(self._used[site] < self._limit for site in sites)

    def spend(self, *sites: str) -> None:
        for site in set(sites):
            self._used[site] += 1


def moved_lately(job: Job, now: float, settings: PlanSettings) -> list[Placed]:
    return [p for p in job.placed if p.moved_from and p.replicas and now - p.since < settings.move_window]


def current_window(job: Job, now: float, settings: PlanSettings) -> Moves:
    """The moves that still count; none once the window is over. The Assignments are written before the status is: a
    leader that died in between has left its move in the former alone."""
    moves = job.moves if job.moves.count and now - job.moves.window_start < settings.move_window else Moves()
    seen = moved_lately(job, now, settings)
    return moves if len(seen) <= moves.count else Moves(min(p.since for p in seen), len(seen))


def judge(
    job: Job,
    standings: list[Standing],
    candidates: Iterable[NodeState],
    *,
    scorer: Scorer,
    now: float,
    budget: SiteBudget,
    settings: PlanSettings,
) -> Verdict:
    """Whether one replica of this job should move now. `candidates` are the nodes that would take one more; they are
    looked at only if something may leave, so they may be dear to find."""
    window = current_window(job, now, settings)
    kept = job.moves if window.count <= job.moves.count else window
    found = _best_gain(job, standings, candidates, scorer, now, settings)
    if found is None:
        return Verdict(None, kept)
    before = job.proposed
    same = before is not None and (before.source, before.target) == (found.source.node, found.target.node.name)
    if before is None or not same:
        return Verdict(ProposedMove(found.source.node, found.target.node.name, 1, now), kept)
    if before.evaluations < settings.evaluations and now - before.last_at < settings.evaluation_interval:
        return Verdict(before, kept)
    count = min(before.evaluations + 1, settings.evaluations)
    proposed = before if count == before.evaluations else ProposedMove(before.source, before.target, count, now)
    sites = (found.source.site, found.target.site.name)
    if count < settings.evaluations or window.count >= settings.moves_per_job or not budget.allows(*sites):
        return Verdict(proposed, kept)
    budget.spend(*sites)
    return Verdict(None, Moves(window.window_start if window.count else now, window.count + 1), found)


def _best_gain(
    job: Job,
    standings: list[Standing],
    candidates: Iterable[NodeState],
    scorer: Scorer,
    now: float,
    settings: PlanSettings,
) -> Gain | None:
    """The largest gain above the bar, from the worst replica that may move; a move that is proposed already is kept as
    long as it passes the bar, so that two equal targets do not reset each other's count."""
    with_memory = scorer.ask.measures_memory
    movable = [standing for standing in standings if _may_leave(standing, now, settings, with_memory)]
    if not movable:
        return None
    crowd = Crowd(standings)
    source = min(movable, key=lambda s: (standing_score(scorer, crowd, s), s.state.rank if s.state else 0))
    here = standing_score(scorer, crowd, source)
    good_enough = 1.0 - scorer.weights["stay"] - here <= settings.gain
    before = job.proposed
    if good_enough and before is None:
        return None
    targets = [state for state in candidates if _fresh(state, with_memory) and state.calm()]
    if before is not None:
        for leaver in movable:
            for target in targets:
                if job.per_site and target.site.name != leaver.site:
                    continue
                if (leaver.node, target.node.name) == (before.source, before.target):
                    gain = _gain(scorer, crowd, leaver, target)
                    if gain > settings.gain:
                        return Gain(leaver, target, gain)
    if good_enough:
        return None
    best: Gain | None = None
    for target in targets:
        if target is source.state or (job.per_site and target.site.name != source.site):
            continue
        gain = _gain(scorer, crowd, source, target, here)
        if gain > settings.gain and (best is None or (gain, -target.rank) > (best.gain, -best.target.rank)):
            best = Gain(source, target, gain)
    return best


def _gain(scorer: Scorer, crowd: Crowd, source: Standing, target: NodeState, here: float | None = None) -> float:
    if target is source.state:
        return 0.0
    at = standing_score(scorer, crowd, source) if here is None else here
    beside = crowd.beside(target.site.name, target.node.name, without=source)
    return round(scorer.score(target, beside, present=False, stays=False) - at, 9)


def _fresh(state: NodeState, with_memory: bool) -> bool:
    """Whether all of its figures that a score rests on are believed in full. In a fleet where nothing measures memory
    at all, requests stand in for it on every node alike, and nothing about it ever becomes stale. Where something does,
    a node without a fresh figure is unknown, which is not the same as free."""
    return state.cpu.confidence >= 1 and (state.memory.confidence >= 1 or not with_memory)


def _may_leave(standing: Standing, now: float, settings: PlanSettings, with_memory: bool) -> bool:
    """Of a job that is at rest, so that its nodes are known to be there and Ready."""
    state = standing.state
    return (
        state is not None
        and not standing.new
        and not standing.frozen
        and standing.ready >= standing.count > 0
        and state.site.connected
        and _fresh(state, with_memory)
        and state.calm()
        and now - standing.since >= settings.dwell
    )
