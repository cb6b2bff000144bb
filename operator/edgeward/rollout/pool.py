"""What the runtimes of a wave's sites counted, as one value a gate. Pure.

Everything merges by adding, so the pool of many sites is what one site with all the requests would have said. Counters
count from the moment that the wave began to be watched (AssignmentSpec.watch.since), and only those that say so belong to
it: what a site counted for an earlier wave, or before the new version, is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from edgeward.api.assignment import Counters, Histogram, QueryResult
from edgeward.api.common import format_time, parse_time
from edgeward.rollout import gates
from edgeward.rollout.model import Gate, Outcome, Sample

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One job at one site of the wave, or at one that still serves the version before."""

    site: str
    new: str = ""
    """digest of the version that is judged"""
    old: frozenset[str] = frozenset()
    """digests of the version before; one that is also `new` (other parameters, same bytes) is not among them"""
    needed: bool = True
    """connected, and it serves the new version: a sample without its report is none"""
    counters: tuple[Counters, ...] = ()
    results: tuple[QueryResult, ...] = ()


def counted(
    gate: Gate, parts: Sequence[Part], others: Sequence[Part], *, since: float, remembered: float | None = None
) -> Sample:
    """A built-in gate over the wave's sites (`parts`).

    The sample is as old as the oldest report of a site that is needed, and there is none while one of them has not
    reported: no news from a site is not good news. What a site said before it was cut off counts, and is not waited for.

    The baseline is the version before, counted over the same time: at the wave's own sites where it has samples enough
    beside the new one, else at the `others`, else what was measured last in this rollout (`remembered`).
    """
    mine = [(one, _of(one, {one.new}, since)) for one in parts]
    at, late = _oldest((one.site, [parse_time(entry.at) for entry in said if entry.at]) for one, said in _needed(mine))
    value, samples = measured(gate.builtin, [entry for _, said in mine for entry in said])
    sample = Sample(at=at, value=value, samples=samples, late=late)
    if not gate.baseline:
        return sample
    baseline = remembered
    for group in (parts, others):
        old, count = measured(gate.builtin, [entry for one in group for entry in _of(one, one.old, since)])
        if old is not None and count >= max(1, gate.min_samples):
            baseline = old
            break
    # Of a rate: less than one error in all the requests that the new version has seen cannot be told from none.
    least = 1 / samples if gate.builtin == "ErrorRate" and samples else 0.0
    return replace(sample, baseline=baseline, least=least)


def asked(
    gate: Gate, parts: Sequence[Part], others: Sequence[Part], *, since: float, remembered: float | None = None
) -> Sample:
    """A question that each site put to its own Prometheus: the site that is worst counts, for a value of PromQL cannot be
    merged with another. Samples are the points with a value of all of them together. An error at one site is one for the
    wave, unless another site fails the gate already.

    The baseline is what the same site says of the old version; where that does not answer there any more, the mean of
    what the `others` say of it.
    """
    old = [value for one in others for it in _results(one, gate, since) if (value := _number(it.value)) is not None]
    if old:
        remembered = sum(old) / len(old)
    found: list[tuple[Outcome, Sample]] = []
    mine = [(one, _results(one, gate, since)) for one in parts]
    alone = replace(gate, min_samples=0)
    for one, results in mine:
        for result in results:
            baseline = _number(result.baseline)
            sample = Sample(
                at=parse_time(result.at),
                value=_number(result.value),
                baseline=baseline if baseline is not None else remembered,
                samples=result.samples,
                error=f"site {one.site}: {result.error}" if result.error else "",
            )
            found.append((gates.outcome_of(alone, sample)[0], sample))
    at, late = _oldest((one.site, [parse_time(it.at) for it in said]) for one, said in _needed(mine))
    if not found:
        return Sample(at=at, late=late)
    order = (Outcome.FAILED, Outcome.ERROR, Outcome.NO_DATA, Outcome.PASSED)
    low = gate.max is None
    worst = min(found, key=lambda it: (order.index(it[0]), (it[1].value or 0.0) * (1 if low else -1)))[1]
    return replace(worst, at=at, late=late, samples=sum(one.samples for _, one in found))


def fails_too_often(asked: Iterable[Gate], counters: tuple[Counters, ...], digest: str, *, since: float) -> bool:
    """Whether one site's own share of errors is above the bound of a gate that has one of its own. With fewer requests
    than the gate wants nothing is known."""
    bounds = [one for one in asked if one.builtin == "ErrorRate" and not one.baseline and one.max is not None]
    if not bounds or not counters:
        return False
    share, requests = measured("ErrorRate", _of(Part(site="", counters=counters), {digest}, since))
    return share is not None and any(
        one.max is not None and share > one.max and requests >= one.min_samples for one in bounds
    )


def measured(builtin: str, entries: Sequence[Counters]) -> tuple[float | None, int]:
    """The value of a built-in gate over counters of one version, and how many samples are behind it. None: no data.

    ErrorRate    errors over requests
    LatencyP95   seconds that 95% of the answers did not exceed, interpolated in its bucket as Prometheus'
                 histogram_quantile does; above the last bound it is the last bound
    Drift        mean population stability index, each site's (that of its tensor furthest off) weighted by its rows.
                 Sites report the histogram Drift without bounds: counts = (rows,), sum = index times rows
    Agreement    mean share of rows that agree with the version that answers, over the copies that were mirrored
    Accuracy     right over right and wrong, of the rows that a label was told for: histogram Accuracy with the bound 0,
                 counts = (wrong, right), sum = right
    CrashLoop    restarts of its pods a site; samples are sites
    """
    if not entries:
        return None, 0
    match builtin:
        case "ErrorRate":
            requests = sum(one.requests for one in entries)
            return (sum(one.errors for one in entries) / requests, requests) if requests else (None, 0)
        case "CrashLoop":
            return sum(one.restarts for one in entries) / len(entries), len(entries)
        case "LatencyP95":
            return quantile(_named("Latency", entries), 0.95)
        case _:
            return _mean(_named(builtin, entries))


def quantile(histograms: Iterable[Histogram], share: float) -> tuple[float | None, int]:
    """Runtimes of two versions may count by other bounds: then each count stays at its own bound."""
    merged: dict[float, int] = {}
    beyond = 0
    for one in histograms:
        for text, count in zip(one.bounds, one.counts, strict=False):
            merged[float(text)] = merged.get(float(text), 0) + count
        beyond += sum(one.counts[len(one.bounds) :])
    total = sum(merged.values()) + beyond
    if not total:
        return None, 0
    wanted, passed, low = share * total, 0, 0.0
    for bound, count in sorted(merged.items()):
        if count and passed + count >= wanted:
            return low + (bound - low) * (wanted - passed) / count, total
        passed, low = passed + count, bound
    return (low if merged else None), total


def _mean(histograms: Iterable[Histogram]) -> tuple[float | None, int]:
    told = [one for one in histograms if one.sum is not None]
    count = sum(sum(one.counts) for one in told)
    return (sum(float(one.sum or 0) for one in told) / count, count) if count else (None, 0)


def _named(name: str, entries: Iterable[Counters]) -> list[Histogram]:
    return [one for entry in entries for one in entry.histograms if one.name == name]


def _of(part: Part, digests: Iterable[str], since: float) -> list[Counters]:
    """The part's counters of these digests that count from `since`."""
    wanted, begin = set(digests), format_time(since)
    return [one for one in part.counters if one.digest in wanted and one.since is not None and _same(one.since, begin)]


def _results(part: Part, gate: Gate, since: float) -> list[QueryResult]:
    return [one for one in part.results if one.name == gate.name and parse_time(one.at) >= since]


def _same(one: str, other: str) -> bool:
    return one == other or parse_time(one) == parse_time(other)


def _needed(parts: Sequence[tuple[Part, Sequence[T]]]) -> list[tuple[Part, Sequence[T]]]:
    """Those that are waited for. Where none is, as all are away or have gone back by themselves, what they said before
    is all there will be."""
    return [(one, said) for one, said in parts if one.needed] or [(one, said) for one, said in parts if said]


def _oldest(reports: Iterable[tuple[str, Sequence[float]]]) -> tuple[float, str]:
    """When the site that is furthest behind reported, and who that is. 0: one has not, or there is nobody to report."""
    last = [(max(times, default=0.0), site) for site, times in reports]
    if not last:
        return 0.0, "no site that is connected serves it"
    at, site = min(last)
    return at, f"site {site} has not reported" + (f" since {format_time(at)}" if at else "")


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
