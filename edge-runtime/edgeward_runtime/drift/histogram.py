"""Counts of a tensor's values in fixed bins. Histograms over the same bins merge by adding, over time, replicas and
sites, so that one of a site says nothing of any single request.

Bins are Prometheus': bounds b_1 < ... < b_B make B + 1 bins, bin i holds b_i < v <= b_(i+1), the first and the last are
open. A tensor of a few columns that each mean something (a sensor's row) has bins for each column; any other (a
picture) has one set for all of its values. NaN and infinity are in no bin and counted apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

MOST_COLUMNS = 64
MOST_BOUNDS = 64
_ROWS_AT_ONCE = 256
_LARGEST = 1e300  # a bound; beyond it is the last bin


@dataclass(frozen=True, slots=True)
class Bins:
    """`bounds[c]`: those of column c, ascending; one entry alone is for the values of all columns together. Every
    column has the same number of them."""

    bounds: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.bounds) <= MOST_COLUMNS:
            raise ValueError(f"there must be bins for 1 to {MOST_COLUMNS} columns")
        if len({len(column) for column in self.bounds}) != 1:
            raise ValueError("every column must have the same number of bounds")
        for column in self.bounds:
            if not 1 <= len(column) <= MOST_BOUNDS:
                raise ValueError(f"there must be 1 to {MOST_BOUNDS} bounds")
            if not np.isfinite(column).all() or any(a >= b for a, b in itertools.pairwise(column)):
                raise ValueError("bounds must be finite and ascending")

    @property
    def columns(self) -> int:
        return len(self.bounds)

    @property
    def size(self) -> int:
        """bins of a column"""
        return len(self.bounds[0]) + 1


class Histogram:
    """`counts` int64 [columns, bins]; `rows` is how many rows they come from, which is what says how much they prove:
    the values of one row depend on each other."""

    __slots__ = ("bins", "counts", "infinite", "nan", "rows")

    def __init__(
        self, bins: Bins, counts: Counts | None = None, *, rows: int = 0, nan: int = 0, infinite: int = 0
    ) -> None:
        self.bins = bins
        self.counts: Counts = np.zeros((bins.columns, bins.size), np.int64) if counts is None else counts
        if self.counts.shape != (bins.columns, bins.size):
            raise ValueError(f"counts are {self.counts.shape}, the bins {(bins.columns, bins.size)}")
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
        size = self.bins.size
        if self.bins.columns == 1:
            places = np.searchsorted(self.bins.bounds[0], values[finite] if odd else values.ravel(), side="left")
            self.counts[0] += np.bincount(places, minlength=size)
            return
        # All columns in one go; a loop over them would be most of what watching a model costs.
        bounds = np.asarray(self.bins.bounds)
        for start in range(0, len(values), _ROWS_AT_ONCE):
            some = values[start : start + _ROWS_AT_ONCE]
            places = (some[:, :, None] > bounds[None]).sum(axis=2) + np.arange(self.bins.columns) * size
            flat = places[finite[start : start + _ROWS_AT_ONCE]] if odd else places.ravel()
            self.counts += np.bincount(flat, minlength=self.bins.columns * size).reshape(self.counts.shape)

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

    def document(self) -> dict[str, object]:
        """As in reference.json."""
        columns = [
            {"bounds": list(bounds), "counts": counts.tolist()}
            for bounds, counts in zip(self.bins.bounds, self.counts, strict=True)
        ]
        return {"rows": self.rows, "nan": self.nan, "infinite": self.infinite, "columns": columns}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and (
            (self.bins, self.rows, self.nan, self.infinite) == (other.bins, other.rows, other.nan, other.infinite)
            and np.array_equal(self.counts, other.counts)
        )

    __hash__ = None  # type: ignore[assignment]


def quantile_bins(values: Floats, *, bins: int) -> Bins:
    """Bins that hold about as many of the values each; values float64 [rows, columns], columns = 1 for one set.

    Where values repeat, fewer than asked are different; then all columns get bins between those few and, to stay of one
    number, some that hold nothing.
    """
    columns: list[tuple[float, ...]] = []
    for column in values.T:
        known = column[np.isfinite(column)]
        known = known if len(known) else np.zeros(1)
        known = np.clip(known, -_LARGEST, _LARGEST)
        cuts = np.unique(np.quantile(known, np.arange(1, bins) / bins, method="inverted_cdf"))
        columns.append(_padded(cuts.tolist(), bins - 1))
    return Bins(tuple(columns))


def _padded(bounds: list[float], count: int) -> tuple[float, ...]:
    """`count` ascending bounds: those given, then ever larger ones."""
    step = max(abs(bounds[-1]), 1.0)
    while len(bounds) < count:
        bounds.append(bounds[-1] + step)
    return tuple(bounds)


def merge(histograms: Sequence[Histogram]) -> Histogram:
    """Of at least one."""
    total = histograms[0]
    for one in histograms[1:]:
        total = total.merged(one)
    return total
