"""Whether two versions say the same of a request, and the counts of it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from edgeward_runtime.errors import without_values
from edgeward_runtime.tensors import Array

BOUNDS = (0.0, 0.5, 0.9, 0.95, 0.99)  # of a request's share of rows that agree; beyond the last: more
# Two versions never give the same numbers; nearer than this is no difference that a user sees.
_RTOL, _ATOL = 1e-2, 1e-3


class Copies:
    """Of one model version: what came of its copies. Written by the mirror's thread, `dropped` by the loop's."""

    __slots__ = ("agreed", "buckets", "dropped", "error", "failed", "requests", "score")

    def __init__(self) -> None:
        self.requests = 0  # copies that were run
        self.agreed = 0  # those whose answer agrees in every row
        self.failed = 0  # those that raised, though the version that serves had answered
        self.dropped = 0
        self.score = 0.0  # sum of the shares of rows that agree
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.error = ""  # the first failure

    def compared(self, share: float) -> None:
        self.agreed += share == 1.0
        self.score += share
        self.buckets[bisect_left(BOUNDS, share)] += 1
        self.requests += 1

    def raised(self, error: Exception) -> None:
        self.error = self.error or without_values(error)  # it leaves the site
        self.failed += 1
        self.buckets[0] += 1
        self.requests += 1


def agreement(old: Sequence[Array], new: Sequence[Array], *, classes: int | None = None) -> float:
    """The share of rows in which two answers say the same; 0 if shapes differ. `classes`: which of the tensors holds
    scores of classes along its last dimension; there the same class has to win. Other floats have to be nearly equal,
    all else equal."""
    if any(a.shape != b.shape for a, b in zip(old, new, strict=True)):
        return 0.0
    counts = {a.shape[0] if a.ndim else 1 for a in old}
    rows = counts.pop() if len(counts) == 1 else 1
    if rows == 0 or not old:
        return 1.0
    right = np.ones(rows, bool)
    for index, (a, b) in enumerate(zip(old, new, strict=True)):
        if index == classes and a.ndim > 1 and a.size:
            same = a.argmax(axis=-1) == b.argmax(axis=-1)
        elif np.issubdtype(a.dtype, np.floating):
            same = np.isclose(a, b, rtol=_RTOL, atol=_ATOL, equal_nan=True)
        else:
            same = np.asarray(a == b)
        right &= same.reshape(rows, -1).all(axis=1)
    return float(np.count_nonzero(right)) / rows
