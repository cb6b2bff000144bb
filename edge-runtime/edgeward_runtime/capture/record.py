"""One captured request as bytes, and what the redaction leaves of it. What a mode forbids is never put into the bytes:
there is no later step that could forget to take it out.

A record is a JSON header, its length before it as uint32 little-endian, and the tensors one after the other as the
protocol has them in binary: little-endian, row-major, BYTES as uint32 length and bytes for each element.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from edgeward_runtime.capture.policy import Redaction
from edgeward_runtime.tensors import NUMPY_OF, Array, TensorSpec

_LENGTH = struct.Struct("<I")
MOST_SCORES = 4096  # floats of a row of an output that Features keeps; more is a picture, not what a model thinks
_FEW = 16  # values of an input under which even their mean would tell what they were


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """A request and its answer, as they were."""

    id: str
    model: str
    version: str
    digest: str
    at_ms: int  # unix
    rows: int
    seconds: float
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    feeds: Mapping[str, Array]
    answers: Mapping[str, Array]
    classes: tuple[int, ...] = ()  # of each row, -1 unknown
    confidence: tuple[float, ...] = ()
    status: int = 200
    error: str = ""  # may repeat what came in
    why: tuple[str, ...] = field(default=())  # what was so of it: LowConfidence, ...


def encode(taken: Taken, mode: Redaction) -> bytes:
    """Of a mode that keeps single requests: Features or Raw."""
    if mode < Redaction.FEATURES:
        raise ValueError(f"{mode.name} keeps no single request")
    raw = mode >= Redaction.RAW
    parts: list[bytes] = []
    header: dict[str, object] = {
        "redaction": int(mode),
        "model": taken.model,
        "version": taken.version,
        "digest": taken.digest,
        "at": taken.at_ms,
        "rows": taken.rows,
        "seconds": round(taken.seconds, 6),
        "status": taken.status,
        "why": list(taken.why),
        "classes": list(taken.classes),
        "confidence": [None if value != value else round(value, 6) for value in taken.confidence],
        "inputs": [
            _tensor(name, array, taken.inputs, parts) if raw else _statistics(name, array, taken.inputs)
            for name, array in taken.feeds.items()
        ],
        "outputs": [
            _tensor(name, array, taken.outputs, parts)
            if raw or _tells_only_what_the_model_thinks(array, taken)
            else _form(name, array, taken.outputs)
            for name, array in taken.answers.items()
        ],
    }
    if raw:
        header |= {"id": taken.id, "error": taken.error}
    text = orjson.dumps(header)
    return b"".join((_LENGTH.pack(len(text)), text, *parts))


def _form(name: str, array: Array, specs: Mapping[str, TensorSpec]) -> dict[str, object]:
    spec = specs.get(name)
    return {"name": name, "datatype": spec.datatype if spec else "", "shape": list(array.shape)}


def _tensor(name: str, array: Array, specs: Mapping[str, TensorSpec], parts: list[bytes]) -> dict[str, object]:
    if array.dtype.kind in "OUS":
        items = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel().tolist()]
        data = b"".join(_LENGTH.pack(len(item)) + item for item in items)
    else:
        data = array.tobytes()
    parts.append(data)
    return {**_form(name, array, specs), "bytes": len(data)}


def _statistics(name: str, array: Array, specs: Mapping[str, TensorSpec]) -> dict[str, object]:
    """Form, mean and spread of an input. Not its extremes, which are values that came in; and of few values, or of
    text, the form alone."""
    form = _form(name, array, specs)
    if array.dtype.kind not in "fiub" or array.size < _FEW or form["datatype"] == "BF16":
        return form
    values = array.astype(np.float64, copy=False)
    finite = values[np.isfinite(values)]
    form["nonfinite"] = int(values.size - finite.size)
    if finite.size >= _FEW:
        form["mean"], form["deviation"] = float(finite.mean()), float(finite.std())
    return form


def _tells_only_what_the_model_thinks(answer: Array, taken: Taken) -> bool:
    """Scores, features and class numbers: floats, not too many, or one whole number a row. Not text, no picture, and
    nothing that is an input handed through."""
    a_row = answer.size // max(taken.rows, 1)
    if answer.dtype.kind == "f":
        few = a_row <= MOST_SCORES
    else:
        few = answer.dtype.kind in "iub" and answer.dtype.itemsize > 1 and a_row <= 1
    return few and not any(_holds(answer, feed) for feed in taken.feeds.values())


def _holds(answer: Array, feed: Array) -> bool:
    """Whether the values of one are those of the other."""
    if feed.dtype.kind not in "fiub" or not feed.size:
        return False
    small, large = (answer, feed) if answer.size <= feed.size else (feed, answer)
    if small.size < 2:
        return small.size == large.size and bool(np.array_equal(small.ravel(), large.ravel(), equal_nan=False))
    # A part of the other, in one piece: the model put something before or after it.
    first = np.flatnonzero(large.ravel()[: large.size - small.size + 1] == small.ravel()[0])
    return any(bool(np.array_equal(large.ravel()[at : at + small.size], small.ravel())) for at in first[:64].tolist())


@dataclass(frozen=True, slots=True)
class Decoded:
    header: Mapping[str, Any]
    tensors: Mapping[str, Array]  # "inputs/NAME" and "outputs/NAME"; BYTES as bytes objects


def decode(blob: bytes) -> Decoded:
    """ValueError for bytes that are no record."""
    try:
        (length,) = _LENGTH.unpack_from(blob)
        header = orjson.loads(blob[_LENGTH.size : _LENGTH.size + length])
        at = _LENGTH.size + length
        tensors: dict[str, Array] = {}
        for kind in ("inputs", "outputs"):
            for one in header[kind]:
                if "bytes" in one:
                    data = blob[at : at + one["bytes"]]
                    at += one["bytes"]
                    tensors[f"{kind}/{one['name']}"] = _array(data, one["datatype"], one["shape"])
    except (struct.error, orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"no record: {error}") from None
    if at != len(blob):
        raise ValueError("no record: its length is another")
    return Decoded(header, tensors)


def _array(data: bytes, datatype: str, shape: Iterable[int]) -> Array:
    if datatype != "BYTES":
        return np.frombuffer(data, NUMPY_OF[datatype]).reshape(tuple(shape))
    items, at = [], 0
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        items.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    array = np.empty(len(items), object)
    array[:] = items
    return array.reshape(tuple(shape))
