"""Open Inference Protocol datatypes: numpy both ways, as JSON lists and as raw little-endian bytes.

Protocol: https://github.com/kserve/open-inference-protocol (datatypes) and Triton's binary tensor data extension
(row-major, BOOL one byte, BYTES as uint32 length + bytes for each element). For FP16 and BF16 the protocol knows binary
data only; here they are numbers in JSON as well, rounded to the nearest they can hold, as FP32 is. ONNX strings are
UTF-8, so a BYTES element that is not UTF-8 is refused.
"""

from __future__ import annotations

import itertools
import math
import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from edgeward_runtime.errors import ProtocolError, bad_request

Array = npt.NDArray[Any]

NUMPY_OF: dict[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype("<u2"),  # its bits: numpy has no such type
}
# onnxruntime's type strings -> protocol datatypes. float8, complex, sequences, maps and optionals have none.
DATATYPE_OF_ONNX = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
    "tensor(bfloat16)": "BF16",
}
# What JSON values become a type of numpy's kind. By exact type: true is an int to isinstance.
_JSON_TYPES: dict[str, frozenset[type]] = {
    "b": frozenset({bool}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "f": frozenset({int, float}),
}
_MAX_DIMENSIONS = 64  # numpy's own limit
_LENGTH = struct.Struct("<I")
_MAX_ELEMENTS = 2**63 - 1  # what an int64 dimension product can hold
# Of one BYTES input. Each is a Python object of its own, made in the event loop, where 16 million of them (64 MiB of
# empty ones) kept everybody waiting for half a minute.
MAX_STRINGS = 2**18


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model. `shape` holds -1 for a dynamic dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def metadata(self) -> dict[str, object]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


def checked_shape(spec: TensorSpec, shape: object) -> tuple[list[int], int]:
    """A request's shape and its number of elements, checked against the spec; 400 for anything that does not fit, 413 for
    more BYTES elements than may come at once."""
    if not isinstance(shape, list):
        raise bad_request(f"input '{spec.name}': shape must be a list of integers")
    if len(shape) != len(spec.shape):
        raise bad_request(
            f"input '{spec.name}': got {len(shape)} dimensions {shape!s:.200}, the model takes {list(spec.shape)}"
        )
    count = 1
    for dim, wanted in zip(shape, spec.shape, strict=True):
        if type(dim) is not int or dim < 0:
            raise bad_request(f"input '{spec.name}': dimension {dim!r:.50} of the shape is not a non-negative integer")
        if dim != wanted and wanted >= 0:
            raise bad_request(f"input '{spec.name}': got shape {shape!s:.200}, the model takes {list(spec.shape)}")
        count *= dim
    # Checked over the non-zero dimensions: a zero would hide a product that no 64-bit integer holds.
    if count > _MAX_ELEMENTS or (count == 0 and max(shape) > _MAX_ELEMENTS):
        raise bad_request(f"input '{spec.name}': shape {shape!s:.200} overflows a 64-bit element count")
    if spec.datatype == "BYTES" and count > MAX_STRINGS:
        raise ProtocolError(
            413,
            f"input '{spec.name}': {count} BYTES elements are over the limit of {MAX_STRINGS}, send several requests",
        )
    return shape, count


def raw_shape(spec: TensorSpec, size: int) -> tuple[list[int], int]:
    """The shape and the number of elements of a tensor known by its `size` in bytes only. BYTES is one element without
    a length before it."""
    shape = [1 if dim < 0 and index == 0 and spec.shape.count(-1) > 1 else dim for index, dim in enumerate(spec.shape)]
    open_ends = shape.count(-1)
    if spec.datatype == "BYTES":
        shape = [1 if dim < 0 else dim for dim in shape]
        if any(dim != 1 for dim in shape):
            raise bad_request(
                f"input '{spec.name}': a raw binary request is one BYTES element, the model takes {shape}"
            )
        return shape, 1
    if open_ends > 1:
        raise bad_request(
            f"input '{spec.name}': the shape {list(spec.shape)} does not follow from a raw body's size, send a JSON header"
        )
    known = NUMPY_OF[spec.datatype].itemsize * math.prod(dim for dim in shape if dim >= 0)
    if open_ends:
        if known == 0 or size % known:
            raise bad_request(
                f"input '{spec.name}': {size} bytes are not a whole number of {spec.datatype} {list(spec.shape)} entries"
            )
        shape[shape.index(-1)] = size // known
    return shape, math.prod(shape)


def from_binary(spec: TensorSpec, shape: list[int], count: int, body: bytes, offset: int, size: int) -> Array:
    """The tensor at body[offset:offset+size], without a copy where alignment allows one to do without."""
    if spec.datatype == "BYTES":
        return _strings_from_binary(spec, shape, count, body, offset, size)
    dtype = NUMPY_OF[spec.datatype]
    needed = count * dtype.itemsize
    if size != needed:
        wanted = f"shape {shape!s:.200} of {spec.datatype} needs {needed}"
        raise bad_request(f"input '{spec.name}': got {size} bytes, {wanted}")
    if spec.datatype == "BOOL":
        # Any non-zero byte is true; a numpy bool with another bit pattern would be undefined.
        truth: Array = np.frombuffer(body, np.uint8, count, offset) != 0
        return truth.reshape(shape)
    if count == 0:  # frombuffer refuses an empty rest
        return np.empty(shape, dtype)
    tensor = np.frombuffer(body, dtype, count, offset).reshape(shape)
    # The JSON part has any length. x86 reads unaligned floats, not every arm kernel does.
    return tensor if tensor.flags.aligned else tensor.copy()


def _strings_from_binary(spec: TensorSpec, shape: list[int], count: int, body: bytes, offset: int, size: int) -> Array:
    # Each element takes at least its length field: checked before allocating, so a small body cannot ask for a huge
    # array.
    if count * _LENGTH.size > size:
        raise bad_request(f"input '{spec.name}': binary_data_size {size} is too small for {count} BYTES elements")
    end = offset + size
    flat = np.empty(count, dtype=object)
    for index in range(count):
        if offset + _LENGTH.size > end:
            raise bad_request(f"input '{spec.name}': BYTES data ends before element {index}")
        (length,) = _LENGTH.unpack_from(body, offset)
        offset += _LENGTH.size
        if length > end - offset:
            raise bad_request(
                f"input '{spec.name}': BYTES element {index} claims {length} bytes, {end - offset} are left"
            )
        try:
            flat[index] = body[offset : offset + length].decode()
        except UnicodeDecodeError:
            raise bad_request(f"input '{spec.name}': BYTES element {index} is not UTF-8, ONNX strings are") from None
        offset += length
    if offset != end:
        raise bad_request(f"input '{spec.name}': {end - offset} bytes left over after {count} BYTES elements")
    return flat.reshape(shape)


def from_json(spec: TensorSpec, shape: list[int], count: int, data: object) -> Array:
    """The tensor in `data`, a flat list or one nested like the shape."""
    if not isinstance(data, list):
        raise bad_request(f"input '{spec.name}': data must be a list")
    if spec.datatype == "BF16":
        return _narrowed(spec, from_json(replace(spec, datatype="FP32"), shape, count, data))
    if spec.datatype == "BYTES":
        return _strings_from_json(spec, shape, count, data)
    _check_numbers(spec, shape, count, data)
    try:
        loose = np.array(data)
        if spec.datatype == "UINT64" and loose.dtype.kind == "f":
            loose = np.array(data, dtype=np.uint64)  # numpy picks float64 for a mix around 2**63
    except MemoryError:
        raise bad_request(f"input '{spec.name}': data is too large") from None
    except (ValueError, OverflowError, TypeError):
        raise bad_request(f"input '{spec.name}': data is ragged, nested too deep or out of range") from None
    _check_size(spec, shape, count, loose)
    return _exactly(spec, loose).reshape(shape)


def _check_numbers(spec: TensorSpec, shape: list[int], count: int, data: list[Any]) -> None:
    """Refuses all but a rectangle of `count` numbers before numpy sees it: of strings it would make an array as wide as
    the longest one, so that a small body could ask for gigabytes. Level by level, since lists may nest deep."""
    allowed = _JSON_TYPES[NUMPY_OF[spec.datatype].kind]
    depth = 1
    while True:
        types = set(map(type, data))
        if types <= allowed:
            break
        if types != {list}:
            wrong = "is ragged" if list in types else f"does not hold {spec.datatype} values"
            raise bad_request(f"input '{spec.name}': data {wrong}")
        depth += 1
        if depth > _MAX_DIMENSIONS or len(set(map(len, data))) > 1:
            raise bad_request(f"input '{spec.name}': data is ragged or nested too deep")
        size = len(data) * len(data[0])
        if count and size > count:
            raise bad_request(
                f"input '{spec.name}': data has {size} elements or more, shape {shape!s:.200} needs {count}"
            )
        data = list(itertools.chain.from_iterable(data))
    if len(data) != count:
        raise bad_request(f"input '{spec.name}': data has {len(data)} elements, shape {shape!s:.200} needs {count}")


def _check_size(spec: TensorSpec, shape: list[int], count: int, loose: Array) -> None:
    if loose.size != count:
        raise bad_request(f"input '{spec.name}': data has {loose.size} elements, shape {shape!s:.200} needs {count}")
    if count and loose.ndim > 1 and list(loose.shape) != shape:
        raise bad_request(f"input '{spec.name}': data is nested as {list(loose.shape)}, shape says {shape!s:.200}")


def _exactly(spec: TensorSpec, loose: Array) -> Array:
    """`loose` in the wanted type, if no value changes its meaning: no 1.5 as an integer, no "1" or true as a number."""
    dtype = NUMPY_OF[spec.datatype]
    kind = loose.dtype.kind
    allowed = {"b": "b", "i": "iu", "u": "iu", "f": "fiu"}[dtype.kind]
    if loose.size and kind not in allowed:
        raise bad_request(f"input '{spec.name}': data does not hold {spec.datatype} values")
    if loose.size and dtype.kind in "iu":
        limits = np.iinfo(dtype)  # type: ignore[type-var]
        if int(loose.min()) < limits.min or int(loose.max()) > limits.max:
            raise bad_request(f"input '{spec.name}': a value is outside the range of {spec.datatype}")
    try:
        with np.errstate(over="raise"):
            return loose.astype(dtype, copy=False)
    except FloatingPointError:
        raise bad_request(f"input '{spec.name}': a value is outside the range of {spec.datatype}") from None


def _narrowed(spec: TensorSpec, wide: Array) -> Array:
    """float32 -> the bits of bfloat16, its upper half, rounded to nearest, ties to even."""
    bits = wide.view(np.uint32)
    # Finite numbers only come from JSON, so the sum cannot overflow.
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    if np.any(rounded & 0x7F80 == 0x7F80):
        raise bad_request(f"input '{spec.name}': a value is outside the range of {spec.datatype}")
    return np.asarray(rounded)  # of no dimensions numpy makes a scalar


def _strings_from_json(spec: TensorSpec, shape: list[int], count: int, data: list[object]) -> Array:
    flat: list[str] = []
    shape_seen = _flatten_strings(spec, data, flat, len(shape) or 1)
    if len(flat) != count:
        raise bad_request(f"input '{spec.name}': data has {len(flat)} elements, shape {shape!s:.200} needs {count}")
    if count and len(shape_seen) > 1 and shape_seen != shape:
        raise bad_request(f"input '{spec.name}': data is nested as {shape_seen}, shape says {shape!s:.200}")
    tensor = np.empty(count, dtype=object)
    tensor[:] = flat
    return tensor.reshape(shape)


def _flatten_strings(spec: TensorSpec, data: list[object], into: list[str], depth: int) -> list[int]:
    """Appends the strings in order and answers the nesting seen. numpy itself would split or cast strings."""
    if data and all(isinstance(item, list) for item in data):
        if depth <= 1:
            raise bad_request(f"input '{spec.name}': data is nested deeper than its shape")
        inner = [_flatten_strings(spec, item, into, depth - 1) for item in data if isinstance(item, list)]
        if any(one != inner[0] for one in inner):
            raise bad_request(f"input '{spec.name}': data is ragged")
        return [len(data), *inner[0]]
    for item in data:
        if not isinstance(item, str):
            raise bad_request(f"input '{spec.name}': data of BYTES must be strings")
        try:
            item.encode()
        except UnicodeEncodeError:
            raise bad_request(f"input '{spec.name}': a string is not valid Unicode") from None
        into.append(item)
    return [len(data)]


def to_binary(datatype: str, tensor: Array) -> bytes:
    """Raw little-endian bytes of an output."""
    if datatype != "BYTES":
        return tensor.astype(NUMPY_OF[datatype], copy=False).tobytes()
    parts: list[bytes] = []
    for item in tensor.ravel():
        raw = item.encode() if isinstance(item, str) else bytes(item)
        parts += (_LENGTH.pack(len(raw)), raw)
    return b"".join(parts)


def to_json(datatype: str, tensor: Array) -> orjson.Fragment:
    """The flat JSON list of an output as finished text. NaN and infinities, which JSON cannot say, become null."""
    flat = tensor.ravel()
    if datatype == "FP16":
        flat = flat.astype(np.float32)
    elif datatype == "BF16":
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    if datatype == "BYTES":
        return orjson.Fragment(orjson.dumps(flat.tolist()))
    return orjson.Fragment(orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY))
