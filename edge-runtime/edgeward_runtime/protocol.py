"""Open Inference Protocol infer requests and answers: bytes to numpy and back, nothing else.

A body is JSON, or JSON followed by raw tensors in the order of the inputs; then the header
Inference-Header-Content-Length says where the JSON ends. Binary and JSON tensors may be mixed in one request and in
one answer. Source: Open Inference Protocol v2 REST and Triton's extension_binary_data.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from edgeward_runtime.errors import ProtocolError, bad_request
from edgeward_runtime.tensors import (
    NUMPY_OF,
    Array,
    TensorSpec,
    checked_shape,
    from_binary,
    from_json,
    raw_shape,
    to_binary,
    to_json,
)

_ID_PREFIX = os.urandom(6).hex()
_ID_COUNTER = itertools.count(1)


class Plan:
    """What a JSON header means for one model, found once: a client that sends rows in binary repeats its header to the
    byte, and parsing and checking it again cost as much as a small model's run. Only for headers without an id whose
    inputs are all binary; the bytes of the tensors are still checked each time."""

    __slots__ = (
        "after",
        "before",
        "inputs",
        "names",
        "outputs",
        "parameters",
        "rows",
        "shapes",
        "tail",
        "urgency",
        "version",
        "views",
    )

    def __init__(self) -> None:
        self.inputs: list[tuple[TensorSpec, list[int], int, int]] = []  # spec, shape, elements, bytes
        # Name, shape, dtype, offset in the body, whether the tensor is aligned there. None where that is not all.
        self.views: list[tuple[str, tuple[int, ...], np.dtype[Any], int, bool]] | None = None
        self.outputs: list[tuple[str, bool]] = []
        self.names: list[str] = []
        self.rows = 1
        self.tail = 0  # bytes after the header
        # The answer's header around its id, for outputs of these shapes that are all binary and of fixed element size.
        self.shapes: list[tuple[int, ...]] | None = None
        self.before = self.after = b""
        self.version = (
            ""  # whose answer's header that is: a canary may answer what was parsed for the version beside it
        )
        self.urgency: tuple[int, int] | None = None
        self.parameters: Mapping[str, Any] | None = None


Plans = dict[bytes, Plan]
_KNOWN_PARAMETERS = frozenset({"binary_data_output", "timeout", "priority"})
_ndarray = np.ndarray  # the call that costs least for a view of bytes
_PLAIN = frozenset(NUMPY_OF) - {"BOOL"}
_MAX_PLANS = 64  # for each model version
_MAX_PLANNED_HEADER = 2048  # bytes


class InferRequest:
    """A checked request: `feeds` go to session.run as they are; `outputs` are (name, binary) in the order of the
    answer, `names` the same without the flag; `urgency` is (timeout in microseconds, priority), 0 for what the client
    does not say, None if it says neither; `parameters` are all that it says of itself, None if it says nothing else."""

    __slots__ = ("feeds", "id", "names", "outputs", "parameters", "plan", "rows", "urgency")

    def __init__(
        self,
        request_id: str,
        feeds: dict[str, Array],
        outputs: list[tuple[str, bool]],
        names: list[str],
        rows: int,
        plan: Plan | None,
        urgency: tuple[int, int] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self.id = request_id
        self.feeds = feeds
        self.outputs = outputs
        self.names = names
        self.rows = rows
        self.plan = plan
        self.urgency = urgency
        self.parameters = parameters


def new_id() -> str:
    """For a request without one: clients and records need something to name it by."""
    return f"{_ID_PREFIX}-{next(_ID_COUNTER):x}"


def header_length(value: bytes | None, body_length: int) -> int | None:
    """Inference-Header-Content-Length, checked against the body. None means that all of the body is JSON, 0 that there
    is none, see parse_raw."""
    if value is None:
        return None
    # int() would take "+1", "1_0" and spaces as well.
    if not value.isdigit() or len(value) > 19:
        raise bad_request("Inference-Header-Content-Length is not a number")
    length = int(value)
    if length > body_length:
        raise bad_request(f"Inference-Header-Content-Length is {length}, the body has {body_length} bytes")
    return length


def parse(
    body: bytes,
    json_length: int | None,
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
    plans: Plans | None = None,
    record: Mapping[str, TensorSpec] | None = None,
) -> InferRequest:
    """The request in `body`, checked against the model's inputs and outputs. 400 with the reason for anything else.
    `plans` belongs to the model version; headers seen before are looked up in it. `record` is what may come instead of
    the inputs, for a model with preprocessing."""
    if json_length == 0:
        return parse_raw(body, inputs, outputs)
    if plans is not None and json_length is not None:
        plan = plans.get(body[:json_length])
        if plan is not None and len(body) - json_length == plan.tail:
            return planned(body, json_length, plan)
    try:
        document = orjson.loads(body if json_length is None else memoryview(body)[:json_length])
    except orjson.JSONDecodeError as error:
        raise bad_request(f"failed to parse the request JSON: {error}") from None
    if type(document) is not dict:
        raise bad_request("the request must be a JSON object")
    request_id = document.get("id")
    if request_id is None or request_id == "":
        request_id = new_id()
    elif type(request_id) is not str:
        raise bad_request("id must be a string")
    if record is not None and _first_input(document) in record:
        inputs, plans = record, None
    feeds, rows = _parse_inputs(document, body, json_length, inputs)
    wanted = _parse_outputs(document, outputs)
    all_parameters = _parameters(document, "request")
    said = urgency(all_parameters) if all_parameters else None
    # Clients that want binary outputs say so in each request: those that say nothing else cost nothing more.
    parameters = all_parameters if all_parameters.keys() - _KNOWN_PARAMETERS else None
    plan = None
    if plans is not None and json_length is not None and not document.get("id"):
        plan = _plan(document, body, json_length, inputs, wanted, rows, plans)
        if plan is not None:
            plan.urgency, plan.parameters = said, parameters
    return InferRequest(request_id, feeds, wanted, [name for name, _binary in wanted], rows, plan, said, parameters)


def _first_input(document: dict[str, Any]) -> str:
    entries = document.get("inputs")
    name = entries[0].get("name") if type(entries) is list and entries and type(entries[0]) is dict else None
    return name if type(name) is str else ""


def parse_record(body: bytes, spec: TensorSpec, outputs: Mapping[str, TensorSpec]) -> InferRequest:
    """A body that is a picture or a table, by its Content-Type: all outputs are answered in JSON, which cameras' and
    sensors' little programs read."""
    names = list(outputs)
    record = np.frombuffer(body, np.uint8) if body else np.empty(0, np.uint8)
    return InferRequest(new_id(), {spec.name: record}, [(name, False) for name in names], names, 1, None)


def urgency(parameters: Mapping[str, Any]) -> tuple[int, int] | None:
    """Triton's schedule policy: `timeout` in microseconds, `priority` with 1 for the most urgent; 0 for neither."""
    timeout, priority = parameters.get("timeout", 0), parameters.get("priority", 0)
    for name, value in (("timeout", timeout), ("priority", priority)):
        if type(value) is not int or not 0 <= value < 2**63:
            raise bad_request(f"request: {name} must be a non-negative integer")
    return (timeout, priority) if timeout or priority else None


def parse_raw(body: bytes, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> InferRequest:
    """Raw mode: the body is the model's one input and nothing else, so its shape must follow from its size; all outputs
    are answered in binary. Of several dimensions that may have any size the first counts as the batch and is 1."""
    if len(inputs) != 1:
        raise bad_request(f"a raw binary request needs a model with one input, this one takes {sorted(inputs)}")
    (spec,) = inputs.values()
    shape, count = raw_shape(spec, len(body))
    if spec.datatype == "BYTES":
        body = len(body).to_bytes(4, "little") + body
    tensor = from_binary(spec, shape, count, body, 0, len(body))
    names = list(outputs)
    return InferRequest(
        new_id(), {spec.name: tensor}, [(name, True) for name in names], names, shape[0] if shape else 1, None
    )


def _plan(
    document: dict[str, Any],
    body: bytes,
    json_length: int,
    specs: Mapping[str, TensorSpec],
    outputs: list[tuple[str, bool]],
    rows: int,
    plans: Plans,
) -> Plan | None:
    """Remembers a header that has just been found right."""
    entries = document["inputs"]
    if json_length > _MAX_PLANNED_HEADER or any("data" in entry for entry in entries):
        return None
    plan = Plan()
    for entry in entries:
        spec = specs[entry["name"]]
        plan.inputs.append((spec, *checked_shape(spec, entry["shape"]), entry["parameters"]["binary_data_size"]))
    plan.outputs, plan.names, plan.rows = outputs, [name for name, _binary in outputs], rows
    plan.tail = len(body) - json_length
    plan.views = _views(plan, body, json_length)
    if len(plans) >= _MAX_PLANS:
        plans.clear()
    plans[body[:json_length]] = plan
    return plan


def _views(plan: Plan, body: bytes, offset: int) -> list[tuple[str, tuple[int, ...], np.dtype[Any], int, bool]] | None:
    """Bodies are bytes objects, whose data begin at the same alignment each time."""
    views = []
    for spec, shape, _count, size in plan.inputs:
        if not size or spec.datatype not in _PLAIN:
            return None
        dtype: np.dtype[Any] = NUMPY_OF[spec.datatype]
        views.append((spec.name, tuple(shape), dtype, offset, _ndarray(shape, dtype, body, offset).flags.aligned))
        offset += size
    return views


def planned(body: bytes, offset: int, plan: Plan) -> InferRequest:
    """The request in a body that begins with the `offset` bytes that the plan was made from, and has as many after them."""
    feeds: dict[str, Array] = {}
    if plan.views is not None:
        # As from_binary does it; its checks passed when the plan was made, and the sizes are the same.
        for name, dims, dtype, start, aligned in plan.views:
            tensor: Array = _ndarray(dims, dtype, body, start)
            feeds[name] = tensor if aligned else tensor.copy()
    else:
        for spec, shape, count, size in plan.inputs:
            feeds[spec.name] = from_binary(spec, shape, count, body, offset, size)
            offset += size
    return InferRequest(new_id(), feeds, plan.outputs, plan.names, plan.rows, plan, plan.urgency, plan.parameters)


def _parse_inputs(
    document: dict[str, Any], body: bytes, json_length: int | None, specs: Mapping[str, TensorSpec]
) -> tuple[dict[str, Array], int]:
    entries = document.get("inputs")
    if type(entries) is not list or (specs and not entries):
        raise bad_request("inputs must be a non-empty list")
    offset = len(body) if json_length is None else json_length
    feeds: dict[str, Array] = {}
    rows = 1
    for entry in entries:
        if type(entry) is not dict:
            raise bad_request("each input must be an object")
        spec = input_spec(entry.get("name"), entry.get("datatype"), feeds, specs)
        name = spec.name
        shape, count = checked_shape(spec, entry.get("shape"))
        size = _parameters(entry, f"input '{name}'").get("binary_data_size")
        if size is None:
            if "data" not in entry:
                raise bad_request(f"input '{name}' has neither data nor binary_data_size")
            feeds[name] = from_json(spec, shape, count, entry["data"])
        else:
            if "data" in entry:
                raise bad_request(f"input '{name}' has both data and binary_data_size")
            if type(size) is not int or size < 0:
                raise bad_request(f"input '{name}': binary_data_size must be a non-negative integer")
            if json_length is None:
                raise bad_request(
                    f"input '{name}' has binary_data_size, but the Inference-Header-Content-Length header is missing"
                )
            if offset + size > len(body):
                raise bad_request(
                    f"input '{name}': binary_data_size is {size}, {len(body) - offset} bytes of the body are left"
                )
            feeds[name] = from_binary(spec, shape, count, body, offset, size)
            offset += size
        if shape:
            rows = shape[0]
    if offset != len(body):
        raise bad_request(f"{len(body) - offset} bytes of binary data left over after the last input")
    missing_inputs(feeds, specs)
    return feeds, rows


def input_spec(
    name: object, datatype: object, feeds: Mapping[str, Array], specs: Mapping[str, TensorSpec]
) -> TensorSpec:
    """The model's input that a request means, if it is one and not among `feeds` yet."""
    spec = specs.get(name) if type(name) is str else None
    if spec is None:
        raise bad_request(f"unexpected input {name!r:.200}, the model takes {sorted(specs)}")
    if name in feeds:
        raise bad_request(f"input '{name}' is given twice")
    if datatype != spec.datatype:
        raise bad_request(f"input '{name}': got datatype {datatype!r:.50}, the model takes {spec.datatype}")
    return spec


def missing_inputs(feeds: Mapping[str, Array], specs: Mapping[str, TensorSpec]) -> None:
    if len(feeds) != len(specs):
        raise bad_request(f"missing inputs {sorted(specs.keys() - feeds.keys())}")


def _parameters(entry: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = entry.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise bad_request(f"{where}: parameters must be an object")
    return parameters


def _flag(parameters: dict[str, Any], key: str, default: bool, where: str) -> bool:
    value = parameters.get(key, default)
    if type(value) is not bool:
        raise bad_request(f"{where}: {key} must be true or false")
    return value


def _parse_outputs(document: dict[str, Any], specs: Mapping[str, TensorSpec]) -> list[tuple[str, bool]]:
    binary = _flag(_parameters(document, "request"), "binary_data_output", False, "request")
    entries = document.get("outputs")
    if entries is not None and type(entries) is not list:
        raise bad_request("outputs must be a list")
    names = checked_outputs(entries or [], specs)
    if not entries:
        return [(name, binary) for name in names]
    return [
        (name, _flag(_parameters(entry, f"output '{name}'"), "binary_data", binary, f"output '{name}'"))
        for name, entry in zip(names, entries, strict=True)
    ]


def checked_outputs(entries: list[Any], specs: Mapping[str, TensorSpec]) -> list[str]:
    """The names of the outputs asked for, in their order; all of the model's if none is named."""
    names: list[str] = []
    for entry in entries:
        name = entry.get("name") if type(entry) is dict else None
        if type(name) is not str or name not in specs:
            raise bad_request(f"unexpected output {name!r:.200}, the model gives {sorted(specs)}")
        if name in names:
            raise bad_request(f"output '{name}' is asked for twice")
        if "classification" in _parameters(entry, f"output '{name}'"):
            raise ProtocolError(501, f"output '{name}': the classification extension is not supported")
        names.append(name)
    return names or list(specs)


def respond(
    *,
    model: str,
    version: str,
    request: InferRequest,
    specs: Mapping[str, TensorSpec],
    tensors: list[Array],
    notes: Mapping[str, object] | None = None,
) -> tuple[bytes, int | None]:
    """The body of the answer and the length of its JSON part, None if no output is binary. `tensors` are in the order
    of request.outputs; `notes` become the answer's parameters."""
    plan = request.plan if notes is None else None
    if plan is not None and plan.version == version and plan.shapes == [tensor.shape for tensor in tensors]:
        header = b"%b%b%b" % (plan.before, request.id.encode(), plan.after)
        return b"".join((header, *[tensor.tobytes() for tensor in tensors])), len(header)
    outputs: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for (name, binary), tensor in zip(request.outputs, tensors, strict=True):
        datatype = specs[name].datatype
        entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": tensor.shape}
        if binary:
            data = to_binary(datatype, tensor)
            entry["parameters"] = {"binary_data_size": len(data)}
            raw.append(data)
        else:
            entry["data"] = to_json(datatype, tensor)
        outputs.append(entry)
    document: dict[str, object] = {"model_name": model, "model_version": version, "id": request.id}
    if notes is not None:
        document["parameters"] = notes
    document["outputs"] = outputs
    header = orjson.dumps(document)
    if not raw:
        return header, None
    if plan is not None and len(raw) == len(tensors) and all(specs[name].datatype != "BYTES" for name in request.names):
        # The id is one of ours, and the first place where it stands is its own: a name comes before it, but an id as
        # long and random as ours is in no name.
        before, _id, after = header.partition(request.id.encode())
        plan.before, plan.after, plan.version = before, after, version
        plan.shapes = [tensor.shape for tensor in tensors]
    return header + b"".join(raw), len(header)
