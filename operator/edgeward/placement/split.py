"""How a job's demand would have to be split between edge and cloud, for whoever asks why it is where it is.

Nothing here decides: the constraints keep each replica where latency, residency and drain time allow it. A figure that
nothing stated or measured is not told.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from edgeward.placement import formulas
from edgeward.placement.ask import Ask
from edgeward.placement.constraints import SPEC_CHECKS, first_miss
from edgeward.placement.ledger import NodeState
from edgeward.placement.links import bits, latency, ms, residency
from edgeward.placement.scoring import Scorer

_FORCES = (residency, latency)
"""what keeps all of a demand away from the cloud"""
_KIND = tuple(check for check in SPEC_CHECKS if check.lacks not in _FORCES and check.reason.name != "DRAIN_TOO_SLOW")


def split_lines(ask: Ask, scorer: Scorer, states: Sequence[NodeState], wanted: int) -> list[str]:
    """Lines of explanation; none for a job that may use only one of the two tiers, or that does not say enough."""
    if wanted <= 0 or not ask.job.slo_throughput or not {"edge", "cloud"} <= ask.job.tiers:
        return []
    usable = [state for state in states if first_miss(ask, state, _KIND) is None]
    edge = [state for state in usable if state.node.tier == "edge"]
    cloud = [state for state in usable if state.node.tier == "cloud"]
    if not edge or not cloud:
        return []
    return [*_demand(ask, cloud, wanted), *_speeds(ask, scorer, edge, cloud, wanted)]


def _demand(ask: Ask, cloud: Sequence[NodeState], wanted: int) -> list[str]:
    """min max(C_E/C_D, S_E/S_D) with C in cores requested, S in the bits that the requests of a second bring, B the
    widest link to the cloud in bit/s. S_C <= B/B_min, B_min = 1/maxDrain, and never more than the link carries in that
    second. What data must stay takes its part of the computing with it: that is C_req,E."""
    job = ask.job
    if not job.request_bytes or not job.slo_throughput or not job.max_drain:
        return []
    linked = [state for state in cloud if (way := ask.way(state.site)).bandwidth and not way.local]
    if not linked:
        return []
    best = max(linked, key=lambda state: (ask.way(state.site).bandwidth or 0.0, -state.rank))
    link = Fraction(ask.way(best.site).bandwidth or 0.0)
    compute = Fraction(ask.request.cpu * wanted, 1000)
    data = 8 * job.request_bytes * Fraction(job.slo_throughput) * wanted
    window = min(Fraction(job.max_drain), Fraction(1))
    kept = next((force for force in _FORCES if all(force(ask, state) is not None for state in cloud)), None)
    stays = data if kept else max(Fraction(0), data - link * window)
    found = formulas.split_demand(
        compute=compute,
        compute_required=(compute * stays / data, Fraction(0)),
        data=data,
        data_required=(stays, Fraction(0)),
        bandwidth=link,
        drain_rate=1 / window,
    )
    if found is None:
        return []
    why = f"{bits(float(link))} to {best.site.name} drain {bits(float(link * window))[:-2]} in {ms(float(window))}"
    if kept:
        why = f"data.residency is {job.residency}" if kept is residency else "the cloud is too far for slo.latency"
    return [
        f"split: of {float(compute):.4g} cores and {bits(float(data))} of requests at least"
        f" {float(found.compute_edge):.4g} cores and {bits(float(found.data_edge))} stay at the edge,"
        f" a share of {float(found.share):.3f}: {why}"
    ]


def _speeds(ask: Ask, scorer: Scorer, edge: Sequence[NodeState], cloud: Sequence[NodeState], wanted: int) -> list[str]:
    """T_E = D/P_E and T_N = D/P_N for the requests of one second, P in requests a second of one replica; P_E : P_N."""
    if ask.service is None or not ask.job.slo_throughput:
        return []

    def rate(state: NodeState) -> float:
        return float(1.0 / scorer.values(state, present=False).service)

    here, there = (max(group, key=lambda state: (rate(state), -state.rank)) for group in (edge, cloud))
    if rate(here) == rate(there):
        return []
    demand = ask.job.slo_throughput * wanted
    shares = formulas.processing_shares(round(rate(here) * 1000), round(rate(there) * 1000))
    times = [formulas.processing_time(demand, rate(state)) for state in (here, there)]
    return [
        f"split by speed: {demand:g} requests take {ms(times[0])} on {here.node.name} and {ms(times[1])} on"
        f" {there.node.name}; both end together with {float(shares[0]):.3f} and {float(shares[1]):.3f} of them"
    ]
