"""Counters to rates: worked numbers, resets, pods that come, go and fall silent, lies, bounded memory."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward.agent.exposition import Counts, Page
from edgeward.agent.hours import SLOT
from edgeward.agent.windows import Key, Windows
from edgeward.fleet.traffic import HOUR, LATENCY_BOUNDS, NO_LATENCIES, Measured

KEY = Key("shop/reader", "store-1")
DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
T = 1_700_000_100.0


def latencies(**by_bound: float) -> tuple[float, ...]:
    """latencies(b0_05=3): three requests of at most 50 ms."""
    counts = list(NO_LATENCIES)
    for name, count in by_bound.items():
        counts[LATENCY_BOUNDS.index(float(name[1:].replace("_", ".")))] = count
    return tuple(counts)


def reading(
    served: float, *, started: float = T - 9999, cpu: float | None = None, busy: float = 0.0, **counts: float
) -> Page:
    own = Counts(served=served, busy=busy, latency=latencies(b0_05=served), **counts)
    return Page(digests={DIGEST: own}, serving=DIGEST, started=started, cpu=cpu, memory=100e6)


def only(windows: Windows, now: float) -> Measured:
    (found,) = windows.measured(now=now)
    return found


def fed(*turns: tuple[float, dict[str, Page]], windows: Windows | None = None, pods: tuple[str, ...] = ()) -> Windows:
    """Windows after turns of (time, what the pods that answered said); the pods of a turn are those unless named."""
    windows = windows or Windows()
    for at, pages in turns:
        windows.begin([(uid, KEY) for uid in pods or pages], at=at)
        for uid, page in pages.items():
            windows.note(uid, page, at=at)
    return windows


def test_a_first_reading_says_nothing_yet() -> None:
    assert list(fed((T, {"a": reading(5000)})).measured(now=T)) == []


def test_two_pods_worked_by_hand() -> None:
    # a: 30 requests in 15 s, 0.6 s busy; b: 60 in 15 s, 3 s busy. 6/s together, 3.6 s over 90 requests = 40 ms.
    windows = fed(
        (T, {"a": reading(1000, cpu=10.0), "b": reading(0)}),
        (T + 15, {"a": reading(1030, cpu=13.0, busy=0.6, errors=15), "b": reading(60, busy=3.0)}),
    )
    found = only(windows, T + 15)
    assert (found.job, found.site, found.digest) == ("shop/reader", "store-1", DIGEST)
    assert (found.at, found.window, found.replicas, found.samples) == (T + 15, 15, 2, 90)
    assert found.arrivals == pytest.approx((90 + 15) / 15)
    assert found.service_seconds == pytest.approx(0.04)
    assert found.latency_p95 == pytest.approx(0.025 + 0.025 * 0.95)
    assert (found.hour_latency[LATENCY_BOUNDS.index(0.05)], found.hour_errors, found.hour_window) == (90, 15, 15)
    assert found.cpu_p95 == pytest.approx(0.2, rel=0.06)
    assert found.memory_p95 == found.memory_peak == pytest.approx(100e6, rel=0.06)
    assert found.transfer_seconds is None


def test_the_minute_slides() -> None:
    turns = [(T + 15 * n, {"a": reading(150 * min(n, 4))}) for n in range(9)]
    assert only(fed(*turns[:5]), T + 60).arrivals == pytest.approx(10)
    assert only(fed(*turns[:7]), T + 90).arrivals == pytest.approx(5)
    quiet = only(fed(*turns), T + 120)
    assert (quiet.arrivals, quiet.samples, quiet.service_seconds, quiet.latency_p95) == (0, 0, None, None)


def test_a_restart_counts_from_zero_and_never_backwards() -> None:
    turns = [(T, {"a": reading(1000, cpu=50.0)}), (T + 15, {"a": reading(1150, cpu=51.5)})]
    by_start = fed(*turns, (T + 30, {"a": reading(1300, started=T + 20, cpu=52.0)}))
    assert only(by_start, T + 30).arrivals == pytest.approx((150 + 1300) / 30)
    by_counter = fed(*turns, (T + 30, {"a": reading(30, cpu=0.5)}))
    assert only(by_counter, T + 30).arrivals == pytest.approx((150 + 30) / 30)
    assert only(by_counter, T + 30).cpu_p95 == pytest.approx(0.1, rel=0.06)


def test_a_pod_that_is_born_counts_from_its_start_and_an_old_one_only_from_when_it_is_seen() -> None:
    born = fed((T, {"a": reading(0)}), (T + 15, {"a": reading(0), "b": reading(75, started=T + 5)}))
    assert only(born, T + 15).arrivals == pytest.approx(5)
    old = fed((T, {"a": reading(0)}), (T + 15, {"a": reading(0), "b": reading(75_000, started=T - 5000)}))
    assert only(old, T + 15).arrivals == 0
    ahead = fed((T, {"a": reading(0)}), (T + 15, {"a": reading(0), "b": reading(75_000, started=T + 5000)}))
    assert only(ahead, T + 15).arrivals == 0


def test_what_a_pod_did_before_it_went_counts_for_the_rest_of_the_minute() -> None:
    turns = [(T, {"a": reading(0), "b": reading(0)}), (T + 15, {"a": reading(150), "b": reading(150)})]
    later = [(T + 15 + 15 * n, {"b": reading(150 + 300 * n)}) for n in range(1, 6)]
    assert only(fed(*turns, *later[:1]), T + 30).arrivals == pytest.approx(600 / 30)
    assert only(fed(*turns, *later[:1]), T + 30).replicas == 1
    assert only(fed(*turns, *later), T + 90).arrivals == pytest.approx(20)


def test_a_pod_that_falls_silent_is_taken_to_go_on_for_a_while_and_is_not_idle() -> None:
    turns = [(T + 15 * n, {"a": reading(150 * n), "b": reading(150 * n)}) for n in range(5)]
    silent = [(T + 15 * n, {"a": reading(150 * n)}) for n in range(5, 14)]
    windows = fed(*turns, pods=("a", "b"))
    windows = fed(*silent[:3], windows=windows, pods=("a", "b"))
    assert only(windows, T + 105).arrivals == pytest.approx(20)
    windows = fed(*silent[3:], windows=windows, pods=("a", "b"))
    assert only(windows, T + 195).arrivals == pytest.approx(10)
    assert only(windows, T + 195).replicas == 1
    # What it did meanwhile is spread over the time that it took, not heaped on the turn in which it speaks again.
    windows = fed((T + 210, {"a": reading(2100), "b": reading(2100)}), windows=windows)
    assert only(windows, T + 210).arrivals == pytest.approx(20)


def test_nobody_answers() -> None:
    windows = fed((T, {"a": reading(0)}), (T + 15, {"a": reading(150)}))
    for n in range(2, 12):
        windows.begin([("a", KEY)], at=T + 15 * n)
    assert only(windows, T + 100).at == T + 15
    assert list(windows.measured(now=T + 180)) == []


@pytest.mark.parametrize(
    "lie",
    [
        reading(1e14),
        reading(10, busy=1e9),
        reading(10, transfers=1, transfer=1e9),
        Page(digests={DIGEST: Counts(served=1, latency=latencies(b0_05=100))}, serving=DIGEST),
    ],
)
def test_more_than_a_pod_can_do_is_not_believed(lie: Page) -> None:
    assert list(fed((T, {"a": reading(0)}), (T + 15, {"a": lie})).measured(now=T + 15)) == []


def test_a_clock_that_is_set_back_makes_no_negative_time() -> None:
    windows = fed((T, {"a": reading(0)}), (T + 15, {"a": reading(150)}), (T + 5, {"a": reading(300)}))
    found = only(windows, T + 15)
    assert (found.arrivals, found.window) == (10, 15)


def test_the_newest_model_of_most_pods_is_the_one_that_is_measured() -> None:
    def two(served: float, newer: float, serving: str) -> Page:
        digests = {DIGEST: Counts(served=served, busy=served), OTHER: Counts(served=newer, busy=newer / 10)}
        return Page(digests=digests, serving=serving, started=T - 99)

    found = only(fed((T, {"a": two(0, 0, DIGEST)}), (T + 15, {"a": two(15, 30, OTHER)})), T + 15)
    assert (found.digest, found.arrivals, found.samples) == (OTHER, pytest.approx(3), 30)
    assert found.service_seconds == pytest.approx(0.1)


def test_the_hour_slides_by_slots_and_says_what_it_covers() -> None:
    windows, at = Windows(), T
    for n in range(0, 7200, 15):
        at = T + n
        windows.begin([("a", KEY)], at=at)
        windows.note("a", reading(n * 10), at=at)
    found = only(windows, at)
    assert HOUR - SLOT <= found.hour_window <= HOUR + SLOT
    assert sum(found.hour_latency) == pytest.approx(10 * found.hour_window)
    windows.begin([], at=at + 4000)
    assert list(windows.measured(now=at + 4000)) == []


def size(windows: Windows) -> tuple[int, int]:
    """Of all that it holds: intervals, and slots with their bins."""
    return (
        sum(len(pod.intervals) for pod in windows._pods.values()),
        sum(len(slot.sums.cpu) + len(slot.sums.memory) + 1 for hour in windows._hours.values() for slot in hour._slots),
    )


def test_a_day_of_pods_that_come_and_go_leaves_no_more_than_two_hours_of_them() -> None:
    windows, sizes = Windows(), []
    for n in range(24 * 60):
        at = T + 60 * n
        uids = [f"{n // 10}-{i}" for i in range(3)]
        windows.begin([(uid, Key(f"shop/job-{n // 120}", "s")) for uid in uids], at=at)
        for uid in uids:
            windows.note(uid, reading(n, cpu=n * 7.0 + n % 13), at=at)
        if n % 120 == 119:
            sizes.append(size(windows))
    assert max(intervals for intervals, _ in sizes) <= 3 * 5
    assert max(slots for _, slots in sizes) <= 2 * sizes[0][1]


counters = st.lists(st.tuples(st.floats(0.1, 100), st.integers(0, 10**6), st.booleans()), min_size=2, max_size=40)


@given(counters)
def test_whatever_the_counters_do_no_figure_is_negative_or_infinite(turns: list[tuple[float, int, bool]]) -> None:
    windows, at = Windows(), T
    for pause, count, answers in turns:
        at += pause
        windows.begin([("a", KEY)], at=at)
        if answers:
            windows.note("a", reading(count, cpu=count / 1000, busy=count / 50), at=at)
        for found in windows.measured(now=at):
            figures = [found.arrivals, found.service_seconds, found.latency_p95, found.cpu_p95, found.hour_window]
            assert all(figure is None or (math.isfinite(figure) and figure >= -1e-6) for figure in figures)
            assert 0 < found.window <= 60 and found.at <= at
