"""reference.json: what the data looked like that the model was made with, to see how far a site's has drifted from it.

    {"format": 1, "histograms": [
        {"of": "Input", "name": "x", "feature": 2, "edges": [0.0, 0.5, 1.0], "counts": [3, 120, 77, 0], "missing": 1},
        {"of": "Output", "name": "y", "edges": [...], "counts": [...]},
        {"of": "Confidence", "name": "y", "edges": [...], "counts": [...]}]}

`edges` rise strictly; `counts` has one entry more: counts[0] are values below edges[0], counts[i] those of
edges[i-1] <= value < edges[i], the last those of edges[-1] or above, which is numpy.searchsorted(edges, value, "right").
So every number has its bin, and histograms with the same edges are merged by adding counts: those of a pod, of a site, of a
fleet. `feature` is an index into the tensor's last dimension; without it all elements are in one histogram. `missing` counts
NaN. Confidence is the largest of a row of class probabilities.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeward_runtime.artifact.files import read_json
from edgeward_runtime.errors import Refusal

FORMAT = 1
INPUT, OUTPUT, CONFIDENCE = "Input", "Output", "Confidence"
MAX_HISTOGRAMS = 256
MAX_EDGES = 256
_MAX_COUNT = 2**53  # what a JSON number holds exactly
_REASON = "BadReference"


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    of: str  # Input, Output or Confidence
    name: str  # of the tensor
    feature: int | None  # index into its last dimension, None = all elements
    edges: tuple[float, ...]
    counts: tuple[int, ...]  # one more than edges
    missing: int = 0  # NaN


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    histograms: tuple[Histogram, ...]


def read(path: Path) -> Reference:
    """Refusal BadReference (step Load, permanent) that names the field."""
    document, refuse = read_json(path, reason=_REASON)
    if document.get("format") != FORMAT:
        raise refuse(f"format is {document.get('format')!r:.20}, this runtime reads {FORMAT}")
    raw = document.get("histograms")
    if not isinstance(raw, list) or len(raw) > MAX_HISTOGRAMS:
        raise refuse(f"histograms must be a list of at most {MAX_HISTOGRAMS}")
    histograms: list[Histogram] = []
    seen: set[tuple[str, str, int | None]] = set()
    for index, one in enumerate(raw):
        histogram = _histogram(one, f"histograms[{index}]", refuse)
        key = (histogram.of, histogram.name, histogram.feature)
        if key in seen:
            raise refuse(f"histograms[{index}]: {histogram.of} '{histogram.name}' is there twice")
        seen.add(key)
        histograms.append(histogram)
    return Reference(histograms=tuple(histograms))


def document(reference: Reference) -> dict[str, object]:
    """What read() takes, for those who make one: publishing, and the sketches that a site sends home."""
    return {
        "format": FORMAT,
        "histograms": [
            {
                "of": one.of,
                "name": one.name,
                **({} if one.feature is None else {"feature": one.feature}),
                "edges": list(one.edges),
                "counts": list(one.counts),
                **({"missing": one.missing} if one.missing else {}),
            }
            for one in reference.histograms
        ],
    }


def _histogram(raw: object, where: str, refuse: Callable[[str], Refusal]) -> Histogram:
    if not isinstance(raw, dict):
        raise refuse(f"{where} must be an object")
    of, name, feature = raw.get("of"), raw.get("name"), raw.get("feature")
    if of not in (INPUT, OUTPUT, CONFIDENCE):
        raise refuse(f"{where}.of is {of!r:.20}, wanted {INPUT}, {OUTPUT} or {CONFIDENCE}")
    if not isinstance(name, str) or not name:
        raise refuse(f"{where}.name must be a string")
    if feature is not None and (type(feature) is not int or feature < 0):
        raise refuse(f"{where}.feature is {feature!r:.20}, wanted an index of 0 or more")
    edges, counts, missing = raw.get("edges"), raw.get("counts"), raw.get("missing", 0)
    if (
        not isinstance(edges, list)
        or not 1 <= len(edges) <= MAX_EDGES
        or not all(type(edge) in (int, float) and math.isfinite(edge) for edge in edges)
        or any(later <= earlier for earlier, later in itertools.pairwise(edges))
    ):
        raise refuse(f"{where}.edges must be 1 to {MAX_EDGES} numbers that rise")
    if not isinstance(counts, list) or len(counts) != len(edges) + 1 or not all(map(_is_count, counts)):
        raise refuse(f"{where}.counts must be {len(edges) + 1} whole numbers of 0 or more, one more than edges")
    if not _is_count(missing):
        raise refuse(f"{where}.missing is {missing!r:.20}, wanted a whole number of 0 or more")
    return Histogram(
        of=of, name=name, feature=feature, edges=tuple(map(float, edges)), counts=tuple(counts), missing=missing
    )


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_COUNT
