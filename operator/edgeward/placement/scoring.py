"""How good a node is for one replica of a job: a weighted mean of terms, each 0..1.

Every figure is "as if the replica were there". So a node that holds it (or will) is judged as it is, and any other with
the request added; the two can then be compared, for a choice and for a move alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cached_property
from typing import NamedTuple

import numpy as np

from edgeward.fleet.model import Resources, Site
from edgeward.placement import formulas
from edgeward.placement.ask import Ask
from edgeward.placement.columns import MANY, ONE, TINY, Floats, Number, Ops, Rows, floats
from edgeward.placement.freshness import blend
from edgeward.placement.ledger import Ledger, NodeState
from edgeward.placement.model import Figures, Term
from edgeward.placement.settings import PlanSettings, Weights
from edgeward.placement.worth import SITE_TERMS, SiteTerms, yardstick

PRECISION = 9
"""decimals to which scores are compared, so that the order of additions decides nothing"""


Added = tuple[Number, Number]
"""cpu in millicores and memory in bytes"""


class Company(NamedTuple):
    """How many other replicas of the same job are on the node and at its site."""

    on_node: int = 0
    at_site: int = 0


class SiteFacts(NamedTuple):
    """What a score of one job looks at of a whole site: floats of one, or columns of all. A term that rests on the site
    alone gets its figure here."""

    transfer: Number
    """T_d in seconds; 0 where no request was measured or nothing is known"""
    slowness: Number = 1.0
    """measured over predicted seconds of one request, as far as it was learned"""
    worth: Number = 0.0
    """weighted sum of the terms that rest on the site alone"""


class Facts(NamedTuple):
    """All that a score looks at, "as if the replica were there": floats of one node, or columns of many."""

    cores: Number
    memory: Number
    """bytes"""
    requested_cores: Number
    requested_memory: Number
    in_flight_cores: Number
    in_flight_memory: Number
    cpu: Number
    """cores by the live figure"""
    cpu_confidence: Number
    live_memory: Number
    memory_confidence: Number
    speed: Number
    model: Number
    """1 when the model is in the node's store, else 0"""
    failure: Number
    """1 where nothing failed of late, toward 0"""
    site: SiteFacts


class Values(NamedTuple):
    """The terms' values and the figures that they come from; floats or columns, as the facts were."""

    headroom: Number
    load_term: Number
    completion_term: Number
    model: Number
    failure: Number
    worth: Number
    load: Number
    free_cores: Number
    in_flight_cores: Number
    service: Number
    """T: seconds of one request here; in units of the reference when nothing was measured"""
    completion: Number


class Scorer:
    """Scores of one job; what does not depend on the node is computed once."""

    def __init__(self, ask: Ask, settings: PlanSettings) -> None:
        self.ask = ask
        self.settings = settings
        self.measured = ask.service is not None
        self.reference = 1.0 if ask.service is None else ask.service
        self.site_terms = SiteTerms(ask)
        self.scale = yardstick(ask) if self.measured and ask.sources else self.reference
        """s: seconds against which a predicted completion is held"""
        self._site_facts: dict[str, SiteFacts] = {}
        self._bases = np.zeros(0)
        """`column` as it was computed last, by index of Ledger.states; nan where it is to be computed"""
        self._seen = 0
        """entries of Ledger.changes that are in `_bases`"""
        weights: dict[str, float] = {
            name: max(0.0, getattr(settings.weights, name)) if self._applies(name) else 0.0 for name in TERMS
        }
        total = sum(weights.values()) or 1.0
        self.weights = {name: weight / total for name, weight in weights.items()}

    def _applies(self, term: str) -> bool:
        """Whether there is anything by which this term could tell nodes apart. One for which there is not weighs
        nothing: it would only make every other difference smaller."""
        if term == "failure":
            return not self.ask.failures.empty
        return term not in SITE_TERMS or term in self.site_terms.applies

    def transfer(self, site: Site) -> float | None:
        """T_d in seconds, corrected by what was learned; None when nothing is known of the way."""
        seconds = self.ask.way(site).seconds
        return None if seconds is None else seconds * self.ask.learned.transfer(self.ask.job, site.name)

    @cached_property
    def _every_site(self) -> SiteFacts:
        """In columns, by number of the site."""
        sites = self.ask.sites.every
        worth = np.zeros(len(sites))
        for name, (values, _) in self.site_terms.columns.items():
            worth = worth + self.weights[name] * values
        transfers = self.ask.transfers if self.measured else np.zeros(len(sites))
        return SiteFacts(transfers, self.ask.learned.executions(self.ask.job, sites), worth)

    def site_facts(self, site: Site) -> SiteFacts:
        known = self._site_facts.get(site.name)
        if known is None:
            number = self.ask.sites.number[site.name]
            known = SiteFacts(*(column[number].item() for column in self._every_site))
            self._site_facts[site.name] = known
        return known

    def values(self, state: NodeState, *, present: bool) -> Values:
        """`present`: the replica is in the ledger here already, so nothing is added for it."""
        ask, node = self.ask, state.node
        joins = not present and not (state.held and state.has_room_held(ask.index))
        add_cpu, add_memory = (ask.request.cpu, ask.request.memory) if joins else (0, 0)
        facts = Facts(
            cores=node.allocatable.cpu / 1000,
            memory=float(node.allocatable.memory),
            requested_cores=(state.requested.cpu + add_cpu) / 1000,
            requested_memory=float(state.requested.memory + add_memory),
            in_flight_cores=(state.in_flight.cpu + (0 if present else ask.request.cpu)) / 1000,
            in_flight_memory=float(state.in_flight.memory + (0 if present else ask.request.memory)),
            cpu=state.cpu.value,
            cpu_confidence=state.cpu.confidence,
            live_memory=state.memory.value,
            memory_confidence=state.memory.confidence,
            speed=node.speed,
            model=1.0 if ask.job.model_digest and ask.job.model_digest in node.models else 0.0,
            failure=1.0 if ask.failures.empty else self._failure(state),
            site=self.site_facts(state.site),
        )
        return self.figure(facts, ONE)

    def column(self, ledger: Ledger, rows: Rows, added: Added | None = None) -> Floats:
        """`base` of the nodes in `rows` (indices of Ledger.states) on which the job has no replica, all at once; to the
        last digits the same as one by one. `added`: as if so much more were there already, besides this replica."""
        if not len(rows):
            return np.zeros(0)
        if added is not None:
            return self._weighed(ledger, rows, added)
        self._forget(ledger)
        values: Floats = self._bases[rows]
        lacks = np.nonzero(np.isnan(values))[0]
        if len(lacks):
            values[lacks] = self._bases[rows[lacks]] = self._weighed(ledger, rows[lacks])
        return values

    def _weighed(self, ledger: Ledger, rows: Rows, added: Added | None = None) -> Floats:
        weighed: Floats = self.weigh(self.figure(self._facts(ledger, rows, added), MANY), 0, stays=False)
        return weighed

    def rest(self) -> None:
        """Of thousands of jobs most are not looked at again in a plan: what can be computed anew goes."""
        self._bases, self._seen = np.zeros(0), 0
        self.site_terms.forget()

    def _forget(self, ledger: Ledger) -> None:
        """What was computed of nodes that have changed since."""
        size, last = len(ledger.states), len(ledger.changes)
        if len(self._bases) != size or last - self._seen > size:
            self._bases = np.full(size, np.nan)
        elif last > self._seen:
            self._bases[ledger.changes[self._seen :]] = np.nan
        self._seen = last

    def _facts(self, ledger: Ledger, rows: Rows, added: Added | None = None) -> Facts:
        ask, table = self.ask, ledger.columns
        more_cpu, more_memory = added if added is not None else (0.0, 0.0)
        cpu, memory = ask.request.cpu + more_cpu, ask.request.memory + more_memory
        sites = table.site[rows]
        return Facts(
            cores=table.allocatable_cpu[rows] / 1000,
            memory=table.allocatable_memory[rows],
            requested_cores=(table.requested_cpu[rows] + cpu) / 1000,
            requested_memory=table.requested_memory[rows] + memory,
            in_flight_cores=(table.in_flight_cpu[rows] + cpu) / 1000,
            in_flight_memory=table.in_flight_memory[rows] + memory,
            cpu=table.cpu[rows],
            cpu_confidence=table.cpu_confidence[rows],
            live_memory=table.memory[rows],
            memory_confidence=table.memory_confidence[rows],
            speed=table.speed[rows],
            model=ledger.has_model(ask.job.model_digest)[rows],
            failure=1.0 if ask.failures.empty else self._failures(ledger)[rows],
            site=SiteFacts(*(column[sites] for column in self._every_site)),
        )

    def _failures(self, ledger: Ledger) -> Floats:
        return floats([self._failure(state) for state in ledger.states])

    def _failure(self, state: NodeState) -> float:
        return self.ask.failures.weight(self.ask.job.key, state.node.name, state.site.name)

    def figure(self, facts: Facts, op: Ops) -> Values:
        """The one definition of what the terms are worth, for floats (ONE) and for columns (MANY)."""
        cores, bytes_ = facts.cores, facts.memory
        used = blend(facts.cpu + facts.in_flight_cores, facts.requested_cores, facts.cpu_confidence)
        free = op.maximum(cores - used, 0.0)
        load = formulas.load(cores, free, op)
        doubted = 1.0 - self.settings.doubt * (1.0 - facts.cpu_confidence)

        live_bytes = facts.live_memory + facts.in_flight_memory
        used_bytes = blend(live_bytes, facts.requested_memory, facts.memory_confidence)
        taken = op.maximum(facts.requested_memory, used_bytes)
        spare_cpu = op.where(cores > 0, 1.0 - facts.requested_cores / op.maximum(cores, TINY), 0.0)
        spare_memory = op.where(bytes_ > 0, 1.0 - taken / op.maximum(bytes_, TINY), 0.0)

        service = self.reference * facts.site.slowness / op.where(facts.speed > 0, facts.speed, 1.0)
        completion = formulas.completion(formulas.backlog_seconds(load, service, op), facts.site.transfer, service, op)
        return Values(
            headroom=op.minimum(1.0, op.maximum(0.0, op.minimum(spare_cpu, spare_memory))),
            load_term=(1.0 - load) * doubted,
            completion_term=self.scale / (self.scale + completion),
            model=facts.model,
            failure=facts.failure,
            worth=facts.site.worth,
            load=load,
            free_cores=free,
            in_flight_cores=facts.in_flight_cores,
            service=service,
            completion=completion,
        )

    def score(self, state: NodeState, company: Company, *, present: bool, stays: bool) -> float:
        """0..1, rounded to PRECISION."""
        return self.total(self.values(state, present=present), company, stays=stays)

    def total(self, values: Values, company: Company, *, stays: bool) -> float:
        """`score`, where the terms are known already."""
        base: float = self.weigh(values, company.on_node, stays=stays)
        return round(base + self.site_part(company.at_site), PRECISION)

    def base(self, state: NodeState, on_node: int, *, present: bool, stays: bool) -> float:
        """The score without what depends on the whole site (`site_part`)."""
        weighed: float = self.weigh(self.values(state, present=present), on_node, stays=stays)
        return weighed

    def weigh(self, values: Values, on_node: int, *, stays: bool) -> Number:
        weights = self.weights
        return (
            weights["headroom"] * values.headroom
            + weights["load"] * values.load_term
            + weights["completion"] * values.completion_term
            + weights["model"] * values.model
            + weights["failure"] * values.failure
            + values.worth
            + weights["spread"] * 0.5 / (1 + on_node)
            + (weights["stay"] if stays else 0.0)
        )

    def site_part(self, at_site: int) -> float:
        return self.weights["spread"] * 0.5 / (1 + at_site)

    def terms(self, state: NodeState, company: Company, *, present: bool, stays: bool) -> tuple[Term, ...]:
        """The addends of `score`, each with how far its figures are believed."""
        values = self.values(state, present=present)
        believed = state.cpu.confidence
        timed = (self.ask.way(state.site).confidence if self.measured else 0.0) * believed
        rows: dict[str, tuple[float, float]] = {
            **self.site_terms.of(state.site),
            "failure": (values.failure, 1.0),
            "headroom": (values.headroom, 1.0),
            "load": (values.load_term, believed),
            "completion": (values.completion_term, timed),
            "model": (values.model, 1.0 if self.ask.job.model_digest else 0.0),
            "spread": (0.5 / (1 + company.on_node) + 0.5 / (1 + company.at_site), 1.0),
            "stay": (1.0 if stays else 0.0, 1.0),
        }
        return tuple(Term(name, self.weights[name], *rows[name]) for name in TERMS if self._applies(name))

    def judge(self, ledger: Ledger, rows: Rows, at_site: Mapping[str, int], leaves: str) -> tuple[Floats, float]:
        """Scores of nodes that do not hold the replica, and the largest capability K among them. `at_site`: replicas of
        the job; `leaves`: the site of the one that would come from elsewhere."""
        if not len(rows):
            return np.zeros(0), 0.0
        values = self.figure(self._facts(ledger, rows), MANY)
        bases: Floats = self.weigh(values, 0, stays=False)
        cores = ledger.columns.allocatable_cpu[rows] / 1000
        ks: Floats = formulas.capability(cores, values.free_cores, values.service, MANY)
        for at in np.nonzero(ledger.is_held(self.ask.index, rows))[0].tolist():
            state = ledger.states[rows[at]]
            bases[at] = self.base(state, 0, present=False, stays=False)
            ks[at] = self.capability(state, present=False)
        # Most sites have none of the job: one figure for all of those.
        parts = np.full(len(ledger.site_list), self.site_part(0))
        beside = {site: max(0, count - (site == leaves)) for site, count in at_site.items()}
        for number, site in enumerate(ledger.site_list):
            if site.name in beside:
                parts[number] = self.site_part(beside[site.name])
        return np.round(bases + parts[ledger.columns.site[rows]], PRECISION), float(np.max(ks))

    def capability(self, state: NodeState, *, present: bool) -> float:
        """K = C R / T of this node for this job."""
        return _capability(state, self.values(state, present=present))

    def figures(self, state: NodeState, *, present: bool, best_capability: float) -> Figures:
        """`best_capability`: the largest K among the nodes that this one is compared with."""
        values = self.values(state, present=present)
        own = _capability(state, values)
        joins = not present and not state.has_room_held(self.ask.index)
        known = state.cpu.age is not None and state.cpu.confidence > 0
        return Figures(
            cores=state.node.allocatable.cpu / 1000,
            free_cores=values.free_cores,
            requested=state.requested + (self.ask.request if joins else Resources()),
            allocatable=state.node.allocatable,
            live_cores=state.cpu.value if known else None,
            live_age=state.cpu.age,
            confidence=state.cpu.confidence,
            in_flight_cores=values.in_flight_cores,
            load=values.load,
            capability_share=formulas.shares_of_best((own, best_capability))[0],
            transfer_seconds=self.transfer(state.site),
            completion_seconds=values.completion if self.measured else None,
        )


def _capability(state: NodeState, values: Values) -> float:
    known: float = formulas.capability(state.node.allocatable.cpu / 1000, values.free_cores, values.service)
    return known


TERMS: tuple[str, ...] = tuple(field.name for field in fields(Weights))
