"""A model and its variants, into a repository in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeward_runtime.artifact import golden, manifest
from edgeward_runtime.errors import Refusal
from edgeward_runtime.publish.prepare import Asked
from edgeward_runtime.publish.publish import Result, Wanted, publish
from edgeward_runtime.publish.registry import Counts
from tests.runtime_artifacts import golden_of
from tests.unit.runtime.onnx_models import constant_times
from tests.unit.runtime.test_publish_push import Memory

CHAIN = {
    "record": {"kind": "Table", "channels": ["a", "b", "c", "d"]},
    "steps": [],
    "output": {"input": "x", "layout": "Rows"},
}
EDGE = {"arch": "arm64", "tier": "edge"}


class Quiet:
    def __init__(self) -> None:
        self.said: list[str] = []

    def says(self, text: str) -> None:
        self.said.append(text)

    def bytes(self, text: str, done: int, total: int) -> None:
        assert 0 <= done <= total


def run(target: Memory, model: Path, *, golden: Path | None = None, **changes: Any) -> list[Result]:
    asked = Asked(golden=golden, golden_outputs=True, with_golden=True, data=None, atol=1e-4, rtol=1e-3, threads=1)
    wanted = Wanted(name="m", version="1.4.0", model=model, asked=asked, **changes)
    return publish(wanted, target, uri="oci://registry/models/m", counts=Counts(), told=Quiet())


def files(target: Memory, digest: str) -> dict[str, bytes]:
    found = manifest.parse(target.manifests[digest], max_bytes=2**20)
    return {layer.path: target.blobs[layer.digest] for layer in found.layers}


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "m.onnx").write_bytes(constant_times(2))
    (tmp_path / "m.int8.onnx").write_bytes(constant_times(2.1))
    return tmp_path / "m.onnx", tmp_path / "m.int8.onnx"


def test_a_variant_has_the_golden_inputs_and_outputs_of_its_own(tmp_path: Path, models: tuple[Path, Path]) -> None:
    model, int8 = models
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    with (tmp_path / "g.npz").open("wb") as file:
        np.savez(file, x=x, y=x * 2)
    target = Memory()
    one, other = run(target, model, golden=tmp_path / "g.npz", variants=[(EDGE, int8)])
    assert (one.tag, other.tag, other.match) == ("1.4.0", "1.4.0_arch-arm64_tier-edge", EDGE)
    for result, factor in ((one, np.float32(2)), (other, np.float32(2.1))):
        assert target.tagged(result.tag) == (result.digest, target.manifests[result.digest])
        folder = tmp_path / result.tag
        folder.mkdir()
        for name, content in files(target, result.digest).items():
            (folder / name).write_bytes(content)
        (case,) = golden.read(folder / "golden.json").cases
        assert (case.inputs["x"] == x).all() and (case.outputs["y"].tensor == x * factor).all()


def test_a_folder_is_published_as_it_is_and_lends_its_parts_to_a_variant(
    tmp_path: Path, models: tuple[Path, Path]
) -> None:
    folder = tmp_path / "artifact"
    folder.mkdir()
    parts = {
        **{"model.onnx": constant_times(2), "labels.txt": b"a\nb\nc\nd\n", **golden_of(2)},
        "preprocessing.json": json.dumps(CHAIN).encode(),
    }
    for name, content in {**parts, "notes.txt": b"nobody asked for this"}.items():
        (folder / name).write_bytes(content)
    target = Memory()
    one, other = run(target, folder, variants=[(EDGE, models[1])])
    found = files(target, one.digest)
    assert found.pop("measured.json") and found == parts
    lent = files(target, other.digest)
    assert lent["labels.txt"] == parts["labels.txt"] and lent["preprocessing.json"] == parts["preprocessing.json"]
    assert lent["golden.bin"] != parts["golden.bin"], "that is of another model"


def test_a_variant_that_does_not_run_keeps_the_model_back_too(tmp_path: Path, models: tuple[Path, Path]) -> None:
    models[1].write_bytes(b"no model")
    target = Memory()
    with pytest.raises(Refusal, match=r"NotOnnx: m\.int8\.onnx"):
        run(target, models[0], variants=[(EDGE, models[1])])
    assert not target.writes
