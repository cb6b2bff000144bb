"""How good a node is for one replica of a job: a weighted mean of terms, each 0..1.

Every figure is "as if the replica were there". So a node that holds it (or will) is judged as it is, and any other with
the request added; the two can then be compared, for a choice and for a move alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import NamedTuple

from edgeward.fleet.model import Job, Resources, Site
from edgeward.placement import formulas
from edgeward.placement.constraints import Ask, site_labels
from edgeward.placement.freshness import blend
from edgeward.placement.ledger import NodeState
from edgeward.placement.model import Figures, Term
from edgeward.placement.settings import PlanSettings, Weights

PRECISION = 9
"""decimals to which scores are compared, so that the order of additions decides nothing"""


class Company(NamedTuple):
    """How many other replicas of the same job are on the node and at its site."""

    on_node: int = 0
    at_site: int = 0


class Values(NamedTuple):
    """The terms' values and the figures that they come from; a tuple, as one is made per job and node."""

    headroom: float
    load_term: float
    completion_term: float
    model: float
    load: float
    free_cores: float
    in_flight_cores: float
    service: float
    """T: seconds of one request here; in units of the reference when nothing was measured"""
    completion: float


class Scorer:
    """Scores of one job; what does not depend on the node is computed once."""

    def __init__(self, ask: Ask, sites: Mapping[str, Site], settings: PlanSettings) -> None:
        job = ask.job
        self.ask = ask
        self.settings = settings
        self.measured = job.service_seconds is not None and 0 < job.service_seconds < float("inf")
        self.reference = job.service_seconds if self.measured and job.service_seconds is not None else 1.0
        self.sources = data_sources(job, sites)
        self._transfers: dict[str, tuple[float | None, float]] = {}
        weights: dict[str, float] = {name: max(0.0, getattr(settings.weights, name)) for name in TERMS}
        total = sum(weights.values()) or 1.0
        self.weights = {name: weight / total for name, weight in weights.items()}

    def transfer(self, site: Site) -> tuple[float | None, float]:
        """T_d in seconds from the nearest source to this site, and the confidence in it; None when the job does not
        say where its data is or how big. An unknown rtt or bandwidth adds nothing and costs confidence."""
        known = self._transfers.get(site.name)
        if known is None:
            known = self._transfers[site.name] = _nearest_transfer(self.ask.job, self.sources, site)
        return known

    def values(self, state: NodeState, *, present: bool) -> Values:
        """`present`: the replica is in the ledger here already, so nothing is added for it."""
        ask, node = self.ask, state.node
        joins = not present and not (state.held and state.has_room_held(ask.index))
        add_cpu, add_memory = (ask.request.cpu, ask.request.memory) if joins else (0, 0)
        cores, bytes_ = node.allocatable.cpu / 1000, float(node.allocatable.memory)
        requested_cores = (state.requested.cpu + add_cpu) / 1000
        in_flight = (state.in_flight.cpu + (0 if present else ask.request.cpu)) / 1000
        used = blend(state.cpu.value + in_flight, requested_cores, state.cpu.confidence)
        free = cores - used if used < cores else 0.0
        load = formulas.load(cores, free)
        doubted = 1.0 - self.settings.doubt * (1.0 - state.cpu.confidence)

        requested_bytes = float(state.requested.memory + add_memory)
        in_flight_bytes = state.in_flight.memory + (0 if present else ask.request.memory)
        used_bytes = blend(state.memory.value + in_flight_bytes, requested_bytes, state.memory.confidence)
        spare_cpu = 1.0 - requested_cores / cores if cores > 0 else 0.0
        spare_memory = 1.0 - max(requested_bytes, used_bytes) / bytes_ if bytes_ > 0 else 0.0

        service = self.reference / node.speed if node.speed > 0 else self.reference
        transfer = (self.transfer(state.site)[0] or 0.0) if self.measured else 0.0
        completion = formulas.completion(formulas.backlog_seconds(load, service), transfer, service)
        return Values(
            headroom=min(1.0, max(0.0, min(spare_cpu, spare_memory))),
            load_term=(1.0 - load) * doubted,
            completion_term=self.reference / (self.reference + completion),
            model=1.0 if ask.job.model_digest and ask.job.model_digest in node.models else 0.0,
            load=load,
            free_cores=free,
            in_flight_cores=in_flight,
            service=service,
            completion=completion,
        )

    def score(self, state: NodeState, company: Company, *, present: bool, stays: bool) -> float:
        """0..1, rounded to PRECISION."""
        base = self.base(state, company.on_node, present=present, stays=stays)
        return round(base + self.site_part(company.at_site), PRECISION)

    def base(self, state: NodeState, on_node: int, *, present: bool, stays: bool) -> float:
        """The score without what depends on the whole site (`site_part`)."""
        return self.weigh(self.values(state, present=present), on_node, stays=stays)

    def weigh(self, values: Values, on_node: int, *, stays: bool) -> float:
        weights = self.weights
        return (
            weights["headroom"] * values.headroom
            + weights["load"] * values.load_term
            + weights["completion"] * values.completion_term
            + weights["model"] * values.model
            + weights["spread"] * 0.5 / (1 + on_node)
            + (weights["stay"] if stays else 0.0)
        )

    def site_part(self, at_site: int) -> float:
        return self.weights["spread"] * 0.5 / (1 + at_site)

    def terms(self, state: NodeState, company: Company, *, present: bool, stays: bool) -> tuple[Term, ...]:
        """The addends of `score`, each with how far its figures are believed."""
        values = self.values(state, present=present)
        believed = state.cpu.confidence
        timed = (self.transfer(state.site)[1] if self.measured else 0.0) * believed
        rows = {
            "headroom": (values.headroom, 1.0),
            "load": (values.load_term, believed),
            "completion": (values.completion_term, timed),
            "model": (values.model, 1.0 if self.ask.job.model_digest else 0.0),
            "spread": (0.5 / (1 + company.on_node) + 0.5 / (1 + company.at_site), 1.0),
            "stay": (1.0 if stays else 0.0, 1.0),
        }
        return tuple(Term(name, self.weights[name], *rows[name]) for name in TERMS)

    def judge(self, state: NodeState, company: Company) -> tuple[float, float]:
        """Score and capability K of a node that does not hold the replica, from one look at its figures."""
        values = self.values(state, present=False)
        score = self.weigh(values, company.on_node, stays=False) + self.site_part(company.at_site)
        return round(score, PRECISION), _capability(state, values)

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
            transfer_seconds=self.transfer(state.site)[0],
            completion_seconds=values.completion if self.measured else None,
        )


def _capability(state: NodeState, values: Values) -> float:
    return formulas.capability(state.node.allocatable.cpu / 1000, values.free_cores, values.service)


TERMS: tuple[str, ...] = tuple(field.name for field in fields(Weights))


def data_sources(job: Job, sites: Mapping[str, Site]) -> tuple[Site, ...]:
    """The sites where the job's data comes from; none when it does not say, or none matches."""
    selector = job.source_selector
    if selector is None:
        return ()
    return tuple(site for _, site in sorted(sites.items()) if selector.matches(site_labels(site)))


def _nearest_transfer(job: Job, sources: tuple[Site, ...], site: Site) -> tuple[float | None, float]:
    """Between two sites the way goes over the hub, so both uplinks count: rtts add up, the narrower bandwidth holds."""
    if not sources:
        return None, 1.0 if job.source_selector is None else 0.5
    size = max(0, job.request_bytes or 0) + max(0, job.response_bytes or 0)
    sized = job.request_bytes is not None
    best: tuple[float, float] | None = None
    for source in sources:
        if source.name == site.name:
            return 0.0, 1.0
        rtts = [rtt for rtt in (source.rtt, site.rtt) if rtt is not None]
        bandwidths = [band for band in (source.bandwidth, site.bandwidth) if band is not None and band > 0]
        seconds = formulas.link_seconds(size=size, bandwidth=min(bandwidths, default=None), rtt=sum(rtts))
        believed = (len(rtts) + len(bandwidths)) / 4 * (1.0 if sized else 0.5)
        if best is None or (seconds, -believed) < (best[0], -best[1]):
            best = (seconds, believed)
    return best if best is not None else (None, 0.5)
