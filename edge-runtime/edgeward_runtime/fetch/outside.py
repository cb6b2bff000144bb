"""One file from outside the site, in the way that brings the fewest bytes and takes the least time: what the store has
of it in other files, the rest in parts from up to two sources, packed where that pays; else plainly, from one source."""

from __future__ import annotations

import hashlib
import http.client
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgeward_runtime.artifact import chunks
from edgeward_runtime.artifact.chunks import Chunk
from edgeward_runtime.artifact.manifest import Layer, Manifest
from edgeward_runtime.errors import Refusal
from edgeward_runtime.fetch import oci, refusals
from edgeward_runtime.fetch.gather import TOGETHER, Known, gather
from edgeward_runtime.fetch.giver import From
from edgeward_runtime.fetch.reuse import chunks_here, worth
from edgeward_runtime.fetch.source import NoParts, Source
from edgeward_runtime.fetch.transfer import Job, Wanted, transfer
from edgeward_runtime.store.kin import kin
from edgeward_runtime.store.partial import Origin

log = logging.getLogger(__name__)

_TITLE = "org.opencontainers.image.title"
_INDEX_PART = 256  # an index is at most so much smaller than what it is about: else it would be no gain to read it


@dataclass(kw_only=True, slots=True)
class Artifact:
    """The files of one artifact. `repositories`: the one that is asked first, and another that may help; what reads from
    the other asks `stop`."""

    repositories: Sequence[oci.Repository]
    manifest: Manifest
    job: Job
    stop: threading.Event
    _index: dict[str, tuple[Chunk, ...]] | None = field(default=None)

    def file(self, wanted: Wanted) -> None:
        """Makes the blob; the caller holds its lock. Raises Refusal or Cancelled."""
        if not self._in_parts(wanted):
            transfer(wanted, self.repositories[0].blob(wanted.digest), self.job)

    def _in_parts(self, wanted: Wanted) -> bool:
        job, store, size = self.job, self.job.store, wanted.size or 0
        layer = next(layer for layer in self.manifest.layers if layer.digest == wanted.digest)
        title = self.manifest.annotations.get(_TITLE, "")
        others = kin(store.root, path=layer.path, title=title, without=wanted.digest)
        several = len(self.repositories) > 1 and size >= TOGETHER
        if size <= chunks.SIZES.least or not (others or several or self.manifest.packed):
            return False
        known = self._chunks(wanted) if others or self.manifest.packed else ()
        with store.needed(frozenset(others)):
            files: list[Path] = [store.blob_path(one) for one in others]
            digests = (chunk.digest for chunk in known)
            found = chunks_here(digests, files, size=size, cancelled=job.cancelled) if known else {}
            here = worth(known, found)
            packed = self.manifest.packed if known and known[0].packed else None
            if not (here or several or packed):
                return False
            sources = [_from(one, wanted.digest, packed) for one in self.repositories]
            if gather(wanted, sources, Known(chunks=known, here=here), job, stop=self.stop):
                return True
            # It may have been the second one that gave wrong bytes: it is not to spoil each file.
            self.repositories = self.repositories[:1]
            return False

    def _chunks(self, wanted: Wanted) -> tuple[Chunk, ...]:
        """Of the file, () if nobody knows. An index that cannot be had or makes no sense only costs what it would save."""
        layer = self.manifest.chunks
        if self._index is None:
            self._index = {}
            if layer is not None and layer.size <= max(2**16, self.manifest.size // _INDEX_PART):
                try:
                    self._index = chunks.loads(_content(self.repositories[0], layer, self.job))
                except (Refusal, NoParts) as error:
                    log.warning("no chunk index", extra={"digest": layer.digest, "error": str(error)})
        found = self._index.get(wanted.digest, ())
        return found if found and found[-1].offset + found[-1].length == wanted.size else ()


def _from(repository: oci.Repository, digest: str, packed: Layer | None) -> From:
    small = repository.blob(packed.digest) if packed is not None else None
    return From(label=repository.address, raw=repository.blob(digest), packed=small)


def _content(repository: oci.Repository, layer: Layer, job: Job) -> bytes:
    """A small blob, compared with its digest."""
    source = repository.blob(layer.digest)
    content = bytearray()
    try:
        with source.open(0, Origin()) as opened:
            while data := opened.reader.read1(min(2**16, job.pace.chunk or 2**16)):
                job.counts.came(repository.address, len(data))
                job.pace.took(len(data), job.cancelled)
                content += data
                if len(content) > layer.size:
                    break
    except (OSError, http.client.HTTPException) as error:
        raise refusals.unreachable(source.address, refusals.reason_text(error)) from None
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != layer.digest:
        raise refusals.mismatch(source.address, f"has other bytes than {layer.digest}")
    return bytes(content)


def plain(wanted: Wanted, sources: Sequence[Source], job: Job, *, stop: threading.Event) -> None:
    """A file that is a model by itself. What reads from the second source asks `stop`."""
    size = _size(sources[0]) if len(sources) > 1 else None
    if size is not None and TOGETHER <= size <= job.limits.max_bytes:
        job.store.room({wanted.digest: size})
        told = Wanted(digest=wanted.digest, size=size)
        if gather(told, [From(label=one.address, raw=one) for one in sources], Known(), job, stop=stop):
            return
    transfer(wanted, sources[0], job)


def _size(source: Source) -> int | None:
    try:
        return source.size()
    except (Refusal, NoParts):
        return None  # transfer() will say why
