"""The master LP of the bound: which mixture of the nodes' choices is best, and the prices that this gives."""

from __future__ import annotations

from dataclasses import dataclass

import highspy
import numpy as np
from numpy.typing import NDArray

from edgeward.placement.columns import Floats, Rows
from edgeward.placement.solve.highs import maximum

Flags = NDArray[np.bool_]
PRIMAL, DUAL = 4, 1
"""of HiGHS' simplex_strategy"""


@dataclass(frozen=True, slots=True)
class Multipliers:
    """Prices of what ties nodes together, in score, none below 0."""

    want: Floats
    """of one replica, by want"""
    spot: Floats
    """of the first replica at a site, by spot (a want and a site), at most what that adds"""
    limit: Floats
    """of maxPerSite, by spot; 0 where there is none"""
    node: Floats
    """of all that is free of a resource that the knapsack does not know: [resources, nodes]"""

    def toward(self, other: Multipliers, share: float) -> Multipliers:
        return Multipliers(
            *(
                (1.0 - share) * mine + share * theirs
                for mine, theirs in (
                    (self.want, other.want),
                    (self.spot, other.spot),
                    (self.limit, other.limit),
                    (self.node, other.node),
                )
            )
        )


class Master:
    """max of the choices' worth and what first replicas at a site add; one choice a node, in parts."""

    def __init__(self, counts: Floats, bonus: Floats, limits: Floats, scarce: Flags) -> None:
        """`counts` by want, `bonus` and `limits` (infinite without one) by spot, `scarce`: [resources, nodes], where a
        resource can run out at all."""
        self._start = 0
        self._limits: list[Floats] = []
        self._shape = scarce.shape
        self.want = self._rows(np.ones(len(counts), dtype=bool), counts)
        self.spot = self._rows(bonus > 0, np.zeros(len(bonus)))
        self.limit = self._rows(np.isfinite(limits), limits)
        self.other = self._rows(scarce.ravel(), np.ones(scarce.size))
        self.node = self._rows(np.ones(scarce.shape[1], dtype=bool), np.ones(scarce.shape[1]))
        self._bonus = bonus
        self._firsts = int(np.sum(self.spot >= 0))
        """columns that are no choices"""
        self._highs = self._model()

    def _rows(self, exists: Flags, limits: Floats) -> Rows:
        number = np.full(len(exists), -1, dtype=np.intp)
        number[exists] = np.arange(self._start, self._start + int(exists.sum()))
        self._start += int(exists.sum())
        self._limits.append(limits[exists])
        return number

    def _model(self) -> highspy.Highs:
        firsts = self.spot[self.spot >= 0]
        return maximum(
            gains=self._bonus[self.spot >= 0],
            uppers=np.ones(len(firsts)),
            limits=np.concatenate(self._limits),
            entries=(firsts, np.arange(len(firsts)), np.ones(len(firsts))),
            # Primal, as the last mixture stays feasible when choices are added.
            options={"simplex_strategy": PRIMAL},
        )

    def add(self, worth: Floats, rows: Rows, columns: Rows, values: Floats) -> None:
        """Choices by what they are worth, and their entries; a row of -1 does not exist."""
        real = (rows >= 0) & (values != 0)
        key = columns[real] * self._start + rows[real]
        cells, where = np.unique(key, return_inverse=True)
        sums = np.bincount(where, weights=values[real], minlength=len(cells))
        begins = np.searchsorted(cells, np.arange(len(worth)) * self._start).astype(np.int32)
        self._highs.addCols(
            len(worth),
            worth,
            np.zeros(len(worth)),
            np.full(len(worth), highspy.kHighsInf),
            len(cells),
            begins,
            (cells % self._start).astype(np.int32),
            np.asarray(sums, dtype=np.float64),
        )

    def solve(self, iterations: int) -> tuple[float, Multipliers] | None:
        """What the mixture reaches, and its prices; None when HiGHS did not finish."""
        self._highs.setOptionValue("simplex_iteration_limit", iterations)
        self._highs.run()
        duals = np.array(self._highs.getSolution().row_dual)
        if self._highs.getModelStatus() != highspy.HighsModelStatus.kOptimal or len(duals) != self._start:
            return None
        duals = np.append(np.maximum(duals, 0.0), 0.0)  # the last for rows that do not exist
        prices = Multipliers(
            duals[self.want],
            np.minimum(duals[self.spot], self._bonus),
            duals[self.limit],
            duals[self.other].reshape(self._shape),
        )
        return float(self._highs.getInfo().objective_function_value), prices

    def mixture(self) -> Floats:
        """By choice, in the order in which they were added, its part as of the last solve."""
        found: Floats = np.array(self._highs.getSolution().col_value)[self._firsts :]
        return found

    def without(self, columns: NDArray[np.int32], iterations: int) -> bool:
        """Mixes anew without these choices; False when HiGHS did not finish."""
        nothing = np.zeros(len(columns))
        highs = self._highs
        highs.setOptionValue("simplex_strategy", DUAL)
        highs.changeColsBounds(len(columns), columns + np.int32(self._firsts), nothing, nothing)
        highs.setOptionValue("simplex_iteration_limit", iterations)
        highs.run()
        return bool(highs.getModelStatus() == highspy.HighsModelStatus.kOptimal)
