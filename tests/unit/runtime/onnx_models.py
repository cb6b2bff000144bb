"""Small ONNX models, made on the spot; also used by the integration tests and benchmarks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def _model(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], weights: Sequence[Any] = ()) -> bytes:
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def mlp(sizes: Sequence[int] = (64, 32, 10), *, seed: int = 1, batch: int | None = None) -> bytes:
    """x float32[batch, sizes[0]] -> y float32[batch, sizes[-1]]; relu between; batch None = dynamic."""
    random = np.random.default_rng(seed)
    nodes, weights, here = [], [], "x"
    for index, (width_in, width_out) in enumerate(pairwise(sizes)):
        last = index == len(sizes) - 2
        matrix = (random.standard_normal((width_in, width_out)) * 0.1).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{index}"))
        nodes.append(helper.make_node("MatMul", [here, f"w{index}"], ["y" if last else f"h{index}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"h{index}"], [f"r{index}"]))
        here = f"r{index}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, sizes[0]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, sizes[-1]])
    return _model(nodes, [x], [y], weights)


def constant_times(factor: float, width: int = 4) -> bytes:
    """y = x * factor, float32[N, width]: an answer tells which version made it."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, width])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, width])
    weight = numpy_helper.from_array(np.array(factor, np.float32), "factor")
    return _model([helper.make_node("Mul", ["x", "factor"], ["y"])], [x], [y], [weight])


def stamped(number: float, sizes: Sequence[int] = (4, 16, 2)) -> bytes:
    """x float32[N, sizes[0]] -> version = x * number, which tells who answered, and y = what weights of these sizes make
    of x, which takes memory and time as a model does."""
    random = np.random.default_rng(int(number))
    nodes, weights, here = [helper.make_node("Mul", ["x", "number"], ["version"])], [], "x"
    weights.append(numpy_helper.from_array(np.array(number, np.float32), "number"))
    for index, (width_in, width_out) in enumerate(pairwise(sizes)):
        there = "y" if index == len(sizes) - 2 else f"h{index}"
        matrix = (random.standard_normal((width_in, width_out)) * 0.1).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{index}"))
        nodes.append(helper.make_node("MatMul", [here, f"w{index}"], [there]))
        here = there
    x, version = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, sizes[0]]) for name in ("x", "version"))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, sizes[-1]])
    return _model(nodes, [x], [version, y], weights)


def identity(element: int, shape: Sequence[int | None] = (None,)) -> bytes:
    x = helper.make_tensor_value_info("x", element, list(shape))
    y = helper.make_tensor_value_info("y", element, list(shape))
    return _model([helper.make_node("Identity", ["x"], ["y"])], [x], [y])


def sum_and_difference() -> bytes:
    """Triton's "simple": INPUT0, INPUT1 int32[1,16] -> OUTPUT0 their sum, OUTPUT1 their difference."""
    names = ("INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1")
    values = {name: helper.make_tensor_value_info(name, TensorProto.INT32, [1, 16]) for name in names}
    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    return _model(nodes, [values["INPUT0"], values["INPUT1"]], [values["OUTPUT0"], values["OUTPUT1"]])


def with_sequence_output() -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])
    y = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    return _model([helper.make_node("SequenceConstruct", ["x", "x"], ["y"])], [x], [y])


def with_map_output() -> bytes:
    """A classifier's scores as scikit-learn's converter gives them unless told otherwise: a list of label -> score."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])
    scores = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    node = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    graph = helper.make_graph([node], "graph", [x], [helper.make_value_info("y", scores)])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def widened_bfloat16(shape: Sequence[int | None]) -> bytes:
    """x bfloat16 -> same bfloat16, wide float32."""
    x, same = (helper.make_tensor_value_info(name, TensorProto.BFLOAT16, list(shape)) for name in ("x", "same"))
    wide = helper.make_tensor_value_info("wide", TensorProto.FLOAT, list(shape))
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
    ]
    return _model(nodes, [x], [same, wide])


def as_long_as_asked() -> bytes:
    """x int64[N, M] -> y the same, after as many products of two 256 x 256 matrices as the largest number in x: a run
    that takes as long as a test wants, and none for the zeros of the warm-up."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.INT64, [None, None]) for name in "xy")
    inner = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [256, 256]) for name in ("before", "after")]
    body = helper.make_graph(
        [helper.make_node("MatMul", ["before", "w"], ["after"]), helper.make_node("Identity", ["on"], ["on_still"])],
        "body",
        [
            helper.make_tensor_value_info("count", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            inner[0],
        ],
        [helper.make_tensor_value_info("on_still", TensorProto.BOOL, []), inner[1]],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Loop", ["most", "true", "w"], ["product"], body=body),
        helper.make_node("ReduceSum", ["product"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Cast", ["nothing"], ["nothing_int"], to=TensorProto.INT64),
        helper.make_node("Add", ["x", "nothing_int"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(np.eye(256, dtype=np.float32), "w"),
        numpy_helper.from_array(np.array(True), "true"),
        numpy_helper.from_array(np.array(0, np.float32), "zero"),
    ]
    return _model(nodes, [x], [y], weights)


def fails_on_zeros() -> bytes:
    """Fixed shape; gathers at index x - 1 of a vector of one element, then at -5 for zeros: always out of range."""
    x = helper.make_tensor_value_info("x", TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    weights = [
        numpy_helper.from_array(np.ones(1, np.float32), "table"),
        numpy_helper.from_array(np.array([5], np.int64), "five"),
    ]
    nodes = [helper.make_node("Sub", ["x", "five"], ["i"]), helper.make_node("Gather", ["table", "i"], ["y"])]
    return _model(nodes, [x], [y], weights)


def trips(width: int = 256) -> bytes:
    """y = x, float32[N, 1], after as many products of two matrices as the largest x says: runs last as long as asked,
    about a millisecond a trip."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["before", "turn"], ["after"]),
            helper.make_node("Identity", ["going"], ["goes"]),
        ],
        "trip",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, [width, width]),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, [width, width]),
        ],
    )
    weights = [
        numpy_helper.from_array(np.eye(width, dtype=np.float32), "turn"),
        numpy_helper.from_array(np.array(True), "yes"),
        numpy_helper.from_array(np.array(0, np.float32), "nothing"),
    ]
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["count"], to=TensorProto.INT64),
        helper.make_node("Loop", ["count", "yes", "turn"], ["end"], body=body),
        helper.make_node("ReduceMax", ["end"], ["one"], keepdims=0),
        helper.make_node("Mul", ["one", "nothing"], ["zero"]),
        helper.make_node("Add", ["x", "zero"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])
    return _model(nodes, [x], [y], weights)


def as_large_as_asked() -> bytes:
    """shape int64[2] -> y float32 of that shape."""
    shape = helper.make_tensor_value_info("shape", TensorProto.INT64, [2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])
    one = numpy_helper.from_array(np.array([0.5], np.float32))
    return _model([helper.make_node("ConstantOfShape", ["shape"], ["y"], value=one)], [shape], [y])


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def sharpened(factor: float, width: int = 4) -> bytes:
    """x float32[n, width] -> probabilities float32[n, width] = softmax(factor * x): the larger, the surer."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, width])
    y = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, width])
    weight = numpy_helper.from_array(np.float32(factor), "factor")
    nodes = [helper.make_node("Mul", ["x", "factor"], ["z"]), helper.make_node("Softmax", ["z"], ["probabilities"])]
    return _model(nodes, [x], [y], [weight])


def means_of_channels(size: int = 8) -> bytes:
    """x float32[n, 3, size, size] -> y float32[n, 3]: how red, green and blue a picture is."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3, size, size])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])
    return _model([helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)], [x], [y])
