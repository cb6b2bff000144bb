"""An OCI image manifest that describes a model, parsed and checked; pure.

The form is CNCF ModelPack's (github.com/modelpack/model-spec): artifactType application/vnd.cncf.model.manifest.v1+json,
one layer for each file, the file's path in the layer's annotation org.cncf.model.filepath. Only raw layers are taken
(one file, neither archived nor compressed), because a raw layer's digest is that of the file as it lies on disk: it can
be checked, shared between versions and resumed without unpacking anything.

The bytes come from a registry and the digest says only that they are the ones that were named, so every field is
treated as hostile.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from edgeward_runtime.errors import Refusal

MEDIA_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
# What may stand for the config when the artifact type says what it is (OCI image-spec, guidance for artifacts).
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
WEIGHT_CONFIG = "application/vnd.cncf.model.weight.config.v1.raw"
DATASET = "application/vnd.cncf.model.dataset.v1.raw"
DOC = "application/vnd.cncf.model.doc.v1.raw"
CODE = "application/vnd.cncf.model.code.v1.raw"
_RAW = frozenset({WEIGHT, WEIGHT_CONFIG, DATASET, DOC, CODE})
# No file of the model: where the bytes of its files may be cut, see chunks.py.
CHUNKS = "application/vnd.edgeward.model.chunks.v1"
# The chunks of that index in fewer bytes, see packed.py.
PACKED = "application/vnd.edgeward.model.packed.v1"
# Of no use to a runtime that runs no code: never fetched, in whatever form they are packed.
_SKIPPED = ("application/vnd.cncf.model.doc.v1.", "application/vnd.cncf.model.code.v1.")
_PREFIX = "application/vnd.cncf.model."

FILEPATH = "org.cncf.model.filepath"
# What `oras push` writes instead.
TITLE = "org.opencontainers.image.title"

# A registry may refuse a manifest above 4 MiB (OCI distribution-spec), so none is larger.
MAX_MANIFEST_BYTES = 4 * 2**20
MAX_LAYERS = 256
MAX_CHUNKS_BYTES = 64 * 2**20  # of a chunk index: one of 400 GB
_MAX_PATH = 512  # characters
_MAX_DEPTH = 8
_MAX_SIZE = 2**50  # bytes, of one layer

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# Portable names only: what a shell, a log or another file system would take differently has no place in a model.
_COMPONENT = re.compile(r"[A-Za-z0-9._@+=-]{1,128}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One file of the artifact: `path` is relative, with "/" between its parts, and safe to join to a folder. The
    config blob, which is no file, has path ""."""

    digest: str  # sha256:HEX
    size: int  # bytes
    media_type: str
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    config: Layer
    layers: tuple[Layer, ...]  # what a runtime needs, in the order of the manifest; documentation and code left out
    annotations: Mapping[str, str]
    chunks: Layer | None = None  # the index of their chunks, for who has other versions of them; path ""
    packed: Layer | None = None  # the same chunks in fewer bytes; path ""

    @property
    def size(self) -> int:
        """Bytes to fetch if nothing is there yet; files that are the same count once."""
        return sum({layer.digest: layer.size for layer in self.layers}.values())


def parse(data: bytes, *, max_bytes: int) -> Manifest:
    """The manifest, or Refusal (step Verify, permanent: the bytes are the ones that the digest names, so every source
    has the same) with reason
    UnsupportedArtifact: not a manifest, a container image, an index, layers in a form that is not taken;
    UnsafePath: a file's path that could leave the folder or hide another file;
    TooLarge: more than `max_bytes` altogether, or too many layers."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise _too_large(f"the manifest has {len(data)} bytes, the limit is {MAX_MANIFEST_BYTES}")
    document = _document(data)
    config = _blob(document.get("config"), "config")
    _check_type(document, config.media_type)
    raw = document.get("layers")
    if not isinstance(raw, list) or not raw:
        raise _unsupported("layers must be a list with at least one entry")
    if len(raw) > MAX_LAYERS:
        raise _too_large(f"the manifest has {len(raw)} layers, the limit is {MAX_LAYERS}")
    layers = [layer for index, one in enumerate(raw) if (layer := _layer(one, f"layers[{index}]")) is not None]
    if not layers:
        raise _unsupported("the manifest holds documentation or code only, no model")
    _check_paths(layers)
    # It only saves bytes, so one that is too large to be worth it, or a second one, is no reason to refuse a model.
    indexes = [_blob(one, f"layers[{index}]") for index, one in enumerate(raw) if _is(one, CHUNKS)]
    chunks = indexes[0] if len(indexes) == 1 and indexes[0].size <= MAX_CHUNKS_BYTES else None
    small = [_blob(one, f"layers[{index}]") for index, one in enumerate(raw) if _is(one, PACKED)]
    manifest = Manifest(
        config=config,
        layers=tuple(layers),
        annotations=_annotations(document),
        chunks=chunks,
        packed=small[0] if len(small) == 1 and chunks is not None else None,
    )
    if manifest.size > max_bytes:
        raise _too_large(f"the artifact has {manifest.size} bytes, the limit is {max_bytes}")
    return manifest


def safe_path(path: str) -> bool:
    """Whether a relative path stays below the folder it is joined to, on any file system."""
    parts = path.split("/")
    return (
        len(path) <= _MAX_PATH
        and len(parts) <= _MAX_DEPTH
        and all(_COMPONENT.fullmatch(part) and part not in (".", "..") for part in parts)
    )


def is_digest(text: object) -> bool:
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def _document(data: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise _unsupported(f"the manifest is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise _unsupported("the manifest is not a JSON object")
    media_type = document.get("mediaType", MEDIA_TYPE)
    if media_type != MEDIA_TYPE:
        hint = "; give the digest of the model's own manifest" if "manifests" in document else ""
        raise _unsupported(f"the manifest is a {media_type!r:.100}, wanted {MEDIA_TYPE}{hint}")
    if document.get("schemaVersion") != 2:
        raise _unsupported(f"schemaVersion is {document.get('schemaVersion')!r:.20}, wanted 2")
    return document


def _check_type(document: dict[str, Any], config_type: str) -> None:
    artifact_type = document.get("artifactType")
    if artifact_type == ARTIFACT_TYPE or (artifact_type is None and config_type == CONFIG_TYPE):
        return
    found = artifact_type if artifact_type is not None else config_type
    raise _unsupported(f"the artifact is a {found!r:.100}, wanted {ARTIFACT_TYPE}")


def _blob(raw: object, where: str, path: str = "") -> Layer:
    if not isinstance(raw, dict):
        raise _unsupported(f"{where} must be an object")
    digest, size, media_type = raw.get("digest"), raw.get("size"), raw.get("mediaType")
    if not isinstance(digest, str) or not is_digest(digest):
        raise _unsupported(f"{where}.digest is {digest!r:.100}, wanted sha256: and 64 hexadecimal digits")
    if type(size) is not int or not 0 <= size <= _MAX_SIZE:
        raise _unsupported(f"{where}.size is {size!r:.40}, wanted a number of bytes")
    if not isinstance(media_type, str):
        raise _unsupported(f"{where}.mediaType must be a string")
    return Layer(digest=digest, size=size, media_type=media_type, path=path)


def _is(raw: object, media_type: str) -> bool:
    return isinstance(raw, dict) and raw.get("mediaType") == media_type


def _layer(raw: object, where: str) -> Layer | None:
    blob = _blob(raw, where)
    media_type = blob.media_type
    if media_type.startswith(_SKIPPED) or media_type in (CHUNKS, PACKED):
        return None
    if media_type not in _RAW:
        archived = "; publish each file as a raw layer" if media_type.startswith(_PREFIX) else ""
        raise _unsupported(f"{where} is a {media_type!r:.100}, which is no file of a model{archived}")
    annotations = _annotations(raw)
    path = annotations.get(FILEPATH, annotations.get(TITLE))
    if path is None:
        raise _unsupported(f"{where} has no annotation {FILEPATH}")
    if not safe_path(path):
        message = f"{where}: {path!r:.100} is no relative path of plain names"
        raise Refusal(step="Verify", reason="UnsafePath", message=message, permanent=True)
    return Layer(digest=blob.digest, size=blob.size, media_type=media_type, path=path)


def _annotations(holder: object) -> dict[str, str]:
    raw = holder.get("annotations") if isinstance(holder, dict) else None
    if not isinstance(raw, dict):
        return {}
    return {key: value for key, value in raw.items() if isinstance(key, str) and isinstance(value, str)}


def _check_paths(layers: list[Layer]) -> None:
    """No path twice (not in other letter case either: some disks do not tell), none that is another's folder."""
    seen: set[str] = set()
    folders: set[str] = set()
    sizes: dict[str, int] = {}
    for layer in layers:
        path = layer.path.lower()
        parts = path.split("/")
        if path in seen:
            raise Refusal(step="Verify", reason="UnsafePath", message=f"{layer.path!r} is there twice", permanent=True)
        seen.add(path)
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
        if sizes.setdefault(layer.digest, layer.size) != layer.size:
            raise _unsupported(f"{layer.digest} is there with two sizes")
    if clash := sorted(seen & folders):
        message = f"{clash[0]!r} is a file and a folder"
        raise Refusal(step="Verify", reason="UnsafePath", message=message, permanent=True)


def _unsupported(message: str) -> Refusal:
    return Refusal(step="Verify", reason="UnsupportedArtifact", message=message, permanent=True)


def _too_large(message: str) -> Refusal:
    return Refusal(step="Verify", reason="TooLarge", message=message, permanent=True)
