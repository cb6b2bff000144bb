"""gRPC infer requests and answers: messages to numpy and back. What REST checks is checked here by the same functions,
so that both say the same of the same mistake.

A request gives its tensors typed, each in its own `contents`, or raw, all in `raw_input_contents` in the order of the
inputs; the answer comes the same way. FP16 and BF16 exist raw only: the protocol has no typed field for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeward_runtime.errors import bad_request
from edgeward_runtime.protocol import InferRequest, checked_outputs, input_spec, missing_inputs, new_id, urgency
from edgeward_runtime.rpc.messages import inference
from edgeward_runtime.tensors import NUMPY_OF, Array, TensorSpec, checked_shape, from_binary, to_binary

# Datatype -> the field of InferTensorContents and the numpy type that holds all of its values.
_CONTENTS: dict[str, tuple[str, type[np.generic]]] = {
    "BOOL": ("bool_contents", np.bool_),
    "INT8": ("int_contents", np.int32),
    "INT16": ("int_contents", np.int32),
    "INT32": ("int_contents", np.int32),
    "INT64": ("int64_contents", np.int64),
    "UINT8": ("uint_contents", np.uint32),
    "UINT16": ("uint_contents", np.uint32),
    "UINT32": ("uint_contents", np.uint32),
    "UINT64": ("uint64_contents", np.uint64),
    "FP32": ("fp32_contents", np.float32),
    "FP64": ("fp64_contents", np.float64),
    "BYTES": ("bytes_contents", np.bytes_),
}


_CHOICE_OF: dict[type, str] = {bool: "bool_param", int: "int64_param", float: "double_param"}


def parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """A map of InferParameter as the plain values that REST has in JSON. One without a value is null."""
    values = {}
    for name, parameter in given.items():
        choice = parameter.WhichOneof("parameter_choice")
        values[name] = None if choice is None else getattr(parameter, choice)
    return values


def parse(
    request: Any,
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
    record: Mapping[str, TensorSpec] | None = None,
) -> InferRequest:
    """A ModelInferRequest checked against the model's inputs and outputs; 400 for what does not fit. `record` is what may
    come instead of the inputs. The flag of each output says whether it is answered raw; it is the same for all."""
    if record is not None and request.inputs and request.inputs[0].name in record:
        inputs = record
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise bad_request(f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs: give all of them or none")
    if inputs and not request.inputs:
        raise bad_request("inputs must be a non-empty list")
    feeds: dict[str, Array] = {}
    rows = 1
    for index, entry in enumerate(request.inputs):
        spec = input_spec(entry.name, entry.datatype, feeds, inputs)
        shape, count = checked_shape(spec, list(entry.shape))
        if not raw:
            feeds[spec.name] = _from_contents(spec, shape, count, entry.contents)
        elif entry.HasField("contents") and entry.contents.ListFields():
            raise bad_request(f"input '{spec.name}' has both contents and raw_input_contents")
        else:
            body = raw[index]
            feeds[spec.name] = from_binary(spec, shape, count, body, 0, len(body))
        if shape:
            rows = shape[0]
    missing_inputs(feeds, inputs)
    asked = [{"name": entry.name, "parameters": parameters(entry.parameters)} for entry in request.outputs]
    names = checked_outputs(asked, outputs)
    answered_raw = bool(raw) or any(outputs[name].datatype not in _CONTENTS for name in names)
    said = parameters(request.parameters)
    wanted = [(name, answered_raw) for name in names]
    return InferRequest(request.id or new_id(), feeds, wanted, names, rows, None, urgency(said), said or None)


def _from_contents(spec: TensorSpec, shape: list[int], count: int, contents: Any) -> Array:
    if spec.datatype not in _CONTENTS:
        raise bad_request(f"input '{spec.name}': {spec.datatype} has no typed contents, send raw_input_contents")
    field, dtype = _CONTENTS[spec.datatype]
    others = sorted({descriptor.name for descriptor, _values in contents.ListFields()} - {field})
    if others:
        raise bad_request(f"input '{spec.name}': {spec.datatype} goes into {field}, got {others}")
    values = list(getattr(contents, field))
    if len(values) != count:
        raise bad_request(
            f"input '{spec.name}': contents have {len(values)} elements, shape {shape!s:.200} needs {count}"
        )
    if spec.datatype == "BYTES":
        return _strings(spec, shape, values)
    wide = np.array(values, dtype)
    narrow = NUMPY_OF[spec.datatype]
    if count and narrow.itemsize < wide.dtype.itemsize:
        limits = np.iinfo(narrow)  # type: ignore[type-var]
        if wide.min() < limits.min or wide.max() > limits.max:
            raise bad_request(f"input '{spec.name}': a value is outside the range of {spec.datatype}")
    return wide.astype(narrow, copy=False).reshape(shape)


def _strings(spec: TensorSpec, shape: list[int], values: list[bytes]) -> Array:
    flat = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        try:
            flat[index] = value.decode()
        except UnicodeDecodeError:
            raise bad_request(f"input '{spec.name}': BYTES element {index} is not UTF-8, ONNX strings are") from None
    return flat.reshape(shape)


def respond(
    *,
    model: str,
    version: str,
    request: InferRequest,
    specs: Mapping[str, TensorSpec],
    tensors: list[Array],
    notes: Mapping[str, object] | None = None,
) -> Any:
    """The ModelInferResponse. `tensors` are in the order of request.outputs; `notes` become the answer's parameters."""
    answer = inference["ModelInferResponse"](model_name=model, model_version=version, id=request.id)
    for key, note in (notes or {}).items():
        choice = _CHOICE_OF.get(type(note), "string_param")
        setattr(answer.parameters[key], choice, note if type(note) in _CHOICE_OF else str(note))
    for (name, raw), tensor in zip(request.outputs, tensors, strict=True):
        datatype = specs[name].datatype
        output = answer.outputs.add(name=name, datatype=datatype, shape=tensor.shape)
        if raw:
            answer.raw_output_contents.append(to_binary(datatype, tensor))
        else:
            values = tensor.ravel().tolist()
            if datatype == "BYTES":
                values = [value.encode() if isinstance(value, str) else bytes(value) for value in values]
            getattr(output.contents, _CONTENTS[datatype][0]).extend(values)
    return answer
