"""The least extra capacity that places all that waits, found with the planner itself: it is asked again and again with
more nodes of one kind. No other reckoning of what fits could disagree with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from edgeward.api.reasons import Rejection
from edgeward.fleet.model import Fleet
from edgeward.placement.change import TIERS, Shape, common_shape, with_nodes
from edgeward.placement.distance import site_labels
from edgeward.placement.whatif import Decide

MOST_NODES = 1024
MOST_PLANS = 80
ONE_BY_ONE = 8
"""up to so many nodes every smaller count is tried too; beyond, the range is halved each time"""
SITES_TRIED = 2
NOT_ROOM = frozenset(
    reason.value
    for reason in (
        Rejection.INVALID_SPEC,
        Rejection.POLICY_FORBIDS,
        Rejection.NO_RUNNABLE_MODEL,
        Rejection.QUOTA_EXCEEDED,
        Rejection.PENDING_EVALUATION,
    )
) | {"FeatureNotYetAvailable", "ResidencyForbids"}
"""why a job waits that no node changes"""


@dataclass(frozen=True, slots=True)
class Addition:
    shape: Shape
    count: int


@dataclass(frozen=True, slots=True)
class Extra:
    """One way to place what waits."""

    additions: tuple[Addition, ...]
    replicas: int
    """that it places"""
    exact: bool
    """every smaller number of these nodes was tried and does not do; else the number is an upper bound"""


@dataclass(slots=True)
class Search:
    """What came out, and what it cost."""

    waiting: int
    """replicas that room could place"""
    ways: list[Extra] = field(default_factory=list)
    """each with nodes of one kind, the fewest nodes first; or one with several kinds, when no kind alone will do"""
    left: int = 0
    """replicas that nothing of what was tried places"""
    plans: int = 0
    ended: bool = False
    """whether it ended because it had made as many plans as it may"""


class _OutOfPlans(Exception):
    pass


class _Planner:
    """Counts plans, and asks for none twice."""

    def __init__(self, fleet: Fleet, decide: Decide, search: Search, most: int) -> None:
        self.fleet = fleet
        self._decide = decide
        self._search = search
        self._most = most
        self._known: dict[tuple[object, ...], int] = {}
        self.waiting = self._missing(fleet)

    def placed(self, additions: Sequence[Addition]) -> int:
        """How many of the waiting replicas these nodes place."""
        key = tuple((item.shape.tier, item.shape.at, id(item.shape), item.count) for item in additions)
        if key not in self._known:
            if self._search.plans >= self._most:
                raise _OutOfPlans
            fleet = self.fleet
            for item in additions:
                if item.count:
                    fleet = with_nodes(fleet, item.shape, item.count)
            self._known[key] = self.waiting - self._missing(fleet)
            self._search.plans += 1
        return self._known[key]

    def _missing(self, fleet: Fleet) -> int:
        made = self._decide(fleet)
        return sum(job.missing for job in made.jobs if job.reason not in NOT_ROOM)


def least(fleet: Fleet, decide: Decide, *, shapes: Sequence[Shape] = (), most_plans: int = MOST_PLANS) -> Search:
    """For a Fleet whose plan was carried out. shapes: what may be added; empty: of each tier the kind of node that it
    has most of, at the sites where most of what waits may run."""
    search = Search(waiting=0)
    planner = _Planner(fleet, decide, search, most_plans)
    search.waiting = planner.waiting
    if not planner.waiting:
        return search
    try:
        tried = shapes or _shapes(planner)
        for shape in shapes or _one_a_tier(tried, planner):
            count = _fewest(shape, (), planner, goal=planner.waiting)
            if count is not None:
                search.ways.append(_way((Addition(shape, count),), planner.waiting))
        search.ways.sort(key=lambda way: way.additions[0].count)
        if not search.ways:
            _several(tried, planner, search)
    except _OutOfPlans:
        search.ended = True
    search.left = planner.waiting - max((way.replicas for way in search.ways), default=0)
    return search


def _one_a_tier(shapes: Sequence[Shape], planner: _Planner) -> Iterable[Shape]:
    """Of each tier the shape that places most when there is plenty of it; none that places nothing."""
    best: dict[str, tuple[int, Shape]] = {}
    for shape in shapes:
        placed = planner.placed((Addition(shape, _plenty(planner)),))
        if placed and (shape.tier not in best or placed > best[shape.tier][0]):
            best[shape.tier] = (placed, shape)
    return [shape for _, shape in best.values()]


def _fewest(shape: Shape, beside: tuple[Addition, ...], planner: _Planner, *, goal: int) -> int | None:
    """The fewest nodes of the shape that, beside others, place `goal` replicas; None when no number up to one a
    waiting replica does."""
    most = _plenty(planner)

    def enough(count: int) -> bool:
        return planner.placed((*beside, Addition(shape, count))) >= goal

    if not enough(most):
        return None
    for count in range(1, min(most, ONE_BY_ONE) + 1):
        if enough(count):
            return count
    low, high = ONE_BY_ONE, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _several(shapes: Sequence[Shape], planner: _Planner, search: Search) -> None:
    """Kind by kind, the one that places most first, each with as few nodes as do what plenty of it would."""
    chosen: tuple[Addition, ...] = ()
    reached = 0
    rest = list(shapes)
    while rest and reached < planner.waiting:
        gains = [planner.placed((*chosen, Addition(shape, _plenty(planner)))) for shape in rest]
        best = max(range(len(rest)), key=lambda at: (gains[at], -at))
        if gains[best] <= reached:
            break
        shape = rest.pop(best)
        count = _fewest(shape, chosen, planner, goal=gains[best])
        assert count is not None  # that many were placed with plenty of it
        chosen, reached = (*chosen, Addition(shape, count)), gains[best]
    if chosen:
        search.ways = [replace(_way(chosen, reached), exact=False)]


def _way(additions: tuple[Addition, ...], replicas: int) -> Extra:
    exact = len(additions) == 1 and additions[0].count <= ONE_BY_ONE
    return Extra(additions, replicas, exact)


def _plenty(planner: _Planner) -> int:
    """A node for each waiting replica: if that does not do, no number does."""
    return min(planner.waiting, MOST_NODES)


def _shapes(planner: _Planner) -> list[Shape]:
    """Of each tier the most common kind of node, at the few sites where most of what waits may run."""
    fleet = planner.fleet
    waiting = [job for job in fleet.jobs if job.waiting_since is not None and job.problem is None]
    nodes: dict[str, int] = {}
    for node in fleet.nodes:
        nodes[node.site] = nodes.get(node.site, 0) + 1
    found = []
    for tier in TIERS:
        ranked = []
        for site in fleet.sites:
            if site.tier != tier or site.frozen or site.unschedulable or site.elastic or not nodes.get(site.name):
                continue
            labels = site_labels(site)
            wanted = sum(1 for job in waiting if tier in job.tiers and job.site_selector.matches(labels))
            ranked.append((-wanted, -nodes[site.name], site.name))
        for _, _, name in sorted(ranked)[:SITES_TRIED]:
            shape = common_shape(fleet.nodes, tier, name)
            if shape is not None:
                found.append(shape)
    return found
