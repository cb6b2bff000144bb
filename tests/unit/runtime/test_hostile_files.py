"""What comes from elsewhere is refused or taken, and never ends in another error: bytes that nobody would make."""

import contextlib
from pathlib import Path
from typing import Any

import onnx
import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgeward_runtime.artifact import golden, manifest, measured, reference
from edgeward_runtime.errors import Refusal
from edgeward_runtime.trust import bundle, onnx_file

from . import onnx_models
from .test_artifact_manifest import document, layer
from .test_artifact_reader import histogram

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FEW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def changed(whole: Any, path: list[int], value: Any) -> Any:
    """`whole` with what is at `path` replaced: each number picks one of the entries there."""
    if not path:
        return value
    first, *rest = path
    if isinstance(whole, dict) and whole:
        key = sorted(whole)[first % len(whole)]
        return {**whole, key: changed(whole[key], rest, value)}
    if isinstance(whole, list) and whole:
        index = first % len(whole)
        return [*whole[:index], changed(whole[index], rest, value), *whole[index + 1 :]]
    return value


PATHS = st.lists(st.integers(0, 20), max_size=5)
TENSOR = {"name": "x", "datatype": "FP32", "shape": [1, 2], "offset": 0, "size": 8}
GOLDEN = {"format": 1, "atol": 0.1, "rtol": 0.1, "cases": [{"inputs": [TENSOR], "outputs": [{**TENSOR, "name": "y"}]}]}


@FEW
@given(PATHS, JSON)
def test_manifests(path: list[int], value: Any) -> None:
    whole = orjson.loads(document(layer(), layer("b/c", digest=f"sha256:{'b' * 64}")))
    with contextlib.suppress(Refusal):
        manifest.parse(orjson.dumps(changed(whole, path, value)), max_bytes=10**6)


@FEW
@given(PATHS, JSON)
def test_signatures(path: list[int], value: Any) -> None:
    signature, digest = bundle.Signed(b"{}", b"x"), f"sha256:{'b' * 64}"
    for read, whole in (
        (bundle.loads, bundle.dumps([signature])),
        (bundle.pointers, bundle.build_manifest([signature])[0]),
        (bundle.signed_digest, bundle.payload(digest)),
    ):
        with contextlib.suppress(Refusal):
            read(orjson.dumps(changed(orjson.loads(whole), path, value)))


@FEW
@given(PATHS, JSON, st.binary(max_size=16))
def test_files_of_an_artifact(tmp_path: Path, path: list[int], value: Any, data: bytes) -> None:
    (tmp_path / "golden.bin").write_bytes(data)
    for read, whole in (
        (golden.read, GOLDEN),
        (reference.read, {"format": 1, "histograms": [histogram()]}),
        (measured.read, {"memoryBytes": 1, "latencySeconds": 0.1, "threads": 1}),
    ):
        file = tmp_path / "golden.json"
        file.write_bytes(orjson.dumps(changed(whole, path, value)))
        with contextlib.suppress(Refusal):
            read(file)


def with_external(*locations: str) -> bytes:
    model = onnx.load_from_string(onnx_models.mlp((4, 4, 2)))
    for tensor, location in zip(model.graph.initializer, locations, strict=True):
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
    model.graph.node.append(helper.make_node("Constant", [], ["q"], value=model.graph.initializer[0]))
    return bytes(model.SerializeToString())


ONNX = with_external("a", "b")


@FEW
@given(st.integers(0, len(ONNX) - 1), st.binary(max_size=6), st.integers(0, 6))
@example(at=0, new=b"", cut=6)
def test_damaged_models(tmp_path: Path, at: int, new: bytes, cut: int) -> None:
    content = ONNX[:at] + new + ONNX[at + cut :]
    path = onnx_models.write(tmp_path / "m.onnx", content)
    try:
        found = onnx_file.scan(path)
    except Refusal:
        return
    try:
        parsed = onnx.load_from_string(content)
    except Exception:
        return
    # Whatever the real parser sees, the walk has seen.
    tensors = [*parsed.graph.initializer, *(one.t for node in parsed.graph.node for one in node.attribute)]
    seen = {entry.value for one in tensors for entry in one.external_data if entry.key == "location"}
    assert seen <= found.external


@pytest.mark.parametrize("location", ["weights.bin", "a/b.bin"])
def test_what_the_real_parser_calls_external_is_seen(tmp_path: Path, location: str) -> None:
    path = onnx_models.write(tmp_path / "m.onnx", with_external(location, "other"))
    assert onnx_file.scan(path).external == {location, "other"}
