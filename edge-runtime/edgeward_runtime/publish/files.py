"""Which files an artifact is made of, and what is to be known of each."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeward_runtime.artifact import chunks, layout, packed
from edgeward_runtime.artifact.build import File
from edgeward_runtime.artifact.chunks import Chunk
from edgeward_runtime.artifact.reader import Artifact
from edgeward_runtime.errors import Refusal
from edgeward_runtime.trust import onnx_file

_OURS = frozenset(
    {
        *(layout.MODEL, layout.PREPROCESSING, layout.GOLDEN, layout.GOLDEN_DATA),
        *(layout.REFERENCE, layout.LABELS, layout.MEASURED, layout.CHUNKS),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    file: File
    path: Path  # where it is here
    chunks: tuple[Chunk, ...]


def collect(artifact: Artifact, made: Path) -> dict[str, Path]:
    """Path in the artifact -> file here. `made` is the folder with what was made for it, which wins over what came with
    the model. Refusal UnsafePath if the model keeps weights under a name that means something else."""
    found = {layout.MODEL: artifact.model}
    for location in sorted(onnx_file.scan(artifact.model).external):
        path = "/".join(part for part in location.split("/") if part != ".")
        if path in _OURS:
            message = f"the model keeps weights in {path!r}, which is the name of something else; rename that file"
            raise Refusal(step="Publish", reason="UnsafePath", message=message, permanent=True)
        found[path] = artifact.model.parent / path
    golden = artifact.golden
    given = {
        layout.PREPROCESSING: artifact.preprocessing,
        layout.LABELS: artifact.labels,
        layout.REFERENCE: artifact.reference,
        layout.GOLDEN: golden,
        layout.GOLDEN_DATA: golden.with_name(layout.GOLDEN_DATA) if golden is not None else None,
    }
    found |= {name: path for name, path in given.items() if path is not None}
    return found | {path.name: path for path in made.iterdir()}


def read(files: Mapping[str, Path], *, told: Callable[[int, int], object]) -> list[Read]:
    """`told` hears bytes done, and of how many. Refusal Empty for a file without any."""
    total = sum(path.stat().st_size for path in files.values())
    result: list[Read] = []
    done = 0
    for name, path in files.items():
        size = path.stat().st_size
        if size == 0:
            raise Refusal(step="Publish", reason="Empty", message=f"{path.name} has 0 bytes", permanent=True)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            before = done
            with memoryview(data) as view:
                cut = chunks.split(view, told=lambda at, before=before: told(before + at, total))  # type: ignore[misc]
                digest = hashlib.sha256(view).hexdigest()
        done += size
        result.append(Read(file=File(path=name, digest=f"sha256:{digest}", size=size), path=path, chunks=cut))
    return result


def pack(files: Sequence[Read], into: Path, *, told: Callable[[int, int], object]) -> tuple[list[Read], Path | None]:
    """The files with where their chunks are in a blob of packed ones, and that blob, written into a folder; or as they are
    and None, if that saves too little."""
    every = chunks.listed({one.file.digest: one.chunks for one in files})
    paths = {one.file.digest: one.path for one in files}
    total = sum(chunk.length for cut in every.values() for chunk in cut)
    placed: dict[str, tuple[chunks.Chunk, ...]] = {}
    blob = into / layout.PACKED
    done = size = 0
    with blob.open("wb") as target:
        for digest, cut in every.items():
            found = []
            with paths[digest].open("rb") as file:
                for chunk in cut:
                    small = packed.pack(file.read(chunk.length))
                    target.write(small)
                    found.append(replace(chunk, packed=(size, len(small))))
                    size += len(small)
                    done += chunk.length
                    told(done, total)
            placed[digest] = tuple(found)
    if size >= packed.WORTH * total:
        blob.unlink()
        return list(files), None
    return [replace(one, chunks=placed.get(one.file.digest, one.chunks)) for one in files], blob
