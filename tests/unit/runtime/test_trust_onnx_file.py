import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeward_runtime.errors import Refusal
from edgeward_runtime.trust import onnx_file

from . import onnx_models


def external(name: str, location: str) -> Any:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="offset", value="0")
    return tensor


def model(*initializers: Any, nodes: list[Any] | None = None) -> Any:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    nodes = nodes or [helper.make_node("Identity", ["x"], ["y"])]
    graph = helper.make_graph(nodes, "graph", [x], [y], list(initializers))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def written(folder: Path, content: Any) -> Path:
    return onnx_models.write(
        folder / "model.onnx", content if isinstance(content, bytes) else content.SerializeToString()
    )


def refused(path: Path, root: Path | None) -> Refusal:
    with pytest.raises(Refusal) as caught:
        onnx_file.check_external(path, root=root)
    assert caught.value.permanent
    return caught.value


def test_what_the_file_says_of_itself(tmp_path: Path) -> None:
    found = onnx_file.scan(written(tmp_path, model()))
    assert (found.ir_version, found.opsets, found.external) == (8, {"": 17, "ai.onnx.ml": 3}, frozenset())


def test_a_model_as_onnx_itself_saves_it_with_external_data(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.ones(1000, np.float32), "w")
    path = tmp_path / "model.onnx"
    onnx.save_model(model(weights), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert onnx_file.check_external(path, root=tmp_path).external == {"weights.bin"}
    assert refused(path, None).reason == "ExternalDataMissing"
    (tmp_path / "weights.bin").unlink()
    refusal = refused(path, tmp_path)
    assert (refusal.step, refusal.reason) == ("Load", "ExternalDataMissing")
    assert "weights.bin" in refusal.message


def test_every_place_that_can_hold_a_tensor_is_looked_at(tmp_path: Path) -> None:
    places = {name: external(name, name) for name in "abcdefgh"}
    inner = helper.make_graph([helper.make_node("Identity", ["c"], ["o"])], "inner", [], [], [places["c"]])
    innermost = helper.make_graph([], "innermost", [], [], [places["d"]])
    deeper = helper.make_node("If", ["k"], ["o"], then_branch=innermost, else_branch=inner)
    node = helper.make_node("If", ["k"], ["y"], then_branch=helper.make_graph([deeper], "m", [], []), else_branch=inner)
    constant = helper.make_node("Constant", [], ["q"], value=places["b"])
    several = helper.make_node("Several", [], ["r"], domain="other")
    several.attribute.append(helper.make_attribute("tensors", [places["e"]]))
    whole = model(places["a"], nodes=[node, constant, several])
    sparse = whole.graph.sparse_initializer.add()
    sparse.values.CopyFrom(places["f"])
    sparse.indices.CopyFrom(places["g"])
    function = whole.functions.add(name="f", domain="other")
    function.node.append(helper.make_node("Constant", [], ["q"], value=places["h"]))
    assert onnx_file.scan(written(tmp_path, whole)).external == set("abcdefgh")


def test_a_location_counts_also_where_the_tensor_says_it_has_none(tmp_path: Path) -> None:
    tensor = external("w", "../x")
    tensor.data_location = TensorProto.DEFAULT
    # A field twice: a parser takes one of them, this one both.
    tensor.external_data[0].MergeFrom(onnx.StringStringEntryProto(key="location", value="kept"))
    again = tensor.SerializeToString() + external("w", "/etc/passwd").SerializeToString()
    content = model().SerializeToString() + field(7, field(5, again))
    assert {"kept", "/etc/passwd"} <= onnx_file.scan(written(tmp_path, content)).external
    assert refused(tmp_path / "model.onnx", tmp_path).reason == "UnsafePath"


@pytest.mark.parametrize(
    "location",
    [
        "/etc/passwd",
        "//etc/passwd",
        "../secret",
        "a/../../secret",
        "./../secret",
        "..",
        ".",
        "",
        "a\\..\\secret",
        "a\0b",
        "*/_ORT_MEM_ADDR_/*",
        "http://a/b",
        "\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
    ],
)
def test_paths_out_of_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"1234")
    refusal = refused(written(folder, model(external("w", location))), folder)
    assert (refusal.step, refusal.reason) == ("Load", "UnsafePath")


def test_links_are_followed_and_must_stay_within(tmp_path: Path) -> None:
    folder, outside = tmp_path / "release", tmp_path / "outside"
    (folder / "inside").mkdir(parents=True)
    outside.mkdir()
    for where in (outside, folder / "inside"):
        (where / "w.bin").write_bytes(b"1234")
    path = written(folder, model(external("w", "weights/w.bin")))
    (folder / "weights").symlink_to(outside)
    assert refused(path, folder).reason == "UnsafePath"
    (folder / "weights").unlink()
    (folder / "weights").symlink_to("inside")
    onnx_file.check_external(path, root=folder)
    written(folder, model(external("w", "./inside/w.bin")))
    onnx_file.check_external(path, root=folder)
    (folder / "inside" / "w.bin").unlink()
    (folder / "inside" / "w.bin").symlink_to(outside / "w.bin")
    assert refused(path, folder).reason == "UnsafePath"


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def nested(depth: int) -> bytes:
    content = b""
    for _ in range(depth):
        content = field(1, field(5, field(6, content)))
    return field(7, content)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 20,
        b"<html><head>",
        b"\x3a\x7f",  # a graph of 127 bytes, none there
        field(7, field(5, b"\x6a\x05ab")),
        b"\x3b",  # a group
        struct.pack("<BI", 1 << 3 | 1, 7),  # 4 of 8 bytes
        b"\x08",
        nested(40),
    ],
)
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    refusal = refused(written(tmp_path, content), tmp_path)
    assert (refusal.step, refusal.reason) == ("Load", "NotOnnx")


def test_fields_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, field(7, field(1, b"") * 100))
    onnx_file.scan(path)
    monkeypatch.setattr(onnx_file, "_MAX_FIELDS", 50)
    assert refused(path, tmp_path).reason == "NotOnnx"


def test_weights_are_not_read(tmp_path: Path) -> None:
    # A file of 1 TiB, nearly all of it a hole: reading it would take an hour.
    size = 2**40
    tail = field(13, field(1, b"location") + field(2, b"beside.bin"))
    raw = varint(9 << 3 | 2) + varint(size)
    tensor = varint(5 << 3 | 2) + varint(len(raw) + size + len(tail))
    head = varint(7 << 3 | 2) + varint(len(tensor) + len(raw) + size + len(tail)) + tensor + raw
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.write(head)
        file.seek(len(head) + size)
        file.write(tail)
    assert onnx_file.scan(path).external == {"beside.bin"}
