"""Drift of one model version: the histograms of the last hour beside the reference, for each watched tensor.

`add` is called by the thread that learns, the rest by whoever asks; a lock keeps them apart for the microseconds that
either takes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from edgeward_runtime.artifact import reference as file
from edgeward_runtime.artifact.reference import CONFIDENCE, INPUT, OUTPUT
from edgeward_runtime.confidence import Scores, confidence
from edgeward_runtime.drift import measures
from edgeward_runtime.drift.histogram import Floats, Histogram, merge, quantile_bins
from edgeward_runtime.drift.reference import Key, histograms, sketch
from edgeward_runtime.tensors import Array, TensorSpec

SLOT_SECONDS = 600
SLOTS = 6  # the window: the last hour, in steps of ten minutes, the current one included
PROVISIONAL_ROWS = 500
_PROVISIONAL_BINS = 10
_ROWS_OF_ONE = 32  # looked at of one request, spread over it
_VALUES_OF_ROW = 64
UNWATCHED = frozenset({"BYTES", "BF16"})  # no numbers: text, and bits of numbers

_FEATURES = 64  # a row of so many or fewer has a histogram each, where there is no reference to say
_TENSORS = 16  # watched of inputs and of outputs, where there is no reference to say

ARTIFACT, PROVISIONAL = "Artifact", "Provisional"


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

    of: str  # Input, Output or Confidence
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

    def between(self, after: int, last: int) -> Histogram:
        """Of the slots after one, to another."""
        return merge([Histogram(self.reference.bins), *(h for key, h in self._slots.items() if after < key <= last)])

    def total(self, now: float) -> Histogram:
        number = int(now // SLOT_SECONDS)
        return self.between(number - SLOTS, number)


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
        reference: file.Reference | None,
        clock: Callable[[], float],
    ) -> None:
        self.origin = ARTIFACT if reference is not None else PROVISIONAL
        self._scores = scores
        self._clock = clock
        self._lock = threading.Lock()
        self._turn = 0
        self._windows: dict[Key, _Window] = {}
        # By (Input | Output | Confidence, name): what is taken of a tensor.
        self._keys: dict[tuple[str, str], list[Key]] = {}
        self._first: dict[Key, list[Floats]] | None = None
        self._first_rows = 0
        self._taken_to = -1  # slot up to which it was taken
        specs = {**{(INPUT, n): spec for n, spec in inputs.items()}, **{(OUTPUT, n): s for n, s in outputs.items()}}
        able = {tensor for tensor, spec in specs.items() if spec.datatype not in UNWATCHED}
        if scores is not None:
            able.add((CONFIDENCE, scores.output))
        if reference is not None:
            self._windows = {
                key: _Window(one) for key, one in histograms(reference).items() if (key.of, key.name) in able
            }
            wanted: Iterable[Key] = self._windows
        else:
            self._first = {}
            wanted = [usual_key(of, name, specs) for of, name in sorted(able)[: 2 * _TENSORS]]
        for key in wanted:
            self._keys.setdefault((key.of, key.name), []).append(key)

    @property
    def watches(self) -> bool:
        return bool(self._keys)

    def add(self, samples: Iterable[Sample]) -> None:
        """Values by the numpy call, not by the request: what one costs is shared by all of them."""
        self._turn += 1
        values: dict[Key, list[Floats]] = {}
        rows: dict[Key, int] = {}
        for sample in samples:
            for tensor, array in self._tensors(sample):
                if not array.size:
                    continue
                for key in self._keys[tensor]:
                    taken = self._taken(key, array, sample.rows)
                    if taken is not None:
                        values.setdefault(key, []).append(taken[0])
                        rows[key] = rows.get(key, 0) + taken[1]
        if not values:
            return
        with self._lock:
            if self._first is not None:
                self._collect(self._first, values, rows)
                return
            now = self._clock()
            for key, parts in values.items():
                self._windows[key].slot(now).add(np.concatenate(parts), rows=rows[key])

    def _tensors(self, sample: Sample) -> Iterable[tuple[tuple[str, str], Array]]:
        for name, array in sample.feeds.items():
            if (INPUT, name) in self._keys:
                yield (INPUT, name), array
        for name, array in zip(sample.names, sample.tensors, strict=True):
            if (OUTPUT, name) in self._keys:
                yield (OUTPUT, name), array
            if (CONFIDENCE, name) in self._keys and self._scores is not None:
                probabilities = self._scores.probabilities(array)
                if probabilities is not None:
                    yield (CONFIDENCE, name), confidence(probabilities)

    def _taken(self, key: Key, array: Array, rows: int) -> tuple[Floats, int] | None:
        """float64 [.., features], or [values, 1] of a tensor whose values are counted together; and how many rows of
        the request that is. None for a tensor that has not the features."""
        flat = array.reshape(rows if array.ndim and array.shape[0] == rows else 1, -1)
        if len(flat) > _ROWS_OF_ONE:
            step = len(flat) // _ROWS_OF_ONE
            flat = flat[self._turn % step :: step][:_ROWS_OF_ONE]
        count, width = flat.shape
        if key.features:
            last = array.shape[-1] if array.ndim > 1 else width
            if last <= key.features[-1]:
                return None
            places = flat.reshape(-1, last)
            step = max(len(places) // (count * _VALUES_OF_ROW), 1)
            return places[self._turn % step :: step, list(key.features)].astype(np.float64), count
        if width > _VALUES_OF_ROW:
            step = width // _VALUES_OF_ROW
            flat = flat[:, self._turn % step :: step][:, :_VALUES_OF_ROW]
        return flat.astype(np.float64).reshape(-1, 1), count

    def _collect(
        self, first: dict[Key, list[Floats]], values: Mapping[Key, list[Floats]], rows: Mapping[Key, int]
    ) -> None:
        """Until there are enough rows for a reference of our own."""
        for key, parts in values.items():
            first.setdefault(key, []).extend(parts)
        self._first_rows += max(rows.values())
        if self._first_rows < PROVISIONAL_ROWS:
            return
        for key, parts in first.items():
            seen = np.concatenate(parts)
            reference = Histogram(quantile_bins(seen, bins=_PROVISIONAL_BINS))
            reference.add(seen, rows=self._first_rows)
            self._windows[key] = _Window(reference)
        # What did not come among them has nothing to be compared with.
        self._keys = {
            tensor: kept
            for tensor, keys in self._keys.items()
            if (kept := [key for key in keys if key in self._windows])
        }
        self._first = None

    def _seen(self) -> dict[Key, tuple[_Window, Histogram]]:
        with self._lock:
            now = self._clock()
            return {key: (window, window.total(now)) for key, window in self._windows.items()}

    def state(self) -> list[Drift]:
        return [
            Drift(
                of=key.of,
                name=key.name,
                reference=self.origin,
                rows=seen.rows,
                nan=seen.nan,
                infinite=seen.infinite,
                score=measures.score(window.reference, seen),
            )
            for key, (window, seen) in self._seen().items()
        ]

    def worst_psi(self) -> float | None:
        """None while no tensor has enough rows."""
        known = [one.score.psi for one in self.state() if one.score is not None]
        return max(known, default=None)

    def take(self, *, closed: bool) -> file.Reference | None:
        """What was counted since the last take, to be merged with that of others: of the slots that are over, or, to
        end with, of all. None if that is nothing. To be called more often than every (SLOTS - 1) slots."""
        with self._lock:
            number = int(self._clock() // SLOT_SECONDS)
            last = number - 1 if closed else number
            taken = {key: window.between(self._taken_to, last) for key, window in self._windows.items()}
            self._taken_to = last
        return sketch(taken) if any(one.rows for one in taken.values()) else None


def usual_key(of: str, name: str, specs: Mapping[tuple[str, str], TensorSpec]) -> Key:
    """How a tensor is watched unless a reference says otherwise: a row of a few numbers is features; a picture, text or
    confidence is not."""
    spec = specs.get((of, name))
    if spec is not None and len(spec.shape) == 2 and 1 <= spec.shape[1] <= _FEATURES:
        return Key(of, name, tuple(range(spec.shape[1])))
    return Key(of, name)
