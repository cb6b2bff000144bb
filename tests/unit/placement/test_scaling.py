"""How many replicas: worked examples, what must hold for all figures, and hours of noisy load on a clock of their own."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeward.fleet.model import Bounds, Job, Placed, Problem, Scaled, Traffic
from edgeward.placement.scaling import Sizing, desired
from edgeward.placement.settings import ScalingSettings
from tests.unit.placement.strategies import NOW, job

many = settings(max_examples=int(os.environ.get("EDGEWARD_EXAMPLES", "60")), deadline=None, database=None)
few = settings(many, max_examples=int(os.environ.get("EDGEWARD_EXAMPLES", "20")))
SETTINGS = ScalingSettings()


def at(site: str, replicas: int, **changes: object) -> Placed:
    known: dict[str, object] = {"ready": replicas, "started": (NOW - 3600,) * replicas, "since": NOW - 3600}
    return Placed(f"node-{site}", site, replicas, **{**known, **changes})  # type: ignore[arg-type]


def seen(site: str = "a", arrivals: float | None = 0.0, seconds: float | None = 0.035, **changes: object) -> Traffic:
    """By the utilization of .7, 35 ms a request are 20 requests a second of one replica."""
    known: dict[str, object] = {"digest": "sha256:a", "at": NOW - 5, "window": 60.0, "replicas": 100}
    return Traffic(site=site, arrivals=arrivals, service_seconds=seconds, **{**known, **changes})  # type: ignore[arg-type]


def sized(replicas: int, *traffic: Traffic, lowest: int = 1, highest: int = 6, **changes: object) -> Job:
    known: dict[str, object] = {
        "replicas": replicas,
        "scaling": Bounds(lowest, highest),
        "scaled": Scaled(replicas),
        "traffic": traffic,
        "placed": (at("a", replicas),) if replicas else (),
    }
    return job("sized", **{**known, **changes})


def ask(one: Job, now: float = NOW) -> Sizing:
    answer = desired(one, now=now, settings=SETTINGS)
    assert answer is not None
    return answer


# Up ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrivals", "replicas"),
    [(0, 1), (20, 1), (21.9, 1), (22.1, 2), (60, 3), (60.1, 4), (100.1, 6), (120, 6), (5000, 6)],
)
def test_arrivals_over_throughput_up_at_once(arrivals: float, replicas: int) -> None:
    """ceil(arrivals / 20), within 1 and 6; a tenth more than there is changes nothing yet."""
    answer = ask(sized(1, seen(arrivals=arrivals)))
    assert answer.scaled == Scaled(replicas)
    assert answer.throughput == (pytest.approx(20) if arrivals else None)
    assert (answer.arrivals, answer.measured_at) == (arrivals, NOW - 5)


def test_all_sites_together() -> None:
    """60 requests of 35 ms and 30 of 70 ms keep 4.2 replicas busy: 6 at .7, that is 15 requests a second each."""
    placed = (at("a", 1), at("b", 1))
    answer = ask(sized(2, seen("a", 60), seen("b", 30, 0.07), highest=10, placed=placed))
    assert answer.scaled.replicas == 6
    assert (answer.arrivals, answer.throughput) == (90, pytest.approx(15))


def test_a_site_that_executed_nothing_counts_with_the_throughput_of_the_others() -> None:
    answer = ask(sized(2, seen("a", 60), seen("b", 30, None), placed=(at("a", 1), at("b", 1))))
    assert answer.scaled.replicas == math.ceil(90 / 20)


def test_slo_throughput_stands_in_until_something_is_measured() -> None:
    stated = ask(sized(1, seen(arrivals=90, seconds=None), slo_throughput=30.0))
    assert (stated.scaled.replicas, stated.throughput) == (3, 30)
    assert "slo.throughput" in stated.message
    measured = ask(sized(1, seen(arrivals=90), slo_throughput=30.0))
    assert (measured.scaled.replicas, measured.throughput) == (5, pytest.approx(20))
    assert "slo.throughput" not in measured.message


def test_that_the_bounds_allow_no_more_is_said() -> None:
    assert "maxReplicas 6 allows no more" in ask(sized(5, seen(arrivals=500))).message
    assert "maxReplicas" not in ask(sized(5, seen(arrivals=100))).message
    assert "maxReplicas" not in ask(sized(6, seen(arrivals=20))).message


# Down ----------------------------------------------------------------------------------------------------------------


def replay(one: Job, rate: Callable[[float], float | None], *, seconds: float, step: float = 15.0) -> list[Scaled]:
    """What is decided every `step`, each acting on what the one before wrote. rate(s) None: nothing fresh."""
    found = []
    for number in range(int(seconds / step) + 1):
        now, arrivals = NOW + number * step, rate(number * step)
        measured_at = now - 5 if arrivals is not None else NOW - 3600
        one = replace(one, traffic=(seen(arrivals=arrivals or 0.0, at=measured_at),))
        scaled = ask(one, now).scaled
        one = replace(one, replicas=scaled.replicas, scaled=scaled, placed=(at("a", scaled.replicas),))
        found.append(scaled)
    return found


def test_fewer_only_after_they_have_sufficed_for_the_whole_window() -> None:
    said = replay(sized(5), lambda _: 35.0, seconds=330)
    assert said[0] == Scaled(5, NOW, 2)
    assert [s.replicas for s in said] == [5] * 20 + [2] * 3
    assert said[-1] == Scaled(2)


def test_down_to_the_most_that_the_window_wanted() -> None:
    said = replay(sized(5), lambda s: 75.0 if s == 120 else 15.0, seconds=615)
    assert said[8] == Scaled(5, NOW, 4)
    assert [s.replicas for s in said].index(4) == 20
    assert said[-1].replicas == 1, "and from there, after another window, to what suffices now"


def test_a_look_that_wants_all_of_them_spends_the_window() -> None:
    said = replay(sized(5), lambda s: 100.0 if s == 150 else 15.0, seconds=615)
    assert said[10] == Scaled(5, NOW, 5)
    assert [s.replicas for s in said].index(1) == 40, "the next whole window, which begins when that one is over"


def test_more_are_wanted_at_once_while_a_window_is_open() -> None:
    answer = ask(sized(3, seen(arrivals=100), scaled=Scaled(3, NOW - 200, 1)))
    assert answer.scaled == Scaled(5)


def test_a_window_goes_on_under_another_leader_that_has_measured_nothing_yet() -> None:
    said = replay(sized(5), lambda s: None if 100 <= s <= 160 else 15.0, seconds=300)
    assert {s.low_since for s in said[:-1]} == {NOW}
    assert said[-1] == Scaled(1)


def test_a_window_that_nobody_could_judge_at_its_end_begins_anew() -> None:
    after_a_gap = sized(5, seen(arrivals=15), scaled=Scaled(5, NOW - 3600, 1))
    assert ask(after_a_gap).scaled == Scaled(5, NOW, 1)
    of_a_wrong_clock = sized(5, seen(arrivals=15), scaled=Scaled(5, NOW + 3600, 1))
    assert ask(of_a_wrong_clock).scaled == Scaled(5, NOW, 1)


def test_a_tenth_less_changes_nothing() -> None:
    of_eleven = sized(11, seen(arrivals=199), highest=20)
    assert ask(of_eleven).scaled == Scaled(11)


def test_an_open_window_is_told() -> None:
    assert "fewer would do" in ask(sized(5, seen(arrivals=15))).message
    assert "fewer would do" not in ask(sized(5, seen(arrivals=15), scaled=Scaled(5, NOW - 30, 5))).message


# Held ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"traffic": ()}, "no arrivals are measured yet"),
        ({"traffic": (seen(arrivals=500, at=NOW - 61),)}, "younger than 60 s"),
        ({"traffic": (seen(arrivals=500, at=NOW + 61),)}, "younger than 60 s"),
        ({"traffic": (seen(arrivals=500, at=math.nan),)}, "can be believed"),
        ({"traffic": (seen(arrivals=None),)}, "can be believed"),
        ({"traffic": (seen(arrivals=math.nan),)}, "can be believed"),
        ({"traffic": (seen(arrivals=math.inf),)}, "can be believed"),
        ({"traffic": (seen(arrivals=-3.0),)}, "can be believed"),
        ({"traffic": (seen(arrivals=500, seconds=None),)}, "slo.throughput does not say it"),
        ({"traffic": (seen(arrivals=500, seconds=math.nan),)}, "slo.throughput does not say it"),
        ({"traffic": (seen(arrivals=500, seconds=0.0),)}, "slo.throughput does not say it"),
        ({"traffic": (seen(arrivals=500, seconds=-1.0),)}, "slo.throughput does not say it"),
        ({"placed": (at("a", 3, ready=0),)}, "no replica serves"),
        ({"placed": ()}, "no replica serves"),
    ],
)
def test_what_is_missing_or_not_believed_holds_and_is_said(changes: dict[str, object], why: str) -> None:
    one = replace(sized(3, seen(arrivals=500)), **changes)  # type: ignore[arg-type]
    answer = ask(one)
    assert answer.scaled == Scaled(3)
    assert answer.message.startswith("held: ")
    assert why in answer.message


def test_a_site_that_is_silent_keeps_the_number_up_and_does_not_keep_it_down() -> None:
    placed = (at("a", 2), at("b", 2))
    few = ask(sized(4, seen("a", 10), seen("b", 500, at=NOW - 300), placed=placed))
    assert few.scaled == Scaled(4)
    assert few.message.endswith("; there are no fresh figures of b, so it will not be fewer")
    many_here = ask(sized(4, seen("a", 100), seen("b", 0, at=NOW - 300), placed=placed))
    assert many_here.scaled == Scaled(5)


def test_a_site_of_which_one_pod_does_not_answer_is_silent() -> None:
    one = sized(3, seen(arrivals=10, replicas=2))
    assert ask(one).scaled == Scaled(3)
    assert "no fresh figures of a" in ask(one).message


def test_what_has_just_started_or_is_lost_need_not_report() -> None:
    young = (at("a", 2), at("b", 2, started=(NOW - 30, NOW - 20)))
    assert ask(sized(4, seen("a", 10), placed=young)).scaled == Scaled(4, NOW, 1)
    lost = (at("a", 2), at("b", 2, lost_since=NOW - 301))
    assert ask(sized(4, seen("a", 10), placed=lost)).scaled == Scaled(4, NOW, 1)
    away = (at("a", 2), at("b", 2, lost_since=NOW - 299))
    assert ask(sized(4, seen("a", 10), placed=away)).scaled == Scaled(4)
    never_replaced = sized(4, seen("a", 10), placed=lost, replace_lost=False)
    assert ask(never_replaced).scaled == Scaled(4)


def test_many_silent_sites_are_told_in_short() -> None:
    placed = tuple(at(f"site-{number}", 1) for number in range(5))
    assert ask(sized(5, seen("x", 10), placed=placed)).message.endswith(
        "of site-0, site-1, site-2 and 2 more sites, so it will not be fewer"
    )


def test_a_figure_that_comes_twice_counts_once() -> None:
    twice = (seen(arrivals=300, at=NOW - 20), seen(arrivals=30), seen(arrivals=300, at=NOW - 10))
    assert ask(sized(1, *twice)).scaled == Scaled(2)


def test_stopped_stays_stopped_and_a_problem_holds_all() -> None:
    assert ask(sized(0, seen(arrivals=500))).scaled == Scaled(0)
    broken = sized(3, seen(arrivals=500), problem=Problem("InvalidSpec", "odd"))
    assert desired(broken, now=NOW, settings=SETTINGS) is None
    assert desired(job("plain", replicas=3), now=NOW, settings=SETTINGS) is None


# What must hold for all figures --------------------------------------------------------------------------------------

figures = st.one_of(
    st.none(),
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(0, 1000),
    st.sampled_from([0.0, 20.0, 60.0, 1e9, 1e308, 5e-324]),
)
times = st.one_of(st.floats(NOW - 400, NOW + 100), st.sampled_from([NOW, math.nan, math.inf, 0.0]))


@st.composite
def traffics(draw: st.DrawFn, arrivals: st.SearchStrategy[float | None] = figures) -> Traffic:
    return Traffic(
        site=draw(st.sampled_from("abc")),
        digest=draw(st.sampled_from(["sha256:a", "sha256:b"])),
        at=draw(times),
        window=60.0,
        arrivals=draw(arrivals),
        replicas=draw(st.integers(0, 5)),
        service_seconds=draw(figures),
    )


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    lowest = draw(st.integers(1, 8))
    highest = draw(st.integers(lowest, 12))
    replicas = draw(st.integers(lowest, highest))
    since = draw(st.one_of(st.none(), st.floats(NOW - 700, NOW + 100)))
    remembered = Scaled(replicas, since, draw(st.integers(0, 14)) if since is not None else 0)
    placed = tuple(
        at(site, draw(st.integers(0, 4)), lost_since=draw(st.sampled_from([None, None, NOW - 10, NOW - 1000])))
        for site in draw(st.sets(st.sampled_from("abc")))
    )
    return sized(
        replicas,
        *draw(st.lists(traffics(), max_size=5)),
        lowest=lowest,
        highest=highest,
        scaled=draw(st.sampled_from([None, remembered])),
        placed=placed,
        slo_throughput=draw(st.one_of(st.none(), st.floats(0, 100))),
    )


@many
@given(jobs())
def test_never_outside_the_bounds(one: Job) -> None:
    answer = ask(one)
    assert one.scaling is not None
    assert one.scaling.lowest <= answer.scaled.replicas <= one.scaling.highest
    assert 0 <= answer.scaled.low_peak <= one.replicas


@many
@given(jobs())
def test_the_same_facts_give_the_same_answer_in_any_order(one: Job) -> None:
    mirrored = replace(one, traffic=one.traffic[::-1], placed=one.placed[::-1])
    unique = {(t.site, t.digest, t.at) for t in one.traffic}
    if len(unique) == len(one.traffic):
        assert ask(mirrored).scaled == ask(one).scaled


@many
@given(jobs(), st.lists(traffics(), max_size=5))
def test_stale_figures_change_nothing(one: Job, other: list[Traffic]) -> None:
    old = replace(one, traffic=tuple(replace(t, at=NOW - 61 - index) for index, t in enumerate(one.traffic)))
    assert ask(old).scaled.replicas == one.replicas
    believed_or_not = tuple(replace(t, at=NOW - 61) for t in other)
    with_rubbish = replace(one, traffic=(*one.traffic, *believed_or_not))
    assert ask(with_rubbish).scaled == ask(one).scaled


@many
@given(jobs())
def test_a_site_that_falls_silent_never_takes_a_replica_away(one: Job) -> None:
    missing = replace(one, traffic=tuple(t for t in one.traffic if t.site != "a"))
    serves = any(p.site == "a" and p.ready and p.lost_since is None for p in one.placed)
    if serves:
        assert ask(missing).scaled.replicas >= one.replicas


@many
@given(
    jobs(),
    st.floats(0, 400),
    st.floats(0, 400),
    st.floats(0.001, 0.5),
    st.floats(0.001, 0.5),
)
def test_more_arrivals_never_mean_fewer(one: Job, some: float, more: float, here: float, there: float) -> None:
    def with_arrivals(arrivals: float) -> Job:
        return replace(one, traffic=(seen("a", arrivals, here), seen("b", 50.0, there)))

    assert ask(with_arrivals(some)).scaled.replicas <= ask(with_arrivals(some + more)).scaled.replicas


@many
@given(jobs(), st.floats(0, 1), st.floats(0, 1))
def test_the_text_is_another_only_with_the_decision(one: Job, some: float, other: float) -> None:
    """Figures that drift are no news: where the same is decided from the same sites, the same is told."""

    def told(noise: float) -> Sizing:
        traffic = tuple(
            replace(t, arrivals=t.arrivals * (1 + noise) if t.arrivals is not None else None) for t in one.traffic
        )
        return ask(replace(one, traffic=traffic))

    before, after = told(some), told(other)
    both_measured = None not in (before.arrivals, after.arrivals)
    if before.scaled == after.scaled and both_measured and (before.throughput is None) == (after.throughput is None):
        assert before.message == after.message


def changes(said: list[Scaled]) -> int:
    return sum(1 for before, after in pairwise(said) if before.replicas != after.replicas)


def writes(said: list[Scaled]) -> int:
    return sum(1 for before, after in pairwise(said) if before != after)


@pytest.mark.parametrize("demand", [0.5, 1.0, 2.0, 2.05, 2.5, 2.95, 3.0, 3.1, 4.98])
@pytest.mark.parametrize("noise", [0.05, 0.1, 0.2])
def test_a_noisy_constant_load_settles(demand: float, noise: float) -> None:
    """An hour, looked at every 15 s. After what it takes to settle the number stays, or goes up once more for a peak."""
    chance = random.Random(f"{demand} {noise}")
    for start in (1, 6):
        said = replay(sized(start), lambda _: 20 * demand * chance.uniform(1 - noise, 1 + noise), seconds=3600)
        assert changes(said) <= (3 if noise <= 0.1 else 6)
        assert changes(said[40:]) <= (0 if noise <= 0.1 else 4)
        assert math.ceil(demand / 1.1) <= said[-1].replicas <= math.ceil(demand * (1 + noise))
        assert writes(said) <= 60, "a window is written when it opens, ends, or a higher peak is seen"


@few
@given(st.lists(st.floats(0, 150), min_size=240, max_size=240))
def test_whatever_the_load_does_writes_are_few_beside_scaling_up(rates: list[float]) -> None:
    """Beside going up, which is at once, an hour has at most 12 windows, each opened, raised and closed."""
    said = replay(sized(3), lambda s: rates[int(s // 15) % 240], seconds=3585)
    up = sum(1 for before, after in pairwise(said) if after.replicas > before.replicas)
    down = changes(said) - up
    assert down <= 12
    assert writes(said) <= 2 * up + 12 * (2 + 6)
