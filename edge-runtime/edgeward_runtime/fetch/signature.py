"""Signatures of a model from where its bytes come from: in a registry under cosign's tag, elsewhere in ADDRESS.sig."""

from __future__ import annotations

import hashlib
import http.client
import urllib.parse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from edgeward_runtime.config import Entry
from edgeward_runtime.errors import Refusal
from edgeward_runtime.fetch import local, refusals
from edgeward_runtime.fetch.access import Access, Limits
from edgeward_runtime.fetch.source import Source
from edgeward_runtime.store.partial import Origin
from edgeward_runtime.trust import bundle
from edgeward_runtime.trust.bundle import Signed

if TYPE_CHECKING:
    from edgeward_runtime.fetch import http as web

_CHUNK = 64 * 1024  # bytes


def signatures(
    entry: Entry, *, limits: Limits, access: Access, cancelled: Callable[[], bool] = bool
) -> Iterator[tuple[Signed, ...] | Refusal]:
    """What each source has, or why it has nothing, in their order. A source is asked when its turn comes: mostly the
    first one is enough. limits.total_seconds is for each request. Raises Cancelled."""
    for source in entry.sources:
        try:
            yield _from_source(source, entry.digest, limits, access, cancelled)
        except Refusal as refusal:
            yield refusal


def _from_source(
    address: str, digest: str, limits: Limits, access: Access, cancelled: Callable[[], bool]
) -> tuple[Signed, ...]:
    scheme = address.partition("://")[0]
    if scheme not in ("oci", "https", "http", "s3", "file"):
        raise refusals.unsupported(address, "no scheme that this runtime fetches from")
    if scheme == "file":
        return bundle.loads(_read(local.source(_beside(address))))
    from edgeward_runtime.fetch import http, s3

    client = http.Client(
        timeout=limits.timeout_seconds,
        ca_bundle=access.ca_bundle,
        total=limits.total_seconds,
        cancelled=cancelled,
    )
    if scheme == "oci":
        return _of_artifact(address, digest, client, access)
    kind = s3 if scheme == "s3" else http
    return bundle.loads(_read(kind.source(_beside(address), client=client, access=access)))


def _beside(address: str) -> str:
    """model.onnx?token=x -> model.onnx.sig?token=x"""
    try:
        parts = urllib.parse.urlsplit(address)
    except ValueError as error:
        raise refusals.unsupported(address, str(error)) from None
    return urllib.parse.urlunsplit(parts._replace(path=f"{parts.path}.sig"))


def _of_artifact(address: str, digest: str, client: web.Client, access: Access) -> tuple[Signed, ...]:
    from edgeward_runtime.fetch import oci

    repository = oci.Repository(address, digest=digest, client=client, access=access)
    found = []
    for pointer in bundle.pointers(repository.manifest(bundle.tag(digest))):
        payload = _read(repository.blob(pointer.digest))
        seen = f"sha256:{hashlib.sha256(payload).hexdigest()}"
        if seen != pointer.digest:
            raise refusals.mismatch(address, f"has a payload of {seen}, wanted {pointer.digest}")
        found.append(Signed(payload, pointer.signature))
    return tuple(found)


def _read(source: Source) -> bytes:
    content = b""
    try:
        with source.open(0, Origin()) as opened:
            while chunk := opened.reader.read1(_CHUNK):
                content += chunk
                if len(content) > bundle.MAX_BYTES:
                    raise refusals.too_large(source.address, len(content), bundle.MAX_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise refusals.unreachable(source.address, refusals.reason_text(error)) from None
    return content
