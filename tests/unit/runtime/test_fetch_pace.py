from __future__ import annotations

import pytest

from edgeward_runtime.errors import Cancelled
from edgeward_runtime.fetch.pace import Pace, wait


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 0.25, "a change of mind has to be noticed"
        self.now += seconds


@pytest.mark.parametrize("rate", [8_000, 800_000, 80_000_000])
@pytest.mark.parametrize("chunk", [100, 4096, 262_144])
def test_a_rate_is_kept(rate, chunk):
    time = Time()
    pace = Pace(rate, clock=lambda: time.now, sleep=time.sleep)
    chunks = max(4, int(rate / 8 * 10 / chunk))
    for _ in range(chunks):
        pace.took(chunk, bool)
    # What a quarter of a second may bring at once is free at the start.
    expected = chunks * chunk / (rate / 8) - 0.25
    assert time.now == pytest.approx(expected, rel=0.05, abs=0.3)


def test_no_rate_no_wait():
    pace = Pace(0, clock=lambda: 0.0, sleep=lambda _s: pytest.fail("waited"))
    pace.took(10**12, bool)
    assert pace.chunk is None


def test_time_without_a_download_is_not_saved_up():
    time = Time()
    pace = Pace(8_000, clock=lambda: time.now, sleep=time.sleep)
    time.now = 1e6
    pace.took(2_250, bool)
    assert time.now == pytest.approx(1e6 + 2.0)


def test_a_clock_that_goes_back_is_no_reason_to_wait_longer():
    time = Time()
    time.now = 1e6
    pace = Pace(8_000, clock=lambda: time.now, sleep=time.sleep)
    time.now = 0.0
    pace.took(1_250, bool)
    assert time.now == pytest.approx(1.0)


def test_a_wait_can_be_given_up():
    time = Time()
    with pytest.raises(Cancelled):
        wait(100.0, cancelled=lambda: time.now >= 1.0, sleep=time.sleep)
    assert time.now == pytest.approx(1.0)
