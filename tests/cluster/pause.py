"""The sandbox image: one static program in an archive that containerd can import."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import tarfile
from pathlib import Path

PAUSE_IMAGE = "localhost/edgeward-pause:1"


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(data), mode, 0
    archive.addfile(entry, io.BytesIO(data))


def architecture() -> str:
    """This machine's, in Go's words."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def pause_archive(binary: Path, target: Path) -> Path:
    """Write the image, in Docker's archive format, beside its final name first."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        _add(archive, "pause", binary.read_bytes(), 0o755)
    blob = layer.getvalue()
    config = {
        "architecture": architecture(),
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65532:65532"},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(blob).hexdigest()]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [PAUSE_IMAGE], "Layers": ["layer.tar"]}]
    half = target.with_name(f".{target.name}.{os.getpid()}")
    with tarfile.open(half, "w") as archive:
        _add(archive, "config.json", json.dumps(config).encode(), 0o644)
        _add(archive, "layer.tar", blob, 0o644)
        _add(archive, "manifest.json", json.dumps(manifest).encode(), 0o644)
    half.rename(target)
    return target
