"""Runs of models with a bfloat16 input or output: numpy has no such type, so onnxruntime's own values stand in for its
arrays, and the bits travel as uint16."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import numpy as np

from edgeward_runtime.ort import onnxruntime
from edgeward_runtime.tensors import Array, TensorSpec

_BFLOAT16 = 16  # onnx.TensorProto.DataType


def run(
    session: onnxruntime.InferenceSession,
    names: list[str],
    feeds: Mapping[str, Array],
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
) -> list[Array]:
    """As session.run, with BF16 tensors as arrays of uint16."""
    values = {name: _value(inputs[name].datatype, tensor) for name, tensor in feeds.items()}
    results = session.run_with_ort_values(names, values)
    return [_array(outputs[name].datatype, result) for name, result in zip(names, results, strict=True)]


def _value(datatype: str, tensor: Array) -> onnxruntime.OrtValue:
    if datatype == "BF16":
        # Points into the array, which the caller keeps until the run is over.
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(np.require(tensor, requirements="C"), _BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(tensor)


def _array(datatype: str, value: onnxruntime.OrtValue) -> Array:
    if datatype != "BF16":
        return value.numpy()  # type: ignore[no-any-return]
    size = value.tensor_size_in_bytes()
    # A copy: the memory goes with the value.
    raw = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(raw, np.uint16).reshape(value.shape())
