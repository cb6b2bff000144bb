"""Checks of a job's data and time: how far the data may go, over which link, and how long an answer may take.

What is not known never rejects: an rtt, a bandwidth or a measured time that is missing counts as nothing, so each
prediction here is the least that it can be. Residency is the exception: it rests on what is declared alone.
"""

from __future__ import annotations

from edgeward.fleet.model import Site
from edgeward.placement import formulas
from edgeward.placement.ask import Ask
from edgeward.placement.columns import ONE, Number, Ops
from edgeward.placement.ledger import NodeState

NOISE = 1e-9
"""seconds; sums of floats differ by less"""


def residency(ask: Ask, state: NodeState) -> float | None:
    """Site: only where the data comes from. Region: there, and at sites of the same regions."""
    reach = ask.job.residency
    if reach == "Anywhere" or ask.way(state.site).local:
        return None
    return None if reach == "Region" and state.site.region in ask.source_regions else 1.0


def residency_miss(ask: Ask, state: NodeState) -> str:
    place = f"site {state.site.name} of {state.node.name}"
    if not ask.sources:
        return f"{place}: no site matches data.source, so the data may not leave for any (data.residency)"
    if ask.job.residency == "Site":
        return f"{place} is none that the data comes from (data.residency Site)"
    regions = " or ".join(sorted(ask.source_regions)) or "none that is declared"
    return (
        f"{place} is in region {state.site.region or '(not declared)'}, the data's is {regions} (data.residency Region)"
    )


def answer_seconds(ask: Ask, state: NodeState) -> float:
    """The least that an answer from this node takes when it is idle, as seen where the data comes from: T_d + T."""
    speed = state.node.speed if state.node.speed > 0 else 1.0
    return (ask.way(state.site).seconds or 0.0) + (ask.service or 0.0) / speed


def latency(ask: Ask, state: NodeState) -> float | None:
    bound = ask.job.slo_latency
    if bound is None:
        return None
    over = answer_seconds(ask, state) - bound
    return over if over > NOISE else None


def latency_miss(ask: Ask, state: NodeState) -> str:
    bound, answer = ask.job.slo_latency or 0.0, answer_seconds(ask, state)
    return (
        f"{state.node.name} would answer in {ms(answer)}, {ms(answer - bound)} over slo.latency {ms(bound)}:"
        f" {_parts(ask, state)}"
    )


def busy_seconds(
    *,
    way: Number,
    service: float,
    speed: Number,
    cores: Number,
    used: Number,
    in_flight: Number,
    believed: Number,
    op: Ops = ONE,
) -> Number:
    """`answer_seconds` and what a request waits there for what the node has to do already, as far as its live figure is
    believed; of one node or of columns. `used` and `in_flight` in cores."""
    seconds = service / op.where(speed > 0, speed, 1.0)
    load = formulas.load(cores, cores - used - in_flight, op)
    return way + seconds + believed * formulas.backlog_seconds(load, seconds, op)


def backlog(ask: Ask, state: NodeState) -> float | None:
    """The latency bound once more, with what the node has to do now. It keeps new replicas away from a busy node and
    moves none that is there: load comes and goes."""
    bound = ask.job.slo_latency
    if bound is None or ask.service is None:
        return None
    over: float = (
        busy_seconds(
            way=ask.way(state.site).seconds or 0.0,
            service=ask.service,
            speed=state.node.speed,
            cores=state.node.allocatable.cpu / 1000,
            used=state.cpu.value,
            in_flight=state.in_flight.cpu / 1000,
            believed=state.cpu.confidence,
        )
        - bound
    )
    return over if over > NOISE else None


def backlog_miss(ask: Ask, state: NodeState) -> str:
    bound, answer = ask.job.slo_latency or 0.0, answer_seconds(ask, state)
    return (
        f"{state.node.name} is too busy now for slo.latency {ms(bound)}: idle it would answer in {ms(answer)}"
        f" ({_parts(ask, state)})"
    )


def _parts(ask: Ask, state: NodeState) -> str:
    way, total = ask.way(state.site), answer_seconds(ask, state)
    travel = way.seconds or 0.0
    origin = f" from {way.source}" if way.source and not way.local else ""
    return f"{ms(travel)} on the way{origin}, {ms(total - travel)} of work"


def bandwidth(ask: Ask, state: NodeState) -> float | None:
    least = ask.job.min_bandwidth
    if least is None or state.site.bandwidth is None or state.site.bandwidth >= least:
        return None
    return least - state.site.bandwidth


def bandwidth_miss(ask: Ask, state: NodeState) -> str:
    has, least = state.site.bandwidth or 0.0, ask.job.min_bandwidth or 0.0
    return f"site {state.site.name} of {state.node.name} has {bits(has)} uplink, minBandwidth is {bits(least)}"


def drain_seconds(ask: Ask, site: Site) -> float | None:
    """Seconds in which what a second's requests bring has drained over the link to this site: S_C/B, where B/B_min with
    B_min = 1/maxDrain is the most that S_C may be. More than the link carries in a second never drains.

    The requests of one replica: slo.throughput of them, or a single one when the job does not say. None when the size
    or the link is unknown, or nothing has to travel.
    """
    way = ask.way(site)
    if way.local or not way.bandwidth or not ask.job.request_bytes:
        return None
    stream = ask.job.slo_throughput
    seconds = formulas.link_seconds(size=ask.job.request_bytes * (stream or 1.0), bandwidth=way.bandwidth)
    return float("inf") if stream and seconds > 1.0 else seconds


def drain(ask: Ask, state: NodeState) -> float | None:
    longest = ask.job.max_drain
    seconds = None if longest is None else drain_seconds(ask, state.site)
    if longest is None or seconds is None or seconds <= longest:
        return None
    return seconds - longest


def drain_miss(ask: Ask, state: NodeState) -> str:
    longest, seconds = ask.job.max_drain or 0.0, drain_seconds(ask, state.site) or 0.0
    way = ask.way(state.site)
    link = f"the link of {bits(way.bandwidth or 0.0)} from {way.source} to {state.site.name}"
    if seconds == float("inf"):
        stream = 8.0 * (ask.job.request_bytes or 0) * (ask.job.slo_throughput or 0.0)
        return f"{state.node.name}: {link} never drains {bits(stream)} of requests, maxDrain is {ms(longest)}"
    return f"{state.node.name}: {link} drains in {ms(seconds)}, maxDrain is {ms(longest)}"


def ms(seconds: float) -> str:
    """Seconds as a person says them: 20 ms, 1.5 s."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def bits(rate: float) -> str:
    """bit/s with the prefix of the API's bandwidths: 20M."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if rate >= size:
            return f"{rate / size:.3g}{unit}bit/s"
    return f"{rate:.3g} bit/s"
