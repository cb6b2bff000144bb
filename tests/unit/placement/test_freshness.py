"""How far a sample is believed; nothing unknown ever reads as zero or idle."""

import math

import pytest

from edgeward.fleet.model import Live, Placed, Sample
from edgeward.placement import PlanSettings, plan
from edgeward.placement.freshness import STANDS_STILL, blend, confidence, read
from tests.unit.placement.strategies import GI, NOW, fleet, job, node

SETTINGS = PlanSettings()


@pytest.mark.parametrize(
    ("age", "expected"), [(0, 1.0), (30, 1.0), (105, 0.5), (179.999999, 0.0), (180, 0.0), (9999, 0.0)]
)
def test_confidence_is_one_for_two_scrapes_and_falls_to_nothing_at_expiry(age: float, expected: float) -> None:
    assert confidence(age, scrape_interval=15, settings=SETTINGS) == pytest.approx(expected, abs=1e-6)


def test_confidence_with_scrapes_rarer_than_the_expiry() -> None:
    assert confidence(190, scrape_interval=100, settings=SETTINGS) == 1.0
    assert confidence(201, scrape_interval=100, settings=SETTINGS) == 0.0


def test_the_value_slides_from_live_to_requested() -> None:
    assert blend(3.0, 1.0, 1.0) == 3.0
    assert blend(3.0, 1.0, 0.5) == 2.0
    assert blend(3.0, 1.0, 0.0) == 1.0


@pytest.mark.parametrize(
    ("sample", "says"),
    [
        (Sample(float("nan"), NOW), "not a number"),
        (Sample(float("inf"), NOW), "not a number"),
        (Sample(1.0, float("nan")), "not a number"),
        (Sample(-0.1, NOW), "negative"),
        (Sample(400.0, NOW), "far beyond the 4"),
        (Sample(1.0, NOW + 60), "60 s in the future"),
        (Sample(1.0, NOW - 200), "200 s old"),
    ],
)
def test_rubbish_becomes_unknown_with_a_note(sample: Sample, says: str) -> None:
    reading = read(sample, what="cpu of n", capacity=4.0, now=NOW, scrape_interval=15, settings=SETTINGS)
    assert reading.confidence == 0.0
    assert says in reading.note
    assert reading.note.startswith("cpu of n: ")


@pytest.mark.parametrize(
    ("sample", "confidence", "note"),
    [
        (None, 0.0, "cpu of n: two series that disagree"),
        (Sample(1.0, NOW - 300), 0.0, "cpu of n: two series that disagree"),
        (Sample(1.0, NOW - 105), 0.5, "cpu of n: two series that disagree"),
        (Sample(1.0, NOW - 10), 1.0, ""),
    ],
)
def test_what_was_refused_where_it_was_read_leaves_an_older_sample_that_is_judged_by_its_age(
    sample: Sample | None, confidence: float, note: str
) -> None:
    reading = read(
        sample,
        what="cpu of n",
        capacity=4.0,
        now=NOW,
        scrape_interval=15,
        settings=SETTINGS,
        distrust="two series that disagree",
    )
    assert (reading.confidence, reading.note) == (confidence, note)
    assert reading.why == ("two series that disagree" if confidence < 1 else "")


def test_a_counter_that_stands_still_is_no_idle_node() -> None:
    """An exporter that hangs is scraped all the same, and every sample looks fresh. The node looked idle and drew
    everything to it."""

    def placed_beside(cpu: float, *, running_for: float) -> list[str]:
        stuck = node("stuck", site="a", live=Live(cpu=Sample(cpu, NOW - 5)))
        honest = node("honest", site="b", live=Live(cpu=Sample(0.1, NOW - 5)))
        here = Placed(
            node="stuck", site="a", replicas=1, ready=1, started=(NOW - running_for,), since=NOW - running_for
        )
        made = plan(fleet([stuck, honest], [job(name="there", placed=(here,)), job(name="new")]))
        assert [why for why, _ in made.doubts] == ([STANDS_STILL] if cpu == 0 and running_for > 125 else [])
        decided = made.job("test/new")
        assert decided is not None
        return [p.node for p in decided.placements]

    assert placed_beside(0.0, running_for=3600) == ["honest"]
    placed_beside(0.0, running_for=60)  # too young to have used any
    placed_beside(0.001, running_for=3600)


def test_what_is_doubted_is_counted_by_reasons_that_stay_the_same_from_scrape_to_scrape() -> None:
    def doubts(at: float) -> tuple[tuple[str, int], ...]:
        nodes = [
            node("nan-1", live=Live(cpu=Sample(math.nan, at))),
            node("nan-2", live=Live(cpu=Sample(math.inf, at))),
            node("huge", live=Live(cpu=Sample(1e6 + at, at))),
            node("early", live=Live(cpu=Sample(1.0, at + 500))),
            node("late", live=Live(cpu=Sample(1.0, at - 500))),
            node("none", live=Live()),
            node("twice", live=Live(distrust="two series")),
            node("fine", live=Live(cpu=Sample(1.0, at))),
        ]
        return plan(fleet(nodes, [])).doubts

    expected = {"far beyond what the node has", "from the future", "too old", "no figure at all", "two series"}
    assert doubts(NOW)[0] == ("not a number", 2)
    assert set(doubts(NOW)[1:]) == {(why, 1) for why in expected}
    assert doubts(NOW) == doubts(NOW - 7)


def test_a_clock_that_is_a_little_ahead_is_forgiven() -> None:
    reading = read(Sample(1.0, NOW + 5), what="cpu", capacity=4, now=NOW, scrape_interval=15, settings=SETTINGS)
    assert (reading.value, reading.confidence, reading.age) == (1.0, 1.0, 0.0)


def test_a_node_without_figures_does_not_look_idle() -> None:
    """Of two equal nodes the one that is known to be nearly idle wins over the one nobody knows anything about, though
    by requests the unknown one is the emptier."""
    known = node("known", site="a", live=Live(cpu=Sample(0.2, NOW - 5)))
    unknown = node("unknown", site="b", live=Live())
    decided = plan(fleet([unknown, known], [job()])).job("test/job")
    assert decided is not None
    assert [p.node for p in decided.placements] == ["known"]


def test_a_busy_node_does_not_beat_an_unknown_one_for_being_known() -> None:
    busy = node("busy", site="a", live=Live(cpu=Sample(3.9, NOW - 5)))
    unknown = node("unknown", site="b", live=Live())
    decided = plan(fleet([busy, unknown], [job()])).job("test/job")
    assert decided is not None
    assert [p.node for p in decided.placements] == ["unknown"]
    assert decided.explanation.data_age is None
    assert decided.explanation.figures is not None
    assert decided.explanation.figures.live_cores is None


def test_all_metrics_gone_still_places_by_requests_and_says_so() -> None:
    full = node("full", site="a", live=Live(), foreign=node().allocatable - job().request)
    empty = node("empty", site="b", live=Live())
    decided = plan(fleet([full, empty], [job(replicas=2)], metrics_problem="Prometheus does not answer"))
    one = decided.job("test/job")
    assert one is not None
    assert one.missing == 0
    assert sum(p.replicas for p in one.placements) == 2
    assert "Prometheus does not answer" in decided.notes
    assert "Prometheus does not answer" in one.explanation.notes
    assert (decided.fresh_nodes, decided.known_nodes, decided.total_nodes) == (0, 0, 2)


def test_live_memory_counts_against_headroom() -> None:
    """Memory that runs over the requests is not free for the next replica's sake."""
    hungry = node("hungry", site="a", live=Live(cpu=Sample(0.4, NOW), memory=Sample(7.8 * GI, NOW)))
    modest = node("modest", site="b", live=Live(cpu=Sample(0.4, NOW), memory=Sample(0.5 * GI, NOW)))
    decided = plan(fleet([hungry, modest], [job()])).job("test/job")
    assert decided is not None
    assert [p.node for p in decided.placements] == ["modest"]
    assert {term.name: term.value for term in decided.explanation.runners_up[0].terms}["headroom"] == 0.0
