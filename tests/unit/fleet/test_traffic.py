"""From what was measured to what a job knows: shares within a bound, percentiles, satisfaction that noise leaves alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward.fleet.model import Job, Lesson, Traffic
from edgeward.fleet.traffic import (
    HOUR,
    LATENCY_BOUNDS,
    NO_LATENCIES,
    Measured,
    below,
    facts,
    quantile,
    satisfaction,
    with_traffic,
)

DIGEST = "sha256:" + "a" * 64


def histogram(**counts: float) -> tuple[float, ...]:
    """histogram(b0_1=5, over=1): five of at most 100 ms, one above every bound."""
    found = list(NO_LATENCIES)
    for name, count in counts.items():
        index = -1 if name == "over" else LATENCY_BOUNDS.index(float(name[1:].replace("_", ".")))
        found[index] = count
    return tuple(found)


def measured(job: str = "shop/reader", site: str = "store-1", **changes: object) -> Measured:
    known: dict[str, object] = {"digest": DIGEST, "at": 100.0, "window": 60.0, "hour_window": HOUR}
    return Measured(job=job, site=site, **{**known, **changes})  # type: ignore[arg-type]


def job(**changes: object) -> Job:
    known: dict[str, object] = {"namespace": "shop", "name": "reader", "uid": "u", "slo_latency": 0.08}
    return Job(**{**known, **changes})  # type: ignore[arg-type]


def entry(within: int, requests: int, *, window: float = HOUR, site: str = "a") -> Traffic:
    return Traffic(site, DIGEST, 100.0, 60.0, within_slo=within, hour_requests=requests, hour_window=window)


def test_worked_share_below_a_bound() -> None:
    # 80 ms is three fifths of the way from 50 to 100 ms: 100 + 3/5 of 50.
    counts = histogram(b0_05=100, b0_1=50, over=7)
    assert below(counts, 0.08) == pytest.approx(130)
    assert below(counts, 0.05) == 100
    assert below(counts, 10.0) == 150
    assert below(counts, 1e9) == 150, "of what lies above the last bound it is only known that it does"
    assert below(counts, -1.0) == 0


def test_worked_percentile() -> None:
    assert quantile(histogram(b0_05=90, b0_1=10), 0.95) == pytest.approx(0.075)
    assert quantile(histogram(over=3), 0.95) == LATENCY_BOUNDS[-1]
    assert quantile(NO_LATENCIES, 0.95) is None


@given(st.lists(st.integers(0, 50), min_size=16, max_size=16), st.floats(0.01, 0.99))
def test_a_percentile_has_its_share_below_it(counts: list[int], share: float) -> None:
    found = quantile(counts, share)
    if found is not None and found < LATENCY_BOUNDS[-1]:
        assert below(counts, found) == pytest.approx(share * sum(counts), abs=1e-6)


def test_errors_are_misses_and_time_on_the_way_counts() -> None:
    one = measured(hour_latency=histogram(b0_05=100), hour_errors=20.0)
    (found,) = facts([one], slo_latency=0.08)
    assert (found.within_slo, found.hour_requests) == (100, 120)
    # 45 ms of the 80 on the way leave 35: three fifths? (35 - 25) / 25 = .4 of those between 25 and 50 ms.
    (found,) = facts([replace(one, transfer_seconds=0.045)], slo_latency=0.08)
    assert found.within_slo == 40
    (found,) = facts([replace(one, transfer_seconds=0.2)], slo_latency=0.08)
    assert found.within_slo == 0


def test_jobs_get_their_own_and_others_none() -> None:
    known = [measured(site="b"), measured(site="a", hour_errors=60.0), measured(job="shop/other")]
    mine, without = with_traffic([job(), job(name="quiet")], known)
    assert [item.site for item in mine.traffic] == ["a", "b"]
    assert mine.satisfaction_shortfall == 1.0
    assert without.traffic == () and without.satisfaction_shortfall is None
    (off,) = with_traffic([job()], known, learning=False)
    assert off.traffic == mine.traffic and off.satisfaction_shortfall is None


def test_the_largest_use_of_memory_anywhere_is_the_peak() -> None:
    known = [measured(site="a", memory_peak=100e6), measured(site="b", memory_peak=180e6), measured(site="c")]
    (found,) = with_traffic([job()], known)
    assert found.memory_peak == 11 * 2**24
    (without,) = with_traffic([job()], known[2:])
    assert without.memory_peak is None


def test_satisfaction_over_all_sites_in_hundredths() -> None:
    assert satisfaction(job(), [entry(900, 1000), entry(47, 500, site="b")]) == 0.63
    assert satisfaction(job(slo_latency=None), [entry(900, 1000)]) is None
    assert satisfaction(job(), [entry(0, 0)]) is None
    assert satisfaction(job(), []) is None


def test_noise_leaves_it_as_it_was_told() -> None:
    def now(within: int, told: float) -> float | None:
        return satisfaction(job(learned=Lesson(satisfaction=told)), [entry(within, 1000)])

    assert [now(within, 0.9) for within in (891, 900, 909)] == [0.9, 0.9, 0.9]
    assert now(880, 0.9) == 0.88
    assert now(880, 0.88) == 0.88


def test_a_new_leader_holds_what_was_told_until_it_has_measured() -> None:
    before = job(learned=Lesson(satisfaction=0.9))
    assert satisfaction(before, []) == 0.9
    assert satisfaction(before, [entry(0, 0, window=15.0)]) == 0.9
    assert satisfaction(before, [entry(3, 10, window=15.0)]) == 0.9
    assert satisfaction(before, [entry(15, 50, window=60.0)]) == 0.3
    assert satisfaction(before, [entry(3, 10)]) == 0.3, "a quiet hour that was measured whole is known"
    assert satisfaction(before, [entry(0, 0)]) is None
    (kept,) = with_traffic([before], [])
    assert kept.satisfaction_shortfall == 0.1
