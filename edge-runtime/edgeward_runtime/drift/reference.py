"""reference.json, a file of the artifact: what a model's inputs, outputs and confidence looked like in training.

    {"reference": 1,
     "inputs":  {"x": {"rows": 5000, "columns": [{"bounds": [0.1, 0.5], "counts": [12, 4000, 988]}, ...]}},
     "outputs": {"y": ...},
     "confidence": ...}

One entry in `columns` is for all values of a tensor together, else there is one for each column of the tensor flattened
to [rows, columns] (at most 64). `rows` is how many rows the counts come from; without it, the most that a column
counts. Everything but `reference` may be missing: only what is there is watched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from edgeward_runtime.drift.histogram import Bins, Histogram

FORMAT = 1
MOST_BYTES = 4 * 2**20
MOST_TENSORS = 16  # of each kind
_MOST_COUNT = 2**53


class BadReference(ValueError):
    """The text names the field."""


@dataclass(frozen=True, slots=True)
class Reference:
    inputs: Mapping[str, Histogram] = field(default_factory=dict)
    outputs: Mapping[str, Histogram] = field(default_factory=dict)
    confidence: Histogram | None = None

    def document(self) -> dict[str, object]:
        """What parse reads."""
        document: dict[str, object] = {
            "reference": FORMAT,
            "inputs": {name: one.document() for name, one in self.inputs.items()},
            "outputs": {name: one.document() for name, one in self.outputs.items()},
        }
        if self.confidence is not None:
            document["confidence"] = self.confidence.document()
        return document


def parse(text: bytes) -> Reference:
    """BadReference for anything that is not as above. Unknown fields are for later readers."""
    if len(text) > MOST_BYTES:
        raise BadReference(f"reference.json has more than {MOST_BYTES} bytes")
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadReference(f"reference.json is no JSON: {error}") from None
    if not isinstance(document, dict) or document.get("reference") != FORMAT:
        raise BadReference(f"reference.json: reference must be {FORMAT}")
    raw = document.get("confidence")
    confidence = None if raw is None else _histogram(raw, "confidence")
    if confidence is not None and confidence.bins.columns != 1:
        raise BadReference("confidence has one column")
    return Reference(_tensors(document, "inputs"), _tensors(document, "outputs"), confidence)


def _tensors(document: dict[str, Any], key: str) -> dict[str, Histogram]:
    raw = document.get(key, {})
    if not isinstance(raw, dict) or len(raw) > MOST_TENSORS:
        raise BadReference(f"{key} must be an object of at most {MOST_TENSORS} tensors")
    return {name: _histogram(one, f"{key}.{name}") for name, one in raw.items()}


def _histogram(raw: object, where: str) -> Histogram:
    columns = raw.get("columns") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or not isinstance(columns, list) or not all(isinstance(one, dict) for one in columns):
        raise BadReference(f"{where}.columns must be a list of objects")
    bounds = tuple(_numbers(one.get("bounds"), f"{where}.columns.bounds") for one in columns)
    counts = [_numbers(one.get("counts"), f"{where}.columns.counts", whole=True) for one in columns]
    try:
        bins = Bins(bounds)
        if any(len(one) != bins.size for one in counts):
            raise ValueError(f"there must be one count more than bounds, {bins.size}")
        array = np.array(counts, np.int64)
    except ValueError as error:
        raise BadReference(f"{where}: {error}") from None
    if not array.any(axis=1).all():
        raise BadReference(f"{where}: a column counts nothing")
    totals = {key: raw.get(key, 0) for key in ("rows", "nan", "infinite")}
    if any(type(total) is not int or not 0 <= total <= _MOST_COUNT for total in totals.values()):
        raise BadReference(f"{where}: rows, nan and infinite must be counts")
    rows = totals["rows"] or int(array.sum(axis=1).max())
    return Histogram(bins, array, rows=rows, nan=totals["nan"], infinite=totals["infinite"])


def _numbers(raw: object, where: str, *, whole: bool = False) -> tuple[float, ...]:
    if not isinstance(raw, list):
        raise BadReference(f"{where} must be a list of numbers")
    if whole and not all(type(one) is int and 0 <= one <= _MOST_COUNT for one in raw):
        raise BadReference(f"{where} must be counts")
    if not all(type(one) in (int, float) and abs(one) < 1e300 for one in raw):
        raise BadReference(f"{where} must be numbers")
    return tuple(raw) if whole else tuple(float(one) for one in raw)
