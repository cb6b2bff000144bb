from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward_runtime.offload.routes import GZIP, IDENTITY, Line, Route
from edgeward_runtime.offload.steering import Budget, Steering


def drive(
    steering: Steering, hardness: list[float], *, size: int = 1000, every: float = 0.1, start: float = 0.0
) -> list[float]:
    """The hardness of those that were sent, a request every so many seconds."""
    sent = []
    for index, one in enumerate(hardness):
        now = start + index * every
        if steering.seen(one, now=now) and steering.affords(size, now=now):
            steering.reserve(size, now=now)
            steering.settle(size, size)
            sent.append(one)
    return sent


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_about_the_share_goes_and_it_is_the_hardest(share: float):
    chance = random.Random(3)
    hardness = [chance.random() ** 4 for _ in range(4000)]  # a model that is mostly sure
    sent = drive(Steering(Budget(share=share), now=0.0), hardness)
    assert len(sent) / len(hardness) == pytest.approx(share, rel=0.2)
    assert min(sent) > sorted(hardness)[int(len(hardness) * (1 - 1.6 * share) * 0.9)]


def test_the_threshold_follows_a_model_that_becomes_unsure():
    """A fixed threshold would send all of the second half."""
    chance = random.Random(4)
    steering = Steering(Budget(share=0.1), now=0.0)
    drive(steering, [chance.uniform(0.0, 0.1) for _ in range(2000)])
    sent = drive(steering, [chance.uniform(0.5, 0.9) for _ in range(2000)], start=200.0)
    assert len(sent) / 2000 == pytest.approx(0.1, abs=0.03)


@given(st.lists(st.floats(0, 1), min_size=50, max_size=400), st.floats(0.01, 1.0))
def test_the_share_is_never_exceeded(hardness: list[float], share: float):
    sent = drive(Steering(Budget(share=share), now=0.0), hardness)
    assert len(sent) <= share * len(hardness) + 1e-6


@given(st.integers(50, 600), st.integers(100, 5000))
def test_bytes_an_hour_are_never_exceeded(count: int, size: int):
    budget = Budget(share=1.0, bytes_per_hour=360_000.0)
    chance = random.Random(count)
    sent = drive(Steering(budget, now=0.0), [chance.random() for _ in range(count)], size=size)
    assert len(sent) * size <= 100.0 * count * 0.1


def test_scarce_bytes_go_to_the_hardest_and_not_to_the_first():
    chance = random.Random(5)
    hardness = [chance.random() for _ in range(6000)]
    sent = drive(Steering(Budget(bytes_per_hour=3_600_000.0), now=0.0), hardness)  # 10 requests a second, bytes for one
    late = sent[len(sent) // 3 :]
    assert sum(late) / len(late) > 0.85


def test_a_model_that_is_sure_of_everything_asks_nobody():
    assert drive(Steering(Budget(share=0.1), now=0.0), [0.0] * 500) == []


def test_too_few_answers_say_nothing_about_what_is_hard():
    assert drive(Steering(Budget(share=1.0), now=0.0), [0.1 * index for index in range(31)]) == []


def test_without_limits_all_but_the_easiest_may_go():
    sent = drive(Steering(Budget(), now=0.0), [index / 500 for index in range(500)])
    assert len(sent) > 400


def test_a_clock_that_stands_still_gives_no_bytes():
    steering = Steering(Budget(bytes_per_hour=3600.0), now=0.0)
    steering.seen(0.5, now=0.0)
    assert not steering.affords(1, now=0.0) and not steering.affords(1, now=-50.0)
    assert steering.affords(1, now=2.0)


def test_no_limit_is_no_limit_from_the_first_request_on():
    assert Steering(Budget(), now=0.0).affords(10**9, now=0.0)


def test_a_share_of_nothing_is_nothing():
    assert drive(Steering(Budget(share=0.0), now=0.0), [index / 100 for index in range(100)]) == []


# -- routes -----------------------------------------------------------------------------------------------------------


def test_a_line_is_found_from_its_points():
    line = Line()
    for size in (1000, 50_000, 200_000, 80_000):
        line.add(size, 0.02 + size / 1e6)
    assert line.at(100_000) == pytest.approx(0.12, rel=0.01)
    assert line.at_most(100_000) >= line.at(100_000)


def test_sizes_beyond_the_only_one_seen_cost_in_proportion():
    line = Line()
    line.add(1000, 0.1)
    line.add(1000, 0.1)
    assert line.at(10_000) == pytest.approx(1.0) and line.at(10) == pytest.approx(0.1)


@given(st.lists(st.tuples(st.integers(1, 10**7), st.floats(0, 10)), max_size=40), st.integers(1, 10**7))
def test_a_prediction_is_never_negative_and_grows_with_size(points: list[tuple[int, float]], size: int):
    line = Line()
    for one, seconds in points:
        line.add(one, seconds)
    assert 0.0 <= line.at(size) <= line.at(2 * size) + 1e-6


def answer(
    route: Route, encoding: str, size: int, *, bandwidth: float, ratio: float = 0.25, rate: float = 50e6
) -> None:
    packed = encoding == GZIP
    sent = round(size * ratio) if packed else size
    pack = size / rate if packed else 0.0
    route.took(encoding, size, sent=sent, pack=pack, send=0.01 + sent / bandwidth, execution=0.005, unpack=0.0)


@pytest.mark.parametrize(("bandwidth", "best"), [(1e5, GZIP), (1e9, IDENTITY)])
def test_a_slow_link_is_worth_packing_for_and_a_fast_one_is_not(bandwidth: float, best: str):
    route = Route()
    chosen = []
    for _ in range(60):
        encoding = route.choose(600_000)
        chosen.append(encoding)
        answer(route, encoding, 600_000, bandwidth=bandwidth)
    assert set(chosen[:4]) == {IDENTITY, GZIP}
    assert chosen[4:].count(best) == len(chosen[4:])


def test_the_other_encoding_is_looked_at_again():
    route = Route()
    for _ in range(200):
        answer(route, route.choose(600_000), 600_000, bandwidth=1e5)
    seen = [route.choose(600_000) for _ in range(128)]
    assert seen.count(IDENTITY) == 2


def test_a_prediction_holds_for_the_encoding_in_use():
    route = Route()
    assert route.at_most(1000) == 0.0 and not route.known() and route.wire_bytes(1000) == 1000
    for size in (100_000, 600_000, 300_000) * 8:
        answer(route, route.choose(size), size, bandwidth=1e5)
    assert 0.01 + 0.005 + 400_000 * 0.25 / 1e5 <= route.at_most(400_000) < 2.5
    assert route.wire_bytes(400_000) == pytest.approx(100_000, rel=0.02)


def test_the_breaker_opens_after_three_and_lets_one_try():
    route = Route()
    for _ in range(2):
        route.failed(0.0, 0.5)
    assert route.open(0.0)
    route.failed(0.0, 0.5)
    assert not route.open(0.99)
    assert route.open(1.0)
    route.leaving()
    assert not route.open(1.0), "one at a time"
    route.failed(1.0, 0.5)
    assert not route.open(2.9) and route.open(3.0)
    route.leaving()
    answer(route, IDENTITY, 10, bandwidth=1e6)
    assert route.open(3.0)


def test_the_wait_is_bounded_and_spread():
    route = Route()
    for _ in range(50):
        route.failed(0.0, 1.0)
    assert not route.open(89.9) and route.open(90.0)
