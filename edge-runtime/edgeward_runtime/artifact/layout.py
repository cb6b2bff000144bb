"""Which files a model artifact has and what each is for. The paths are those of the manifest's layers, and of the files
in the folder once it is fetched. docs/artifact.md says the same to those who publish."""

from __future__ import annotations

from collections.abc import Iterable

from edgeward_runtime.artifact import manifest
from edgeward_runtime.errors import Refusal

MODEL = "model.onnx"
PREPROCESSING = "preprocessing.json"  # the chain that makes tensors of what a camera or a sensor sends
GOLDEN = "golden.json"  # inputs, the outputs they must give, how near is near enough: golden.py
GOLDEN_DATA = "golden.bin"  # their tensors
REFERENCE = "reference.json"  # what the training data looked like, for drift: reference.py
LABELS = "labels.txt"  # one name a line, for the classes in their order
MEASURED = "measured.json"  # what whoever published it measured: measured.py
CHUNKS = "chunks.bin"  # the index that is no file of the model and is not laid out: chunks.py
PACKED = "chunks.packed"  # those chunks in fewer bytes, not laid out either: packed.py

_SUFFIX = ".onnx"
# All else is weights: external data has whatever name the model gives it.
_TYPES = {
    PREPROCESSING: manifest.WEIGHT_CONFIG,
    LABELS: manifest.WEIGHT_CONFIG,
    MEASURED: manifest.WEIGHT_CONFIG,
    GOLDEN: manifest.DATASET,
    GOLDEN_DATA: manifest.DATASET,
    REFERENCE: manifest.DATASET,
}


def media_type(path: str) -> str:
    return _TYPES.get(path, manifest.WEIGHT)


def model_path(paths: Iterable[str]) -> str:
    """Which file is the model: model.onnx, else the only .onnx that is not in a folder, as other tools publish it."""
    top = [path for path in paths if path.endswith(_SUFFIX) and "/" not in path]
    if MODEL in top:
        return MODEL
    if len(top) == 1:
        return top[0]
    found = f"{len(top)} files that end in {_SUFFIX}" if top else f"no file that ends in {_SUFFIX}"
    message = f"the artifact has {found} at its top; name the model {MODEL}"
    raise Refusal(step="Verify", reason="UnsupportedArtifact", message=message, permanent=True)
