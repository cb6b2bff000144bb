"""Batching's self-check and knee over real graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeward_runtime import batch, batch_check
from edgeward_runtime.call import Call
from edgeward_runtime.model import Model, load, warm_up
from tests.unit.runtime import onnx_models

FLOAT = TensorProto.FLOAT


def loaded(tmp_path: Path, content: bytes) -> Model:
    path = onnx_models.write(tmp_path / "model.onnx", content)
    return load(path, name="m", version="1", digest="sha256:0", threads=1)


def graph(nodes: list[Any], *, dims: Any = (None, 4), out: Any = (None, 4), kind: int = FLOAT) -> bytes:
    x = helper.make_tensor_value_info("x", kind, list(dims))
    y = helper.make_tensor_value_info("y", kind, list(out))
    return onnx_models._model(nodes, [x], [y])


def mean_over_rows() -> bytes:
    mean = helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1)
    return graph([mean, helper.make_node("Sub", ["x", "mean"], ["y"])])


def counts_rows() -> bytes:
    """y[i] depends on how many rows come before: right for the first order tried, wrong for the second."""
    zero = helper.make_node("CumSum", ["x", "axis"], ["y"])
    axis = helper.make_node("Constant", [], ["axis"], value_int=0)
    return graph([axis, zero])


def divided_by_rows() -> bytes:
    """The same for any three rows, another for one alone."""
    return graph(
        [
            helper.make_node("Shape", ["x"], ["shape"], start=0, end=1),
            helper.make_node("Cast", ["shape"], ["rows"], to=FLOAT),
            helper.make_node("Div", ["x", "rows"], ["y"]),
        ]
    )


def quantised_by_one_scale() -> bytes:
    """A row's values are rounded by the largest of all rows."""
    return graph(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ]
    )


def looks_up(words: int) -> bytes:
    """A table of so many entries: larger indices are an error."""
    table = numpy_helper.from_array(np.arange(words, dtype=np.float32), "table")
    x = helper.make_tensor_value_info("x", TensorProto.INT64, [None, 4])
    y = helper.make_tensor_value_info("y", FLOAT, [None, 4])
    return onnx_models._model([helper.make_node("Gather", ["table", "x"], ["y"])], [x], [y], [table])


def keeps_no_rows() -> bytes:
    """The rows that are above zero, as many as they are."""
    return graph(
        [
            helper.make_node("ReduceMax", ["x"], ["most"], axes=[1], keepdims=0),
            helper.make_node("Constant", [], ["zero"], value_float=0.0),
            helper.make_node("Greater", ["most", "zero"], ["wanted"]),
            helper.make_node("Not", ["wanted"], ["unwanted"]),
            helper.make_node("Compress", ["x", "unwanted"], ["y"], axis=0),
        ]
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (onnx_models.mlp(batch=1), "FixedRows"),
        (onnx_models.identity(FLOAT, ()), "FixedRows"),
        (mean_over_rows(), "RowsNotIndependent"),
        (counts_rows(), "RowsNotIndependent"),
        (divided_by_rows(), "RowsNotIndependent"),
        (quantised_by_one_scale(), "RowsNotIndependent"),
        (looks_up(1), "CheckFailed"),
        (keeps_no_rows(), "RowsNotKept"),
    ],
)
def test_where_rows_may_not_run_together(tmp_path: Path, content: bytes, reason: str) -> None:
    model = loaded(tmp_path, content)
    warm_up(model, batch_rows=8)
    assert (model.batch_rows, model.batch_off) == (1, reason)
    assert model.metadata()["properties"]["batching_off"] == reason  # type: ignore[index]


@pytest.mark.parametrize(
    "content",
    [
        onnx_models.mlp(),
        onnx_models.constant_times(2.5),
        onnx_models.identity(TensorProto.STRING, (None, 2)),
        onnx_models.identity(TensorProto.INT64, (None, None)),
        onnx_models.identity(TensorProto.BOOL, (None,)),
        onnx_models.identity(TensorProto.FLOAT16, (None, 3)),
        onnx_models.widened_bfloat16((None, 3)),
        looks_up(2),
        looks_up(1000),
    ],
)
def test_where_they_may(tmp_path: Path, content: bytes) -> None:
    model = loaded(tmp_path, content)
    warm_up(model, batch_rows=8)
    assert (model.batch_rows, model.batch_off) == (8, "")
    warm_up(model, batch_rows=1)
    assert (model.batch_rows, model.batch_off) == (1, "Disabled")


def test_two_inputs_and_outputs_split_by_rows(tmp_path: Path) -> None:
    names = {name: helper.make_tensor_value_info(name, FLOAT, [None, None]) for name in ("a", "b", "sum", "less")}
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["less"])]
    content = onnx_models._model(nodes, [names["a"], names["b"]], [names["sum"], names["less"]])
    model = loaded(tmp_path, content)
    warm_up(model, batch_rows=8)
    calls = []
    for rows, wanted in ((1, ["less"]), (2, ["sum"]), (3, ["less", "sum"])):
        one = Call(model)
        one.rows, one.names = rows, wanted
        one.feeds = {"a": np.full((rows, 2), rows, np.float32), "b": np.ones((rows, 2), np.float32)}
        calls.append(one)
    assert len({batch.group(one) for one in calls}) == 1
    batch.run(calls)
    assert [[tensor.tolist() for tensor in one.tensors] for one in calls] == [
        [[[0, 0]]],
        [[[3, 3]] * 2],
        [[[2, 2]] * 3, [[4, 4]] * 3],
    ]


@pytest.mark.parametrize(
    ("run_ms", "rows"),
    [
        ([1, 1, 1.1, 1.25, 2.4, 4.7], 8),  # 0.5, 0.28, 0.156, 0.15, 0.147 a row
        ([1, 2, 4, 8, 16, 32], 1),  # nothing gained
        ([60, 70, 90, 170], 4),  # more would hold up those that come next for too long
        ([1000], 1),
    ],
)
def test_knee(tmp_path: Path, run_ms: list[float], rows: int) -> None:
    model = loaded(tmp_path, onnx_models.constant_times(2))
    now = [0.0]
    by_rows = dict(zip((1, 2, 4, 8, 16, 32), run_ms, strict=False))

    def clock() -> float:
        return now[0]

    def timed(names: object, feeds: dict[str, Any], options: object) -> list[Any]:
        now[0] += by_rows.get(len(feeds["x"]), 0) / 1000
        return [feeds["x"] * 2]

    model._run = timed
    batch_check.prepare(model, size=1, seconds=run_ms[0] / 1000, clock=clock)
    assert model.batch_rows == rows
    assert model.batch_off == ("NoGain" if rows == 1 else "")
