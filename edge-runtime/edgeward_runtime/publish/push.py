"""One artifact into its repository: blobs, manifest, signature, and the tag last, so that a tag that is there points to
something whole and signed, whenever the publisher ends."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeward_runtime.artifact import chunks, layout, manifest
from edgeward_runtime.artifact.build import Built, File, build, digest_of
from edgeward_runtime.errors import Refusal
from edgeward_runtime.publish.files import Read
from edgeward_runtime.publish.registry import Blob
from edgeward_runtime.trust import bundle, keys
from edgeward_runtime.trust.bundle import Signed


class Target(Protocol):
    """A repository that can be written to."""

    def blob(self, blob: Blob, told: Callable[[int], object] = ...) -> None: ...

    def content(self, digest: str, *, size: int) -> bytes: ...

    def tagged(self, tag: str) -> tuple[str, bytes] | None: ...

    def manifest(self, content: bytes, *, reference: str) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """What an artifact is called."""

    name: str
    version: str
    tag: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    digest: str
    size: int  # bytes of its files
    present: bool  # the tag was there before, with this digest
    adopted: tuple[str, ...] = ()  # files that were made anew here, and stay as they were published


def push(
    target: Target,
    files: Sequence[Read],
    labelled: Labelled,
    *,
    made: frozenset[str],
    key: bytes | None,
    force: bool,
    told: Callable[[int, int], object],
    packed: Path | None = None,
) -> Pushed:
    """`packed`: the blob that files.pack() made of their chunks. `made`: paths of files that differ with every run, such as
    measured latency; if all else is what the tag has already, those stay as they are there. Refusal TagTaken if the tag has
    something else, unless `force`. `told` hears bytes that are there, and of how many."""
    index = chunks.dumps({one.file.digest: one.chunks for one in files})
    listed = [one.file for one in files]
    extras = _extras(index, packed)
    built = _build(listed, labelled, extras)
    adopted: tuple[str, ...] = ()
    before = target.tagged(labelled.tag)
    if before is not None and before[0] != built.digest and not force:
        listed, adopted = _adopted(listed, before[1], made)
        # Another zlib packs the same chunks otherwise, and an older publisher not at all.
        built = _build(listed, labelled, _extras_of(before[1]))
        if built.digest != before[0]:
            raise _taken(labelled.tag, before, files, made)
        extras = {}
    here = {one.file.digest: Blob(digest=one.file.digest, size=one.file.size, content=one.path) for one in files}
    blobs = [here[digest] for digest in dict.fromkeys(file.digest for file in listed) if digest in here]
    contents: Mapping[str, bytes | Path | None] = {"chunks": index, "packed": packed}
    blobs += [
        Blob(digest=one.digest, size=one.size, content=content)
        for kind, one in extras.items()
        if one is not None and (content := contents[kind]) is not None
    ]
    blobs.append(_blob(built.config))
    _blobs(target, blobs, told)
    present = before is not None and before[0] == built.digest
    if not present:
        target.manifest(built.manifest, reference=built.digest)
    if key is not None:
        sign(target, built.digest, key)
    if not present:
        target.manifest(built.manifest, reference=labelled.tag)
    return Pushed(digest=built.digest, size=sum(file.size for file in listed), present=present, adopted=adopted)


def sign(target: Target, digest: str, *private_keys: bytes) -> None:
    """Puts signatures where cosign does, beside those that are there. A key that has signed does not sign again.
    ValueError for a key that is none."""
    tag = bundle.tag(digest)
    before = target.tagged(tag)
    pointers = bundle.pointers(before[1]) if before is not None else ()
    there = [Signed(target.content(one.digest, size=one.size), one.signature) for one in pointers]
    new = [keys.sign(digest, key) for key in private_keys if not _signed(digest, there, key)]
    if not new:
        return
    content, blobs = bundle.build_manifest(new, onto=before[1] if before is not None else None)
    _blobs(target, [_blob(one) for one in blobs], lambda _done, _of: None)
    target.manifest(content, reference=tag)


def _signed(digest: str, there: Sequence[Signed], key: bytes) -> bool:
    try:
        keys.verify(digest, there, [keys.public_of(key)])
    except Refusal:
        return False
    return True


def _build(files: Iterable[File], labelled: Labelled, extras: Mapping[str, File | None]) -> Built:
    return build(files, name=labelled.name, version=labelled.version, **extras)  # type: ignore[arg-type]


def _extras(index: bytes, packed: Path | None) -> dict[str, File | None]:
    """What is in the artifact beside the files, as build() wants it."""
    found: dict[str, File | None] = {}
    if index:
        found["chunks"] = File(path=layout.CHUNKS, digest=digest_of(index), size=len(index))
    if index and packed is not None:
        with packed.open("rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        found["packed"] = File(path=layout.PACKED, digest=digest, size=packed.stat().st_size)
    return found


def _extras_of(published: bytes) -> dict[str, File | None]:
    try:
        found = manifest.parse(published, max_bytes=2**63)
    except Refusal:
        return {}
    layers = {"chunks": (layout.CHUNKS, found.chunks), "packed": (layout.PACKED, found.packed)}
    return {
        kind: File(path=path, digest=layer.digest, size=layer.size) for kind, (path, layer) in layers.items() if layer
    }


def _blob(content: bytes) -> Blob:
    return Blob(digest=digest_of(content), size=len(content), content=content)


def _blobs(target: Target, blobs: Sequence[Blob], told: Callable[[int, int], object]) -> None:
    total = sum(blob.size for blob in blobs)
    done = 0
    for blob in blobs:
        target.blob(blob, lambda size, done=done: told(done + size, total))  # type: ignore[misc]
        done += blob.size


def _published(content: bytes) -> dict[str, File]:
    """By path. Nothing of a manifest that is no model's."""
    try:
        found = manifest.parse(content, max_bytes=2**63)
    except Refusal:
        return {}
    return {layer.path: File(path=layer.path, digest=layer.digest, size=layer.size) for layer in found.layers}


def _adopted(listed: Sequence[File], before: bytes, made: frozenset[str]) -> tuple[list[File], tuple[str, ...]]:
    there = _published(before)
    taken = {path: there[path] for path in made if path in there}
    files = [taken.get(file.path, file) for file in listed]
    return files, tuple(sorted(file.path for file in listed if taken.get(file.path, file) != file))


def _taken(tag: str, before: tuple[str, bytes], files: Sequence[Read], made: frozenset[str]) -> Refusal:
    there: Mapping[str, File] = _published(before[1])
    here = {one.file.path: one.file for one in files}
    other = sorted(path for path in there.keys() | here.keys() if there.get(path) != here.get(path))
    # What differs each time is no reason, unless there is no other.
    other = [path for path in other if path not in made or path not in there] or other or [layout.CHUNKS]
    what = f"another {', '.join(other[:5])}" if there else "something that is no model"
    message = f"the tag {tag} is {before[0]}, with {what}"
    return Refusal(step="Publish", reason="TagTaken", message=message, permanent=True)
