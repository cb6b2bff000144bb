"""From the histograms of reference.json (artifact/reference.py says what they are) to those that are counted here, and
back: what a site has seen is written down in the same form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgeward_runtime.artifact import reference as file
from edgeward_runtime.drift.histogram import Bins, Histogram


@dataclass(frozen=True, slots=True)
class Key:
    """One tensor. `features`: indices into its last dimension that are watched each on its own; none: all of its values
    together."""

    of: str  # Input, Output or Confidence
    name: str
    features: tuple[int, ...] = ()


def histograms(reference: file.Reference) -> dict[Key, Histogram]:
    """By tensor, the features of one side by side. Histograms that count nothing are left out."""
    groups: dict[tuple[str, str, bool], list[file.Histogram]] = {}
    for one in reference.histograms:
        if any(one.counts):
            groups.setdefault((one.of, one.name, one.feature is None), []).append(one)
    found = {}
    for (of, name, _pooled), group in groups.items():
        group.sort(key=lambda one: -1 if one.feature is None else one.feature)
        bins = Bins(tuple(one.edges for one in group))
        counts = np.zeros((bins.columns, bins.size), np.int64)
        for row, one in zip(counts, group, strict=True):
            row[: len(one.counts)] = one.counts
        rows = int(counts.sum(axis=1).max())
        features = tuple(one.feature for one in group if one.feature is not None)
        found[Key(of, name, features)] = Histogram(bins, counts, rows=rows, nan=sum(one.missing for one in group))
    return found


def sketch(seen: dict[Key, Histogram]) -> file.Reference:
    """What `histograms` reads. NaN is counted for a tensor and not for a feature: it stands with the first."""
    made = []
    for key, histogram in seen.items():
        for index, (bounds, counts) in enumerate(zip(histogram.bins.bounds, histogram.counts, strict=True)):
            edges = tuple(bound for bound in bounds if not math.isinf(bound))
            made.append(
                file.Histogram(
                    of=key.of,
                    name=key.name,
                    feature=key.features[index] if key.features else None,
                    edges=edges,
                    counts=tuple(counts[: len(edges) + 1].tolist()),
                    missing=0 if index else histogram.nan,
                )
            )
    return file.Reference(histograms=tuple(made))
