"""Counts of a tensor's values in fixed bins. Histograms over the same bins merge by adding, over time, replicas and
sites, and say nothing of any single request.

Bins are those of reference.json (artifact/reference.py): edges e_1 < ... < e_B make B + 1 bins, bin i holds
e_i <= v < e_(i+1), the first and the last are open. The features of a tensor (a sensor's row) have bins each, any other
tensor (a picture) one set for all of its values. NaN and infinity are in no bin and counted apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

_ROWS_AT_ONCE = 256
_LARGEST = 1e300  # an edge; beyond it is the last bin


class Bins:
    """`bounds[c]`: the edges of column c, ascending. Columns with fewer than others end in infinities, whose bins stay
    empty, so that all can be counted in one go."""

    __slots__ = ("_array", "bounds")

    def __init__(self, bounds: Sequence[Sequence[float]]) -> None:
        if not bounds:
            raise ValueError("there must be bins for a column")
        longest = max(len(column) for column in bounds)
        for column in bounds:
            if not column:
                raise ValueError("there must be an edge")
            if not np.isfinite(column).all() or any(a >= b for a, b in itertools.pairwise(column)):
                raise ValueError("edges must be finite and ascending")
        self.bounds = tuple((*map(float, column), *[math.inf] * (longest - len(column))) for column in bounds)
        self._array = np.array(self.bounds)

    @property
    def columns(self) -> int:
        return len(self.bounds)

    @property
    def size(self) -> int:
        """bins of a column, those of infinities included"""
        return len(self.bounds[0]) + 1

    def places(self, values: Floats) -> npt.NDArray[np.int64]:
        """values [rows, columns] -> the bin of each"""
        # One comparison for all columns; a loop over them would be most of what watching a model costs.
        result: npt.NDArray[np.int64] = (values[:, :, None] >= self._array[None]).sum(axis=2)
        return result

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bins) and self.bounds == other.bounds

    def __hash__(self) -> int:
        return hash(self.bounds)


class Histogram:
    """`counts` int64 [columns, bins]; `rows` is how many rows they come from, which is what says how much they prove:
    the values of one row depend on each other."""

    __slots__ = ("bins", "counts", "infinite", "nan", "rows")

    def __init__(
        self, bins: Bins, counts: Counts | None = None, *, rows: int = 0, nan: int = 0, infinite: int = 0
    ) -> None:
        self.bins = bins
        self.counts: Counts = np.zeros((bins.columns, bins.size), np.int64) if counts is None else counts
        self.rows = rows
        self.nan = nan
        self.infinite = infinite

    def add(self, values: Floats, *, rows: int | None = None) -> None:
        """values float64 [rows, columns]; with one set of bins for all columns any shape, then `rows` says how many."""
        self.rows += len(values) if rows is None else rows
        finite = np.isfinite(values)
        odd = values.size - int(np.count_nonzero(finite))
        if odd:
            nan = int(np.count_nonzero(np.isnan(values)))
            self.nan += nan
            self.infinite += odd - nan
        size, columns = self.bins.size, self.bins.columns
        if columns == 1:
            places = np.searchsorted(self.bins.bounds[0], values[finite] if odd else values.ravel(), side="right")
            self.counts[0] += np.bincount(places, minlength=size)
            return
        for start in range(0, len(values), _ROWS_AT_ONCE):
            places = self.bins.places(values[start : start + _ROWS_AT_ONCE]) + np.arange(columns) * size
            flat = places[finite[start : start + _ROWS_AT_ONCE]] if odd else places.ravel()
            self.counts += np.bincount(flat, minlength=columns * size).reshape(self.counts.shape)

    def merged(self, other: Histogram) -> Histogram:
        """The sum; ValueError over other bins."""
        if self.bins != other.bins:
            raise ValueError("histograms over different bins cannot be merged")
        return Histogram(
            self.bins,
            self.counts + other.counts,
            rows=self.rows + other.rows,
            nan=self.nan + other.nan,
            infinite=self.infinite + other.infinite,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and (
            (self.bins, self.rows, self.nan, self.infinite) == (other.bins, other.rows, other.nan, other.infinite)
            and np.array_equal(self.counts, other.counts)
        )

    __hash__ = None  # type: ignore[assignment]


def quantile_bins(values: Floats, *, bins: int) -> Bins:
    """Bins that hold about as many of the values each, fewer where values repeat; values float64 [rows, columns], one
    column for one set. A column without a finite value gets two.

    Edges are cut to three digits: they are written down in sketches, and should not be a value that somebody sent."""
    columns: list[list[float]] = []
    for column in values.T:
        known = np.clip(column[np.isfinite(column)], -_LARGEST, _LARGEST)
        known = known if len(known) else np.zeros(1)
        cuts = np.quantile(known, np.arange(1, bins) / bins, method="higher")
        columns.append(sorted({float(f"{cut:.3g}") for cut in cuts.tolist()}))
    return Bins(columns)


def merge(histograms: Sequence[Histogram]) -> Histogram:
    """Of at least one."""
    total = histograms[0]
    for one in histograms[1:]:
        total = total.merged(one)
    return total
