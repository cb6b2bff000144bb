from pathlib import Path
from typing import Any

import orjson
import pytest

from edgeward_runtime.artifact import build, manifest, reference
from edgeward_runtime.artifact.reader import Artifact
from edgeward_runtime.errors import Refusal

DIGEST = f"sha256:{'d' * 64}"


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")


def test_files_are_found_by_what_they_are_for(tmp_path: Path) -> None:
    put(tmp_path, "model.onnx", "other.onnx", "weights/part.bin", "preprocessing.json", "golden.json", "golden.bin")
    put(tmp_path, "reference.json", "labels.txt")
    (tmp_path / "measured.json").write_bytes(b'{"memoryBytes": 1000, "later": "x"}')
    found = Artifact.of_folder(tmp_path, digest=DIGEST)
    assert found.model == tmp_path / "model.onnx"
    assert found.preprocessing == tmp_path / "preprocessing.json"
    assert found.golden == tmp_path / "golden.json"
    assert found.reference == tmp_path / "reference.json"
    assert found.labels == tmp_path / "labels.txt"
    assert found.measured["memoryBytes"] == 1000


def test_all_but_the_model_is_optional(tmp_path: Path) -> None:
    put(tmp_path, "sign-reader.onnx", "deeper/second.onnx")
    found = Artifact.of_folder(tmp_path, digest=DIGEST)
    assert found.model.name == "sign-reader.onnx"
    assert (found.preprocessing, found.golden, found.reference, found.labels, found.measured) == (None,) * 4 + ({},)


@pytest.mark.parametrize("names", [["a.onnx", "b.onnx"], ["model.bin"], ["deeper/model.onnx"]])
def test_no_model_is_refused(tmp_path: Path, names: list[str]) -> None:
    put(tmp_path, *names)
    with pytest.raises(Refusal, match="UnsupportedArtifact"):
        Artifact.of_folder(tmp_path, digest=DIGEST)


@pytest.mark.parametrize("text", ["{", "[]", '{"memoryBytes": "1Gi"}', '{"latencySeconds": -1}', '{"threads": true}'])
def test_measurements_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    put(tmp_path, "model.onnx")
    (tmp_path / "measured.json").write_text(text)
    with pytest.raises(Refusal, match="BadMeasured"):
        Artifact.of_folder(tmp_path, digest=DIGEST)


def test_a_plain_file_is_an_artifact_with_only_a_model(tmp_path: Path) -> None:
    found = Artifact.of_file(tmp_path / "blob", digest=DIGEST)
    assert (found.model, found.root, found.golden) == (tmp_path / "blob", None, None)


def histogram(**changes: Any) -> dict[str, Any]:
    return {"of": "Input", "name": "x", "feature": 1, "edges": [0, 0.5], "counts": [1, 2, 3], **changes}


def test_a_reference_survives_writing_and_reading(tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    other = histogram(of="Confidence", name="y", feature=None, missing=4)
    path.write_bytes(orjson.dumps({"format": 1, "histograms": [histogram(), other]}))
    read = reference.read(path)
    assert read.histograms[0].edges == (0.0, 0.5)
    assert (read.histograms[1].feature, read.histograms[1].missing) == (None, 4)
    path.write_bytes(orjson.dumps(reference.document(read)))
    assert reference.read(path) == read


@pytest.mark.parametrize(
    "bad",
    [
        1,
        histogram(of="Weight"),
        histogram(name=""),
        histogram(feature=-1),
        histogram(feature=True),
        histogram(edges=[]),
        histogram(edges=[0.5, 0.5]),
        histogram(edges=["0", "1"]),
        histogram(counts=[1, 2]),
        histogram(counts=[1, 2, -3]),
        histogram(counts=[1, 2, 3.5]),
        histogram(missing=-1),
    ],
)
def test_a_bad_reference_is_refused(tmp_path: Path, bad: Any) -> None:
    path = tmp_path / "reference.json"
    path.write_bytes(orjson.dumps({"format": 1, "histograms": [bad]}))
    with pytest.raises(Refusal, match=r"BadReference: reference\.json: histograms\[0\]"):
        reference.read(path)


def test_references_of_another_format_or_twice_the_same_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    for document in ({"format": 2, "histograms": []}, {"format": 1}, {"format": 1, "histograms": [histogram()] * 2}):
        path.write_bytes(orjson.dumps(document))
        with pytest.raises(Refusal, match="BadReference"):
            reference.read(path)


FILES = [
    build.File(path="model.onnx", digest=f"sha256:{'a' * 64}", size=10),
    build.File(path="model.onnx.data", digest=f"sha256:{'b' * 64}", size=20),
    build.File(path="golden.json", digest=f"sha256:{'c' * 64}", size=30),
    build.File(path="labels.txt", digest=f"sha256:{'e' * 64}", size=40),
]


def test_what_is_built_is_what_is_read() -> None:
    built = build.build(FILES, name="signs", version="1.4.0")
    parsed = manifest.parse(built.manifest, max_bytes=100)
    assert {(layer.path, layer.media_type, layer.size) for layer in parsed.layers} == {
        ("model.onnx", manifest.WEIGHT, 10),
        ("model.onnx.data", manifest.WEIGHT, 20),
        ("golden.json", manifest.DATASET, 30),
        ("labels.txt", manifest.WEIGHT_CONFIG, 40),
    }
    assert parsed.config.digest == build.digest_of(built.config)
    assert parsed.annotations["org.opencontainers.image.version"] == "1.4.0"


def test_the_same_files_give_the_same_digest() -> None:
    one = build.build(FILES, name="signs", version="1")
    assert one == build.build(reversed(FILES), name="signs", version="1")
    assert one.digest != build.build(FILES[:3], name="signs", version="1").digest


def test_what_no_runtime_would_take_is_not_built() -> None:
    for path, reason in (("../model.onnx", "UnsupportedArtifact"), ("../x", "UnsafePath")):
        files = [
            build.File(path=path, digest=f"sha256:{'a' * 64}", size=10),
            *(FILES if reason == "UnsafePath" else []),
        ]
        with pytest.raises(Refusal, match=reason):
            build.build(files, name="signs", version="1")
