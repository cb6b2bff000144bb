"""What a job has already: what stays, what must go elsewhere, what is lost, and what goes when fewer are wanted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from edgeward.fleet.model import Job, Placed
from edgeward.fleet.names import is_pool
from edgeward.placement.ask import Ask
from edgeward.placement.constraints import DRAIN_CHECKS, INCUMBENT_CHECKS, first_miss
from edgeward.placement.ledger import Ledger, NodeState
from edgeward.placement.scoring import Company, Scorer
from edgeward.placement.settings import PlanSettings


@dataclass(slots=True)
class Standing:
    """Replicas of one job on one node, while a plan is made."""

    node: str
    site: str
    tier: str
    state: NodeState | None
    """None: the node is not in the Fleet"""
    count: int
    ready: int
    since: float
    ailing: bool = False
    """its node is away or not ready, but not for long enough to be lost"""
    frozen: bool = False
    new: bool = False
    """decided for in this plan"""
    moved_from: str = ""
    """the site that a replica left to come here, when it moved because that gained"""
    why: str = ""
    """of a misplaced one: what it fails, for people"""
    reason: str = ""


@dataclass(slots=True)
class Incumbents:
    kept: list[Standing] = field(default_factory=list)
    misplaced: list[Standing] = field(default_factory=list)
    """there, but not allowed there any more or refused; to be placed anew"""
    lost: list[Standing] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def healthy(self) -> int:
        return sum(standing.count for standing in self.kept)


def sort_out(ask: Ask, ledger: Ledger, settings: PlanSettings) -> Incumbents:
    found = Incumbents()
    for placed in ask.job.placed:
        if placed.replicas > 0:
            _sort_out_one(ask, placed, ledger, settings, found)
    return found


def _sort_out_one(ask: Ask, placed: Placed, ledger: Ledger, settings: PlanSettings, found: Incumbents) -> None:
    state = ledger.find(placed.site, placed.node)
    site = ledger.sites.get(placed.site)
    there = state is not None and state.node.ready and state.site.connected
    standing = Standing(
        node=placed.node,
        site=state.site.name if state else placed.site,
        tier=state.node.tier if state else (site.tier if site else ""),
        state=state,
        count=placed.replicas,
        ready=min(max(0, placed.ready), placed.replicas),
        since=placed.since,
        ailing=not there and (placed.lost_since is not None or state is None or not state.node.ready),
        frozen=bool((site and site.frozen) or (state and state.site.frozen)),
        moved_from=placed.moved_from,
    )
    whole = site is not None and site.elastic
    if (
        is_pool(placed.node) != whole or (ledger.cluster(placed.site), placed.node) in ledger.pooled
    ) and not standing.frozen:
        # The site was turned from fixed to elastic or back, or its Site object is gone.
        standing.reason = "NodePoolChanged"
        standing.why = f"{placed.node} is no place any more: the site's spec.nodes changed"
        found.misplaced.append(standing)
        return
    away = None if placed.lost_since is None or there else ask.now - placed.lost_since
    # What a site that is cut off has is not known; that its nodes are not seen here says nothing.
    unseen = state is None and (site is None or site.connected)
    if unseen and away is not None and away >= settings.gone_after and not standing.frozen:
        found.notes.append(f"{placed.node} is gone for {away:.0f} s: what it held is given up")
        return
    if away is not None and away >= ask.job.lost_after:
        if ask.job.replace_lost:
            found.lost.append(standing)
            return
        found.notes.append(f"{placed.node} is away for {away:.0f} s; nothing takes its place (disconnect.replace)")
    if state is None or standing.frozen:
        found.kept.append(standing)
        return
    miss = first_miss(ask, state, INCUMBENT_CHECKS)
    if miss is None and there and not state.pool:
        miss = first_miss(ask, state, DRAIN_CHECKS)
    if miss is not None and (away is None or ask.job.replace_lost):
        standing.reason, standing.why = miss.check.reason.value, miss.check.miss(ask, miss.at or state)
        found.misplaced.append(standing)
        return
    exclusion = ask.excluded.get(placed.node)
    refused = standing.count - standing.ready
    if exclusion is None or refused == 0:
        found.kept.append(standing)
        return
    if standing.ready:
        found.kept.append(_part(standing, count=standing.ready, ready=standing.ready))
    turned_away = _part(standing, count=refused, ready=0)
    turned_away.reason, turned_away.why = "Excluded", f"{placed.node} refused it ({exclusion.reason})"
    found.misplaced.append(turned_away)


def _part(standing: Standing, *, count: int, ready: int) -> Standing:
    return Standing(
        standing.node,
        standing.site,
        standing.tier,
        standing.state,
        count,
        ready,
        standing.since,
        standing.ailing,
        standing.frozen,
        moved_from=standing.moved_from,
    )


class Crowd:
    """How many replicas of one job are on each node and at each site."""

    def __init__(self, standings: Iterable[Standing]) -> None:
        self.on_node: Counter[tuple[str, str]] = Counter()
        self.at_site: Counter[str] = Counter()
        for standing in standings:
            self.on_node[standing.site, standing.node] += standing.count
            self.at_site[standing.site] += standing.count

    def beside(self, site: str, node: str, *, without: Standing | None = None) -> Company:
        """The other replicas beside one at (site, node); `without`: as if one replica of this standing were away."""
        on_node, at_site = self.on_node[site, node], self.at_site[site]
        if without is not None:
            on_node -= int(without.node == node and without.site == site)
            at_site -= int(without.site == site)
        return Company(max(0, on_node), max(0, at_site))


def standing_score(scorer: Scorer, crowd: Crowd, standing: Standing) -> float:
    """Of one replica where it is; 0 on a node that is not in the Fleet."""
    if standing.state is None:
        return 0.0
    beside = crowd.beside(standing.site, standing.node, without=standing)
    return scorer.score(standing.state, beside, present=True, stays=not standing.new)


def drop_surplus(
    surplus: int, standings: list[Standing], scorer: Scorer, ledger: Ledger, job: int, gain: float
) -> list[str]:
    """Take `surplus` replicas away, the worst first: on an ailing node, then not ready, then the lowest score. Scores
    closer than the gain that justifies a move count as equal, and then the newer goes: what came back after its
    replacement was placed has the older right. What the job's minSites needs goes last. Frozen ones never go. Returns
    notes."""
    notes = []
    while surplus > 0:
        loose = [standing for standing in standings if standing.count > 0 and not standing.frozen]
        if not loose:
            notes.append(f"{surplus} replicas more than wanted stay at frozen sites")
            break
        victim, count = _worst(loose, standings, scorer, gain, surplus)
        victim.count -= count
        victim.ready = min(victim.ready, victim.count)
        surplus -= count
        if victim.state is not None:
            ledger.withdraw(job, victim.state, count)
    standings[:] = [standing for standing in standings if standing.count > 0]
    return notes


def _worst(
    loose: list[Standing], standings: list[Standing], scorer: Scorer, gain: float, surplus: int
) -> tuple[Standing, int]:
    """The standing to take from next and how many at once; by score one at a time, unless hundreds have to go."""
    ailing = [standing for standing in loose if standing.ailing]
    if ailing:
        victim = max(ailing, key=_newness)
        return victim, min(surplus, victim.count)
    crowd = Crowd(standings)
    if sites_short(scorer.ask.job, crowd) >= 0:
        beside = [standing for standing in loose if crowd.at_site[standing.site] > 1]
        loose, surplus = beside or loose, 1
    starting = [standing for standing in loose if standing.ready < standing.count]
    if starting:
        victim = max(starting, key=_newness)
        return victim, min(surplus, victim.count - victim.ready)
    scores = [standing_score(scorer, crowd, standing) for standing in loose]
    bar = min(scores) + gain
    band = [(standing, score) for standing, score in zip(loose, scores, strict=True) if score < bar]
    victim = max(band, key=lambda entry: (entry[0].since, -entry[1], _rank(entry[0])))[0]
    return victim, min(victim.count, max(1, surplus // 50))


def sites_short(job: Job, crowd: Crowd) -> int:
    """How many more sites the job's replicas should be at for spread.minSites; 0 when they are at just as many, and less
    when at more, or when it asks for none."""
    if job.min_sites is None or job.per_site:
        return -1
    used = sum(1 for count in crowd.at_site.values() if count > 0)
    return min(job.min_sites, max(0, job.replicas)) - used


def _newness(standing: Standing) -> tuple[float, int]:
    return standing.since, _rank(standing)


def _rank(standing: Standing) -> int:
    return -1 if standing.state is None else standing.state.rank
