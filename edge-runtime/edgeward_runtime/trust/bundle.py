"""Signatures of a model, detached from it; pure.

What is signed is cosign's simple-signing payload: a JSON text that names the model's digest (of the manifest for an
artifact, of the file for a plain one; github.com/sigstore/cosign, specs/SIGNATURE_SPEC.md). In a registry payload and
signature lie as cosign puts them: a manifest tagged sha256-HEX.sig, each payload a layer of it, the signature in the
layer's annotation. Beside a plain file, in FILE.sig, and in the store they lie together in one small JSON text:

    {"signatures": [{"payload": "BASE64", "signature": "BASE64"}]}

Several signatures, by several keys, are usual while keys change.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from edgeward_runtime.artifact import manifest
from edgeward_runtime.artifact.build import digest_of
from edgeward_runtime.errors import Refusal

MAX_BYTES = 256 * 1024  # of a FILE.sig, of a signature manifest, of a payload
MAX_SIGNATURES = 32
PAYLOAD_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
_KIND = "cosign container image signature"


@dataclass(frozen=True, slots=True)
class Signed:
    """One signature over the bytes of `payload`. Nothing of it is to be believed before a key has verified it."""

    payload: bytes
    signature: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Pointer:
    """A signature in a registry: its payload is a blob still to be fetched."""

    digest: str
    size: int
    signature: bytes


def payload(digest: str) -> bytes:
    """What to sign for a model, byte for byte as cosign writes it."""
    identity = {"docker-reference": ""}
    return orjson.dumps(
        {
            "critical": {"identity": identity, "image": {"docker-manifest-digest": digest}, "type": _KIND},
            "optional": None,
        }
    )


def signed_digest(text: bytes) -> str | None:
    """The digest that a payload names; None if it is no such payload. The identity in it says where the signer saw the
    model, which a mirror makes another, so it is not looked at, as the specification has it."""
    try:
        document = orjson.loads(text)
        critical = document["critical"]
        digest = critical["image"]["docker-manifest-digest"]
        kind = critical["type"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return digest if kind == _KIND and isinstance(digest, str) else None


def tag(digest: str) -> str:
    """Under which a registry has the signatures of a manifest."""
    return f"{digest.replace(':', '-')}.sig"


def dumps(signed: Iterable[Signed]) -> bytes:
    return orjson.dumps(
        {"signatures": [{"payload": _encoded(one.payload), "signature": _encoded(one.signature)} for one in signed]}
    )


def loads(text: bytes) -> tuple[Signed, ...]:
    """The content of a FILE.sig, or of the store. Refusal SignatureInvalid if it is none."""
    found = []
    for index, one in enumerate(_list(text, "signatures", "the signature file")):
        where = f"signatures[{index}]"
        signed = _decoded(one.get("payload"), f"{where}.payload")
        found.append(Signed(signed, _decoded(one.get("signature"), f"{where}.signature")))
    return tuple(found)


def pointers(text: bytes) -> tuple[Pointer, ...]:
    """The signatures that a registry's sha256-HEX.sig manifest points to. Refusal SignatureInvalid if it is none."""
    found = []
    for index, layer in enumerate(_list(text, "layers", "the signature manifest")):
        annotations, digest, size = layer.get("annotations"), layer.get("digest"), layer.get("size")
        signature = annotations.get(ANNOTATION) if isinstance(annotations, dict) else None
        if layer.get("mediaType") != PAYLOAD_TYPE or signature is None:
            continue  # others may have put attestations there
        where = f"layers[{index}]"
        if not isinstance(digest, str) or not manifest.is_digest(digest):
            raise _invalid(f"{where}.digest is {digest!r:.100}")
        if type(size) is not int or not 0 < size <= MAX_BYTES:
            raise _invalid(f"{where}.size is {size!r:.40}")
        found.append(Pointer(digest=digest, size=size, signature=_decoded(signature, f"{where}'s signature")))
    return tuple(found)


def build_manifest(signed: Iterable[Signed], *, onto: bytes | None = None) -> tuple[bytes, list[bytes]]:
    """The manifest to push under tag(), and the blobs that it needs: config and payloads. `onto` is the one that is
    there: what others put into it stays as it is. Refusal SignatureInvalid if that is no such manifest."""
    listed = list(signed)
    layers = [
        {
            "mediaType": PAYLOAD_TYPE,
            "digest": digest_of(one.payload),
            "size": len(one.payload),
            "annotations": {ANNOTATION: _encoded(one.signature)},
        }
        for one in listed
    ]
    payloads = [one.payload for one in listed]
    if onto is not None:
        before = _list(onto, "layers", "the signature manifest")
        return orjson.dumps({**orjson.loads(onto), "layers": [*before, *layers]}), payloads
    config = b"{}"
    document = {
        "schemaVersion": 2,
        "mediaType": manifest.MEDIA_TYPE,
        "config": {"mediaType": manifest.EMPTY_TYPE, "digest": digest_of(config), "size": len(config)},
        "layers": layers,
    }
    return orjson.dumps(document), [config, *payloads]


def _list(text: bytes, key: str, what: str) -> list[dict[str, Any]]:
    if len(text) > MAX_BYTES:
        raise _invalid(f"{what} has {len(text)} bytes, the limit is {MAX_BYTES}")
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _invalid(f"{what} is not JSON: {error}") from None
    entries = document.get(key) if isinstance(document, dict) else None
    if (
        not isinstance(entries, list)
        or len(entries) > MAX_SIGNATURES
        or not all(isinstance(one, dict) for one in entries)
    ):
        raise _invalid(f"{what} has no list of at most {MAX_SIGNATURES} {key}")
    return entries


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(text: object, where: str) -> bytes:
    if isinstance(text, str):
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            pass
    raise _invalid(f"{where} is not base64")


def _invalid(message: str) -> Refusal:
    return Refusal(step="Signature", reason="SignatureInvalid", message=message, permanent=False)
