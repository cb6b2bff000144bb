from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from edgeward_runtime.errors import Refusal
from edgeward_runtime.model import load, signature_change, warm_up
from tests.unit.runtime import onnx_models


def loaded(tmp_path, content: bytes):
    path = onnx_models.write(tmp_path / "model.onnx", content)
    return load(path, name="m", version="1", digest=onnx_models.digest(content), threads=1)


def test_load_and_run(tmp_path):
    model = loaded(tmp_path, onnx_models.constant_times(3.0))
    assert warm_up(model) > 0 and model.inline_rows >= 1
    (y,) = model.run(["y"], {"x": np.ones((2, 4), np.float32)})
    assert y.tolist() == [[3.0] * 4] * 2
    assert model.metadata()["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Empty"),
        (b"<html>not a model</html>", "NotOnnx"),
        (b"hello world" * 10, "NotOnnx"),
        (onnx_models.mlp()[:100], "NotOnnx"),
        (onnx_models.mlp()[:-1], "NotOnnx"),
        (onnx_models.with_sequence_output(), "LoadFailed"),
        (onnx_models.with_map_output(), "LoadFailed"),
    ],
)
def test_what_does_not_load(tmp_path, content, reason):
    with pytest.raises(Refusal) as caught:
        loaded(tmp_path, content)
    assert (caught.value.step, caught.value.reason, caught.value.permanent) == ("Load", reason, True)
    assert str(tmp_path) not in caught.value.message, "the message goes to a status, the path means nothing there"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (onnx_models.with_sequence_output(), "output 'y' is a seq(tensor(float))"),
        (onnx_models.with_map_output(), "output 'y' is a seq(map(int64,tensor(float)))"),
    ],
)
def test_what_is_no_tensor_is_named_with_the_remedy(tmp_path, content, said):
    with pytest.raises(Refusal) as caught:
        loaded(tmp_path, content)
    assert caught.value.step == "Load" and said in caught.value.message and "zipmap=False" in caught.value.message


@pytest.mark.parametrize("shape", [(2, 2), (0, 3), ()])
def test_bfloat16_runs_with_its_bits(tmp_path, shape):
    model = loaded(tmp_path, onnx_models.widened_bfloat16([None] * len(shape)))
    assert [spec.datatype for spec in (*model.inputs.values(), *model.outputs.values())] == ["BF16", "BF16", "FP32"]
    bits = np.full(shape, 0xC020, np.uint16)
    wide, same = model.run(["wide", "same"], {"x": bits})
    assert wide.shape == same.shape == shape and (wide == -2.5).all() and (same == bits).all()
    (again,) = model.run(["same"], {"x": bits[..., ::-1] if shape else bits})
    assert (again == bits).all()


def test_warm_up_of_a_broken_model(tmp_path):
    with pytest.raises(Refusal) as caught:
        warm_up(loaded(tmp_path, onnx_models.fails_on_zeros()))
    assert (caught.value.step, caught.value.reason) == ("Warm", "WarmupFailed")


@pytest.mark.parametrize(
    "element", [TensorProto.STRING, TensorProto.FLOAT16, TensorProto.BOOL, TensorProto.UINT64, TensorProto.BFLOAT16]
)
def test_warm_up_of_every_kind(tmp_path, element):
    assert warm_up(loaded(tmp_path, onnx_models.identity(element, (None, None, 3)))) is not None


def test_only_models_of_known_size_run_in_the_loop(tmp_path):
    dynamic = loaded(tmp_path, onnx_models.identity(TensorProto.FLOAT, (None, None)))
    warm_up(dynamic)
    slow = loaded(tmp_path, onnx_models.mlp())
    ticks = iter(range(100))
    warm_up(slow, clock=lambda: next(ticks))
    assert (dynamic.inline_rows, slow.inline_rows) == (0, 0)


def changed(tmp_path, before: bytes, after: bytes) -> str | None:
    return signature_change(loaded(tmp_path, before), loaded(tmp_path, after))


def test_signature_changes(tmp_path):
    mlp, identity = onnx_models.mlp, onnx_models.identity
    assert changed(tmp_path, mlp(seed=1), mlp(seed=2)) is None
    assert changed(tmp_path, mlp((64, 8, 10)), mlp((64, 9, 9, 10))) is None, "the inside is the model's own business"
    assert "shape" in changed(tmp_path, mlp((64, 8, 10)), mlp((64, 8, 11)))
    assert "shape" in changed(tmp_path, mlp((64, 8, 10)), mlp((65, 8, 10)))
    assert "inputs were" in changed(tmp_path, mlp(), onnx_models.sum_and_difference())
    assert "FP32" in changed(tmp_path, identity(TensorProto.FLOAT), identity(TensorProto.DOUBLE))
    assert "shape" in changed(tmp_path, identity(TensorProto.FLOAT), identity(TensorProto.FLOAT, (None, None)))


def test_an_input_may_become_dynamic_but_not_fixed(tmp_path):
    fixed, free = onnx_models.mlp(batch=1), onnx_models.mlp()
    assert "output" in changed(tmp_path, fixed, free), "a client may rely on the fixed size of an output"
    assert "input" in changed(tmp_path, free, fixed)
