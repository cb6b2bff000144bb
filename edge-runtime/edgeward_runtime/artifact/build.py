"""The manifest of a model to be published, from its files; pure. Pushing it is the publisher's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson

from edgeward_runtime.artifact import layout, manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    path: str  # in the artifact
    digest: str  # sha256:HEX
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """What has to be in the registry beside the files' own blobs."""

    manifest: bytes
    config: bytes

    @property
    def digest(self) -> str:
        """Of the manifest: what names the model from now on."""
        return digest_of(self.manifest)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def build(
    files: Iterable[File],
    *,
    name: str,
    version: str,
    annotations: Mapping[str, str] | None = None,
    chunks: File | None = None,
    packed: File | None = None,
) -> Built:
    """The same files give the same manifest, whatever their order. `chunks`: the index of their chunks, see chunks.py;
    `packed`: these in fewer bytes. Refusal if the runtime would not take it."""
    listed = sorted(files, key=lambda file: file.path)
    layout.model_path(file.path for file in listed)
    layers = [_layer(layout.media_type(file.path), file) for file in listed]
    # These have paths too, for tools that put every layer into a file.
    layers += [_layer(kind, one) for kind, one in ((manifest.CHUNKS, chunks), (manifest.PACKED, packed)) if one]
    # A raw layer is its own content, so the ids of the unpacked layers are the layers' digests.
    config = _dumps(
        {
            "descriptor": {"name": name, "version": version},
            "config": {"format": "onnx"},
            "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in layers]},
        }
    )
    document = _dumps(
        {
            "schemaVersion": 2,
            "mediaType": manifest.MEDIA_TYPE,
            "artifactType": manifest.ARTIFACT_TYPE,
            "config": {"mediaType": manifest.CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
            "layers": layers,
            "annotations": {
                "org.opencontainers.image.title": name,
                "org.opencontainers.image.version": version,
                **(annotations or {}),
            },
        }
    )
    manifest.parse(document, max_bytes=sum(file.size for file in listed))
    return Built(manifest=document, config=config)


def _layer(media_type: str, file: File) -> dict[str, object]:
    return {
        "mediaType": media_type,
        "digest": file.digest,
        "size": file.size,
        "annotations": {manifest.FILEPATH: file.path},
    }


def _dumps(document: Mapping[str, object]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
