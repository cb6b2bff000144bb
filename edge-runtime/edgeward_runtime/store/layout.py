"""Names in the store.

    blobs/sha256/HEX        a whole verified file; appears by rename only
    manifests/sha256/HEX    a verified manifest: the model is an artifact, its layers are blobs
    releases/sha256/HEX/    an artifact's files under their own names, hard links to blobs; appears by rename only
    signatures/sha256/HEX   of a model that is there: who vouched for it, verified anew before every load
    partial/                on the way, see partial.py
    locks/                  see locks.py
    jobs/                   see records.py
    trash/                  taken out of its place by rename, about to be removed

HEX is the sha256 of the file's bytes, or of the manifest's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from edgeward_runtime.artifact.manifest import Manifest, safe_path
from edgeward_runtime.errors import Refusal
from edgeward_runtime.store import disk

BLOBS, MANIFESTS, RELEASES = "blobs/sha256", "manifests/sha256", "releases/sha256"
SIGNATURES = "signatures/sha256"
PARTIAL, LOCKS, JOBS, TRASH = "partial", "locks", "jobs", "trash"
WRITE, USE = ".lock", ".use"


def name_of(digest: str) -> str:
    return digest.removeprefix("sha256:")


def make_release(root: Path, digest: str, manifest: Manifest) -> Path:
    """The artifact's folder, its files linked to blobs that are all there. The caller holds the digest's lock. OSError
    if the disk does not let us; FileNotFoundError if a blob has gone."""
    final = root / RELEASES / name_of(digest)
    if release_fits(root, digest, manifest):
        return final
    making = final.with_name(f".{final.name}.{os.getpid()}.{os.urandom(4).hex()}")
    making.mkdir(parents=True)
    try:
        folders = {making}
        for layer in manifest.layers:
            if not safe_path(layer.path):  # parse() has seen to it; outside the folder must stay impossible
                raise Refusal(step="Verify", reason="UnsafePath", message=layer.path, permanent=True)
            link = making / layer.path
            link.parent.mkdir(parents=True, exist_ok=True)
            folders.add(link.parent)
            os.link(root / BLOBS / name_of(layer.digest), link)
        for folder in folders:
            disk.sync_directory(folder)
        remove_release(root, final.name)
        making.rename(final)
        disk.sync_directory(final.parent)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return final


def release_fits(root: Path, digest: str, manifest: Manifest) -> bool:
    """Whether the folder holds just the manifest's files, each the very blob and no copy."""
    folder = root / RELEASES / name_of(digest)
    try:
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
        return there == {layer.path for layer in manifest.layers} and all(
            (folder / layer.path).samefile(root / BLOBS / name_of(layer.digest)) for layer in manifest.layers
        )
    except OSError:
        return False


def remove_release(root: Path, name: str) -> None:
    """First out of its place in one step, then piece by piece: half a release is never seen."""
    folder, trash = root / RELEASES / name, root / TRASH
    if folder.exists():
        trash.mkdir(parents=True, exist_ok=True)
        gone = trash / f"{name}.{os.urandom(4).hex()}"
        with contextlib.suppress(FileNotFoundError):
            folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def remove_signature(root: Path, name: str) -> None:
    (root / SIGNATURES / name).unlink(missing_ok=True)
