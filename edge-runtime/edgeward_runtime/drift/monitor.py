"""Drift of one model version: the histograms of the last hour beside the reference, for each watched tensor.

`add` is called by the thread that learns, the rest by whoever asks; a lock keeps them apart for the microseconds that
either takes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from edgeward_runtime.confidence import Scores, confidence
from edgeward_runtime.drift import measures
from edgeward_runtime.drift.histogram import MOST_COLUMNS, Floats, Histogram, merge, quantile_bins
from edgeward_runtime.drift.reference import MOST_TENSORS, Reference
from edgeward_runtime.tensors import Array, TensorSpec

SLOT_SECONDS = 600
SLOTS = 6  # the window: the last hour, in steps of ten minutes, the current one included
PROVISIONAL_ROWS = 500
_PROVISIONAL_BINS = 10
_ROWS_OF_ONE = 32  # looked at of one request, spread over it
_VALUES_OF_ROW = 64
_UNWATCHED = frozenset({"BYTES", "BF16"})  # no numbers: text, and bits of numbers

INPUT, OUTPUT, CONFIDENCE = "Input", "Output", "Confidence"
ARTIFACT, PROVISIONAL = "Artifact", "Provisional"
Key = tuple[str, str]  # Input | Output | Confidence, name of the tensor


@dataclass(frozen=True, slots=True)
class Sample:
    """One request and its answer. `names` are those of the outputs."""

    rows: int
    feeds: Mapping[str, Array]
    names: Iterable[str]
    tensors: Iterable[Array]


@dataclass(frozen=True, slots=True)
class Drift:
    """What is known of one tensor now. `score` is None while there are too few rows."""

    kind: str
    name: str
    reference: str  # Artifact | Provisional
    rows: int
    nan: int
    infinite: int
    score: measures.Score | None


class _Window:
    """Histograms of the last hour. Bounded: SLOTS of them, whatever comes."""

    def __init__(self, reference: Histogram) -> None:
        self.reference = reference
        self._slots: dict[int, Histogram] = {}

    def slot(self, now: float) -> Histogram:
        """The one to add to."""
        number = int(now // SLOT_SECONDS)
        found = self._slots.get(number)
        if found is None:
            self._slots = {key: one for key, one in self._slots.items() if number - SLOTS < key <= number}
            found = self._slots[number] = Histogram(self.reference.bins)
        return found

    def total(self, now: float) -> Histogram:
        number = int(now // SLOT_SECONDS)
        return merge(
            [Histogram(self.reference.bins), *(h for key, h in self._slots.items() if number - SLOTS < key <= number)]
        )


class Monitor:
    """reference None: the first PROVISIONAL_ROWS rows become one. That shows a change since then, not a difference from
    training, and is told apart in all that is said of it.

    clock: seconds that never go back.
    """

    def __init__(
        self,
        *,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        scores: Scores | None,
        reference: Reference | None,
        clock: Callable[[], float],
    ) -> None:
        self.origin = ARTIFACT if reference is not None else PROVISIONAL
        self._scores = scores
        self._clock = clock
        self._lock = threading.Lock()
        self._turn = 0
        # Outputs before their confidence, which is made of one of them.
        self._watched: dict[Key, _Window | None] = {}
        for kind, specs in ((INPUT, inputs), (OUTPUT, outputs)):
            for name in [n for n, spec in specs.items() if spec.datatype not in _UNWATCHED][:MOST_TENSORS]:
                self._watched[kind, name] = None
        if scores is not None:
            self._watched[CONFIDENCE, scores.output] = None
        self._first: dict[Key, list[Floats]] = {}
        self._first_rows = 0
        if reference is not None:
            self._take(reference)

    @property
    def watches(self) -> bool:
        return bool(self._watched)

    def _take(self, reference: Reference) -> None:
        """Only what the reference tells of is watched."""
        known: dict[Key, Histogram] = {(INPUT, name): one for name, one in reference.inputs.items()}
        known |= {(OUTPUT, name): one for name, one in reference.outputs.items()}
        if reference.confidence is not None and self._scores is not None:
            known[CONFIDENCE, self._scores.output] = reference.confidence
        self._watched = {key: _Window(known[key]) for key in self._watched if key in known}

    def add(self, samples: Iterable[Sample]) -> None:
        """Values by the numpy call, not by the request: what one costs is shared by all of them."""
        self._turn += 1
        values: dict[Key, list[Floats]] = {}
        rows: dict[Key, int] = {}
        for sample in samples:
            for key, array in self._tensors(sample):
                if not array.size:
                    continue
                taken, count = self._values(key, array, sample.rows)
                values.setdefault(key, []).append(taken)
                rows[key] = rows.get(key, 0) + count
        if not values:
            return
        joined = {key: _joined(parts) for key, parts in values.items()}
        with self._lock:
            if any(window is None for window in self._watched.values()):
                self._collect(joined, rows)
                return
            now = self._clock()
            for key, array in joined.items():
                window = self._watched[key]
                if window is not None and (window.reference.bins.columns in (1, array.shape[1])):
                    window.slot(now).add(array, rows=rows[key])

    def _tensors(self, sample: Sample) -> Iterable[tuple[Key, Array]]:
        for name, array in sample.feeds.items():
            if (INPUT, name) in self._watched:
                yield (INPUT, name), array
        for name, array in zip(sample.names, sample.tensors, strict=True):
            if (OUTPUT, name) in self._watched:
                yield (OUTPUT, name), array
            if (CONFIDENCE, name) in self._watched and self._scores is not None:
                probabilities = self._scores.probabilities(array)
                if probabilities is not None:
                    yield (CONFIDENCE, name), confidence(probabilities)

    def _values(self, key: Key, array: Array, rows: int) -> tuple[Floats, int]:
        """float64 [rows, columns] of a tensor of a few columns; of any other some of its values as [values, 1]. And how
        many rows they are of."""
        flat = array.reshape(rows if array.ndim and array.shape[0] == rows else 1, -1)
        if len(flat) > _ROWS_OF_ONE:
            flat = flat[self._turn % (len(flat) // _ROWS_OF_ONE) :: len(flat) // _ROWS_OF_ONE][:_ROWS_OF_ONE]
        width = flat.shape[1]
        window = self._watched[key]
        pooled = width > MOST_COLUMNS if window is None else window.reference.bins.columns == 1
        if not pooled:
            return flat.astype(np.float64), len(flat)
        if width > _VALUES_OF_ROW:
            step = width // _VALUES_OF_ROW
            flat = flat[:, self._turn % step :: step][:, :_VALUES_OF_ROW]
        return flat.astype(np.float64).reshape(-1, 1), len(flat)

    def _collect(self, values: Mapping[Key, Floats], rows: Mapping[Key, int]) -> None:
        """Until there are enough rows for a reference of our own."""
        for key, array in values.items():
            self._first.setdefault(key, []).append(array)
        self._first_rows += max(rows.values())
        if self._first_rows < PROVISIONAL_ROWS:
            return
        found: dict[Key, _Window | None] = {}
        for key, parts in self._first.items():
            first = _joined(parts)
            reference = Histogram(quantile_bins(first, bins=_PROVISIONAL_BINS))
            reference.add(first, rows=self._first_rows)
            found[key] = _Window(reference)
        self._watched = found
        self._first = {}

    def state(self) -> list[Drift]:
        with self._lock:
            now = self._clock()
            windows = [(key, one, one.total(now)) for key, one in self._watched.items() if one is not None]
        return [
            Drift(
                kind=kind,
                name=name,
                reference=self.origin,
                rows=seen.rows,
                nan=seen.nan,
                infinite=seen.infinite,
                score=measures.score(window.reference, seen),
            )
            for (kind, name), window, seen in windows
        ]

    def worst_psi(self) -> float | None:
        """None while no tensor has enough rows."""
        known = [one.score.psi for one in self.state() if one.score is not None]
        return max(known, default=None)

    def sketches(self) -> dict[str, dict[str, object]]:
        """The window's histograms, to be merged with those of others."""
        with self._lock:
            now = self._clock()
            return {
                f"{kind}/{name}": window.total(now).document()
                for (kind, name), window in self._watched.items()
                if window is not None
            }


def _joined(parts: list[Floats]) -> Floats:
    """One under the other; of different widths, which is no table of columns, as one column of all the values."""
    if len({part.shape[1] for part in parts}) != 1:
        parts = [part.reshape(-1, 1) for part in parts]
    return np.concatenate(parts)
