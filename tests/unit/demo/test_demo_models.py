"""The version that the demo's gate has to find out: the same shapes, and every class one further."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.demo.models import one_further, session
from tests.unit.runtime import onnx_models


def test_the_bad_version_moves_every_class_but_the_blank(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.onnx", tmp_path / "bad.onnx"
    good.write_bytes(onnx_models.constant_times(1.0, width=5))
    one_further(good, bad)
    before, after = session(good), session(bad)
    assert [(item.name, item.shape) for item in before.get_inputs()] == [
        (item.name, item.shape) for item in after.get_inputs()
    ]
    (was,), (now,) = before.get_outputs(), after.get_outputs()
    assert (was.name, was.shape) == (now.name, now.shape)
    scores = np.arange(10, dtype=np.float32).reshape(2, 5)
    answer = after.run(None, {"x": scores})[0]
    assert answer.tolist() == [[0, 4, 1, 2, 3], [5, 9, 6, 7, 8]]
