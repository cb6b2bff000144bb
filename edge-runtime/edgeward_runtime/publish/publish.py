"""From a model's file to what stands in a ModelRelease: all models are checked before the first byte goes out."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from edgeward_runtime.artifact import layout
from edgeward_runtime.artifact.reader import Artifact
from edgeward_runtime.errors import Refusal
from edgeward_runtime.publish import names
from edgeward_runtime.publish.files import Read, collect, pack, read
from edgeward_runtime.publish.prepare import Asked, prepare
from edgeward_runtime.publish.push import Labelled, Target, push
from edgeward_runtime.publish.registry import Counts
from edgeward_runtime.trust import keys


class Told(Protocol):
    """Hears how it goes on."""

    def says(self, text: str) -> None: ...

    def bytes(self, text: str, done: int, total: int) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    name: str
    version: str
    model: Path  # .onnx, or an artifact's folder
    asked: Asked
    variants: Sequence[tuple[Mapping[str, str], Path]] = ()
    preprocessing: Path | None = None
    labels: Path | None = None
    key: bytes | None = field(default=None, repr=False)  # private, PEM
    force: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    uri: str
    tag: str
    digest: str
    match: Mapping[str, str]  # {} for the model itself
    size: int  # bytes of its files
    sent: int
    present: bool
    adopted: tuple[str, ...]
    report: Mapping[str, Any]  # what check found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Checked:
    match: Mapping[str, str]
    tag: str
    files: dict[str, Path]
    drawn: bool
    report: dict[str, Any]


def publish(wanted: Wanted, target: Target, *, uri: str, counts: Counts, told: Told) -> list[Result]:
    """Results of the model first, then of its variants. They are pushed the other way round: whoever follows the repository
    sees a version only when its variants are there. Refusal names the one that it is about."""
    models: list[tuple[Mapping[str, str], Path]] = [({}, wanted.model), *wanted.variants]
    told.says(f"asking {uri}")
    # A wrong address or login shows before the work that takes long.
    target.tagged(wanted.version)
    with tempfile.TemporaryDirectory(prefix="edgeward-publish-") as made:
        checked = []
        for number, (match, path) in enumerate(models):
            into = Path(made) / str(number)
            into.mkdir()
            try:
                checked.append(_check(wanted, match, path, into, told))
            except Refusal as refusal:
                message = f"{path.name}: {refusal.message}"
                raise Refusal(step=refusal.step, reason=refusal.reason, message=message, permanent=True) from None
        every: list[tuple[list[Read], Path | None]] = []
        for number, one in enumerate(checked):
            told.says(f"reading the files of {one.tag}")
            files = read(one.files, told=lambda done, total: told.bytes("cut and hashed", done, total))
            into = Path(made) / f"{number}.packed"
            into.mkdir()
            every.append(pack(files, into, told=lambda done, total: told.bytes("packed", done, total)))
        results = []
        for one, (files, packed) in reversed(list(zip(checked, every, strict=True))):
            told.says(f"pushing {one.tag} to {uri}")
            before = counts.sent
            pushed = push(
                target,
                files,
                Labelled(name=wanted.name, version=wanted.version, tag=one.tag),
                made=_differing(one),
                key=wanted.key,
                force=wanted.force,
                told=lambda done, total: told.bytes("in the registry", done, total),
                packed=packed,
            )
            results.append(
                Result(
                    uri=uri,
                    tag=one.tag,
                    digest=pushed.digest,
                    match=one.match,
                    size=pushed.size,
                    sent=counts.sent - before,
                    present=pushed.present,
                    adopted=pushed.adopted,
                    report=one.report,
                )
            )
        return results[::-1]


def _check(wanted: Wanted, match: Mapping[str, str], path: Path, into: Path, told: Told) -> _Checked:
    artifact = Artifact.of_local(path)
    # What goes in and comes out of a variant means the same, so it has the model's parts where it brings none.
    whole = Artifact.of_local(wanted.model) if match else artifact
    asked = replace(wanted.asked, golden_outputs=not match)
    artifact = replace(
        artifact,
        preprocessing=wanted.preprocessing or artifact.preprocessing or whole.preprocessing,
        labels=wanted.labels or artifact.labels or whole.labels,
        golden=artifact.golden if asked.with_golden and asked.golden is None else None,
        reference=artifact.reference if asked.data is None else None,
    )
    drawn = asked.with_golden and artifact.golden is None and asked.golden is None
    report = prepare(artifact, asked, into, told=lambda text: told.says(f"{path.name}: {text}"))
    return _Checked(
        match=match,
        tag=names.tag(wanted.version, match),
        files=collect(artifact, into),
        drawn=drawn,
        report=report,
    )


def _differing(one: _Checked) -> frozenset[str]:
    """What a second run would make otherwise. Golden data that was drawn is what the same model gave where it was
    published first, perhaps on another processor."""
    return frozenset({layout.MEASURED, *((layout.GOLDEN, layout.GOLDEN_DATA) if one.drawn else ())})


def public_keys(key: bytes | None) -> tuple[str, ...]:
    """For signature.keys. ValueError for a key that is none."""
    return (keys.public_of(key),) if key is not None else ()
