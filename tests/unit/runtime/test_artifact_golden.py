import struct
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from edgeward_runtime.artifact import golden
from edgeward_runtime.errors import Refusal
from edgeward_runtime.tensors import to_binary


class Maker:
    """Writes golden.json and golden.bin."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = b""

    def tensor(self, name: str, datatype: str, values: Any, /, **changes: Any) -> dict[str, Any]:
        array = np.asarray(values)
        raw = to_binary(datatype, array)
        tensor = {
            "name": name,
            "datatype": datatype,
            "shape": list(array.shape),
            "offset": len(self.data),
            "size": len(raw),
        }
        self.data += raw
        return {**tensor, **changes}

    def write(self, document: Any) -> Path:
        path = self.folder / "golden.json"
        path.write_bytes(document if isinstance(document, bytes) else orjson.dumps(document))
        (self.folder / "golden.bin").write_bytes(self.data)
        return path

    def case(self, outputs: list[dict[str, Any]], **changes: Any) -> golden.Golden:
        inputs = [self.tensor("x", "FP32", [[1.0, 2.0]])]
        return golden.read(self.write({"format": 1, "cases": [{"inputs": inputs, "outputs": outputs}], **changes}))


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


def answers(*outputs: Any) -> golden.ModelRun:
    return lambda _names, _feeds: [np.asarray(one) for one in outputs]


def f32(*values: float) -> Any:
    return np.array(values, np.float32)


def test_the_model_gets_the_inputs_and_is_asked_for_the_outputs(maker: Maker) -> None:
    data = maker.case([maker.tensor("y", "FP32", f32(2, 4)), maker.tensor("top", "INT64", [1])])
    asked: list[Any] = []

    def run(names: list[str], feeds: Any) -> Any:
        asked.append((names, {name: tensor.tolist() for name, tensor in feeds.items()}))
        return [f32(2, 4), np.array([1])]

    assert golden.check(run, data) is None
    assert asked == [(["y", "top"], {"x": [[1.0, 2.0]]})]


def test_the_first_mismatch_says_where_and_what(maker: Maker) -> None:
    data = maker.case([maker.tensor("y", "FP32", np.array([[1, 2], [3, 4]], np.float32))])
    mismatch = golden.check(answers(np.array([[1, 2], [3.5, 9]], np.float32)), data)
    assert str(mismatch) == "golden case 0, output 'y': 2 of 4 elements differ, first at [1, 0]: 3.5, wanted 3"


def test_the_second_case_is_looked_at_too(maker: Maker) -> None:
    one, two = ({"inputs": [], "outputs": [maker.tensor("y", "FP32", f32(value))]} for value in (1, 2))
    data = golden.read(maker.write({"format": 1, "cases": [one, two]}))
    mismatch = golden.check(answers(f32(1)), data)
    assert mismatch is not None
    assert mismatch.case == 1


@pytest.mark.parametrize(
    ("tolerance", "got", "right"),
    [
        ({"atol": 0, "rtol": 0.01}, 101.0, True),
        ({"atol": 0, "rtol": 0.01}, 101.1, False),
        ({"atol": 0.5, "rtol": 0}, 100.5, True),
        ({"atol": 0.5, "rtol": 0}, 99.4, False),
        ({"atol": 0.5, "rtol": 0.01}, 101.5, True),
        ({}, 100.05, True),
        ({}, 100.2, False),
    ],
)
def test_tolerance(maker: Maker, tolerance: dict[str, float], got: float, right: bool) -> None:
    assert (
        golden.check(answers(f32(got)), maker.case([maker.tensor("y", "FP32", f32(100))], **tolerance)) is None
    ) is right
    # That of an output wins over the file's.
    own = maker.case([maker.tensor("y", "FP32", f32(100), **{"atol": 0, "rtol": 0.01, **tolerance})], atol=0, rtol=0)
    if tolerance:
        assert (golden.check(answers(f32(got)), own) is None) is right


@pytest.mark.parametrize(
    ("datatype", "want", "got", "right"),
    [
        ("FP32", f32(np.nan, np.inf), f32(np.nan, np.inf), True),
        ("FP32", f32(np.inf), f32(-np.inf), False),
        ("FP32", f32(np.nan), f32(0), False),
        ("FP32", f32(1), f32(np.nan), False),
        ("FP32", f32(1), np.array([1.0]), False),  # float64
        ("FP32", f32(1), np.array([1]), False),
        ("FP16", np.array([65504], np.float16), np.array([65504], np.float16), True),
        ("BF16", np.array([0x3F80], np.uint16), np.array([0x3F80], np.uint16), True),
        ("BF16", np.array([0x3F80], np.uint16), np.array([0x3F90], np.uint16), False),  # 1 and 1.125
        ("FP32", f32(1, 2), np.array([[1, 2]], np.float32), False),
        ("FP32", np.float32(1), np.float32(1), True),  # no dimensions
        ("FP32", np.float32(1), np.float32(2), False),
        ("FP32", np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32), True),
        ("INT64", np.array([2**60]), np.array([2**60 + 1]), False),
        ("BOOL", np.array([True, False]), np.array([True, False]), True),
        ("BOOL", np.array([True, False]), np.array([True, True]), False),
        ("BYTES", np.array(["a", "é"], object), np.array(["a", "é"], object), True),
        ("BYTES", np.array(["a", "b"], object), np.array(["a", "c"], object), False),
    ],
)  # fmt: skip
def test_what_is_equal(maker: Maker, datatype: str, want: Any, got: Any, right: bool) -> None:
    data = maker.case([maker.tensor("y", datatype, want)])
    assert (golden.check(answers(got), data) is None) is right


def test_a_run_that_fails_is_a_mismatch(maker: Maker) -> None:
    def run(_names: list[str], _feeds: Any) -> Any:
        raise ValueError("Invalid Feed Input Name:x")

    mismatch = golden.check(run, maker.case([maker.tensor("y", "FP32", f32(1))]))
    assert mismatch is not None
    assert "Invalid Feed Input Name" in mismatch.message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"offset": -1}, "offset"),
        ({"offset": 10**6}, "offset"),
        ({"size": 8.0}, "size"),
        ({"size": 4}, "needs 8"),
        ({"shape": [3]}, "needs 12"),
        ({"shape": [-2]}, "non-negative"),
        ({"shape": [2**40, 2**40]}, "overflows"),
        ({"shape": 2}, "shape"),
        ({"datatype": "FP8"}, "datatype"),
        ({"datatype": "BYTES"}, "BYTES"),
        ({"name": ""}, "name"),
        ({"atol": -1}, "atol"),
        ({"rtol": "0"}, "rtol"),
        ({"atol": True}, "atol"),
    ],
)
def test_a_bad_tensor_is_refused_and_named(maker: Maker, change: dict[str, Any], says: str) -> None:
    with pytest.raises(Refusal) as caught:
        maker.case([maker.tensor("y", "FP32", f32(1, 2), **change)])
    assert (caught.value.step, caught.value.reason, caught.value.permanent) == ("Load", "BadGolden", True)
    assert "cases[0].outputs[0]" in caught.value.message
    assert says in caught.value.message
    assert "input" not in caught.value.message  # the protocol's own words for a request


@pytest.mark.parametrize(
    "document",
    [
        b"{",
        b"[]",
        {"format": 2, "cases": []},
        {"format": 1},
        {"format": 1, "cases": []},
        {"format": 1, "cases": [1]},
        {"format": 1, "cases": [{"inputs": []}]},
        {"format": 1, "cases": [{"inputs": [], "outputs": []}]},
        {"format": 1, "cases": [{"inputs": [], "outputs": ["y"]}]},
        {"format": 1, "cases": [{"inputs": [], "outputs": [{"name": "y"}]}] * 65},
    ],
)
def test_a_bad_document_is_refused(maker: Maker, document: Any) -> None:
    with pytest.raises(Refusal, match="BadGolden"):
        golden.read(maker.write(document))


def test_a_name_twice_or_no_data_is_refused(maker: Maker) -> None:
    with pytest.raises(Refusal, match="twice"):
        maker.case([maker.tensor("y", "FP32", f32(1)), maker.tensor("y", "FP32", f32(1))])
    path = maker.write({"format": 1, "cases": [{}]})
    (maker.folder / "golden.bin").unlink()
    with pytest.raises(Refusal, match=r"golden\.bin is not there"):
        golden.read(path)


def test_bytes_that_lie_about_their_length_are_refused(maker: Maker) -> None:
    tensor = {"name": "y", "datatype": "BYTES", "shape": [1], "offset": len(maker.data), "size": 5}
    maker.data += struct.pack("<I", 2**31) + b"a"
    with pytest.raises(Refusal, match="claims"):
        golden.read(maker.write({"format": 1, "cases": [{"inputs": [], "outputs": [tensor]}]}))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    inputs = {
        "x": ("FP32", f32(1, 2).reshape(1, 2)),
        "bits": ("BF16", np.array([0x3F80], np.uint16)),
        "text": ("BYTES", np.array([["a", "\u00e9"]], dtype=object)),
        "scalar": ("BOOL", np.array(True)),
    }
    outputs = {"y": ("FP64", np.array([np.nan, np.inf])), "top": ("INT64", np.arange(3))}
    made = golden.files([(inputs, outputs), ({}, outputs)], atol=0.5, rtol=0.25)
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    first, second = golden.read(tmp_path / "golden.json").cases
    assert second.inputs == {} and first.inputs.keys() == inputs.keys()
    for name, (_datatype, array) in inputs.items():
        assert (first.inputs[name] == array).all() and first.inputs[name].shape == array.shape
    for case in (first, second):
        for name, (datatype, array) in outputs.items():
            wanted = case.outputs[name]
            np.testing.assert_array_equal(wanted.tensor, array)
            assert (wanted.datatype, wanted.atol, wanted.rtol) == (datatype, 0.5, 0.25)
