"""A fetched artifact as the rest of the runtime sees it: a folder whose files are found by what they are for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from edgeward_runtime.artifact import layout
from edgeward_runtime.artifact import measured as measured_file


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """`root` is the folder that nothing of the model may lie outside of. A model that came as a plain file is an artifact
    with nothing but `model`, and without a folder: what lies beside it in the store are other models."""

    digest: str  # sha256:HEX: of the manifest, or of the plain file
    root: Path | None
    model: Path
    preprocessing: Path | None = None
    golden: Path | None = None
    reference: Path | None = None
    labels: Path | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)  # see measured.py

    @classmethod
    def of_folder(cls, root: Path, *, digest: str) -> Self:
        """The artifact whose files lie in `root` under their layers' paths. Refusal, permanent, if no model is among
        them or what it says of itself makes no sense."""
        there = {path.name for path in root.iterdir() if path.is_file()}

        def find(name: str) -> Path | None:
            return root / name if name in there else None

        measured = find(layout.MEASURED)
        return cls(
            digest=digest,
            root=root,
            model=root / layout.model_path(there),
            preprocessing=find(layout.PREPROCESSING),
            golden=find(layout.GOLDEN),
            reference=find(layout.REFERENCE),
            labels=find(layout.LABELS),
            measured=measured_file.read(measured) if measured else {},
        )

    @classmethod
    def of_local(cls, path: Path) -> Self:
        """What a user has at hand: an artifact's folder, or a model's file that may have its weights beside it. The
        digest is that of the model's file."""
        if path.is_dir():
            found = cls.of_folder(path, digest="")
            return replace(found, digest=_digest(found.model))
        return cls(digest=_digest(path), root=path.parent, model=path)

    @classmethod
    def of_file(cls, path: Path, *, digest: str) -> Self:
        return cls(digest=digest, root=None, model=path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
