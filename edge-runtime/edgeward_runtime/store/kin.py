"""Which files of the store may have bytes in common with one that is wanted."""

from __future__ import annotations

from pathlib import Path

from edgeward_runtime.artifact import manifest as manifests
from edgeward_runtime.errors import Refusal
from edgeward_runtime.store import disk, layout

_TITLE = "org.opencontainers.image.title"
_MOST = 64


def kin(root: Path, *, path: str, title: str, without: str) -> list[str]:
    """Digests of blobs, the likeliest first: the same file of the same model, what was used last before what was not; then
    the same file of others; then the rest, 64 at most. `without`: the wanted one's own."""
    rank: dict[str, int] = {}
    used: dict[str, int] = {}
    for one in disk.entries(root / layout.MANIFESTS):
        try:
            known = manifests.parse(one.read_bytes(), max_bytes=2**62)
            when = one.stat().st_mtime_ns
        except (OSError, Refusal):
            continue
        for layer in known.layers:
            likeness = 2 * (layer.path == path) + (known.annotations.get(_TITLE) == title)
            rank[layer.digest] = max(rank.get(layer.digest, 0), likeness)
            used[layer.digest] = max(used.get(layer.digest, 0), when)
    found: list[tuple[int, int, str]] = []
    for blob in disk.entries(root / layout.BLOBS):
        digest = f"sha256:{blob.name}"
        if manifests.is_digest(digest) and digest != without:
            try:
                when = used.get(digest, blob.stat().st_mtime_ns)
            except OSError:
                continue
            found.append((rank.get(digest, 0), when, digest))
    return [digest for _rank, _when, digest in sorted(found, reverse=True)[:_MOST]]
