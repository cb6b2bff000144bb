from __future__ import annotations

import contextlib

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeward_runtime import protocol
from edgeward_runtime.offload import wire
from edgeward_runtime.tensors import NUMPY_OF, TensorSpec

X = TensorSpec("x", "FP32", (-1, 4))
Y = {"y": TensorSpec("y", "FP32", (-1, 2)), "label": TensorSpec("label", "BYTES", (-1,))}


@given(
    st.sampled_from(["FP32", "INT64", "BOOL", "UINT8", "FP16"]).flatmap(
        lambda name: st.tuples(
            st.just(name), arrays.arrays(NUMPY_OF[name], arrays.array_shapes(max_dims=3, min_side=0, max_side=4))
        )
    )
)
def test_our_own_server_reads_what_is_sent(drawn: tuple[str, np.ndarray]):
    datatype, tensor = drawn
    specs = {"x": TensorSpec("x", datatype, (-1,) * tensor.ndim)}
    body, length = wire.request({"x": tensor}, specs, ["y"], id="abc", timeout=0.25)
    parsed = protocol.parse(body, length, specs, {"y": Y["y"]})
    np.testing.assert_array_equal(parsed.feeds["x"], tensor)
    assert parsed.id == "abc" and parsed.outputs == [("y", True)]
    said = orjson.loads(body[:length])["parameters"]
    assert said == {"edgeward_forwarded": True, "timeout": 250_000}


def made(tensors: dict[str, tuple[str, list[int], bytes]]) -> tuple[bytes, int]:
    outputs = [
        {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        for name, (datatype, shape, data) in tensors.items()
    ]
    header = orjson.dumps({"model_name": "large", "model_version": "2", "id": "a", "outputs": outputs})
    return header + b"".join(data for _datatype, _shape, data in tensors.values()), len(header)


Y_BYTES = np.float32([[0.25, 0.75]]).tobytes()
GOOD = {"label": ("BYTES", [1], b"\x03\0\0\0dog"), "y": ("FP32", [1, 2], Y_BYTES)}


def test_an_answer_comes_back_in_the_order_asked_for():
    (y, label), version = wire.answer(*made(GOOD), Y, ["y", "label"])
    np.testing.assert_array_equal(y, [[0.25, 0.75]])
    assert label.tolist() == ["dog"] and version == "large/2"
    assert y.flags.owndata


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"y": ("FP64", [1, 1], b"\0" * 8)}, "'y' is FP64"),
        ({"y": ("FP32", [1, 3], b"\0" * 12)}, r"ours FP32 \(-1, 2\)"),
        ({"y": ("FP32", [2], b"\0" * 8)}, "ours FP32"),
        ({"y": ("FP32", [-1, 2], b"\0" * 8)}, "ours FP32"),
        ({"y": ("FP32", [1, 2], b"\0" * 4)}, "needs 8"),
        ({"z": ("FP32", [1, 2], Y_BYTES)}, "'z' was not asked for"),
        ({"label": ("BYTES", [1], b"\x09\0\0\0dog")}, "claims 9"),
    ],
)
def test_an_answer_that_is_not_what_our_model_gives(change: dict, says: str):
    with pytest.raises(wire.WireError, match=says):
        wire.answer(*made({**GOOD, **change}), Y, ["y", "label"])


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"outputs": 3}', b'{"model_name": "m", "outputs": [1]}', b"<html>"]
)
def test_no_answer_at_all(body: bytes):
    with pytest.raises(wire.WireError, match="not an answer to infer"):
        wire.answer(body, None, Y, ["y"])


def test_an_answer_in_json_or_with_an_output_missing():
    body, length = made({"y": GOOD["y"]})
    with pytest.raises(wire.WireError, match=r"\['label'\] are missing"):
        wire.answer(body, length, Y, ["y", "label"])
    as_json = orjson.dumps(
        {"model_name": "m", "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    )
    with pytest.raises(wire.WireError, match="did not come as binary"):
        wire.answer(as_json, None, Y, ["y"])


@given(st.binary(max_size=200), st.integers(0, 200))
def test_no_bytes_do_more_than_be_refused(tail: bytes, length: int):
    body = made(GOOD)[0][:length] + tail
    with contextlib.suppress(wire.WireError):
        wire.answer(body, min(length, len(body)), Y, ["y", "label"])
