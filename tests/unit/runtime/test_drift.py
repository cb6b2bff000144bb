"""Histograms, PSI and KS by hand and by their properties; the window and the reference of a model."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeward_runtime.artifact import reference as file
from edgeward_runtime.confidence import PROBABILITIES, Scores
from edgeward_runtime.drift import measures, reference
from edgeward_runtime.drift.histogram import Bins, Histogram, merge, quantile_bins
from edgeward_runtime.drift.monitor import ARTIFACT, PROVISIONAL, PROVISIONAL_ROWS, SLOT_SECONDS, SLOTS, Monitor, Sample
from edgeward_runtime.drift.reference import Key
from edgeward_runtime.tensors import TensorSpec

ONE = Bins(((0.0, 1.0, 2.0),))
VALUES = hnp.arrays(np.float64, st.tuples(st.integers(0, 20), st.just(3)), elements=st.floats(allow_nan=True))
COUNTS = hnp.arrays(np.int64, st.just(6), elements=st.integers(0, 10**6)).filter(lambda counts: counts.any())


def of(bins: Bins, values: object) -> Histogram:
    histogram = Histogram(bins)
    histogram.add(np.asarray(values, np.float64))
    return histogram


# -- histograms -------------------------------------------------------------------------------------------------------


def test_an_edge_belongs_to_the_bin_above_it():
    histogram = of(ONE, [[-1], [0.0], [0.5], [1.0], [1.5], [2.0], [2.5], [9]])
    assert histogram.counts.tolist() == [[1, 2, 2, 3]]
    assert histogram.rows == 8


def test_columns_may_have_more_edges_than_others():
    histogram = of(Bins(((0.0,), (0.0, 1.0, 2.0))), [[1, 1], [9, 9], [-1, -1]])
    assert histogram.counts.tolist() == [[1, 2, 0, 0], [1, 0, 1, 1]]


def test_nan_and_infinity_are_counted_apart():
    histogram = of(ONE, [[math.nan], [math.inf], [-math.inf], [0.5]])
    assert (histogram.counts.tolist(), histogram.nan, histogram.infinite, histogram.rows) == ([[0, 1, 0, 0]], 1, 2, 4)
    columns = of(Bins(((0.0,), (0.0,))), [[math.nan, 1], [math.inf, -1], [1, 1]])
    assert (columns.counts.tolist(), columns.nan, columns.infinite) == ([[0, 1], [1, 2]], 1, 1)


@given(VALUES)
def test_columns_in_one_go_are_columns_one_by_one(values):
    bounds = ((-1.0, 1.0), (0.0, 5.0), (-1e9, 1e9))
    together = of(Bins(bounds), values)
    for column, one in enumerate(bounds):
        alone = of(Bins((one,)), values[:, column : column + 1])
        assert together.counts[column].tolist() == alone.counts[0].tolist()


@given(VALUES, VALUES, VALUES)
def test_merging_is_adding(a, b, c):
    bins = Bins(((-1.0, 1.0), (0.0, 5.0), (-1e9, 1e9)))
    x, y, z = of(bins, a), of(bins, b), of(bins, c)
    assert x.merged(y) == y.merged(x)
    assert x.merged(y).merged(z) == x.merged(y.merged(z))
    assert merge([x, y, z]) == of(bins, np.concatenate([a, b, c]))


def test_other_bins_do_not_merge():
    with pytest.raises(ValueError, match="different bins"):
        Histogram(ONE).merged(Histogram(Bins(((0.0,),))))


@pytest.mark.parametrize("bounds", [(), ((),), ((1.0, 1.0),), ((2.0, 1.0),), ((math.nan,),), ((math.inf,),)])
def test_bins_that_are_none(bounds):
    with pytest.raises(ValueError):
        Bins(bounds)


def test_quantile_bins_hold_about_as_much_each():
    values = np.random.default_rng(3).exponential(size=(1000, 2))
    histogram = of(quantile_bins(values, bins=10), values)
    assert (abs(histogram.counts - 100) <= 15).all()


@given(hnp.arrays(np.float64, st.tuples(st.integers(0, 30), st.integers(1, 3)), elements=st.floats(allow_nan=True)))
def test_quantile_bins_take_anything(values):
    assert 2 <= quantile_bins(values, bins=10).size <= 10


def test_values_that_repeat_keep_their_bins_apart():
    histogram = of(quantile_bins(np.array([[0.0]] * 90 + [[1.0]] * 10), bins=10), [[0.0], [1.0], [1.0]])
    assert [count for count in histogram.counts[0].tolist() if count] == [1, 2]


# -- measures ---------------------------------------------------------------------------------------------------------


def test_psi_by_hand():
    # (.2-.5) ln(.2/.5) + (.8-.5) ln(.8/.5) = .3 ln 2.5 + .3 ln 1.6 = .3 ln 4
    assert measures.psi(np.array([50, 50]), np.array([20, 80])) == pytest.approx(0.3 * math.log(4))
    # An empty bin counts as 1e-4 of all.
    expected = (0.5 - 1e-4) * math.log(0.5 / 1e-4) + (1.0 - 0.5) * math.log(1.0 / 0.5)
    assert measures.psi(np.array([0, 10]), np.array([5, 5])) == pytest.approx(expected)


def test_ks_by_hand():
    assert measures.ks(np.array([1, 1, 1, 1]), np.array([2, 1, 1, 0])) == pytest.approx(0.25)
    assert measures.ks(np.array([7, 0]), np.array([0, 3])) == 1.0


@given(COUNTS, COUNTS, st.integers(1, 9))
def test_properties_of_the_measures(p, q, factor):
    assert measures.psi(p, q) >= 0
    assert 0 <= measures.ks(p, q) <= 1
    assert measures.psi(p, q) == pytest.approx(measures.psi(q, p))
    assert measures.psi(p, p * factor) == pytest.approx(0, abs=1e-12)
    assert measures.ks(p, p * factor) == pytest.approx(0, abs=1e-12)


def test_psi_of_the_same_thing_is_what_yurdakul_says():
    """Mean (1/N + 1/M)(K - 1) where nothing drifts."""
    random = np.random.default_rng(7)
    n, m, k = 5000, 500, 10
    shares = np.full(k, 1 / k)
    mean = np.mean([measures.psi(random.multinomial(n, shares), random.multinomial(m, shares)) for _ in range(300)])
    assert mean == pytest.approx((1 / n + 1 / m) * (k - 1), rel=0.1)


def test_too_few_rows_are_no_score():
    needed = measures.rows_needed(bins=ONE.size, columns=1)
    assert needed == 60
    known = of(ONE, [[0.5]] * 100)
    assert measures.score(known, of(ONE, [[0.5]] * (needed - 1))) is None
    found = measures.score(known, of(ONE, [[0.5]] * needed))
    assert found is not None and (found.psi, found.ks) == (0, 0)


def test_enough_rows_of_nothing_but_nan_are_no_score_either():
    assert measures.score(of(ONE, [[0.5]] * 100), of(ONE, [[math.nan]] * 100)) is None


def test_the_worst_column_is_shown():
    bins = Bins(((0.0,), (0.0,)))
    known, seen = of(bins, [[-1, -1], [1, 1]] * 100), of(bins, [[-1, 1], [1, 1]] * 100)
    found = measures.score(known, seen)
    assert found is not None and found.ks == pytest.approx(0.5)


# -- reference.json ---------------------------------------------------------------------------------------------------


def entry(of_="Input", name="x", feature=None, edges=(0.0, 1.0), counts=(1, 2, 3), missing=0) -> file.Histogram:
    return file.Histogram(of=of_, name=name, feature=feature, edges=edges, counts=counts, missing=missing)


REFERENCE = file.Reference(
    histograms=(
        entry(feature=0, missing=2),
        entry(feature=3, edges=(0.5,), counts=(4, 5)),
        entry("Output", "y"),
        entry("Confidence", "y", edges=(0.5, 0.9)),
    )
)


def test_features_of_a_tensor_stand_side_by_side():
    found = reference.histograms(REFERENCE)
    assert list(found) == [Key("Input", "x", (0, 3)), Key("Output", "y"), Key("Confidence", "y")]
    x = found[Key("Input", "x", (0, 3))]
    assert x.counts.tolist() == [[1, 2, 3], [4, 5, 0]]
    assert (x.rows, x.nan) == (9, 2)


def test_a_sketch_is_written_as_a_reference_is():
    assert reference.sketch(reference.histograms(REFERENCE)) == REFERENCE


def test_what_counts_nothing_is_no_reference():
    assert reference.histograms(file.Reference(histograms=(entry(counts=(0, 0, 0)),))) == {}


# -- a model ----------------------------------------------------------------------------------------------------------


class Clock:
    now = 10 * SLOT_SECONDS

    def __call__(self) -> float:
        return self.now


def spec(name, datatype="FP32", shape=(-1, 2)):
    return {name: TensorSpec(name=name, datatype=datatype, shape=shape)}


def monitor(known=None, *, inputs=None, clock=None) -> Monitor:
    return Monitor(
        inputs=inputs or spec("x"),
        outputs=spec("y"),
        scores=Scores("y", PROBABILITIES),
        reference=known,
        clock=clock or Clock(),
    )


def sample(x, y) -> Sample:
    return Sample(len(x), {"x": np.asarray(x, np.float32)}, ["y"], [np.asarray(y, np.float32)])


def random_samples(count, *, shift=0.0, seed=1):
    random = np.random.default_rng(seed)
    for _ in range(count):
        sure = random.uniform(0.5, 1.0)
        yield sample(random.normal(shift, 1.0, (1, 2)), [[sure, 1 - sure]])


def by_key(one: Monitor):
    return {(drift.of, drift.name): drift for drift in one.state()}


def known_reference() -> file.Reference:
    random = np.random.default_rng(5)
    x = random.normal(0.0, 1.0, (5000, 2))
    return reference.sketch(
        {
            Key("Input", "x", (0, 1)): of(quantile_bins(x, bins=10), x),
            Key("Confidence", "y"): of(Bins(((0.6, 0.7, 0.8, 0.9),)), random.uniform(0.5, 1.0, (5000, 1))),
        }
    )


def test_the_same_does_not_drift_and_a_shift_does():
    calm, moved = monitor(known_reference()), monitor(known_reference())
    calm.add(random_samples(1000))
    moved.add(random_samples(1000, shift=1.0))
    assert set(by_key(calm)) == {("Input", "x"), ("Confidence", "y")}  # y itself has no reference
    assert by_key(calm)["Input", "x"].reference == ARTIFACT
    assert by_key(calm)["Input", "x"].score.psi < 0.1 < 0.25 < by_key(moved)["Input", "x"].score.psi
    assert by_key(moved)["Input", "x"].score.ks > 0.3
    assert by_key(moved)["Confidence", "y"].score.psi < 0.1
    assert calm.worst_psi() < 0.1 < moved.worst_psi()


def test_too_few_say_nothing():
    one = monitor(known_reference())
    assert one.worst_psi() is None
    one.add(random_samples(50))
    assert by_key(one)["Input", "x"].score is None and by_key(one)["Input", "x"].rows == 50
    assert one.worst_psi() is None


def test_an_hour_later_it_is_forgotten():
    clock = Clock()
    one = monitor(known_reference(), clock=clock)
    one.add(random_samples(1000, shift=3.0))
    clock.now += SLOT_SECONDS
    one.add(random_samples(1000))
    assert by_key(one)["Input", "x"].rows == 2000
    clock.now += SLOT_SECONDS * (SLOTS - 1)
    assert by_key(one)["Input", "x"].rows == 1000
    assert one.worst_psi() < 0.1
    clock.now += SLOT_SECONDS
    assert one.worst_psi() is None


def test_memory_is_bounded_by_the_window():
    clock = Clock()
    one = monitor(known_reference(), clock=clock)
    for _ in range(50):
        one.add(random_samples(1))
        clock.now += SLOT_SECONDS
    assert all(len(window._slots) <= SLOTS for window in one._windows.values())


def test_without_a_reference_the_first_rows_are_one():
    one = monitor()
    one.add(random_samples(PROVISIONAL_ROWS - 1))
    assert one.state() == []
    one.add(random_samples(1))
    one.add(random_samples(1000, seed=2))
    assert set(by_key(one)) == {("Input", "x"), ("Output", "y"), ("Confidence", "y")}
    assert {drift.reference for drift in one.state()} == {PROVISIONAL}
    assert one.worst_psi() < 0.15
    one.add(random_samples(3000, shift=2.0, seed=3))
    assert one.worst_psi() > 0.25


def test_pictures_are_looked_at_in_part_and_all_of_them_in_time():
    """4096 pixels of which one column of 64 is bright: in each look 64, in 64 looks every one."""
    inputs = spec("x", shape=(-1, 64, 64))
    known = file.Reference(histograms=(entry(edges=(0.5,), counts=(1, 1)),))
    one = monitor(known, inputs=inputs)
    picture = np.zeros((1, 64, 64), np.float32)
    picture[:, :, 0] = 1
    for _ in range(64):
        one.add([Sample(1, {"x": picture}, [], [])])
    total = one._windows[Key("Input", "x")].total(one._clock())
    assert total.rows == 64 and total.counts.tolist() == [[4096 - 64, 64]]


def test_strings_are_never_looked_at():
    one = monitor(inputs=spec("x", "BYTES"))
    assert ("Input", "x") not in one._keys
    one.add([Sample(1, {"x": np.array([["secret", "b"]], object)}, ["y"], [np.array([[0.5, 0.5]])])])


def test_widths_that_change_do_not_stop_it():
    one = monitor(inputs=spec("x", shape=(-1, -1)))
    random = np.random.default_rng(1)
    for _ in range(40):
        some = [Sample(1, {"x": random.normal(size=(1, width))}, [], []) for width in (1, 3, 100)]
        one.add(some[:1])
        one.add(some)
        one.add([Sample(20, {"x": random.normal(size=(20, 5))}, [], [])])
    assert by_key(one)["Input", "x"].score is not None


def test_what_was_counted_is_taken_once():
    clock = Clock()
    one = monitor(known_reference(), clock=clock)
    one.add(random_samples(10))
    assert one.take(closed=True) is None  # its slot is not over
    clock.now += SLOT_SECONDS
    one.add(random_samples(5))
    taken = one.take(closed=True)
    assert [(h.of, h.name, h.feature, sum(h.counts)) for h in taken.histograms] == [
        ("Input", "x", 0, 10),
        ("Input", "x", 1, 10),
        ("Confidence", "y", None, 10),
    ]
    assert one.take(closed=True) is None
    assert sum(one.take(closed=False).histograms[0].counts) == 5
    assert one.take(closed=False) is None


def test_a_tensor_without_the_features_is_passed_over():
    one = monitor(known_reference(), inputs=spec("x", shape=(-1, -1)))
    one.add([Sample(1, {"x": np.zeros((1, 1), np.float32)}, [], [])])
    assert by_key(one)["Input", "x"].rows == 0
    one.add([Sample(1, {"x": np.zeros((1, 5), np.float32)}, [], [])])
    assert by_key(one)["Input", "x"].rows == 1


def test_tensors_of_no_size_count_nothing():
    one = monitor(known_reference())
    one.add([Sample(0, {"x": np.zeros((0, 2), np.float32)}, ["y"], [np.zeros((0, 2), np.float32)])])
    assert by_key(one)["Input", "x"].rows == 0
