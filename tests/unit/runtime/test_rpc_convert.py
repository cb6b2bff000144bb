"""gRPC messages to tensors and back. What clients see of it is in integration/conformance/test_grpc.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.rpc import convert
from edgeward_runtime.rpc.messages import inference
from edgeward_runtime.tensors import TensorSpec

X = {"x": TensorSpec("x", "FP32", (-1, 2))}
Y = {"y": TensorSpec("y", "FP32", (-1, 2)), "z": TensorSpec("z", "BF16", (-1,))}


def request(*, raw: bool = False, shape: tuple[int, ...] = (1, 2), name: str = "x", **fields: Any) -> Any:
    message = inference["ModelInferRequest"](model_name="m", **fields)
    entry = message.inputs.add(name=name, datatype="FP32", shape=shape)
    if raw:
        message.raw_input_contents.append(np.array([1, 2], "<f4").tobytes())
    else:
        entry.contents.fp32_contents.extend([1.0, 2.0])
    return message


@pytest.mark.parametrize("raw", [True, False])
def test_a_request_is_answered_as_it_came(raw):
    message = request(raw=raw, id="me")
    message.outputs.add(name="y")
    parsed = convert.parse(message, X, Y)
    assert (parsed.id, parsed.names, parsed.outputs, parsed.rows) == ("me", ["y"], [("y", raw)], 1)
    assert parsed.feeds["x"].tolist() == [[1.0, 2.0]] and parsed.feeds["x"].dtype == np.float32
    answer = convert.respond(model="m", version="3", request=parsed, specs=Y, tensors=[parsed.feeds["x"] * 2])
    (output,) = answer.outputs
    assert (answer.model_version, answer.id, list(output.shape)) == ("3", "me", [1, 2])
    assert list(output.contents.fp32_contents) == ([] if raw else [2.0, 4.0])
    assert list(answer.raw_output_contents) == ([np.array([2, 4], "<f4").tobytes()] if raw else [])


def test_an_output_without_a_typed_form_makes_all_of_them_raw():
    """The protocol has none for BF16, and an answer is raw as a whole or not at all."""
    parsed = convert.parse(request(), X, Y)
    assert parsed.outputs == [("y", True), ("z", True)]


def test_the_limits_of_small_integers_are_checked_before_they_are_narrowed():
    spec = {"x": TensorSpec("x", "INT8", (-1,))}
    for values, good in (([-128, 127], True), ([128], False), ([-129], False)):
        message = inference["ModelInferRequest"](model_name="m")
        entry = message.inputs.add(name="x", datatype="INT8", shape=[len(values)])
        entry.contents.int_contents.extend(values)
        if good:
            found = convert.parse(message, spec, Y).feeds["x"]
            assert found.dtype == np.int8 and found.tolist() == values
        else:
            with pytest.raises(ProtocolError, match="outside the range of INT8"):
                convert.parse(message, spec, Y)


def test_parameters_are_plain_values():
    message = request()
    message.parameters["timeout"].int64_param = 500
    message.parameters["priority"].uint64_param = 2
    message.parameters["source"].string_param = "camera-1"
    message.parameters["empty"].SetInParent()
    parsed = convert.parse(message, X, Y)
    assert parsed.urgency == (500, 2)
    assert parsed.parameters == {"timeout": 500, "priority": 2, "source": "camera-1", "empty": None}
    assert convert.parse(request(), X, Y).urgency is None
    message.parameters["timeout"].string_param = "soon"
    with pytest.raises(ProtocolError, match="timeout must be"):
        convert.parse(message, X, Y)


def test_notes_become_parameters():
    parsed = convert.parse(request(id="me"), X, {"y": Y["y"]})
    answer = convert.respond(
        model="m", version="1", request=parsed, specs=Y, tensors=[parsed.feeds["x"]],
        notes={"answeredBy": "big/2", "flag": True, "count": 3, "share": 0.5, "list": [1]},
    )  # fmt: skip
    assert convert.parameters(answer.parameters) == {
        "answeredBy": "big/2", "flag": True, "count": 3, "share": 0.5, "list": "[1]",
    }  # fmt: skip


def test_a_record_may_come_instead_of_the_inputs():
    record = {"record": TensorSpec("record", "UINT8", (-1,))}
    message = inference["ModelInferRequest"](model_name="m", raw_input_contents=[b"jpeg"])
    message.inputs.add(name="record", datatype="UINT8", shape=[4])
    assert convert.parse(message, X, Y, record).feeds["record"].tobytes() == b"jpeg"
    assert convert.parse(request(), X, Y, record).feeds.keys() == {"x"}
    with pytest.raises(ProtocolError, match="unexpected input 'record'"):
        convert.parse(message, X, Y)
