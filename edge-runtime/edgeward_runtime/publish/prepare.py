"""What is found out about a model before it is published, by running it: in a child process, so that its memory is
measured alone and a model that ends the process ends nothing else."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from edgeward_runtime import check
from edgeward_runtime.artifact import layout
from edgeward_runtime.artifact.reader import Artifact
from edgeward_runtime.errors import Refusal, without_values

if TYPE_CHECKING:
    from edgeward_runtime.model import Model
    from edgeward_runtime.tensors import Array

_SIZES = (1, 32, 320)  # of open dimensions, as at warm-up
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """golden: an .npz file with inputs and, if wanted, the outputs that they must give; None: drawn, or what the
    artifact's folder has. data: see inputs.data."""

    golden: Path | None
    golden_outputs: bool  # hold the model to those in the file; a variant has its own
    with_golden: bool
    data: Path | None
    atol: float
    rtol: float
    threads: int


def prepare(artifact: Artifact, asked: Asked, into: Path, *, told: Callable[[str], object]) -> dict[str, Any]:
    """Writes what belongs to the model and is made of it (golden data, reference, measured) into a folder. -> check's
    report with `golden` and `reference` in words. Refusal if a site would refuse the model, or what was given with it does
    not fit it."""

    def work() -> dict[str, Any]:
        try:
            return made(artifact, asked, into, told)
        except OSError as error:
            message = f"{error.filename or 'a file'}: {error.strerror or error}"
            raise Refusal(step="Publish", reason="FileProblem", message=message, permanent=True) from None

    report = check.in_child(work)
    if "reason" in report:
        raise Refusal(step=report["step"], reason=report["reason"], message=report["message"], permanent=True)
    return report


def made(artifact: Artifact, asked: Asked, into: Path, told: Callable[[str], object]) -> dict[str, Any]:
    """`prepare` in this process."""
    told("loading and running the model")
    model, report = check.loaded(artifact, threads=asked.threads)
    if not report.get("runs"):
        return report
    report["warnings"] = _labels_warning(artifact.labels, model) if artifact.labels is not None else []
    _write(into / layout.MEASURED, _measured(report, asked.threads))
    if asked.with_golden and (artifact.golden is None or asked.golden is not None):
        told("making golden data")
        report["golden"] = _golden(model, asked, into)
    elif artifact.golden is not None:
        report["golden"] = "as the folder has it"
    else:
        report["golden"] = "none"
    report["reference"] = "as the folder has it" if artifact.reference is not None else "none"
    if asked.data is not None:
        report["reference"] = _reference(model, asked.data, into, told)
    return report


def _measured(report: Mapping[str, Any], threads: int) -> dict[str, Any]:
    machine = platform.machine()
    found = {"memoryBytes": report["memoryBytes"], "latencySeconds": report["latencySeconds"]}
    return {
        **{name: value for name, value in found.items() if value},
        "threads": threads,
        "architecture": _MACHINES.get(machine, machine),
    }


def _golden(model: Model, asked: Asked, into: Path) -> str:
    from edgeward_runtime.artifact import golden
    from edgeward_runtime.publish import inputs

    wanted: dict[str, Array] = {}
    if asked.golden is not None:
        found = inputs.arrays(asked.golden)
        if unknown := sorted(found.keys() - model.inputs.keys() - model.outputs.keys()):
            known = [*model.inputs, *model.outputs]
            raise inputs.refusal(asked.golden, f"has an array {unknown[0]!r:.100}; the model has {known}")
        cases = [inputs.fitted(asked.golden, found, model.inputs)]
        if asked.golden_outputs:
            wanted = {name: array for name, array in found.items() if name in model.outputs}
        said = f"inputs of {asked.golden.name}"
    else:
        cases, said = _drawn(model)
    made = []
    for feeds in cases:
        outputs = _run(model, feeds)
        if asked.golden is not None:
            specs = {name: model.outputs[name] for name in wanted}
            # What the file says is kept, so that a site is held to it and not to what came of it here.
            outputs = outputs | inputs.fitted(asked.golden, wanted, specs)
        made.append(
            (
                {name: (model.inputs[name].datatype, array) for name, array in feeds.items()},
                {name: (model.outputs[name].datatype, array) for name, array in outputs.items()},
            )
        )
    for name, content in golden.files(made, atol=asked.atol, rtol=asked.rtol).items():
        (into / name).write_bytes(content)
    # Read back and run again, as each site will.
    mismatch = golden.check(model.run, golden.read(into / layout.GOLDEN))
    if mismatch is not None:
        why = "the outputs in the file are others" if wanted else "the model gives others each time"
        message = f"{mismatch}: {why}"
        raise Refusal(step="Golden", reason="GoldenMismatch", message=message, permanent=True)
    return said


def _drawn(model: Model) -> tuple[list[dict[str, Array]], str]:
    from edgeward_runtime.publish import inputs

    for size in _SIZES:
        feeds = inputs.zeros(model.inputs, size)
        if not _runs(model, feeds):
            continue
        random = inputs.random(model.inputs, size)
        if not _runs(model, random):
            return [feeds], "drawn: zeros; it does not run on random numbers"
        return [feeds, random], f"drawn: zeros, and random numbers of seed {inputs.SEED}"
    message = "the model runs with none of the sizes tried for its open dimensions"
    raise Refusal(step="Golden", reason="NoInputs", message=message, permanent=True)


def _runs(model: Model, feeds: Mapping[str, Array]) -> bool:
    try:
        model.run(None, dict(feeds))
    except Exception:  # whatever it is, these inputs are none to hold a site to
        return False
    return True


def _reference(model: Model, data: Path, into: Path, told: Callable[[str], object]) -> str:
    from edgeward_runtime.artifact import reference
    from edgeward_runtime.publish import inputs
    from edgeward_runtime.publish.reference import Collected

    collected = Collected(model)
    for feeds, rows in inputs.data(data, model, told=lambda done, of: told(f"running the data: {done} of {of} files")):
        collected.add(rows, feeds, _run(model, feeds))
    made = collected.reference()
    _write(into / layout.REFERENCE, reference.document(made))
    reference.read(into / layout.REFERENCE)
    return f"{len(made.histograms)} histograms of {collected.rows} rows of {data.name}"


def _run(model: Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    try:
        return dict(zip(model.outputs, model.run(None, dict(feeds)), strict=True))
    except Exception as error:
        message = f"the model does not run on the inputs given: {without_values(error)}"
        raise Refusal(step="Publish", reason="BadInputs", message=message, permanent=True) from None


def _labels_warning(path: Path, model: Model) -> list[str]:
    """Refusal if these are no labels. Another number than there seem to be classes is only worth a look: what the model
    puts out may be something else."""
    try:
        labels = path.read_text().splitlines()
    except UnicodeDecodeError:
        raise _bad_labels(f"{path.name} is not UTF-8") from None
    if not labels or not all(label.strip() for label in labels):
        raise _bad_labels(f"{path.name} must have a name in every line")
    if model.scores is not None:
        classes = model.outputs[model.scores.output].shape[1]
        if classes not in (-1, len(labels)):
            return [f"{path.name} has {len(labels)} lines, output '{model.scores.output}' has {classes} columns"]
    return []


def _bad_labels(message: str) -> Refusal:
    return Refusal(step="Publish", reason="BadLabels", message=message, permanent=True)


def _write(path: Path, document: Mapping[str, object]) -> None:
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_SORT_KEYS))
