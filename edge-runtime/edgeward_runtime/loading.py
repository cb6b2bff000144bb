"""What the manager's steps do with onnxruntime: load a version, try its golden data, warm it up."""

from __future__ import annotations

from pathlib import Path

from edgeward_runtime import model as models
from edgeward_runtime.artifact import golden
from edgeward_runtime.artifact.reader import Artifact
from edgeward_runtime.config import Entry
from edgeward_runtime.errors import Refusal
from edgeward_runtime.model import Model
from edgeward_runtime.preprocess import chain
from edgeward_runtime.preprocess.chain import Chain
from edgeward_runtime.preprocess.spec import SpecError


def load(artifact: Artifact, entry: Entry, *, threads: int) -> Model:
    model = models.load(
        artifact.model,
        name=entry.name,
        version=entry.version,
        digest=entry.digest,
        threads=threads,
        parameters=entry.parameters,
        root=artifact.root,
    )
    model.artifact = artifact
    if artifact.preprocessing is not None:
        model.chain = chain_of(model, artifact.preprocessing)
    return model


def chain_of(model: Model, path: Path) -> Chain:
    """The model's preprocessing. Refusal if it is not understood whole, or does not make the model's input."""
    try:
        return chain.load(path.read_bytes(), model.inputs)
    except SpecError as error:
        raise Refusal(step="Load", reason="PreprocessingInvalid", message=str(error), permanent=True) from None


def check_golden(model: Model) -> None:
    """Refusal at step Golden if the model does not give what it gave where it was made: another processor, another
    version of onnxruntime, or golden data of another model."""
    if model.artifact is None or model.artifact.golden is None:
        return
    mismatch = golden.check(model.run, golden.read(model.artifact.golden))
    if mismatch is not None:
        raise Refusal(step="Golden", reason="GoldenMismatch", message=str(mismatch), permanent=True)


def warm(model: Model, rows: tuple[int, ...], *, batch_rows: int) -> float | None:
    """With zeros, one row and then as many at a time as requests came with before."""
    seconds = models.warm_up(model, batch_rows=batch_rows)
    models.warm_sizes(model, rows)
    return seconds
