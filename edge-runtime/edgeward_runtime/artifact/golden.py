"""Golden inputs and outputs: what the model gave where it was made, so that each site can see that it gives the same
there, before the first request.

golden.json names the tensors; their bytes lie one after the other, or anywhere, in golden.bin, row-major and
little-endian as in the Open Inference Protocol's binary extension (BOOL a byte, BYTES as uint32 length + UTF-8):

    {"format": 1, "atol": 0.0001, "rtol": 0.001, "cases": [{
        "inputs":  [{"name": "x", "datatype": "FP32", "shape": [1, 4], "offset": 0, "size": 16}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 4], "offset": 16, "size": 16, "atol": 0.01}]}]}

A floating output is right if |got - wanted| <= atol + rtol * |wanted| for every element (numpy.allclose's rule), NaN for
NaN and infinity for the same infinity; all else has to be equal. The tolerances of an output win over the file's.
Inputs are those of the model, after preprocessing. Outputs that a case does not name are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from edgeward_runtime.artifact.files import read_json
from edgeward_runtime.artifact.layout import GOLDEN, GOLDEN_DATA
from edgeward_runtime.errors import ProtocolError, Refusal
from edgeward_runtime.tensors import NUMPY_OF, Array, TensorSpec, checked_shape, from_binary, to_binary

FORMAT = 1
# float32 sums in another order, on another processor, differ by about 1e-6 a step; quantised models by more.
DEFAULT_ATOL = 1e-4
DEFAULT_RTOL = 1e-3
MAX_CASES = 64
MAX_DATA_BYTES = 64 * 2**20  # of golden.bin

_FLOATS = frozenset({"FP16", "BF16", "FP32", "FP64"})
_REASON = "BadGolden"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """One output as it must come."""

    datatype: str
    tensor: Array  # BF16 as its bits in uint16
    atol: float = DEFAULT_ATOL
    rtol: float = DEFAULT_RTOL


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Wanted]


@dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    cases: tuple[Case, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mismatch:
    """The first output that is not as it must be, and where."""

    case: int
    output: str
    message: str

    def __str__(self) -> str:
        return f"golden case {self.case}, output '{self.output}': {self.message}"


# Inputs by name -> the named outputs in their order. Whatever it raises goes through check().
ModelRun = Callable[[list[str], dict[str, Array]], list[Array]]


def read(path: Path) -> Golden:
    """golden.json with the tensors of the golden.bin beside it. Refusal BadGolden (step Load, permanent)."""
    document, refuse = read_json(path, reason=_REASON)
    if document.get("format") != FORMAT:
        raise refuse(f"format is {document.get('format')!r:.20}, this runtime reads {FORMAT}")
    raw = document.get("cases")
    if not isinstance(raw, list) or not 1 <= len(raw) <= MAX_CASES:
        raise refuse(f"cases must be a list of 1 to {MAX_CASES}")
    data_path = path.with_name(GOLDEN_DATA)
    try:
        size = data_path.stat().st_size
        if size > MAX_DATA_BYTES:
            raise refuse(f"{GOLDEN_DATA} has {size} bytes, the limit is {MAX_DATA_BYTES}")
        data = data_path.read_bytes()
    except FileNotFoundError:
        raise refuse(f"{GOLDEN_DATA} is not there") from None
    tolerance = _tolerance(document, (DEFAULT_ATOL, DEFAULT_RTOL), "", refuse)
    return Golden(cases=tuple(_case(one, f"cases[{index}]", data, tolerance, refuse) for index, one in enumerate(raw)))


# By name, with the protocol's datatype, which numpy's does not always say.
Tensors = Mapping[str, tuple[str, Array]]


def files(cases: Iterable[tuple[Tensors, Tensors]], *, atol: float, rtol: float) -> dict[str, bytes]:
    """golden.json and golden.bin of (inputs, outputs), what read() takes."""
    data: list[bytes] = []
    size = 0

    def placed(tensors: Tensors) -> list[dict[str, object]]:
        nonlocal size
        listed = []
        for name, (datatype, tensor) in tensors.items():
            raw = to_binary(datatype, tensor)
            where = {"offset": size, "size": len(raw)}
            listed.append({"name": name, "datatype": datatype, "shape": list(tensor.shape), **where})
            data.append(raw)
            size += len(raw)
        return listed

    listed = [{"inputs": placed(inputs), "outputs": placed(outputs)} for inputs, outputs in cases]
    document = {"format": FORMAT, "atol": atol, "rtol": rtol, "cases": listed}
    return {GOLDEN: orjson.dumps(document), GOLDEN_DATA: b"".join(data)}


def check(run: ModelRun, golden: Golden) -> Mismatch | None:
    """Runs every case. Answers the first mismatch; what `run` raises (an input that the model does not take) comes
    out as one too, since it says the same: this is not the model that the golden data was made with."""
    for number, case in enumerate(golden.cases):
        names = list(case.outputs)
        try:
            results = run(names, dict(case.inputs))
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            return Mismatch(case=number, output=names[0], message=f"the run failed: {text}")
        for name, got in zip(names, results, strict=True):
            if text := _difference(case.outputs[name], got):
                return Mismatch(case=number, output=name, message=text)
    return None


def _difference(wanted: Wanted, got: Array) -> str:
    """What is wrong with an output, "" if nothing is."""
    want = wanted.tensor
    if got.shape != want.shape:
        return f"has shape {list(got.shape)}, wanted {list(want.shape)}"
    if wanted.datatype in _FLOATS:
        if got.dtype.newbyteorder("=") != want.dtype.newbyteorder("="):
            return f"has type {got.dtype}, wanted {want.dtype}"
        got, want = _widened(wanted.datatype, got), _widened(wanted.datatype, want)
        with np.errstate(invalid="ignore", over="ignore"):
            right = np.isclose(got, want, rtol=wanted.rtol, atol=wanted.atol, equal_nan=True)
    else:
        right = np.asarray(got == want)
    if right.all():
        return ""
    where = np.unravel_index(int(np.argmin(right)), want.shape) if want.shape else ()
    place = [int(index) for index in where]
    wrong = int(right.size - np.count_nonzero(right))
    # Indices and numbers of the publisher's own test data, never a user's.
    return (
        f"{wrong} of {right.size} elements differ, first at {place}: {_shown(got[where])}, wanted {_shown(want[where])}"
    )


def _widened(datatype: str, tensor: Array) -> Array:
    if datatype == "BF16":  # its bits are the upper half of a float32's
        return (tensor.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return tensor.astype(np.float64)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else f"{value!s:.40}"


def _case(
    raw: object, where: str, data: bytes, tolerance: tuple[float, float], refuse: Callable[[str], Refusal]
) -> Case:
    if not isinstance(raw, dict):
        raise refuse(f"{where} must be an object")
    inputs: dict[str, Array] = {}
    outputs: dict[str, Wanted] = {}
    for kind in ("inputs", "outputs"):
        tensors = raw.get(kind)
        if not isinstance(tensors, list) or (kind == "outputs" and not tensors):
            raise refuse(f"{where}.{kind} must be a list of tensors")
        for index, one in enumerate(tensors):
            here = f"{where}.{kind}[{index}]"
            spec, tensor = _tensor(one, here, data, refuse)
            if spec.name in (inputs if kind == "inputs" else outputs):
                raise refuse(f"{here}: '{spec.name}' is there twice")
            if kind == "inputs":
                inputs[spec.name] = tensor
            else:
                atol, rtol = _tolerance(one, tolerance, f"{here}.", refuse)
                outputs[spec.name] = Wanted(datatype=spec.datatype, tensor=tensor, atol=atol, rtol=rtol)
    return Case(inputs=inputs, outputs=outputs)


def _tensor(raw: object, where: str, data: bytes, refuse: Callable[[str], Refusal]) -> tuple[TensorSpec, Array]:
    if not isinstance(raw, dict):
        raise refuse(f"{where} must be an object")
    name, datatype, shape = raw.get("name"), raw.get("datatype"), raw.get("shape")
    offset, size = raw.get("offset"), raw.get("size")
    if not isinstance(name, str) or not name:
        raise refuse(f"{where}.name must be a string")
    if not isinstance(datatype, str) or (datatype not in NUMPY_OF and datatype != "BYTES"):
        raise refuse(f"{where}.datatype is {datatype!r:.20}, which is none of the protocol's")
    if not isinstance(shape, list) or len(shape) > 64:
        raise refuse(f"{where}.shape must be a list of integers")
    if type(offset) is not int or type(size) is not int or offset < 0 or size < 0 or offset + size > len(data):
        raise refuse(f"{where}: offset {offset!r:.20} and size {size!r:.20} do not lie within {GOLDEN_DATA}")
    spec = TensorSpec(name, datatype, (-1,) * len(shape))
    try:
        dimensions, count = checked_shape(spec, shape)
        return spec, from_binary(spec, dimensions, count, data, offset, size)
    except ProtocolError as error:
        text = error.text.removeprefix(f"input '{name}': ")
        raise refuse(f"{where} '{name}': {text}") from None


def _tolerance(
    holder: Mapping[str, Any], default: tuple[float, float], where: str, refuse: Callable[[str], Refusal]
) -> tuple[float, float]:
    values = []
    for key, fallback in zip(("atol", "rtol"), default, strict=True):
        value = holder.get(key, fallback)
        if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
            raise refuse(f"{where}{key} is {value!r:.20}, wanted a number of 0 or more")
        values.append(float(value))
    return values[0], values[1]
