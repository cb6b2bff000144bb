"""Counters of many sites as one value a gate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward.api.assignment import Counters, Histogram, QueryResult
from edgeward.api.common import format_time
from edgeward.rollout.gates import outcome_of
from edgeward.rollout.model import Gate, Outcome
from edgeward.rollout.pool import Part, asked, counted, measured, quantile

NEW, OLD = f"sha256:{1:064x}", f"sha256:{2:064x}"
SINCE, AT = 1000.0, 1060.0


def entry(digest: str = NEW, *, since: float = SINCE, at: float | None = AT, **counts: Any) -> Counters:
    return Counters(digest=digest, since=format_time(since), at=format_time(at) if at else None, **counts)


def part(site: str, *entries: Counters, **more: Any) -> Part:
    return Part(site=site, new=NEW, old=frozenset({OLD}), counters=entries, **more)


def latency(*counts: int, bounds: tuple[str, ...] = ("0.1", "0.2", "0.4")) -> Histogram:
    return Histogram(name="Latency", bounds=bounds, counts=counts, sum="0")


def of(name: str, total: str, count: int) -> Histogram:
    return Histogram(name=name, counts=(count,), sum=total)  # type: ignore[arg-type]


ERRORS = Gate(name="errors", builtin="ErrorRate", max=0.05)


@pytest.mark.parametrize(
    ("builtin", "entries", "value", "samples"),
    [
        ("ErrorRate", [entry(requests=90, errors=1), entry(requests=10, errors=4)], 0.05, 100),
        ("ErrorRate", [entry()], None, 0),
        ("LatencyP95", [entry(histograms=(latency(80, 10, 10, 0),))], 0.3, 100),
        ("LatencyP95", [entry(histograms=(latency(0, 0, 0, 3),))], 0.4, 3),
        ("LatencyP95", [entry(requests=5)], None, 0),
        (
            "Drift",
            [entry(histograms=(of("Drift", "10", 100),)), entry(histograms=(of("Drift", "90", 300),))],
            0.25,
            400,
        ),
        ("Agreement", [entry(histograms=(of("Agreement", "9.5", 10),))], 0.95, 10),
        ("Accuracy", [entry(histograms=(of("Accuracy", "30", 40),)), entry()], 0.75, 40),
        ("CrashLoop", [entry(restarts=3), entry(), entry()], 1.0, 3),
        ("CrashLoop", [entry()], 0.0, 1),
    ],
)
def test_each_gate_by_hand(builtin: str, entries: list[Counters], value: float | None, samples: int) -> None:
    found, count = measured(builtin, entries)
    assert count == samples
    assert found == (None if value is None else pytest.approx(value))


@given(st.lists(st.lists(st.integers(0, 50), min_size=4, max_size=4), min_size=1, max_size=5))
def test_the_pool_is_what_one_site_with_all_the_requests_would_have_said(counts: list[list[int]]) -> None:
    alone = latency(*(sum(column) for column in zip(*counts, strict=True)))
    assert quantile([latency(*row) for row in counts], 0.95) == quantile([alone], 0.95)


def test_bounds_of_another_runtime_keep_their_counts_where_they_are() -> None:
    found, samples = quantile([latency(100, 0, 0, 0), latency(0, 50, 50, bounds=("0.3", "0.6"))], 0.95)
    assert samples == 200 and found == pytest.approx(0.6)


def test_the_sample_is_as_old_as_the_report_of_the_site_that_is_furthest_behind() -> None:
    parts = [part("a", entry(requests=50)), part("b", entry(requests=50, at=AT - 40))]
    sample = counted(ERRORS, parts, (), since=SINCE)
    assert (sample.at, sample.value, sample.samples) == (AT - 40, 0.0, 100)
    assert sample.late == f"site b has not reported since {format_time(AT - 40)}"


def test_a_site_that_is_there_and_says_nothing_leaves_no_sample() -> None:
    sample = counted(ERRORS, [part("a", entry(requests=50)), part("b")], (), since=SINCE)
    assert sample.at == 0 and sample.late == "site b has not reported"


def test_a_site_that_is_away_counts_with_what_it_said_and_is_not_waited_for() -> None:
    parts = [part("a", entry(requests=50)), part("b", entry(requests=50, errors=10, at=AT - 50), needed=False)]
    sample = counted(ERRORS, parts, (), since=SINCE)
    assert (sample.at, sample.value) == (AT, 0.1)
    nobody = counted(ERRORS, [replace(one, needed=False) for one in parts], (), since=SINCE)
    assert nobody.at == AT - 50, "no newer than what all of them said"
    silent = counted(ERRORS, [part("a", needed=False)], (), since=SINCE)
    assert silent.at == 0 and silent.late == "no site that is connected serves it"


def test_counts_of_an_earlier_wave_or_without_a_time_are_no_report() -> None:
    for old in (entry(requests=50, since=SINCE - 60), entry(requests=50, at=None), entry(OLD, requests=50)):
        assert counted(ERRORS, [part("a", old)], (), since=SINCE).at == 0


# -- the version before -----------------------------------------------------------------------------------------------

COMPARED = replace(ERRORS, max=1.5, baseline=True, min_samples=20)


def test_the_old_version_beside_the_new_one_is_the_baseline() -> None:
    both = part("a", entry(requests=100, errors=4), entry(OLD, requests=100, errors=2))
    other = part("c", entry(OLD, requests=100, errors=50))
    sample = counted(COMPARED, [both], [other], since=SINCE, remembered=0.9)
    assert sample.baseline == 0.02 and outcome_of(COMPARED, sample)[0] is Outcome.FAILED


def test_where_it_has_too_few_samples_there_the_other_sites_tell_and_then_what_was_measured_last() -> None:
    few = part("a", entry(requests=100, errors=4), entry(OLD, requests=3, errors=3))
    other = part("c", entry(OLD, requests=100, errors=4))
    assert counted(COMPARED, [few], [other], since=SINCE, remembered=0.9).baseline == 0.04
    assert counted(COMPARED, [few], [part("c")], since=SINCE, remembered=0.9).baseline == 0.9
    nothing = counted(COMPARED, [few], (), since=SINCE)
    assert outcome_of(COMPARED, nothing)[0] is Outcome.NO_DATA


@pytest.mark.parametrize(("errors", "outcome"), [(1, Outcome.PASSED), (2, Outcome.FAILED)])
def test_one_error_is_no_more_than_none_when_the_old_version_had_none(errors: int, outcome: Outcome) -> None:
    both = part("a", entry(requests=100, errors=errors), entry(OLD, requests=10_000))
    assert outcome_of(COMPARED, counted(COMPARED, [both], (), since=SINCE))[0] is outcome


# -- the sites' own Prometheus ------------------------------------------------------------------------------------------

QUERY = Gate(name="own", query="x", max=1.0)


def said(site: str, value: str | None, *, at: float = AT, **more: Any) -> Part:
    result = QueryResult(name="own", at=format_time(at), value=value, samples=3, **more)
    return Part(site=site, results=(result,))


def test_the_worst_site_counts() -> None:
    sample = asked(QUERY, [said("a", "0.5"), said("b", "2"), said("c", "0.7", at=AT - 20)], (), since=SINCE)
    assert (sample.value, sample.samples, sample.at) == (2.0, 9, AT - 20)
    least = asked(replace(QUERY, max=None, min=1.0), [said("a", "3"), said("b", "2")], (), since=SINCE)
    assert least.value == 2.0


def test_an_error_or_no_data_at_one_site_is_not_hidden_by_the_others() -> None:
    broken = asked(QUERY, [said("a", "0.5"), said("b", None, error="refused")], (), since=SINCE)
    assert outcome_of(QUERY, broken) == (Outcome.ERROR, "", "site b: refused")
    assert outcome_of(QUERY, asked(QUERY, [said("a", "0.5"), said("b", None)], (), since=SINCE))[0] is Outcome.NO_DATA
    failed = asked(QUERY, [said("a", "9"), said("b", None, error="refused")], (), since=SINCE)
    assert outcome_of(QUERY, failed)[0] is Outcome.FAILED


def test_an_answer_from_before_the_wave_is_none() -> None:
    assert asked(QUERY, [said("a", "0.5", at=SINCE - 1)], (), since=SINCE).at == 0


def test_a_site_is_compared_with_itself_or_else_with_the_others() -> None:
    gate = replace(QUERY, baseline=True)
    own = asked(gate, [said("a", "2", baseline="4")], [said("c", "1")], since=SINCE)
    assert own.baseline == 4.0
    assert asked(gate, [said("a", "2")], [said("c", "1"), said("d", "2")], since=SINCE).baseline == 1.5
    assert asked(gate, [said("a", "2")], (), since=SINCE, remembered=7.0).baseline == 7.0
