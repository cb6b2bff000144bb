"""What is learned: worked numbers, bounds, noise that changes nothing, stale figures that move nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward.api.common import LabelSelector
from edgeward.fleet.model import Exclusion, Fleet, Job, Lesson, Placed, RightSize, Site, SiteLesson, Traffic
from edgeward.placement import PlanSettings, plan
from edgeward.placement.ask import Ask
from edgeward.placement.learning import LISTED_SITES, Failures, Learned, failure_weight, right_size
from edgeward.placement.ledger import Ledger
from edgeward.placement.scoring import Company, Scorer
from edgeward.placement.settings import LearningSettings
from tests.unit.placement.strategies import DIGESTS, MI, NOW, fleet, job, node, placed

SETTINGS = PlanSettings()
OFF = PlanSettings(learning=LearningSettings(enabled=False))


def measured(site: str = "shop", seconds: float | None = 0.2, samples: int = 970, **changes: object) -> Traffic:
    known: dict[str, object] = {
        "digest": DIGESTS[0],
        "at": NOW - 5,
        "window": 60.0,
        "hour_window": 3600.0,
        "hour_requests": samples,
        "hour_samples": samples,
        "hour_service_seconds": seconds,
    }
    return Traffic(site=site, **{**known, **changes})  # type: ignore[arg-type]


def at(*traffic: Traffic, **changes: object) -> Job:
    return job(traffic=traffic, **{"service_seconds": 0.1, **changes})


def factor(one: Job, site: str = "shop", settings: PlanSettings = SETTINGS, **changes: object) -> float:
    return Learned(fleet([node()], [one], **changes), settings).execution(one, site)


def told(execution: float, *, samples: int = 1000, age: float = 60.0, site: str = "shop") -> Lesson:
    return Lesson(sites=(SiteLesson(site, execution, None, samples, NOW - age),))


# Times ---------------------------------------------------------------------------------------------------------------


def test_worked_twice_the_predicted_time() -> None:
    # 970 requests took twice as long; with the 30 that count as predicted: 2 ** .97 = 1.959.
    assert factor(at(measured())) == pytest.approx(2**0.97, abs=1e-3)


def test_few_requests_change_little_and_very_few_nothing() -> None:
    assert factor(at(measured(samples=30))) == pytest.approx(2**0.5, abs=1e-3)
    assert factor(at(measured(samples=9))) == 1.0


def test_a_faster_node_is_predicted_to_be_faster() -> None:
    fast = node(speed=2.0)
    one = at(measured(seconds=0.05), placed=(placed(fast),))
    assert Learned(fleet([fast], [one]), SETTINGS).execution(one, "shop") == pytest.approx(1.0)


def test_two_jobs_with_one_model_teach_each_other() -> None:
    one, other = at(measured(samples=270)), job("other", service_seconds=0.1)
    known = Learned(fleet([node()], [one, other]), SETTINGS)
    assert known.execution(other, "shop") == known.execution(one, "shop") == pytest.approx(2**0.9, abs=1e-3)
    third = job("third", service_seconds=0.1, model_digest=DIGESTS[1])
    assert Learned(fleet([node()], [one, third]), SETTINGS).execution(third, "shop") == 1.0


@pytest.mark.parametrize(("seconds", "expected"), [(100.0, 4.0), (0.0001, 0.25)])
def test_no_prediction_is_corrected_by_more_than_the_bound(seconds: float, expected: float) -> None:
    assert factor(at(measured(seconds=seconds))) == expected


def test_a_model_without_a_published_time_gets_its_first_estimate_from_where_it_ran() -> None:
    fast, slow = node("fast", site="fast", speed=2.0), node("slow", site="slow")
    one = at(measured("fast", 0.1), measured("slow", 0.2), service_seconds=None, placed=(placed(fast), placed(slow)))
    known = Learned(fleet([fast, slow], [one, job("new")]), SETTINGS)
    assert known.service_seconds(one) == known.service_seconds(job("new")) == pytest.approx(0.2)
    assert known.execution(one, "fast") == known.execution(one, "slow") == pytest.approx(1.0)
    assert known.service_seconds(job(model_digest=DIGESTS[1])) is None
    assert known.service_seconds(job(service_seconds=0.5)) == 0.5


def test_a_first_estimate_counts_sites_and_not_requests_alone() -> None:
    # 970 requests of 100 ms weigh .97, 30 of 400 ms .5: exp((.97 ln .1 + .5 ln .4) / 1.47) = 160 ms.
    one = at(measured("a", 0.1), measured("b", 0.4, samples=30), service_seconds=None)
    assert Learned(fleet([node()], [one]), SETTINGS).service_seconds(one) == pytest.approx(0.16, abs=0.001)


def test_a_way_that_takes_longer_than_its_link_says() -> None:
    sites = (Site("shop", "edge", rtt=0.05), Site("cam", "edge", rtt=0.05, labels={"camera": "yes"}))
    one = at(
        measured(seconds=None, hour_transfer_seconds=0.3, hour_transfers=970),
        request_bytes=1000,
        source_selector=LabelSelector(match_labels={"camera": "yes"}),
    )
    known = Learned(fleet([node()], [one], sites=sites), SETTINGS)
    assert known.transfer(one, "shop") == pytest.approx(3**0.97, abs=1e-3)
    assert known.transfer(one, "cam") == 1.0
    ledger = Ledger(fleet([node()], [one], sites=sites), SETTINGS)
    score = Scorer(Ask(0, one, ledger), SETTINGS)
    assert score.figures(ledger.states[0], present=False, best_capability=0.0).transfer_seconds == pytest.approx(
        0.1 * 3**0.97, rel=1e-3
    )


def test_a_score_rests_on_the_corrected_time() -> None:
    def completion(one: Job, settings: PlanSettings) -> float | None:
        ledger = Ledger(fleet([node()], [one]), settings)
        score = Scorer(Ask(0, one, ledger), settings)
        (state,) = ledger.states
        return score.figures(state, present=False, best_capability=0.0).completion_seconds

    plain, slow = completion(at(), SETTINGS), completion(at(measured(seconds=0.4)), SETTINGS)
    assert plain is not None and slow is not None
    assert slow == pytest.approx(plain * 4**0.97, rel=1e-3)
    assert completion(at(measured(seconds=0.4)), OFF) == plain


def test_a_site_that_proves_slow_scores_below_its_twin() -> None:
    spots = [node("a", site="a"), node("b", site="b")]
    one = at(measured("a", 0.4))
    ledger = Ledger(fleet(spots, [one]), SETTINGS)
    score = Scorer(Ask(0, one, ledger), SETTINGS)
    first, second = (score.score(state, Company(), present=False, stays=False) for state in ledger.states)
    assert first < second


# Noise, memory and age -------------------------------------------------------------------------------------------------


def test_noise_around_what_was_told_changes_nothing() -> None:
    for seconds in (0.19, 0.2, 0.21):
        one = at(measured(seconds=seconds), learned=told(1.96))
        known = Learned(fleet([node()], [one]), SETTINGS)
        assert known.execution(one, "shop") == 1.96
        assert known.lesson(one) == one.learned
    one = at(measured(seconds=0.25), learned=told(1.96))
    known = Learned(fleet([node()], [one]), SETTINGS)
    (item,) = known.lesson(one).sites
    assert (item.execution, item.samples, item.at) == (pytest.approx(2.5**0.97, abs=1e-3), 970, NOW)


def test_what_holds_is_confirmed_once_an_hour() -> None:
    one = at(measured(), learned=told(1.96, age=3500))
    assert Learned(fleet([node()], [one]), SETTINGS).lesson(one) == one.learned
    one = at(measured(), learned=told(1.96, age=3600))
    (item,) = Learned(fleet([node()], [one]), SETTINGS).lesson(one).sites
    assert (item.execution, item.at) == (1.96, NOW)


def test_a_new_leader_goes_on_from_what_was_told() -> None:
    """It has measured little: neither nothing nor a few requests outweigh what rests on many."""
    for traffic in ((), (measured(seconds=0.1, samples=200, hour_window=20.0),)):
        one = at(*traffic, learned=told(2.0))
        known = Learned(fleet([node()], [one]), SETTINGS)
        assert known.execution(one, "shop") == 2.0
        assert known.lesson(one) == one.learned
    one = at(measured(seconds=0.1, samples=300), learned=told(2.0))
    assert factor(one) == 1.0


def test_what_nobody_measures_any_more_fades_and_is_dropped() -> None:
    for age, expected in ((3600, 2.0), (7200, 2**0.5), (10800, 2**0.25)):
        one = at(learned=told(2.0, age=age))
        known = Learned(fleet([node()], [one]), SETTINGS)
        assert known.execution(one, "shop") == pytest.approx(expected)
        assert known.lesson(one) == one.learned, "fading is no write"
    gone = at(learned=told(2.0, age=3600 * 4.1))
    assert Learned(fleet([node()], [gone]), SETTINGS).lesson(gone) == Lesson()


def test_of_a_few_against_what_has_faded_the_few_win() -> None:
    one = at(measured(seconds=0.1, samples=100), learned=told(4.0, age=3600 * 3))
    assert factor(one) == 1.0


def test_the_first_estimate_stands_until_it_is_off_by_more_than_noise() -> None:
    for seconds, expected in ((0.105, 0.1), (0.095, 0.1), (0.2, 0.2)):
        one = at(measured(seconds=seconds), service_seconds=None, learned=Lesson(service_seconds=0.1))
        assert Learned(fleet([node()], [one]), SETTINGS).service_seconds(one) == expected
    one = job(learned=Lesson(service_seconds=0.1))
    assert Learned(fleet([node()], [one]), SETTINGS).lesson(one).service_seconds == 0.1


def test_switched_off_nothing_is_learned_and_nothing_told() -> None:
    one = at(measured(), learned=replace(told(2.0), service_seconds=0.3, right_size=RightSize(cpu=100)))
    known = Learned(fleet([node()], [one]), OFF)
    assert (known.execution(one, "shop"), known.lesson(one)) == (1.0, Lesson())
    assert known.service_seconds(replace(one, service_seconds=None)) is None


def test_at_most_twenty_sites_are_told_and_those_stay_the_same() -> None:
    traffic = tuple(measured(f"s{n:02}", 0.1 + n / 100) for n in range(30))
    first = Learned(fleet([node()], [at(*traffic)]), SETTINGS).lesson(at(*traffic))
    assert [item.site for item in first.sites] == [f"s{n:02}" for n in range(10, 30)]
    assert len(first.sites) == LISTED_SITES
    mirrored = tuple(replace(item, hour_service_seconds=0.4 - n / 100) for n, item in enumerate(traffic))
    again = at(*mirrored, learned=first)
    assert {i.site for i in Learned(fleet([node()], [again]), SETTINGS).lesson(again).sites} == {
        i.site for i in first.sites
    }


def test_what_somebody_wrote_into_a_status_is_not_reckoned_with() -> None:
    spoilt = tuple(SiteLesson(site, -1.0, 0.0, 500, NOW) for site in ("a", "b"))
    one = at(measured("a"), learned=Lesson(service_seconds=-2.0, sites=spoilt))
    known = Learned(fleet([node()], [one]), SETTINGS)
    assert known.execution(one, "b") == known.transfer(one, "b") == 1.0
    assert {item.site: item.execution for item in known.lesson(one).sites} == {
        "a": known.execution(one, "a"),
        "b": -1.0,
    }


figures = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True), st.floats(1e-5, 100.0), st.sampled_from([0.0, -1.0, None, 1e-300])
)
traffics = st.builds(
    measured,
    st.sampled_from(["a", "b"]),
    figures,
    st.integers(-5, 10**9),
    at=st.one_of(st.floats(NOW - 400, NOW + 100), st.sampled_from([float("nan"), float("inf"), 0.0])),
    hour_transfer_seconds=figures,
    hour_transfers=st.integers(-5, 10**6),
    cpu_p95=figures,
    memory_p95=figures,
)
lessons = st.builds(
    Lesson,
    service_seconds=figures,
    sites=st.lists(
        st.builds(
            SiteLesson,
            st.sampled_from(["a", "b"]),
            figures,
            figures,
            st.integers(0, 10**6),
            st.floats(0, NOW + 1000),
        ),
        max_size=2,
        unique_by=lambda item: item.site,
    ).map(tuple),
)
jobs = st.builds(
    lambda traffic, learned, seconds: job(
        traffic=tuple(traffic),
        learned=learned,
        service_seconds=seconds,
        request_bytes=1000,
        source_selector=LabelSelector(match_labels={"edgeward.dev/site": "b"}),
    ),
    st.lists(traffics, max_size=3),
    lessons,
    figures,
)


def two(one: Job) -> Fleet:
    sites = (Site("a", "edge", rtt=0.01), Site("b", "edge", rtt=0.02))
    return fleet([node("a", site="a"), node("b", site="b")], [one], sites=sites)


@given(jobs)
def test_whatever_is_measured_or_remembered_a_correction_is_bounded(one: Job) -> None:
    known = Learned(two(one), SETTINGS)
    for site in ("a", "b", "elsewhere"):
        assert 0.25 <= known.execution(one, site) <= 4.0
        assert 0.25 <= known.transfer(one, site) <= 4.0
    seconds = known.service_seconds(one)
    assert seconds is None or 1e-6 <= seconds <= 3600


@given(jobs)
def test_telling_it_again_is_no_news(one: Job) -> None:
    """What is told, once read back, gives the same: so no sample makes a second write by itself."""
    first = Learned(two(one), SETTINGS).lesson(one)
    again = replace(one, learned=first)
    assert Learned(two(again), SETTINGS).lesson(again) == first


@given(jobs, st.floats(180, 1e6))
def test_figures_that_are_stale_move_nothing(one: Job, age: float) -> None:
    stale = replace(one, traffic=tuple(replace(item, at=NOW - age) for item in one.traffic))
    silent = replace(one, traffic=())
    old, none = Learned(two(stale), SETTINGS), Learned(two(silent), SETTINGS)
    for site in ("a", "b"):
        assert old.execution(stale, site) == none.execution(silent, site)
        assert old.transfer(stale, site) == none.transfer(silent, site)
    assert old.service_seconds(stale) == none.service_seconds(silent)


# Failures --------------------------------------------------------------------------------------------------------------


def excluded(count: int = 1, until: float = NOW) -> Exclusion:
    return Exclusion("n", "CrashLoopBackOff", "", count, until)


def test_failures_weigh_by_how_often_and_fade_by_age() -> None:
    def weight(*exclusions: tuple[Exclusion, float]) -> float:
        return failure_weight(exclusions, now=NOW, memory=3600)

    assert weight() == 1.0
    assert weight((excluded(), 1.0)) == 0.5
    assert weight((excluded(count=3), 1.0)) == 0.125
    assert weight((excluded(until=NOW + 600), 1.0)) == 0.5
    assert weight((excluded(until=NOW - 1800), 1.0)) == 0.75
    assert weight((excluded(until=NOW - 3600), 1.0)) == 1.0
    assert weight((excluded(), 0.5)) == 0.75
    assert weight((excluded(), 1.0), (excluded(), 1.0)) == 0.25


@given(st.lists(st.tuples(st.integers(-3, 10**9), st.floats(NOW - 9999, NOW + 9999), st.floats(-2, 3)), max_size=5))
def test_a_weight_of_failures_is_a_share(items: list[tuple[int, float, float]]) -> None:
    exclusions = [(excluded(count, until), counts) for count, until, counts in items]
    assert 0.0 <= failure_weight(exclusions, now=NOW, memory=3600) <= 1.0


def test_a_refusal_weighs_most_for_the_job_and_the_node_that_had_it() -> None:
    spots = [node("n", site="a"), node("next", site="a"), node("far", site="b")]
    one, other = job(exclusions=(excluded(),)), job("other")
    known = Failures(fleet(spots, [one, other]), SETTINGS)
    assert known.weight(one.key, "n", "a") == 0.5
    assert known.weight(other.key, "n", "a") == 0.75
    assert known.weight(one.key, "next", "a") == 0.875
    assert known.weight(other.key, "next", "a") == 1.0
    assert known.weight(one.key, "far", "b") == 1.0
    assert not known.empty and Failures(fleet(spots, [other]), SETTINGS).empty


# Sizes -----------------------------------------------------------------------------------------------------------------


def used(cpu: float = 0.1, memory: float = 100 * MI, **changes: object) -> Traffic:
    return measured(**{"cpu_p95": cpu, "memory_p95": memory, **changes})  # type: ignore[arg-type]


def size(one: Job) -> RightSize | None:
    return right_size(one, LearningSettings())


def test_worked_a_job_that_asks_for_far_too_much() -> None:
    # .1 cores with 15% to spare, rounded up to 10m; 100Mi with 30%, rounded up to 8Mi. Asked for: 500m and 512Mi.
    found = size(job(traffic=(used(),)))
    assert found is not None
    assert (found.cpu, found.memory) == (120, 136 * MI)
    assert found.basis == "95th percentile of 60 minutes, with 15% and 30% to spare"


def test_the_busiest_site_counts() -> None:
    found = size(job(traffic=(used(site="a"), used(0.4, 390 * MI, site="b"))))
    assert found is None or (found.cpu, found.memory) == (None, None)
    found = size(job(traffic=(used(site="a"), used(0.8, site="b"))))
    assert found is not None and (found.cpu, found.memory) == (920, 136 * MI)


@pytest.mark.parametrize(
    "traffic",
    [
        (),
        (used(hour_window=1800.0),),
        (used(samples=20),),
        (used(), used(site="new", hour_window=60.0)),
        (used(cpu_p95=None),),
        (used(cpu_p95=float("inf")),),
        (used(memory_p95=float("nan")),),
    ],
    ids=["nothing", "half an hour", "idle", "a site that is new", "no cpu", "infinite cpu", "no number"],
)
def test_too_little_is_known_to_propose_anything(traffic: tuple[Traffic, ...]) -> None:
    assert size(job(traffic=traffic)) is None
    before = RightSize(120, None, "as before")
    assert size(job(traffic=traffic, learned=Lesson(right_size=before))) == before


def test_a_proposal_stands_while_the_use_is_much_the_same_and_goes_when_it_was_followed() -> None:
    before = RightSize(120, 136 * MI, "as before")
    assert size(job(traffic=(used(0.115, 108 * MI),), learned=Lesson(right_size=before))) == before
    changed = size(job(traffic=(used(0.2),), learned=Lesson(right_size=before)))
    assert changed is not None and (changed.cpu, changed.memory) == (230, 136 * MI)
    followed = job(
        traffic=(used(),), learned=Lesson(right_size=before), request=job().request.__class__(120, 136 * MI, 1)
    )
    assert size(followed) is None


def test_a_plan_proposes_and_applies_nothing() -> None:
    spot = node()
    one = job(traffic=(used(),), placed=(placed(spot),))
    done = plan(fleet([spot], [one])).job(one.key)
    assert done is not None and done.learned.right_size is not None
    assert done.placements[0].replicas == 1
    assert one.request.cpu == 500


def test_what_was_learned_is_part_of_a_decision_and_a_job_that_cannot_be_planned_keeps_it() -> None:
    one = at(measured())
    done = plan(fleet([node()], [one])).job(one.key)
    assert done is not None
    assert done.learned.sites[0].execution == pytest.approx(2**0.97, abs=1e-3)
    assert done.decision != replace(done, learned=Lesson()).decision


def test_a_replica_at_a_site_that_proved_slow_moves_only_as_any_other_does() -> None:
    """One look is not enough: a correction is a reason to think about a move, not a move."""
    here, there = node("a", site="a"), node("b", site="b")
    one = at(measured("a", 0.4), placed=(Placed("a", "a", 1, 1, (NOW - 9000,), since=NOW - 9000),))
    done = plan(fleet([here, there], [one])).job(one.key)
    assert done is not None
    assert [item.node for item in done.placements] == ["a"]


def test_switched_off_it_orders_nobody_either() -> None:
    jobs = [job("a", created_at=1.0), job("b", created_at=2.0, satisfaction_shortfall=0.5)]
    for enabled, first in ((True, "test/b"), (False, "test/a")):
        settings = PlanSettings(learning=LearningSettings(enabled=enabled))
        assert plan(fleet([node()], jobs), settings).jobs[0].key == first
