"""Whether rows of a model may run together, and how many at once pay: tried and measured at warm-up.

A graph whose first dimension is open need not treat its rows apart: it may normalise over them, sort them, quantise all
of them by one scale. So rows are run together and apart before a version serves, and batching is off for it where the
answers differ: a client's answer must not depend on who else asks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edgeward_runtime.tensors import NUMPY_OF, Array, TensorSpec

if TYPE_CHECKING:
    from edgeward_runtime.model import Model

_SIZES = (2, 4, 8, 16, 32)
# A batch that runs longer would hold up those that come meanwhile for longer than they wait today.
_LONGEST_RUN = 0.25
_RUNS = 3
# The smallest batch whose time per row is within this of the best: larger ones only make the first in them wait.
_NEAR_BEST = 1.1
# Less gained per row than this is not worth that the first waits for the last.
_WORTH = 0.9
_TOLERANCE = {"FP16": 1e-2, "BF16": 3e-2}
_ALONE = 0.1


def prepare(model: Model, *, size: int, seconds: float, clock: Callable[[], float], rows: int = 0) -> None:
    """Sets model.batch_rows and, where that stays 1, model.batch_off, the reason. `size` stands in for dimensions that
    are open beside the first, `seconds` is what one row takes; `rows` is the operator's own choice, 0 = measured."""
    model.batch_rows = 1
    model.batch_off = _refused(model) if rows != 1 else "Disabled"
    if model.batch_off:
        return
    try:
        model.batch_off = _differs(model, size)
    except Exception:
        # Drawn values need not be ones that the graph takes (an index out of range): nothing is known then.
        model.batch_off = "CheckFailed"
    if model.batch_off:
        return
    model.batch_rows = rows or _knee(model, size, seconds, clock)
    if model.batch_rows == 1:
        model.batch_off = "NoGain"


def _refused(model: Model) -> str:
    specs = [*model.inputs.values(), *model.outputs.values()]
    if not model.inputs or any(not spec.shape or spec.shape[0] >= 0 for spec in specs):
        return "FixedRows"
    return ""


def _differs(model: Model, size: int) -> str:
    """Three different rows together, against each of them three times and each alone: "" if the answers are the same.

    Of as many rows the kernels are the same, so a row's answer may hardly change with the rows beside it. Alone it may a
    little more: sums are made in another order then, which a graph can amplify where a drawn row is not like real ones."""
    random = np.random.default_rng(7)
    rows = _rows(model, size, random)
    together = _joined(model, rows)
    for number, spec in enumerate(model.outputs.values()):
        if not together[number].shape or together[number].shape[0] != len(rows):
            return "RowsNotKept"
        exact = _TOLERANCE.get(spec.datatype, 1e-3)
        for place, row in enumerate(rows):
            found = together[number][place : place + 1]
            beside_itself = _joined(model, [row] * len(rows))[number][place : place + 1]
            alone = model.run(None, row)[number]
            if not _same(spec.datatype, found, beside_itself, exact) or not _same(spec.datatype, found, alone, _ALONE):
                return "RowsNotIndependent"
    return ""


def _rows(model: Model, size: int, random: np.random.Generator) -> list[dict[str, Array]]:
    """Three rows that the graph takes. Whole numbers up to 127 if it takes those; 0 and 1 are indices of almost any
    table."""
    for most in (127, 1):
        rows = [{name: _drawn(spec, size, random, most) for name, spec in model.inputs.items()} for _ in range(3)]
        try:
            _joined(model, rows)
        except Exception:
            if most == 1:
                raise
        else:
            break
    return rows


def _joined(model: Model, rows: list[dict[str, Array]]) -> list[Array]:
    return model.run(None, {name: np.concatenate([row[name] for row in rows]) for name in model.inputs})


def _drawn(spec: TensorSpec, size: int, random: np.random.Generator, most: int) -> Array:
    shape = (1, *(dim if dim >= 0 else size for dim in spec.shape[1:]))
    match spec.datatype:
        case "BYTES":
            words = np.array(["a", "b", "edge"], dtype=object)
            return np.asarray(words[random.integers(0, 3, shape)], dtype=object)
        case "BF16":
            return np.asarray(random.random(shape, np.float32).view(np.uint32) >> 16).astype(np.uint16)
        case "FP16" | "FP32" | "FP64":
            return random.standard_normal(shape).astype(NUMPY_OF[spec.datatype])
    return random.integers(0, most + 1, shape).astype(NUMPY_OF[spec.datatype])


def _same(datatype: str, one: Array, other: Array, tolerance: float) -> bool:
    if one.shape != other.shape:
        return False
    if datatype == "BF16":
        one, other = ((bits.astype(np.uint32) << 16).view(np.float32) for bits in (one, other))
    elif datatype not in ("FP16", "FP32", "FP64"):
        return bool(np.array_equal(one, other))
    finite = other[np.isfinite(other)]
    scale = float(np.abs(finite).max()) if finite.size else 1.0
    return bool(np.allclose(one, other, rtol=tolerance, atol=tolerance * 0.1 * max(scale, 1e-6), equal_nan=True))


def _knee(model: Model, size: int, seconds: float, clock: Callable[[], float]) -> int:
    """The smallest batch near the best time per row."""
    random = np.random.default_rng(7)
    row = _rows(model, size, random)[0]
    per_row, worse = {1: seconds}, 0
    for rows in _SIZES:
        if rows * min(per_row.values()) > _LONGEST_RUN:
            break
        feeds = {name: np.repeat(tensor, rows, axis=0) for name, tensor in row.items()}
        model.run(None, feeds)
        times: list[float] = []
        for _ in range(_RUNS):
            start = clock()
            model.run(None, feeds)
            times.append(clock() - start)
        each = min(times) / rows
        worse = worse + 1 if each > min(per_row.values()) else 0
        per_row[rows] = each
        if worse == 2:
            break
    best = min(per_row.values())
    if best > _WORTH * per_row[1]:
        return 1
    return min(rows for rows, each in per_row.items() if each <= _NEAR_BEST * best)
