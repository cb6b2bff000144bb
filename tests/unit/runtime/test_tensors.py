from __future__ import annotations

import math
import struct
import tracemalloc

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.tensors import (
    MAX_STRINGS,
    NUMPY_OF,
    TensorSpec,
    checked_shape,
    from_binary,
    from_json,
    raw_shape,
    to_binary,
    to_json,
)

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
TEXT = st.text(max_size=6, alphabet=st.characters(exclude_categories=["Cs"]))


def spec_of(datatype: str, shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec(name="t", datatype=datatype, shape=tuple(-1 for _ in shape))


@given(st.data(), st.sampled_from(sorted(NUMPY_OF)), SHAPES, st.integers(0, 7))
def test_binary_round_trip(data, datatype, shape, padding):
    tensor = data.draw(hnp.arrays(NUMPY_OF[datatype], shape))
    raw = to_binary(datatype, tensor)
    assert len(raw) == tensor.size * NUMPY_OF[datatype].itemsize
    body = b"\x01" * padding + raw  # any alignment
    back = from_binary(spec_of(datatype, shape), list(shape), tensor.size, body, padding, len(raw))
    assert back.dtype == tensor.dtype and back.shape == tensor.shape and back.flags.aligned
    assert back.tobytes() == tensor.tobytes()


@given(st.data(), st.sampled_from(sorted(set(NUMPY_OF) - {"BF16"})), SHAPES, st.booleans())
def test_json_round_trip(data, datatype, shape, nested):
    finite = {"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else {}
    tensor = data.draw(hnp.arrays(NUMPY_OF[datatype], shape, elements=finite))
    text = orjson.dumps(tensor.tolist()) if nested and shape else orjson.dumps(to_json(datatype, tensor))
    back = from_json(spec_of(datatype, shape), list(shape), tensor.size, orjson.loads(text))
    assert back.dtype == tensor.dtype and back.shape == tensor.shape
    assert np.array_equal(back, tensor)


@given(st.lists(TEXT, max_size=6), st.booleans())
def test_strings_round_trip(items, binary):
    tensor = np.empty(len(items), dtype=object)
    tensor[:] = items
    spec = spec_of("BYTES", (1,))
    if binary:
        raw = to_binary("BYTES", tensor)
        assert raw == b"".join(struct.pack("<I", len(item.encode())) + item.encode() for item in items)
        back = from_binary(spec, [len(items)], len(items), raw, 0, len(raw))
    else:
        back = from_json(spec, [len(items)], len(items), orjson.loads(orjson.dumps(to_json("BYTES", tensor))))
    assert back.tolist() == items


def test_nested_strings_keep_their_order():
    back = from_json(spec_of("BYTES", (2, 2)), [2, 2], 4, [["a", "b"], ["c", ""]])
    assert back.tolist() == [["a", "b"], ["c", ""]]


def test_strings_are_bounded_by_their_number():
    """Each costs time in the event loop, however short it is."""
    spec = spec_of("BYTES", (1, 1))
    assert checked_shape(spec, [2, MAX_STRINGS // 2]) == ([2, MAX_STRINGS // 2], MAX_STRINGS)
    with pytest.raises(ProtocolError, match="send several requests") as refused:
        checked_shape(spec, [1, MAX_STRINGS + 1])
    assert refused.value.status == 413
    assert checked_shape(spec_of("UINT8", (1,)), [MAX_STRINGS + 1])[1] == MAX_STRINGS + 1


def test_uint64_above_the_signed_range():
    values = [1, 2**63, 2**64 - 1]
    assert from_json(spec_of("UINT64", (3,)), [3], 3, values).tolist() == values


def test_nan_and_infinity_become_null():
    assert orjson.dumps(to_json("FP32", np.array([1, np.nan, np.inf], np.float32))) == b"[1.0,null,null]"


def test_any_non_zero_byte_is_true():
    assert from_binary(spec_of("BOOL", (3,)), [3], 3, b"\x00\x01\xff", 0, 3).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (None, "list of integers"),
        ("3", "list of integers"),
        ([2], "1 dimensions"),
        ([2, 4], "the model takes [-1, 3]"),
        ([-1, 3], "non-negative"),
        ([True, 3], "non-negative"),
        ([1.0, 3], "non-negative"),
        (["1", 3], "non-negative"),
        ([2**63, 3], "overflows"),
        ([2**62, 3], "overflows"),
    ],
)
def test_wrong_shapes(shape, said):
    with pytest.raises(ProtocolError) as caught:
        checked_shape(TensorSpec(name="t", datatype="FP32", shape=(-1, 3)), shape)
    assert caught.value.status == 400 and said in caught.value.text


def test_a_zero_does_not_hide_an_overflow():
    with pytest.raises(ProtocolError, match="overflows"):
        checked_shape(TensorSpec(name="t", datatype="FP32", shape=(-1, -1)), [0, 2**63])


@pytest.mark.parametrize(
    ("datatype", "data", "said"),
    [
        ("FP32", {"a": 1}, "must be a list"),
        ("FP32", "xx", "must be a list"),
        ("FP32", [1.0], "has 1 elements"),
        ("FP32", [1.0, 2.0, 3.0], "has 3 elements"),
        ("FP32", ["1", "2"], "does not hold FP32"),
        ("FP32", [None, 1.0], "does not hold FP32"),
        ("FP32", [True, False], "does not hold FP32"),
        ("FP32", [[1.0], [2.0]], "nested as"),
        ("FP32", [[1.0], [2.0, 3.0]], "ragged"),
        ("FP32", [1e300, 0.0], "outside the range"),
        ("FP32", [{}, {}], "does not hold FP32"),
        ("INT32", [1.5, 2.0], "does not hold INT32"),
        ("INT32", [2**31, 0], "outside the range"),
        ("UINT8", [-1, 0], "outside the range"),
        ("UINT8", [256, 0], "outside the range"),
        ("INT64", [2**63, 0], "INT64"),
        ("UINT64", [2.5, 2**63], "does not hold UINT64"),
        ("BOOL", [0, 1], "does not hold BOOL"),
        ("FP16", [65520.0, 0.0], "outside the range of FP16"),
        ("FP16", ["1", "2"], "does not hold FP16"),
        ("BF16", [3.4e38, 0.0], "outside the range of BF16"),
        ("BF16", [1e39, 0.0], "outside the range"),
        ("BF16", [True, False], "does not hold"),
        ("BF16", "xx", "must be a list"),
        ("BYTES", [1, 2], "must be strings"),
        ("BYTES", ["a"], "has 1 elements"),
        ("BYTES", [["a", "b"]], "nested deeper"),
        ("BYTES", ["a", ["b"]], "must be strings"),
    ],
)
def test_wrong_json_data(datatype, data, said):
    with pytest.raises(ProtocolError) as caught:
        from_json(TensorSpec(name="t", datatype=datatype, shape=(2,)), [2], 2, data)
    assert caught.value.status == 400 and said in caught.value.text


def test_deeply_nested_data_is_refused_not_recursed_into():
    deep: list[object] = ["x"]
    for _ in range(900):
        deep = [deep]
    for datatype in ("FP32", "BYTES"):
        with pytest.raises(ProtocolError):
            from_json(TensorSpec(name="t", datatype=datatype, shape=(1, 1)), [1, 1], 1, deep)


@pytest.mark.parametrize(
    ("datatype", "count", "body", "said"),
    [
        ("FP32", 2, b"1234567", "needs 8"),
        ("FP32", 2, b"123456789", "needs 8"),
        ("BYTES", 1, b"abc", "too small"),
        ("BYTES", 2**40, b"\x00" * 8, "too small"),
        ("BYTES", 1, struct.pack("<I", 5) + b"abc", "claims 5 bytes"),
        ("BYTES", 1, struct.pack("<I", 1) + b"abc", "left over"),
        ("BYTES", 2, struct.pack("<I", 4) + b"abcd", "ends before"),
        ("BYTES", 1, struct.pack("<I", 1) + b"\xff", "not UTF-8"),
    ],
)
def test_wrong_binary_data(datatype, count, body, said):
    with pytest.raises(ProtocolError) as caught:
        from_binary(TensorSpec(name="t", datatype=datatype, shape=(-1,)), [count], count, body, 0, len(body))
    assert caught.value.status == 400 and said in caught.value.text


@pytest.mark.parametrize(
    ("number", "bits"),
    [
        (0, 0),
        (1.0, 0x3F80),
        (-2.5, 0xC020),
        (1.00390625, 0x3F80),
        (1.01171875, 0x3F82),
        (3.3895313e38, 0x7F7F),
        (1e-45, 0),
    ],
)
def test_bfloat16_is_rounded_to_nearest_with_ties_to_even(number, bits):
    for shape in ([1], [1, 1], []):
        tensor = from_json(spec_of("BF16", tuple(shape)), shape, 1, [number])
        assert isinstance(tensor, np.ndarray) and tensor.dtype == np.uint16 and list(tensor.shape) == shape
        assert tensor.ravel().tolist() == [bits]


def test_bfloat16_to_json():
    tensor = np.array([0x3F80, 0xC020, 0x7F80, 0x7FC0], np.uint16)
    assert orjson.dumps(to_json("BF16", tensor)) == b"[1.0,-2.5,null,null]"


@given(st.integers(0, 0x7F7F))
def test_bfloat16_round_trip(bits):
    tensor = np.array([bits, bits | 0x8000], np.uint16)
    back = from_json(spec_of("BF16", (2,)), [2], 2, orjson.loads(orjson.dumps(to_json("BF16", tensor))))
    assert back.tolist() == tensor.tolist()


@pytest.mark.parametrize(
    ("datatype", "shape", "size", "expected"),
    [
        ("INT32", (1, 16), 64, [1, 16]),
        ("INT32", (-1, 16), 192, [3, 16]),
        ("INT32", (4, -1), 64, [4, 4]),
        ("FP32", (-1, 3, -1), 36, [1, 3, 3]),
        ("FP32", (-1,), 0, [0]),
        ("FP32", (), 4, []),
        ("UINT8", (-1, -1), 5, [1, 5]),
        ("BF16", (-1,), 6, [3]),
        ("BYTES", (1,), 5, [1]),
        ("BYTES", (-1, -1), 0, [1, 1]),
        ("BYTES", (), 9, []),
    ],
)
def test_the_shape_of_a_raw_body(datatype, shape, size, expected):
    assert raw_shape(TensorSpec(name="t", datatype=datatype, shape=shape), size) == (expected, math.prod(expected))


@pytest.mark.parametrize(
    ("datatype", "shape", "size", "said"),
    [
        ("FP32", (-1, -1, -1), 4, "does not follow"),
        ("FP32", (-1, 2), 12, "not a whole number"),
        ("FP32", (-1, 0), 4, "not a whole number"),
        ("BYTES", (2,), 4, "one BYTES element"),
    ],
)
def test_raw_bodies_whose_shape_is_not_known(datatype, shape, size, said):
    with pytest.raises(ProtocolError) as caught:
        raw_shape(TensorSpec(name="t", datatype=datatype, shape=shape), size)
    assert caught.value.status == 400 and said in caught.value.text


@pytest.mark.parametrize(
    "data", [["x" * 1_000_000, *["a"] * 99], [["x" * 1_000_000] * 10, *[["a"] * 10] * 9], [1] * 10**6]
)
def test_what_is_no_tensor_allocates_nothing(data):
    """numpy makes an array of strings as wide as the longest: 100 elements would take 400 MB here."""
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            from_json(TensorSpec(name="t", datatype="FP32", shape=(-1,)), [100], 100, data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_no_memory_for_a_tensor_is_the_requests_fault(monkeypatch):
    def full(*_arguments, **_options):
        raise MemoryError

    monkeypatch.setattr("edgeward_runtime.tensors.np.array", full)
    with pytest.raises(ProtocolError, match="too large"):
        from_json(TensorSpec(name="t", datatype="FP32", shape=(1,)), [1], 1, [1.0])


def test_true_among_numbers_is_refused():
    with pytest.raises(ProtocolError, match="does not hold INT32"):
        from_json(TensorSpec(name="t", datatype="INT32", shape=(2,)), [2], 2, [True, 2])
