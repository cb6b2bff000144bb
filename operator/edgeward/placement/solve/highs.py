"""HiGHS as the solver uses it: one thread, a fixed seed and nothing printed, so that the same model gets the same answer."""

from __future__ import annotations

from collections.abc import Sequence

import highspy
import numpy as np

from edgeward.placement.columns import Floats, Rows

Entries = tuple[Rows, Rows, Floats]
"""rows, columns and values of a matrix, all three of one length"""


def maximum(
    *,
    gains: Floats,
    uppers: Floats,
    limits: Floats,
    entries: Entries,
    whole: int = 0,
    options: dict[str, bool | int | str] | None = None,
) -> highspy.Highs:
    """max gains x, A x <= limits, 0 <= x <= uppers, A being given by its `entries`; the first `whole` columns in whole
    numbers."""
    rows, columns, values = entries
    order = np.lexsort((rows, columns))
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(gains), len(limits)
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = gains, np.zeros(len(gains)), uppers
    lp.row_lower_, lp.row_upper_ = np.full(len(limits), -highspy.kHighsInf), limits
    lp.sense_ = highspy.ObjSense.kMaximize
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = np.searchsorted(columns[order], np.arange(len(gains) + 1))
    lp.a_matrix_.index_ = rows[order]
    lp.a_matrix_.value_ = values[order]
    if whole:
        kinds: Sequence[highspy.HighsVarType] = [highspy.HighsVarType.kInteger] * whole
        lp.integrality_ = [*kinds, *[highspy.HighsVarType.kContinuous] * (len(gains) - whole)]
    highs = highspy.Highs()  # type: ignore[no-untyped-call]
    fixed: dict[str, bool | int | str] = {"output_flag": False, "threads": 1, "parallel": "off", "random_seed": 1}
    for name, value in {**fixed, **(options or {})}.items():
        highs.setOptionValue(name, value)
    highs.passModel(lp)
    return highs
