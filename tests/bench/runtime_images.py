"""Sizes of the runtime's image: its layers as a registry holds them (gzip, level 6) and unpacked. MB are 10^6 bytes."""

from __future__ import annotations

import json
import tarfile
import zlib
from pathlib import Path
from typing import Any

from tests.cluster import ImageBuilder

_CHUNK = 1 << 20


def measure(archive: Path) -> dict[str, Any]:
    """Of an archive as `docker save` and buildah write it: manifest.json names the layers."""
    unpacked = compressed = 0
    with tarfile.open(archive) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        for name in json.load(manifest)[0]["Layers"]:
            layer = tar.extractfile(name)  # follows links
            assert layer is not None
            packer = zlib.compressobj(6)
            while data := layer.read(_CHUNK):
                unpacked += len(data)
                compressed += len(packer.compress(data))
            compressed += len(packer.flush())
    return {"image_mb_compressed": round(compressed / 1e6, 1), "image_mb_unpacked": round(unpacked / 1e6, 1)}


def build() -> Path:
    """The archive of the image as the tree stands. ClusterError if it cannot be built here."""
    return ImageBuilder().build("runtime")["runtime"]
