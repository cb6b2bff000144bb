"""The full solve: where the replicas that want a place should go, priority tier by priority tier from the top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from edgeward.fleet.model import Fleet
from edgeward.placement.decide import Decision, begin, place, settle_at
from edgeward.placement.ledger import Ledger
from edgeward.placement.model import Guidance, TierShare
from edgeward.placement.order import Turn, turns
from edgeward.placement.settings import PlanSettings
from edgeward.placement.solve.bound import choices_of_nodes, tight_bound
from edgeward.placement.solve.improve import improve
from edgeward.placement.solve.lp import relax
from edgeward.placement.solve.packing import Where, put, round_up, score_of, take_back
from edgeward.placement.solve.relax import Clock, Limits, Prices, Relaxation, Tier, bound, tier_of
from edgeward.placement.solve.wants import Want, wants_of
from edgeward.placement.waiting import waiting

DEFAULTS = Limits()


def no_time() -> float:
    return 0.0


def worth_solving(fleet: Fleet, settings: PlanSettings) -> bool:
    """Whether so many replicas want a place that choosing for all of them at once pays."""
    return sum(waiting(fleet).values()) >= settings.worth_solving


def solve(fleet: Fleet, settings: PlanSettings, *, limits: Limits = DEFAULTS, clock: Clock = no_time) -> Guidance:
    """Advice for `plan`. The same Fleet, settings and limits give the same advice, unless the backstop strikes, which
    the advice then says. `clock`: seconds since the start; without one the backstop never strikes."""
    ledger = Ledger(fleet, settings)
    targets: dict[str, dict[tuple[str, str], int]] = {}
    tiers: list[TierShare] = []
    struck = False
    for tier, group in groupby(turns(fleet, settings), key=lambda turn: turn.tier):
        decisions = _begin(list(group), ledger, settings)
        wanted = sum(need.count for d in decisions for need in d.needs if d.turn.job.model_digest)
        if not wanted:
            continue
        outcome = _solve_tier(decisions, ledger, limits, clock)
        struck = struck or outcome.struck
        placed = 0
        for want, nodes in zip(outcome.wants, outcome.where, strict=True):
            mine = targets.setdefault(want.decision.turn.job.key, {})
            for node in nodes:
                spot = ledger.states[node].site.name, ledger.states[node].node.name
                mine[spot] = mine.get(spot, 0) + 1
            placed += len(nodes)
        tiers.append(TierShare(tier, wanted, placed, outcome.score))
    return Guidance(
        made_at=fleet.now,
        targets={
            key: tuple((site, node, count) for (site, node), count in sorted(spots.items()))
            for key, spots in sorted(targets.items())
            if spots
        },
        tiers=tuple(tiers),
        backstop=struck,
    )


def bounded(fleet: Fleet, settings: PlanSettings, advice: Guidance, *, limits: Limits = DEFAULTS) -> Guidance:
    """The advice with the bound of each tier, on what its own higher tiers left of the same Fleet. It changes nothing of
    what is advised, so nobody has to wait for it."""
    ledger = Ledger(fleet, settings)
    known = {share.tier: share for share in advice.tiers}
    tiers: list[TierShare] = []
    for tier, group in groupby(turns(fleet, settings), key=lambda turn: turn.tier):
        decisions = _begin(list(group), ledger, settings)
        share = known.get(tier)
        if share is None:
            continue
        most = _bound(decisions, ledger, limits, advice)
        tiers.append(replace(share, bound=max(most, share.score)))
        for decision in decisions:
            spots = advice.targets.get(decision.turn.job.key, ())
            states = [(ledger.find(site, node), count) for site, node, count in spots]
            chosen = [state for state, count in states if state is not None for _ in range(count)]
            for state in chosen:
                ledger.place(decision.ask.index, state)
            settle_at(decision, chosen, ledger.now)
    return replace(advice, tiers=tuple(tiers))


def _bound(decisions: list[Decision], ledger: Ledger, limits: Limits, advice: Guidance) -> float:
    wants = wants_of(decisions, ledger)
    if not wants:
        return 0.0
    where: Where = []
    for want in wants:
        spots = advice.targets.get(want.decision.turn.job.key, ())
        found = (ledger.find(site, node) for site, node, _ in spots)
        where.append([state.index for state in found if state is not None])
    tier = tier_of(wants, ledger)
    prices = relax(tier, ledger, limits, no_time, where).prices
    sites, nothing = ledger.columns.site, Prices.nothing(tier.nodes)
    return min(
        bound(tier, prices, sites),
        bound(tier, nothing, sites),
        tight_bound(tier, prices, ledger, rounds=limits.prices, iterations=limits.iterations),
    )


def _begin(group: list[Turn], ledger: Ledger, settings: PlanSettings) -> list[Decision]:
    decisions = []
    for turn in group:
        try:
            decisions.append(begin(turn, ledger, settings))
        except Exception:  # noqa: S112 the plan says what is odd about this job; here it only must not stop the others
            continue
    return decisions


class _Outcome:
    def __init__(self, wants: Sequence[Want]) -> None:
        self.wants = wants
        self.where: Where = [[] for _ in wants]
        self.score = 0.0
        self.struck = False


def _solve_tier(decisions: list[Decision], ledger: Ledger, limits: Limits, since: Clock) -> _Outcome:
    """The best of several packings, which stays in the ledger."""
    wants = wants_of(decisions, ledger)
    outcome = _Outcome(wants)
    if not wants:
        return outcome
    tier = tier_of(wants, ledger)
    greedy = _greedy(wants, ledger)
    best = score_of(greedy, wants, ledger), greedy
    take_back(greedy, wants, ledger)
    relaxed = relax(tier, ledger, limits, since, greedy)
    outcome.struck = relaxed.struck
    chosen = None
    if not relaxed.struck:
        rounds, iterations = limits.choices, limits.iterations
        chosen = choices_of_nodes(tier, relaxed.prices, ledger, rounds=rounds, iterations=iterations)
    # A tier that is too large for choices of nodes has lists that are short for it: its prices may know more than they.
    for wish in (_whole(tier, relaxed), None) if chosen is None else (chosen,):
        where = round_up(tier, ledger, relaxed.prices.capacity, wish)
        score = score_of(where, wants, ledger)
        take_back(where, wants, ledger)
        if score > best[0] + 1e-9:
            best = score, where
    where = put(best[1], wants, ledger)
    improve(where, tier, ledger, limits.trials + sum(want.count for want in wants) // 2)
    outcome.where, outcome.score = where, score_of(where, wants, ledger)
    for want, nodes in zip(wants, where, strict=True):
        settle_at(want.decision, [ledger.states[node] for node in nodes], ledger.now)
    return outcome


def _greedy(wants: Sequence[Want], ledger: Ledger) -> Where:
    """What the plan would do without advice."""
    where: Where = []
    for want in wants:
        standings, before = list(want.decision.standings), want.need.count
        others = [(need, need.count) for need in want.decision.needs if need is not want.need]
        for need, _ in others:
            need.count = 0
        place(want.decision, ledger)
        added = want.decision.standings[len(standings) :]
        where.append([s.state.index for s in added if s.state is not None for _ in range(s.count)])
        want.decision.standings = standings
        want.need.count = before
        for need, count in others:
            need.count = count
    return where


def _whole(tier: Tier, relaxed: Relaxation) -> Where:
    """What the LP places in whole replicas."""
    where: Where = []
    if not relaxed.amounts:
        return [[] for _ in tier.wants]
    for want, (at, amounts) in zip(tier.wants, relaxed.amounts, strict=True):
        nodes: list[int] = []
        for position, amount in zip(at.tolist(), amounts.tolist(), strict=True):
            nodes += [int(want.rows[position])] * int(amount + 1e-6)
        where.append(nodes[: want.count])
    return where
