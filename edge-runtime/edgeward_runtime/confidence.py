"""How sure a classifier is of its answer. Pure functions over scores [N, K]: N rows, K classes, K >= 2.

    confidence   max_k p_k                         1/K (guessing) .. 1
    margin       p_(1) - p_(2)                     0 .. 1, the two largest
    entropy      -sum_k p_k ln p_k / ln K          0 (sure) .. 1 (guessing); 0 ln 0 = 0

The three usual measures of uncertainty sampling: B. Settles, Active Learning Literature Survey, University of
Wisconsin-Madison, Computer Sciences Technical Report 1648 (2009), section 3.1; there entropy is not divided by ln K.

A model may put out anything: features, boxes, a regression. What is no probability has no confidence, and saying one
anyway would be worse than none: its rows are NaN, in all three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeward_runtime.tensors import Array, TensorSpec

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

PROBABILITIES = "Probabilities"
LOGITS = "Logits"
KINDS = (PROBABILITIES, LOGITS)
_FLOATS = frozenset({"FP16", "FP32", "FP64"})
_SUM_SLACK = 0.01  # |sum - 1| of a row of probabilities; a thousand classes in FP16 are this far off
_NEGATIVE_SLACK = 1e-6


class ConfidenceError(ValueError):
    """The parameters name an output that cannot have a confidence."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Which output of a model holds the scores of the classes, and what they are."""

    output: str
    kind: str

    def probabilities(self, scores: Array) -> Floats | None:
        """[N, K] as float64, rows that are no probabilities as NaN; None for a tensor of another form."""
        if scores.ndim != 2 or scores.shape[1] < 2 or scores.dtype.kind != "f":
            return None
        values = scores.astype(np.float64)
        return softmax(values) if self.kind == LOGITS else checked(values)


def scores_of(outputs: Mapping[str, TensorSpec], asked: Mapping[str, Any] | None = None) -> Scores | None:
    """The scores of a model with these outputs; None when it has none, as far as can be told.

    asked: `{"output": NAME, "kind": "Probabilities" | "Logits"}` of the release's parameters, either may be missing;
    ConfidenceError if it fits no output. Without it, it is the one float output of rank 2 with more than one class; of
    several, the one whose name says so. A name with "logit" in it means logits, anything else has to be probabilities.
    """
    asked = asked or {}
    kind = asked.get("kind")
    if kind is not None and kind not in KINDS:
        raise ConfidenceError(f"kind is {kind!r:.50}, not one of {', '.join(KINDS)}")
    fitting = {name: spec for name, spec in outputs.items() if _fits(spec)}
    name = asked.get("output")
    if name is not None:
        if name not in fitting:
            raise ConfidenceError(
                f"output {name!r:.100} is no float tensor [rows, classes]; there are {sorted(fitting)}"
            )
    elif len(fitting) == 1:
        name = next(iter(fitting))
    else:
        telling = [one for one in fitting if any(word in one.lower() for word in ("prob", "logit", "score"))]
        if len(telling) != 1:
            return None
        name = telling[0]
    return Scores(name, kind or (LOGITS if "logit" in name.lower() else PROBABILITIES))


def _fits(spec: TensorSpec) -> bool:
    return spec.datatype in _FLOATS and len(spec.shape) == 2 and (spec.shape[1] == -1 or spec.shape[1] >= 2)


def softmax(logits: Floats) -> Floats:
    """exp(x_k) / sum_j exp(x_j), shifted by the largest so that nothing overflows. A row with NaN or infinity is NaN."""
    finite: Booleans = np.asarray(np.isfinite(logits).all(axis=1))
    shifted = np.where(finite[:, None], logits, 0.0)
    powers = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    result: Floats = powers / powers.sum(axis=1, keepdims=True)
    result[~finite] = np.nan
    return result


def checked(values: Floats) -> Floats:
    """The rows that are probabilities (none below 0, sum 1) scaled to sum exactly 1; the others NaN."""
    sums = values.sum(axis=1)
    with np.errstate(invalid="ignore"):
        good = (np.abs(sums - 1.0) <= _SUM_SLACK) & (values.min(axis=1) >= -_NEGATIVE_SLACK)
    result = np.full_like(values, np.nan)
    clipped = np.maximum(values[good], 0.0)
    result[good] = clipped / clipped.sum(axis=1, keepdims=True)
    return result


def confidence(probabilities: Floats) -> Floats:
    """[N, K] -> [N]"""
    result: Floats = probabilities.max(axis=1)
    return result


def margin(probabilities: Floats) -> Floats:
    """[N, K] -> [N]"""
    top = np.partition(probabilities, -2, axis=1)[:, -2:]
    result: Floats = top[:, 1] - top[:, 0]
    return result


def entropy(probabilities: Floats) -> Floats:
    """[N, K] -> [N]"""
    logs = np.log(np.where(probabilities > 0, probabilities, 1.0))
    # abs: a sure row would be -0.0. NaN stays NaN.
    result: Floats = np.abs((probabilities * logs).sum(axis=1)) / np.log(probabilities.shape[1])
    return result


def top_class(probabilities: Floats) -> npt.NDArray[np.int64]:
    """[N, K] -> [N]; -1 where there is none. Ties go to the lower class, as in argmax."""
    good: Booleans = np.asarray(~np.isnan(probabilities).any(axis=1))
    return np.where(good, np.where(good[:, None], probabilities, 0.0).argmax(axis=1), -1)
