"""Inputs to try a model with: drawn ones, those of a file, those of a folder of data."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from edgeward_runtime.errors import ProtocolError, Refusal
from edgeward_runtime.model import Model
from edgeward_runtime.tensors import NUMPY_OF, Array, TensorSpec

SEED = 20_240_501
_ROWS = 32  # of data in one run, where the model takes any number
_WORDS = ("", "a", "edge", "model")


def zeros(inputs: Mapping[str, TensorSpec], size: int) -> dict[str, Array]:
    """One row; `size` stands for every other open dimension."""
    return {name: _zeros(spec, size) for name, spec in inputs.items()}


def random(inputs: Mapping[str, TensorSpec], size: int) -> dict[str, Array]:
    """One row of numbers that most models take: fractions from 0 to 1, bytes of any value, other whole numbers 0 or 1,
    since they are often indices into a table of unknown length. Always the same ones."""
    generator = np.random.default_rng(SEED)
    return {name: _random(spec, size, generator) for name, spec in inputs.items()}


def _zeros(spec: TensorSpec, size: int) -> Array:
    if spec.datatype == "BYTES":
        return np.full(_shape(spec, size), "", dtype=object)
    return np.zeros(_shape(spec, size), NUMPY_OF[spec.datatype])


def _random(spec: TensorSpec, size: int, generator: np.random.Generator) -> Array:
    shape = _shape(spec, size)
    if spec.datatype == "BYTES":
        return np.array(_WORDS, dtype=object)[generator.integers(0, len(_WORDS), shape)]
    dtype = NUMPY_OF[spec.datatype]
    if spec.datatype == "BF16":  # its bits are the upper half of a float32's
        bits = np.asarray(generator.random(shape, np.float32)).view(np.uint32) >> 16
        return bits.astype(dtype)
    if dtype.kind == "f":
        return np.asarray(generator.random(shape)).astype(dtype)
    if spec.datatype in ("UINT8", "INT8"):
        limits = np.iinfo(np.dtype(dtype.name))
        return np.asarray(generator.integers(limits.min, limits.max + 1, shape)).astype(dtype)
    return np.asarray(generator.integers(0, 2, shape)).astype(dtype)


def _shape(spec: TensorSpec, size: int) -> tuple[int, ...]:
    return tuple(dim if dim >= 0 else (size if index else 1) for index, dim in enumerate(spec.shape))


def arrays(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file. Refusal BadInputs."""
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise refusal(path, "is one array without a name; write it with numpy.savez(FILE, INPUT_NAME=array)")
        with found:
            return {name: found[name] for name in found.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        text = " ".join(str(error).split())[:200]
        raise refusal(path, f"is no .npz file of plain arrays, as numpy.savez writes it: {text}") from None


def fitted(path: Path, found: Mapping[str, Array], specs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    """The arrays as the tensors of `specs`, each of which has to be there. Refusal BadInputs."""
    if missing := sorted(specs.keys() - found.keys()):
        raise refusal(path, f"has no array {missing[0]!r:.100}; the model takes {sorted(specs)}")
    return {name: _fitted(path, found[name], spec) for name, spec in specs.items()}


def _fitted(path: Path, array: Array, spec: TensorSpec) -> Array:
    shape = spec.shape
    fits = array.ndim == len(shape) and all(
        want in (-1, have) for want, have in list(zip(shape, array.shape, strict=True))[1:]
    )
    if not fits:
        raise refusal(path, f"array '{spec.name}' has shape {list(array.shape)}, the model has {list(shape)}")
    if spec.datatype == "BYTES":
        if array.dtype.kind != "U":
            raise refusal(path, f"array '{spec.name}' is of {array.dtype}, the model has text")
        return array.astype(object)
    dtype = NUMPY_OF[spec.datatype]
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise refusal(path, f"array '{spec.name}' is of {array.dtype}, the model has {spec.datatype}")
    return np.ascontiguousarray(array, dtype)


def data(path: Path, model: Model, *, told: Callable[[int, int], object]) -> Iterator[tuple[dict[str, Array], int]]:
    """Feeds for one run each, and how many rows they are. `path` is an .npz file, rows first, or a folder of such files
    and of records for the model's preprocessing. Refusal BadInputs. `told` hears files done, and of how many."""
    found = path.rglob("*") if path.is_dir() else iter([path])
    files = sorted(one for one in found if one.is_file() and not one.name.startswith("."))
    if not files:
        raise refusal(path, "has no files")
    for done, file in enumerate(files):
        told(done, len(files))
        if file.suffix == ".npz":
            yield from _slices(file, fitted(file, arrays(file), model.inputs), model.inputs)
        elif model.chain is None:
            raise refusal(file, "is no .npz file; records need --preprocessing, which makes inputs of them")
        else:
            try:
                yield model.chain.prepare(file.read_bytes(), source="", now=0.0, compare=False).feeds, 1
            except ProtocolError as error:
                raise refusal(file, f"is not what the preprocessing takes: {error.text[:200]}") from None
    told(len(files), len(files))


def _slices(
    path: Path, found: Mapping[str, Array], inputs: Mapping[str, TensorSpec]
) -> Iterator[tuple[dict[str, Array], int]]:
    """As many rows at a time as the model takes. Rows that do not fill a run of a fixed size are left out."""
    lengths = {array.shape[0] for array in found.values() if array.ndim}
    if len(lengths) != 1:
        raise refusal(path, f"has arrays of {sorted(lengths)} rows; each input needs as many as the others")
    (rows,) = lengths
    fixed = {spec.shape[0] for spec in inputs.values() if spec.shape and spec.shape[0] >= 0}
    step = min(fixed) if fixed else _ROWS
    if step == 0 or rows < (step if fixed else 1):
        raise refusal(path, f"has {rows} rows, the model takes {step or 'none'} at a time")
    for start in range(0, rows - (step - 1 if fixed else 0), step):
        part = {name: array[start : start + step] if array.ndim else array for name, array in found.items()}
        yield part, min(step, rows - start)


def refusal(path: Path, text: str) -> Refusal:
    return Refusal(step="Publish", reason="BadInputs", message=f"{path.name} {text}", permanent=True)
