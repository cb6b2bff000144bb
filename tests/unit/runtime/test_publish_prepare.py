"""What is made of a model and what is given with it. In this process: the child is check's and has its own tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pytest
from onnx import TensorProto, helper

from edgeward_runtime import loading
from edgeward_runtime.artifact import golden, measured, reference
from edgeward_runtime.artifact.reader import Artifact
from edgeward_runtime.config import Entry
from edgeward_runtime.drift.monitor import Monitor, Sample
from edgeward_runtime.errors import Refusal
from edgeward_runtime.publish import inputs
from edgeward_runtime.publish.files import collect
from edgeward_runtime.publish.prepare import Asked, made, prepare
from edgeward_runtime.tensors import TensorSpec
from tests.runtime_artifacts import external, golden_of
from tests.unit.runtime import onnx_models

Arrays = Mapping[str, npt.NDArray[Any]]
ROWS = np.random.default_rng(5).normal(size=(700, 4)).astype(np.float32)
TABLE = {
    "record": {"kind": "Table", "channels": ["a", "b", "c", "d"]},
    "steps": [{"step": "Normalise", "scale": 2}],
    "output": {"input": "x", "layout": "Rows"},
}


def asked(**changes: Any) -> Asked:
    usual = {"golden": None, "golden_outputs": True, "with_golden": True, "data": None}
    return Asked(**{**usual, "atol": 1e-4, "rtol": 1e-3, "threads": 1, **changes})


class Case:
    def __init__(self, folder: Path, content: bytes) -> None:
        self.folder = folder
        self.into = folder / "made"
        self.into.mkdir()
        self.model = folder / "m.onnx"
        self.model.write_bytes(content)
        self.said: list[str] = []

    def npz(self, name: str, arrays: Arrays) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            np.savez(file, **arrays)
        return path

    def file(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    def artifact(self, **parts: Path) -> Artifact:
        return Artifact(digest="sha256:" + "a" * 64, root=self.folder, model=self.model, **parts)

    def made(self, parts: Mapping[str, Path] | None = None, **changes: Any) -> dict[str, Any]:
        return made(self.artifact(**(parts or {})), asked(**changes), self.into, self.said.append)

    def loaded(self) -> Any:
        return loading.load(self.artifact(), Entry(name="m", version="1", digest="d"), threads=1)


@pytest.fixture
def times(tmp_path: Path) -> Case:
    return Case(tmp_path, onnx_models.constant_times(3))


def refused(case: Case, parts: Mapping[str, Path] | None = None, **changes: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        case.made(parts, **changes)
    return caught.value


def test_drawn_golden_data_holds_the_model_to_what_it_gives(times: Case) -> None:
    report = times.made()
    assert (
        report["golden"] == f"drawn: zeros, and random numbers of seed {inputs.SEED}" and report["reference"] == "none"
    )
    read = golden.read(times.into / "golden.json")
    zeros, random = read.cases
    assert not zeros.inputs["x"].any() and random.inputs["x"].any()
    assert (random.outputs["y"].tensor == random.inputs["x"] * 3).all()
    assert golden.check(times.loaded().run, read) is None
    (times.folder / "m.onnx").write_bytes(onnx_models.constant_times(2))
    assert golden.check(times.loaded().run, read) is not None


def test_drawn_golden_data_is_the_same_each_time(times: Case) -> None:
    times.made()
    first = {path.name: path.read_bytes() for path in times.into.glob("golden*")}
    times.made()
    assert {path.name: path.read_bytes() for path in times.into.glob("golden*")} == first


def test_without_golden_data(times: Case) -> None:
    assert times.made(with_golden=False)["golden"] == "none"
    assert {path.name for path in times.into.iterdir()} == {"measured.json"}


def test_what_was_measured_is_what_a_site_reads(times: Case) -> None:
    times.made()
    found = measured.read(times.into / "measured.json")
    assert found["threads"] == 1 and found["latencySeconds"] > 0 and found["architecture"]


def test_golden_inputs_of_a_file(times: Case) -> None:
    path = times.npz("g.npz", {"x": ROWS[:3].astype(np.float64)})
    assert times.made(golden=path)["golden"] == "inputs of g.npz"
    (case,) = golden.read(times.into / "golden.json").cases
    assert (case.inputs["x"] == ROWS[:3]).all() and (case.outputs["y"].tensor == ROWS[:3] * 3).all()


def test_golden_outputs_of_a_file_are_kept_as_they_are_within_the_tolerance(times: Case) -> None:
    near = ROWS[:2] * 3 + np.float32(0.005)
    path = times.npz("g.npz", {"x": ROWS[:2], "y": near})
    found = refused(times, golden=path)
    assert (found.reason, "the outputs in the file are others" in found.message) == ("GoldenMismatch", True)
    times.made(golden=path, atol=0.01)
    (case,) = golden.read(times.into / "golden.json").cases
    assert (case.outputs["y"].tensor == near).all() and case.outputs["y"].atol == 0.01


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"z": ROWS}, "has an array 'z'"),
        ({"y": ROWS}, "has no array 'x'"),
        ({"x": ROWS[:, :3]}, r"shape \[700, 3\], the model has \[-1, 4\]"),
        ({"x": ROWS.astype(np.complex64)}, "is of complex64, the model has FP32"),
        ({"x": np.array(["a"])}, "array 'x'"),
    ],
)
def test_golden_inputs_that_do_not_fit(times: Case, arrays: Arrays, says: str) -> None:
    found = refused(times, golden=times.npz("g.npz", arrays))
    assert found.reason == "BadInputs"
    with pytest.raises(Refusal, match=says):
        raise found


def test_files_that_are_no_npz(times: Case) -> None:
    for name, content in (("text.npz", b"hello"), ("empty.npz", b""), ("half.npz", b"PK\x03\x04half")):
        assert refused(times, golden=times.file(name, content)).reason == "BadInputs"
    with (times.folder / "one.npz").open("wb") as file:
        np.save(file, ROWS)
    assert "numpy.savez(FILE, INPUT_NAME=array)" in refused(times, golden=times.folder / "one.npz").message
    pickled = times.npz("pickled.npz", {"x": np.array([{}, ()], dtype=object)})
    assert refused(times, golden=pickled).reason == "BadInputs"


def test_a_model_that_gives_others_each_time_has_no_golden_data(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 4]) for name in ("x", "y"))
    nodes = [
        helper.make_node("RandomUniformLike", ["x"], ["r"]),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "graph", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    case = Case(tmp_path, bytes(model.SerializeToString()))
    assert "gives others each time" in refused(case).message
    assert case.made(with_golden=False)["runs"]


def test_inputs_of_every_type_are_drawn() -> None:
    specs = {
        name: TensorSpec(name, name, (-1, 3, -1)) for name in ("FP16", "FP64", "BF16", "UINT8", "INT8", "INT64", "BOOL")
    }
    specs["BYTES"] = TensorSpec("BYTES", "BYTES", (-1,))
    for draw in (inputs.zeros, inputs.random):
        drawn = draw(specs, 5)
        assert {array.shape for name, array in drawn.items() if name != "BYTES"} == {(1, 3, 5)}
    assert drawn["INT64"].min() == 0 and drawn["INT64"].max() == 1
    assert drawn["UINT8"].max() > 100 and drawn["INT8"].min() < -50
    wide = (drawn["BF16"].astype(np.uint32) << 16).view(np.float32)
    assert (wide >= 0).all() and (wide < 1).all() and wide.any()
    assert isinstance(drawn["BYTES"][0], str)


def test_a_reference_of_data_sees_its_own_data_as_no_drift(times: Case) -> None:
    report = times.made(data=times.npz("data.npz", {"x": ROWS}))
    assert report["reference"] == "9 histograms of 700 rows of data.npz"
    found = reference.read(times.into / "reference.json")
    assert {(one.of, one.name, one.feature) for one in found.histograms} >= {("Input", "x", 0), ("Output", "y", 3)}
    first = next(one for one in found.histograms if (one.of, one.feature) == ("Input", 0))
    assert sum(first.counts) == 700
    model = times.loaded()

    def psi(values: npt.NDArray[np.float32]) -> float:
        monitor = Monitor(
            inputs=model.inputs, outputs=model.outputs, scores=model.scores, reference=found, clock=lambda: 0.0
        )
        for row in values:
            feeds = {"x": row[np.newaxis]}
            monitor.add([Sample(rows=1, feeds=feeds, names=["y"], tensors=model.run(["y"], feeds))])
        worst = monitor.worst_psi()
        assert worst is not None
        return worst

    assert psi(ROWS) < 0.01 and psi(ROWS + 1) > 0.5


def test_data_in_a_folder(times: Case) -> None:
    times.npz("data/a.npz", {"x": ROWS[:40]})
    times.npz("data/b.npz", {"x": ROWS[40:50]})
    assert times.made(data=times.folder / "data")["reference"].endswith("of 50 rows of data")
    assert "running the data: 1 of 2 files" in times.said
    times.file("data/c.csv", b"a,b,c,d\n1,2,3,4\n")
    assert "records need --preprocessing" in refused(times, data=times.folder / "data").message
    parts = {"preprocessing": times.file("p.json", orjson.dumps(TABLE))}
    assert times.made(parts, data=times.folder / "data")["reference"].endswith("of 51 rows of data")
    times.file("data/d.csv", b"a,b\n1,2\n")
    found = refused(times, parts, data=times.folder / "data")
    assert found.reason == "BadInputs" and found.message.startswith("d.csv is not what the preprocessing takes")
    (times.folder / "none").mkdir()
    assert "has no files" in refused(times, data=times.folder / "none").message


def test_data_goes_through_a_model_of_a_fixed_size_by_as_many_rows(tmp_path: Path) -> None:
    case = Case(tmp_path, onnx_models.mlp((4, 8, 2), batch=3))
    report = case.made(data=case.npz("data.npz", {"x": ROWS[:10]}))
    assert report["reference"].endswith("of 9 rows of data.npz")
    assert "takes 3 at a time" in refused(case, data=case.npz("few.npz", {"x": ROWS[:2]})).message


def test_preprocessing_that_does_not_fit_the_model_is_refused_as_a_site_would(times: Case) -> None:
    for content in (b"{", orjson.dumps({**TABLE, "output": {"input": "z", "layout": "Rows"}})):
        found = refused(times, {"preprocessing": times.file("p.json", content)})
        assert (found.step, found.reason) == ("Load", "PreprocessingInvalid")


def test_labels(times: Case) -> None:
    four = times.file("four.txt", b"a\nb\nc\nd\n")
    assert times.made({"labels": four})["warnings"] == []
    two = times.file("two.txt", b"a\nb\n")
    assert times.made({"labels": two})["warnings"] == ["two.txt has 2 lines, output 'y' has 4 columns"]
    for content in (b"a\n\nb\n", b"\xff\xfe"):
        assert refused(times, {"labels": times.file("bad.txt", content)}).reason == "BadLabels"


def test_golden_data_that_came_with_the_model_is_checked_and_kept(times: Case) -> None:
    for name, content in golden_of(3).items():
        times.file(name, content)
    artifact = times.artifact(golden=times.folder / "golden.json")
    report = made(artifact, asked(), times.into, times.said.append)
    assert report["golden"] == "as the folder has it"
    files = collect(artifact, times.into)
    assert files["golden.bin"] == times.folder / "golden.bin" and files["model.onnx"] == times.model
    for name, content in golden_of(2).items():
        times.file(name, content)
    assert made(artifact, asked(), times.into, times.said.append)["reason"] == "GoldenMismatch"


def test_weights_in_other_files_go_along_unless_they_lead_away_or_hide_something(tmp_path: Path) -> None:
    weights = np.ones(4, np.float32).tobytes()
    case = Case(tmp_path, external("./data/w.bin"))
    case.file("data/w.bin", weights)
    case.made()
    assert collect(case.artifact(), case.into)["data/w.bin"].read_bytes() == weights
    (tmp_path.parent / "outside.bin").write_bytes(weights)
    case.model.write_bytes(external("../outside.bin"))
    assert refused(case).reason == "UnsafePath"
    case.model.write_bytes(external("gone.bin"))
    assert refused(case).reason == "ExternalDataMissing"
    case.model.write_bytes(external("labels.txt"))
    case.file("labels.txt", weights)
    with pytest.raises(Refusal, match="the name of something else"):
        collect(case.artifact(), case.into)


def test_in_a_child_a_model_that_is_none_and_a_file_that_is_gone_are_refusals(times: Case) -> None:
    with pytest.raises(Refusal, match=r"FileProblem: .*gone\.json"):
        prepare(times.artifact(preprocessing=times.folder / "gone.json"), asked(), times.into, told=times.said.append)
    times.model.write_bytes(b"no model")
    with pytest.raises(Refusal, match="NotOnnx"):
        prepare(times.artifact(), asked(), times.into, told=times.said.append)
