"""The drift reference of a model, from the data it was made with: what goes in and what the model makes of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeward_runtime.artifact import reference as file
from edgeward_runtime.artifact.reference import CONFIDENCE, INPUT, MAX_HISTOGRAMS, OUTPUT
from edgeward_runtime.confidence import confidence
from edgeward_runtime.drift.histogram import Floats, Histogram, quantile_bins
from edgeward_runtime.drift.monitor import UNWATCHED, usual_key
from edgeward_runtime.drift.reference import Key, sketch
from edgeward_runtime.model import Model
from edgeward_runtime.tensors import Array

_BINS = 10  # the usual number for PSI, and what a site makes when it has no reference
_FIRST = 1_000_000  # values of a tensor that the bins are made of; the rest is counted as it comes
_OF_ROW = 4096  # values taken of a row, evenly spread


class Collected:
    """`add` what goes in and out, then `reference`. Memory is bounded by _FIRST values a tensor."""

    def __init__(self, model: Model) -> None:
        self._scores = model.scores
        specs = {
            **{(INPUT, name): spec for name, spec in model.inputs.items()},
            **{(OUTPUT, name): spec for name, spec in model.outputs.items()},
        }
        able = [tensor for tensor, spec in specs.items() if spec.datatype not in UNWATCHED]
        if model.scores is not None:
            able.append((CONFIDENCE, model.scores.output))
        self._columns: dict[Key, _Column] = {}
        left = MAX_HISTOGRAMS
        for of, name in able:
            key = usual_key(of, name, specs)
            if len(key.features) > left:
                key = Key(of, name)
            if left:
                self._columns[key] = _Column()
                left -= max(len(key.features), 1)
        self.rows = 0

    def add(self, rows: int, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        self.rows += rows
        for key, column in self._columns.items():
            array = inputs[key.name] if key.of == INPUT else outputs[key.name]
            if key.of == CONFIDENCE:
                assert self._scores is not None
                probabilities = self._scores.probabilities(array)
                if probabilities is None:
                    continue
                array = confidence(probabilities)
            column.add(_values(key, array, rows), rows)

    def reference(self) -> file.Reference:
        return sketch({key: column.done() for key, column in self._columns.items() if column.rows})


class _Column:
    def __init__(self) -> None:
        self.rows = 0
        self._size = 0
        self._first: list[Floats] = []
        self._histogram: Histogram | None = None

    def add(self, values: Floats, rows: int) -> None:
        self.rows += rows
        if self._histogram is not None:
            self._histogram.add(values, rows=rows)
            return
        self._first.append(values)
        self._size += values.size
        if self._size >= _FIRST:
            self.done()

    def done(self) -> Histogram:
        if self._histogram is None:
            first = np.concatenate(self._first)
            self._histogram = Histogram(quantile_bins(first, bins=_BINS))
            self._histogram.add(first, rows=self.rows)
            self._first = []
        return self._histogram


def _values(key: Key, array: Array, rows: int) -> Floats:
    """float64 [.., features], or [values, 1] where they are counted together."""
    if key.features:
        return array.reshape(-1, array.shape[-1])[:, list(key.features)].astype(np.float64)
    flat = array.reshape(rows if array.ndim and array.shape[0] == rows else 1, -1)
    step = max(flat.shape[1] // _OF_ROW, 1)
    return flat[:, ::step].astype(np.float64).reshape(-1, 1)
