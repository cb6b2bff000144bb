"""Confidence, margin and entropy by hand, and what has none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeward_runtime import confidence as c
from edgeward_runtime.tensors import TensorSpec

P = np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])


def test_worked_answers():
    assert c.confidence(P) == pytest.approx([0.7, 1.0, 1 / 3])
    assert c.margin(P) == pytest.approx([0.5, 1.0, 0.0])
    first = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1)) / math.log(3)
    assert first == pytest.approx(0.7298, abs=1e-4)
    assert c.entropy(P) == pytest.approx([first, 0.0, 1.0])
    assert c.top_class(P).tolist() == [0, 0, 0]


def test_softmax_by_hand():
    assert c.softmax(np.array([[0.0, math.log(3)]]))[0] == pytest.approx([0.25, 0.75])
    assert c.softmax(np.array([[1000.0, 0.0]]))[0] == pytest.approx([1.0, 0.0])
    assert np.isnan(c.softmax(np.array([[np.inf, 0.0], [np.nan, 0.0]]))).all()


def test_what_is_no_probability_has_no_confidence():
    rows = np.array([[0.7, 0.3], [2.0, -1.0], [0.7, 0.7], [np.nan, 1.0], [np.inf, 0.0], [0.0, 0.0]])
    known = c.checked(rows)
    for measure in (c.confidence, c.margin, c.entropy):
        assert np.isnan(measure(known)).tolist() == [False, True, True, True, True, True], measure
    assert c.top_class(known).tolist() == [0, -1, -1, -1, -1, -1]


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(2, 6)), elements=st.floats(-1e6, 1e6)))
def test_logits_always_have_one(logits):
    p = c.softmax(logits)
    classes = logits.shape[1]
    assert (c.confidence(p) >= 1 / classes - 1e-9).all() and (c.confidence(p) <= 1).all()
    assert ((c.margin(p) >= 0) & (c.margin(p) <= c.confidence(p))).all()
    assert ((c.entropy(p) >= 0) & (c.entropy(p) <= 1 + 1e-9)).all()


def spec(name, datatype="FP32", shape=(-1, 10)):
    return name, TensorSpec(name=name, datatype=datatype, shape=shape)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([spec("y")], c.Scores("y", c.PROBABILITIES)),
        ([spec("logits")], c.Scores("logits", c.LOGITS)),
        (
            [spec("label", "INT64", (-1,)), spec("probabilities", shape=(-1, -1))],
            c.Scores("probabilities", c.PROBABILITIES),
        ),
        ([spec("boxes"), spec("scores")], c.Scores("scores", c.PROBABILITIES)),
        ([spec("a"), spec("b")], None),  # either could be it
        ([spec("y", shape=(-1, 1))], None),  # a regression, as far as anybody knows
        ([spec("y", shape=(-1, 3, 10))], None),
        ([spec("y", "INT64")], None),
        ([], None),
    ],
)
def test_which_output_holds_the_scores(outputs, expected):
    assert c.scores_of(dict(outputs)) == expected


def test_the_release_may_say_it():
    outputs = dict([spec("a"), spec("b")])
    assert c.scores_of(outputs, {"output": "b", "kind": "Logits"}) == c.Scores("b", c.LOGITS)
    with pytest.raises(c.ConfidenceError, match="'z' is no float tensor"):
        c.scores_of(outputs, {"output": "z"})
    with pytest.raises(c.ConfidenceError, match="kind is 'Sure'"):
        c.scores_of(outputs, {"kind": "Sure"})


def test_tensors_of_another_form_are_left_alone():
    one = c.Scores("y", c.PROBABILITIES)
    assert one.probabilities(np.zeros((2, 1), np.float32)) is None
    assert one.probabilities(np.zeros((2, 3), np.int64)) is None
    assert one.probabilities(np.zeros(3, np.float32)) is None
    half = one.probabilities(np.full((1, 4), 0.25, np.float16))
    assert half is not None and half.tolist() == [[0.25] * 4]
