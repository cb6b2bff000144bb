"""What is used on each node, replicas included that no sample and no pod list shows yet.

Requests decide fit: foreign pods, and of each job the larger of what is assigned and what is still visible, so that a
replica on its way in and one on its way out both have their room. Live figures decide load, and what was decided but
cannot be in the sample yet (in flight) is added to them, so that a burst inside one scrape does not herd.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgeward.fleet.model import OWN_CLUSTER, Fleet, Job, Node, Placed, Resources, Site
from edgeward.placement.columns import Columns, Floats, Rows, floats
from edgeward.placement.freshness import STANDS_STILL, Reading, earliest_starts, read, stands_still
from edgeward.placement.learning import Failures, Learned
from edgeward.placement.pools import charge, pool_node, pool_reading
from edgeward.placement.prices import prices
from edgeward.placement.quotas import Staying, Usage
from edgeward.placement.settings import PlanSettings
from edgeward.placement.sites import Sites

Raised = tuple[bool, "NodeState | None", tuple[Staying, str] | None]


@dataclass(slots=True)
class Held:
    """Replicas of one job on one node: decided for now, the room that is taken for them, and how many are leaving."""

    decided: int = 0
    room: int = 0
    leaving: int = 0
    raised: list[Raised] = field(default_factory=list)
    """of each replica placed in this plan: whether it took room of its own, of a pool on which node, and what it
    replaces"""


@dataclass(slots=True)
class NodeState:
    """One node while a plan is being made. cpu in millicores, memory in bytes."""

    index: int
    rank: int
    """a stable order of nodes in which the name is the last thing that counts"""
    node: Node
    site: Site
    cpu: Reading
    memory: Reading
    requested: Resources
    in_flight: Resources = field(default_factory=Resources)
    held: dict[int, Held] = field(default_factory=dict)
    """by index of the job in the Fleet"""
    pool: bool = False
    """stands for an elastic site as a whole"""
    members: tuple[NodeState, ...] = ()
    """of a pool: its nodes, which are no places of their own"""
    usable: dict[int, tuple[NodeState, ...]] = field(default_factory=dict)
    """of a pool: the members that a job may use at all, once that was asked, by index of the job"""
    yielding: set[int] = field(default_factory=set)
    """jobs that give way here to one of a higher priority tier: the room that they leave is not theirs to take back"""

    @property
    def free(self) -> Resources:
        return self.node.allocatable - self.requested

    def has_room_held(self, job: int) -> bool:
        """Whether one more replica of this job takes the room of one that is leaving, and so none of its own."""
        held = self.held.get(job)
        return held is not None and held.decided < held.room and job not in self.yielding

    def calm(self) -> bool:
        """Whether nothing is leaving: only then do the figures tell what the node is like."""
        return not any(held.leaving for held in self.held.values())


def bounded_request(job: Job) -> Resources:
    """The request of one replica; never less than nothing, and a replica is always a pod."""
    need = job.request
    extended = tuple((name, amount) for name, amount in need.extended if amount > 0)
    return Resources(max(0, need.cpu), max(0, need.memory), max(1, need.pods), max(0, need.storage), extended)


@dataclass(frozen=True)
class Kinds:
    of: Rows
    """by index of Ledger.states"""
    heads: tuple[NodeState, ...]
    """one of each"""
    _alike: dict[str, tuple[Rows, list[NodeState]]] = field(default_factory=dict)

    @cached_property
    def pools(self) -> list[int]:
        return [kind for kind, head in enumerate(self.heads) if head.pool]

    def alike(self, name: str, key: Callable[[NodeState], Hashable] | None) -> tuple[Rows, list[NodeState]]:
        """Kinds that are alike in a `key`, which has a `name`: by kind the number of its group, and one of each group.
        Without a key each is a group of its own."""
        found = self._alike.get(name)
        if found is None:
            groups: dict[Hashable, int] = {}
            firsts: list[NodeState] = []
            of = []
            for kind, head in enumerate(self.heads):
                group = groups.setdefault((key(head), head.pool) if key else kind, len(groups))
                if group == len(firsts):
                    firsts.append(head)
                of.append(group)
            found = self._alike[name] = np.array(of, dtype=np.intp), firsts
        return found


class Ledger:
    """The nodes of a Fleet with what is used there; `place` and `withdraw` keep it true while a plan is made."""

    def __init__(self, fleet: Fleet, settings: PlanSettings) -> None:
        self.now = fleet.now
        self.learned = Learned(fleet, settings)
        self.prices = prices(fleet.sites)
        self.failures = Failures(fleet, settings)
        self.sites = {site.name: site for site in fleet.sites}
        self.requests = tuple(bounded_request(job) for job in fleet.jobs)
        self.index_of = {job.key: index for index, job in enumerate(fleet.jobs)}
        alone: list[NodeState] = []
        members: dict[str, list[NodeState]] = {site.name: [] for site in fleet.sites if site.elastic}
        self._running = earliest_starts(fleet.jobs)
        for index, node in enumerate(fleet.nodes):
            members.get(node.site, alone).append(self._state(index, node, fleet, settings))
        self.measured = (*alone, *(member for group in members.values() for member in group))
        """every node, those of pools among them: what has figures of its own"""
        self.measures_memory = any(node.live.memory is not None for node in fleet.nodes)
        """whether there is any figure of memory, good or bad; a fleet without one goes by what is requested"""
        pools = [self._pool(name, members[name]) for name in sorted(members)]
        self._label_names = frozenset(name for job in fleet.jobs for name in job.node_selector)
        self.states = (*alone, *pools)
        """every place: the nodes of fixed sites, and one for each elastic site"""
        for index, state in enumerate(self.states):
            state.index = index
        self.pooled = frozenset((m.site.cluster, m.node.name) for group in members.values() for m in group)
        """the nodes of pools, by cluster and name"""
        self._exact = {(state.site.name, state.node.name): state for state in self.states}
        self._by_name = {(state.site.cluster, state.node.name): state for state in self.states}
        named = Counter(state.node.name for state in self.states)
        self._only = {state.node.name: state for state in self.states if named[state.node.name] == 1}
        """by name, where one cluster alone has a node of that name"""
        self.site_use = _site_use(fleet, self.states)
        self.namespace_use = _namespace_use(fleet)
        self._staying: dict[int, dict[str | None, Staying]] = {}
        """what must leave once it is replaced, by job and by the site where its replacement must be (None: anywhere)"""
        self.spots: tuple[Counter[str], ...] = tuple(Counter() for _ in fleet.jobs)
        """replicas by site, for each job"""
        self._holders: tuple[set[int], ...] = tuple(set() for _ in fleet.jobs)
        """the nodes that have a job among `held`, for each job"""
        self.answers: dict[Hashable, Floats | None] = {}
        """of checks that cannot change during a plan, as `sieve` remembers them"""
        self._namespaces = tuple(job.namespace for job in fleet.jobs)
        signs: dict[int, list[tuple[str, int, int]]] = {}
        bound: Counter[tuple[int, int]] = Counter()
        for index, job in enumerate(fleet.jobs):
            self._enter(index, job, fleet.scrape_interval, signs, bound)
        # After what is bound: replicas of a pool that no node shows yet will take room on some node of it.
        for pool in pools:
            for index, held in pool.held.items():
                for _ in range(held.room - bound[pool.index, index]):
                    charge(pool, index, self.requests[index])
        excluded: dict[str, list[str]] = {}
        for job in fleet.jobs:
            for exclusion in job.exclusions:
                excluded.setdefault(exclusion.node, []).append(job.key)
        order = sorted(
            self.states,
            key=lambda state: (
                _likeness(state),
                sorted(signs.get(state.index, ())),
                sorted(excluded.get(state.node.name, ())),
                state.site.name,
                state.node.name,
            ),
        )
        for rank, state in enumerate(order):
            state.rank = rank
        placed = {state.site.name: state.site for state in self.states}
        self.site_list = tuple(
            {**placed, **{name: site for name, site in self.sites.items() if name not in placed}}.values()
        )
        """those that have a place first"""
        self._models: dict[str, Floats] = {}
        self.changes: list[int] = []
        """which node changed, one entry a change, so that whoever remembers figures knows what to compute again"""

    def _state(self, index: int, node: Node, fleet: Fleet, settings: PlanSettings) -> NodeState:
        def reading(what: str) -> Reading:
            is_cpu = what == "cpu"
            sample, distrust = node.live.cpu if is_cpu else node.live.memory, node.live.distrust
            if is_cpu and stands_still(sample, self._running.get(node.name), fleet.scrape_interval):
                sample, distrust = None, STANDS_STILL
            return read(
                sample,
                what=f"{what} of {node.name}",
                capacity=node.allocatable.cpu / 1000 if is_cpu else float(node.allocatable.memory),
                now=fleet.now,
                scrape_interval=fleet.scrape_interval,
                settings=settings,
                distrust=distrust,
            )

        site = self.sites.get(node.site) or Site(name=node.site, tier=node.tier)
        return NodeState(index, index, node, site, reading("cpu"), reading("memory"), node.foreign)

    def _pool(self, name: str, members: list[NodeState]) -> NodeState:
        node = pool_node(self.sites[name], members)
        cpu = pool_reading([m.cpu for m in members], [m.node.allocatable.cpu / 1000 for m in members])
        memory = pool_reading([m.memory for m in members], [float(m.node.allocatable.memory) for m in members])
        return NodeState(0, 0, node, self.sites[name], cpu, memory, node.foreign, pool=True, members=tuple(members))

    def _enter(
        self,
        index: int,
        job: Job,
        scrape_interval: float,
        signs: dict[int, list[tuple[str, int, int]]],
        bound: Counter[tuple[int, int]],
    ) -> None:
        """bound: by pool and job, how many of its replicas have a node of their own."""
        for placed in job.placed:
            state = self.find(placed.site, placed.node)
            if not given_up(job, placed, state, self.now):
                self._count(index, state.site.name if state else placed.site, max(0, placed.replicas))
            if state is None:
                continue
            assigned, visible = max(0, placed.replicas), len(placed.started)
            held = self._hold(index, state)
            before = held.room
            held.decided += assigned
            held.room += max(assigned, visible)
            held.leaving += max(0, visible - assigned)
            state.requested += self.requests[index].times(held.room - before)
            for member in state.members:
                count = placed.on.count(member.node.name)
                member.requested += self.requests[index].times(count)
                bound[state.index, index] += count
            unseen = max(0, assigned - visible)
            if state.cpu.at is not None:
                shown_from = state.cpu.at - scrape_interval
                unseen += sum(1 for started in placed.started if started > shown_from)
            state.in_flight += self.requests[index].times(unseen)
            signs.setdefault(state.index, []).append((job.key, assigned, visible))

    @cached_property
    def site_columns(self) -> Sites:
        """The sites of `site_list` as numbers."""
        return Sites(self.site_list, self.sites)

    @cached_property
    def columns(self) -> Columns:
        """The states as numbers, made when first asked for and kept true from then on."""
        number, states = self.site_columns.number, self.states
        return Columns(
            allocatable_cpu=floats([s.node.allocatable.cpu for s in states]),
            allocatable_memory=floats([s.node.allocatable.memory for s in states]),
            allocatable_pods=floats([s.node.allocatable.pods for s in states]),
            allocatable_storage=floats([s.node.allocatable.storage for s in states]),
            requested_cpu=floats([s.requested.cpu for s in states]),
            requested_memory=floats([s.requested.memory for s in states]),
            requested_pods=floats([s.requested.pods for s in states]),
            requested_storage=floats([s.requested.storage for s in states]),
            in_flight_cpu=floats([s.in_flight.cpu for s in states]),
            in_flight_memory=floats([s.in_flight.memory for s in states]),
            cpu=floats([s.cpu.value for s in states]),
            cpu_confidence=floats([s.cpu.confidence for s in states]),
            memory=floats([s.memory.value for s in states]),
            memory_confidence=floats([s.memory.confidence for s in states]),
            speed=floats([s.node.speed for s in states]),
            site=np.array([number[s.site.name] for s in states], dtype=np.intp),
            rank=np.array([s.rank for s in states], dtype=np.intp),
            pool=np.array([s.pool for s in states], dtype=np.bool_),
        )

    @cached_property
    def kinds(self) -> Kinds:
        """Nodes that no check of a job's spec or of the nodes' state can tell apart."""
        number: dict[tuple[object, ...], int] = {}
        heads: list[NodeState] = []
        of = []
        for state in self.states:
            kind = number.setdefault(_kind(state, self._label_names), len(number))
            if kind == len(heads):
                heads.append(state)
            of.append(kind)
        return Kinds(np.array(of, dtype=np.intp), tuple(heads))

    @cached_property
    def limited_sites(self) -> list[int]:
        """Numbers of the sites that have a quota."""
        return [number for number, site in enumerate(self.site_list) if self.site_use[site.name].limited]

    @cached_property
    def _rows_by_name(self) -> Mapping[str, list[int]]:
        found: dict[str, list[int]] = {}
        for state in self.states:
            found.setdefault(state.node.name, []).append(state.index)
        return found

    def rows_named(self, name: str) -> list[int]:
        """The states of that name; two clusters may have one each."""
        return self._rows_by_name.get(name, [])

    def has_model(self, digest: str) -> Floats:
        """1 for each node that has the model in its store, else 0."""
        known = self._models.get(digest)
        if known is None:
            known = floats([1.0 if digest and digest in state.node.models else 0.0 for state in self.states])
            self._models[digest] = known
        return known

    def find(self, site: str, name: str) -> NodeState | None:
        """By site and name, as two clusters may share a node's name; else by name, as a node may change its site within
        its cluster."""
        exact = self._exact.get((site, name))
        if exact is not None:
            return exact
        known, was = self._by_name.get((self.cluster(site), name)), self.sites.get(site)
        return known if known is not None or was is not None else self._only.get(name)

    def cluster(self, site: str) -> str:
        """The hub's own for a site that has no object."""
        known = self.sites.get(site)
        return known.cluster if known else OWN_CLUSTER

    def place(self, job: int, state: NodeState) -> None:
        """One more replica of the job is decided for here."""
        held = self._hold(job, state)
        held.decided += 1
        replaces = self._replace_one(job, state.site.name)
        self._count(job, state.site.name, 1)
        if held.decided > held.room:
            held.room = held.decided
            state.requested += self.requests[job]
            state.in_flight += self.requests[job]
            taken = charge(state, job, self.requests[job]) if state.pool else None
            held.raised.append((True, taken, replaces))
            self.refresh(state)
        else:
            held.raised.append((False, None, replaces))

    def _hold(self, job: int, state: NodeState) -> Held:
        self._holders[job].add(state.index)
        return state.held.setdefault(job, Held())

    def is_held(self, job: int, rows: Rows) -> NDArray[np.bool_]:
        """Where the job has replicas, or has had some."""
        if not self._holders[job]:
            return np.zeros(len(rows), dtype=np.bool_)
        held = np.zeros(len(self.states), dtype=np.bool_)
        held[list(self._holders[job])] = True
        found: NDArray[np.bool_] = held[rows]
        return found

    @cached_property
    def noted(self) -> Rows:
        """The states whose figures have something to be said about them."""
        return np.array([s.index for s in self.states if s.cpu.note or s.memory.note], dtype=np.intp)

    def take_back(self, job: int, state: NodeState) -> Raised:
        """As if the last `place` of this job here had not been; what that had done, for `put_back` and `lets_go`."""
        held = state.held[job]
        undone = held.raised.pop()
        raised, member, replaced = undone
        held.decided -= 1
        self._count(job, state.site.name, -1)
        if replaced is not None:
            staying, source = replaced
            staying.come_back(source)
            self._count_quota(job, source, 1)
        if raised:
            held.room -= 1
            state.requested -= self.requests[job]
            state.in_flight -= self.requests[job]
            if member is not None:
                member.requested -= self.requests[job]
            self.refresh(state)
        if held == Held():
            del state.held[job]
            self._holders[job].discard(state.index)
        return undone

    def put_back(self, job: int, state: NodeState, undone: Raised) -> None:
        """As if that `take_back` had not been."""
        raised, member, replaced = undone
        held = self._hold(job, state)
        held.raised.append(undone)
        held.decided += 1
        self._count(job, state.site.name, 1)
        if replaced is not None:
            staying, source = replaced
            staying.go(source)
            self._count_quota(job, source, -1)
        if raised:
            held.room += 1
            state.requested += self.requests[job]
            state.in_flight += self.requests[job]
            if member is not None:
                member.requested += self.requests[job]
            self.refresh(state)

    def lets_go(self, job: int, undone: Raised) -> None:
        """What a replica that was taken back was to replace counts for no quota any more, until it is said to stay."""
        if undone[2] is not None:
            self._count_quota(job, undone[2][1], -1)

    def refresh(self, state: NodeState) -> None:
        """Whoever changes what is used on a node, other than by `place`, calls this."""
        self.changes.append(state.index)
        if "columns" not in self.__dict__:
            return
        table, row = self.columns, state.index
        table.requested_cpu[row] = state.requested.cpu
        table.requested_memory[row] = state.requested.memory
        table.requested_pods[row] = state.requested.pods
        table.requested_storage[row] = state.requested.storage
        table.in_flight_cpu[row] = state.in_flight.cpu
        table.in_flight_memory[row] = state.in_flight.memory

    def withdraw(self, job: int, state: NodeState, count: int = 1) -> None:
        """Replicas of the job are to leave. Their room stays taken: until they are gone they use it."""
        held = self._hold(job, state)
        held.decided -= count
        held.leaving += count
        self._count(job, state.site.name, -count)

    def _count(self, job: int, site: str, replicas: int) -> None:
        """So many more of the job count at the site, for quotas and for the job's spread."""
        self._count_quota(job, site, replicas)
        self.spots[job][site] += replicas

    def _count_quota(self, job: int, site: str, replicas: int) -> None:
        """An empty site is none."""
        if not site:
            return
        cpu = self.requests[job].cpu
        if site in self.site_use:
            self.site_use[site].count(replicas, cpu)
        self.namespace_use[self._namespaces[job]].count(replicas, cpu)

    def stay_until_replaced(self, job: int, at: str | None, sites: Iterable[str], wanted: int) -> None:
        """Replicas that were withdrawn at `sites` count for the quotas on, each until one of the `wanted` new ones is
        placed instead of it, at site `at` or anywhere."""
        counts = Counter(sites)
        if not counts:
            return
        self._staying.setdefault(job, {})[at] = Staying(counts, wanted - counts.total())
        for site, count in counts.items():
            self._count_quota(job, site, count)

    def not_replaced(self, job: int, at: str | None) -> Counter[str] | None:
        """By site, those of `stay_until_replaced` that nothing replaced; they count no more. None when there were none,
        or this was asked before."""
        staying = self._staying.get(job, {}).pop(at, None)
        if staying is None:
            return None
        for site, count in staying.sites.items():
            self._count_quota(job, site, -count)
        return staying.sites

    def may_replace(self, job: int) -> bool:
        """Whether one more replica of the job may take the place of one that counts for a quota."""
        return bool(self._staying.get(job))

    def may_leave(self, job: int, site: str) -> Staying | None:
        """What one more replica at the site may replace."""
        by_need = self._staying.get(job)
        return (by_need.get(site) or by_need.get(None)) if by_need else None

    def _replace_one(self, job: int, site: str) -> tuple[Staying, str] | None:
        staying = self.may_leave(job, site)
        if staying is None:
            return None
        cpu, use = self.requests[job].cpu, self.site_use.get(site)
        full = self.namespace_use[self._namespaces[job]].lacks(cpu) is not None
        source = staying.leave_for(site, full or (use is not None and use.lacks(cpu) is not None))
        self._count_quota(job, source, -1)
        return staying, source

    def reserve(self, job: int, state: NodeState, count: int = 1) -> None:
        """Keep room for replicas of the job that come once others have left; a negative count gives it back."""
        self._count(job, state.site.name, count)
        state.requested += self.requests[job].times(count)
        self.refresh(state)

    def ranked(self, states: Iterable[NodeState]) -> list[NodeState]:
        return sorted(states, key=lambda state: state.rank)


def _site_use(fleet: Fleet, states: Iterable[NodeState]) -> dict[str, Usage]:
    """By site, those that only nodes name among them."""
    found = {state.site.name: Usage() for state in states}
    found.update((site.name, Usage(site.quota_replicas, site.quota_cpu)) for site in fleet.sites)
    return found


def _namespace_use(fleet: Fleet) -> dict[str, Usage]:
    found = {job.namespace: Usage() for job in fleet.jobs}
    found.update((item.name, Usage(item.max_replicas, item.max_cpu)) for item in fleet.namespaces)
    return found


def given_up(job: Job, placed: Placed, state: NodeState | None, now: float) -> bool:
    """Whether these replicas are away for so long that others may take their place; they then count for no quota."""
    if placed.lost_since is None or not job.replace_lost or (state and state.node.ready and state.site.connected):
        return False
    return now - placed.lost_since >= job.lost_after


_OWN_NAME = frozenset({"kubernetes.io/hostname"})


def _likeness(state: NodeState) -> tuple[object, ...]:
    """Everything that can matter to some job but the node's name, as something that sorts."""
    node, site = state.node, state.site
    return (
        (-node.allocatable.cpu, -node.allocatable.memory, -node.allocatable.pods),
        (-node.allocatable.storage, node.allocatable.extended, node.foreign.storage, node.foreign.extended),
        (node.foreign.cpu, node.foreign.memory, node.foreign.pods),
        (-state.cpu.confidence, state.cpu.value, -state.memory.confidence, state.memory.value),
        (-node.speed, node.tier, node.arch, not node.ready, node.unschedulable),
        (not site.connected, site.unschedulable, site.frozen, -(site.bandwidth or 0.0), site.rtt or 0.0),
        (site.region, *(-1.0 if price is None else price for price in (site.cost_cpu_hour, site.cost_egress_gib))),
        tuple(-1 if x is None else x for x in (site.watts_per_cpu, site.quota_replicas, site.quota_cpu)),
        sorted(node.models),
        sorted((key, value) for key, value in node.labels.items() if key not in _OWN_NAME),
        sorted((taint.key, taint.value, taint.effect) for taint in node.taints),
    )


def _kind(state: NodeState, labels: frozenset[str]) -> tuple[object, ...]:
    """All that SPEC_CHECKS and STATE_CHECKS may look at; `labels` are those that some job asks for."""
    node = state.node
    return (
        state.site.name,
        state.index if state.pool else -1,
        (node.tier, node.arch, node.ready, node.not_ready_since, node.unschedulable, node.speed),
        node.taints,
        node.allocatable,
        _some(node.labels, labels),
    )


def _some(labels: Mapping[str, str], names: frozenset[str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, labels[name]) for name in names if name in labels))
